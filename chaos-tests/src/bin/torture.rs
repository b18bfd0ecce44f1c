//! Torture of real members, and the report on the goals R1 to R12.
//!
//! `torture all` is what `make torture` runs; each part can be had alone: `torture kills --rounds 200`,
//! `torture goals R1 R7 --repeats 50`. Whoever may runs it in a network, a mount and a process namespace of its own:
//! nothing of it is left behind then, however it ends.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::Result;
use chaos_tests::{
    fleet,
    torture::{
        failpoints::{self, Action},
        goals, ground,
        kills::{self, Wish},
        report::{ENOUGH, Report},
    },
};
use clap::{Args, Parser, Subcommand};

/// Kills, freezes, cuts off and corrupts real members, and says what it cost.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    what: What,
}

#[derive(Args, Clone)]
struct Common {
    /// Decides the order of faults.
    #[arg(long, default_value_t = 7, global = true)]
    seed: u64,
    /// Where the report goes; the JSON beside it, with `.json`.
    #[arg(long, default_value = "torture.txt", global = true)]
    report: PathBuf,
    /// A program with failpoints; otherwise the same.
    #[arg(long, global = true)]
    failing_program: Option<PathBuf>,
    /// The program; otherwise HSRAFT_BIN, or the one beside this one.
    #[arg(long, global = true)]
    program: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// Rounds of kill, freeze and all at once under load.
    Kills {
        #[arg(long, default_value_t = 200)]
        rounds: usize,
    },
    /// The goals R1 to R12, or some of them.
    Goals {
        /// R1 R7 …; none: all.
        names: Vec<String>,
        /// How often each.
        #[arg(long, default_value_t = ENOUGH)]
        repeats: usize,
        /// Emulated devices that hold a stream.
        #[arg(long, default_value_t = 300)]
        clients: usize,
    },
    /// Kills, failpoints, and all goals: what a release is judged by.
    All {
        #[arg(long, default_value_t = 200)]
        rounds: usize,
        #[arg(long, default_value_t = ENOUGH)]
        repeats: usize,
        #[arg(long, default_value_t = 300)]
        clients: usize,
    },
    /// A member stopped at every named point of the code.
    Failpoints {
        /// Only points with this in their name.
        #[arg(long, default_value = "")]
        only: String,
        /// Also let tasks panic and threads stand still.
        #[arg(long)]
        every_action: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    go_inside();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be had");
    match runtime.block_on(run(arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes the same program in namespaces of its own, where that is possible; whatever is started inside dies with it.
fn go_inside() {
    const NAMESPACES: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if std::env::var_os(ground::INSIDE).is_some() {
        return;
    }
    let possible =
        Command::new("unshare").args(NAMESPACES).arg("true").output().is_ok_and(|tried| tried.status.success());
    let Ok(program) = std::env::current_exe() else { return };
    if possible {
        // A network of its own begins without even a loopback device; names of namespaces are files of a folder.
        let begin = "ip link set lo up && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && exec \"$0\" \"$@\"";
        let error = Command::new("unshare")
            .args(NAMESPACES)
            .args(["sh", "-c", begin])
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env(ground::INSIDE, "1")
            .exec();
        eprintln!("torture: unshare: {error}; going on without namespaces");
    }
}

async fn run(arguments: Arguments) -> Result<bool> {
    let Common { seed, report: path, program, failing_program } = arguments.common;
    let program = match program {
        Some(program) => program,
        None => fleet::program().await?,
    };
    let version = tokio::process::Command::new(&program).arg("version").output().await?;
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned();
    // Profiles have their folder's name.
    let profile = program.parent().and_then(|folder| folder.file_name()).unwrap_or_default().to_string_lossy();
    let mut report = Report::begin(&world::real::world(), seed, version, &profile);
    let points = failing_program.as_deref().unwrap_or(&program);
    let done = match arguments.what {
        What::Kills { rounds } => rounds_of_kills(rounds, seed, &program, &mut report).await,
        What::Failpoints { only, every_action } => {
            let actions: &[Action] = match every_action {
                true => &[Action::Abort, Action::Return, Action::Panic, Action::Pause],
                false => &[Action::Abort, Action::Return],
            };
            let wish = failpoints::Wish { seed, program: points, actions, filter: &only, visits: usize::MAX };
            failpoints::run(&wish, &mut report).await
        }
        What::Goals { names, repeats, clients } => {
            goals::run(&names, goals::Wish { seed, repeats, program: &program, clients }, &mut report).await
        }
        What::All { rounds, repeats, clients } => {
            // The kills measure R1, R2 and R9 as they go. What breaks off says so, and the rest goes on.
            let killed = rounds_of_kills(rounds, seed, &program, &mut report).await;
            let actions = &[Action::Abort, Action::Return];
            let wish = failpoints::Wish { seed, program: points, actions, filter: "", visits: usize::MAX };
            let names: Vec<String> = goals::ALL
                .iter()
                .filter(|name| !["R1", "R2", "R9"].contains(name))
                .map(|name| (*name).into())
                .collect();
            let goal = goals::Wish { seed, repeats, program: &program, clients };
            let measured = goals::alone(&names, goal, &mut report).await;
            // What waits for watchdogs and backups leaves the machine to the failpoints.
            let (mut beside, begun) = (report.beside(), tokio::time::Instant::now());
            let (stopped, ()) = tokio::join!(
                async {
                    let stopped = failpoints::run(&wish, &mut beside).await;
                    beside.took(0, begun.elapsed());
                    stopped
                },
                goals::waiting(&names, goal, &mut report)
            );
            report.take(beside);
            killed.and(stopped).and(measured)
        }
    };
    report.write(&path)?;
    println!("\n{}", report.to_text());
    done.map(|()| report.holds())
}

async fn rounds_of_kills(rounds: usize, seed: u64, program: &Path, report: &mut Report) -> Result<()> {
    let wish = Wish { rounds, seed, program: Some(program), only: &[], enough: rounds.min(ENOUGH) };
    let (first, begun) = (report.figures.len(), tokio::time::Instant::now());
    let done = kills::run(&wish, report).await;
    report.took(first, begun.elapsed());
    done
}
