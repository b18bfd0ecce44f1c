//! Torture of real members, and the report on the goals R1 to R12.
//!
//! `torture all` is what `make torture` runs; each part can be had alone: `torture kills --rounds 200`,
//! `torture goals R1 R7 --repeats 50`. Whoever may runs it in a network, a mount and a process namespace of its own:
//! nothing of it is left behind then, however it ends.

use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::Result;
use chaos_tests::{
    fleet,
    torture::{
        ground,
        kills::{self, Wish},
        report::Report,
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
    let Common { seed, report: path, program } = arguments.common;
    let program = match program {
        Some(program) => program,
        None => fleet::program().await?,
    };
    let version = tokio::process::Command::new(&program).arg("version").output().await?;
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned();
    // Profiles have their folder's name.
    let profile = program.parent().and_then(|folder| folder.file_name()).unwrap_or_default().to_string_lossy();
    let mut report = Report::begin(&world::real::world(), seed, version, &profile);
    let done = match arguments.what {
        What::Kills { rounds } => {
            let wish = Wish { rounds, seed, program: Some(&program), only: &[], enough: rounds.min(50) };
            kills::run(&wish, &mut report).await
        }
    };
    report.write(&path)?;
    println!("\n{}", report.to_text());
    done.map(|()| report.holds())
}
