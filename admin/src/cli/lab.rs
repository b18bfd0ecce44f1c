//! `lab`: a whole cluster on this machine.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use state_machine::codes;

use super::{
    Output,
    problem::{Problem, exit},
    spans,
    table::Table,
};
use crate::{
    cluster::view::Verdict,
    files,
    lab::{
        self,
        layout::{self, Layout, Place},
        memory::Memory,
        process::{self, Begin},
        status::{Report, report},
        up,
    },
};

/// What can be done with a laboratory.
#[derive(Debug, Subcommand)]
pub enum LabWord {
    /// Start it, or continue with the data that is there
    #[command(after_help = "Example:\n  hsraft lab up --members 3 --dir lab --base-port 8080")]
    Up(UpArgs),
    /// Which members run, and how the cluster is
    #[command(after_help = "Example:\n  hsraft lab status --dir lab")]
    Status(Where),
    /// kill -9 a member
    #[command(after_help = "Example:\n  hsraft lab kill hs1 --dir lab")]
    Kill(One),
    /// Start a member that does not run
    #[command(after_help = "Example:\n  hsraft lab start hs1 --dir lab")]
    Start(One),
    /// Stop all members; their data stays
    #[command(after_help = "Example:\n  hsraft lab down --dir lab")]
    Down(Where),
    /// Start a member later, unless it runs by then; drills use it
    #[command(hide = true)]
    Revive {
        #[command(flatten)]
        one: One,
        #[arg(long, value_parser = spans::parse)]
        after: Duration,
    },
    /// Become a member in a session of its own; `up` and `start` use it
    #[command(hide = true)]
    Detach {
        #[arg(last = true)]
        words: Vec<OsString>,
    },
}

/// Where the laboratory is.
#[derive(Args, Clone, Debug)]
pub struct Where {
    /// Its folder
    #[arg(long, default_value = "lab")]
    dir: PathBuf,
}

/// One member of it.
#[derive(Args, Clone, Debug)]
pub struct One {
    /// hs1, hs2, …
    member: String,
    #[command(flatten)]
    place: Where,
}

/// `lab up`.
#[derive(Args, Clone, Debug)]
pub struct UpArgs {
    /// How many members
    #[arg(long, default_value_t = 3)]
    members: usize,
    #[command(flatten)]
    place: Where,
    /// The first port; each member takes the next ten [default: 8080]
    #[arg(long)]
    base_port: Option<u16>,
    /// How long to wait until all is well
    #[arg(long, default_value = "2m", value_parser = spans::parse)]
    within: Duration,
}

/// How long a member may take to drain before it is killed.
const DRAIN: Duration = Duration::from_secs(15);

/// Does it; the result is the exit code.
pub async fn run(word: LabWord, output: &Output) -> Result<i32, Problem> {
    match word {
        LabWord::Up(args) => go_up(args, output).await,
        LabWord::Status(place) => {
            let (layout, memory) = lab::open(&place.dir)?;
            let report = report(&layout, &memory).await;
            output.show_ours(&report, || status_page(&report))?;
            Ok(exit_code(&report))
        }
        LabWord::Kill(One { member, place }) => {
            let (layout, memory) = lab::open(&place.dir)?;
            let place = lab::place(&layout, &memory, &member)?;
            match process::kill(&place)? {
                true if process::ended(&place, DRAIN).await => output.done(&format!("{member} killed"))?,
                true => {
                    return Err(Problem::of(
                        &codes::LAB_SIGNAL,
                        format!("{member} was killed and still runs; is its disk stuck?"),
                    ));
                }
                false => return Err(not_running(&member)),
            }
            Ok(exit::OK)
        }
        LabWord::Start(One { member, place }) => {
            let (layout, memory) = lab::open(&place.dir)?;
            let place = lab::place(&layout, &memory, &member)?;
            start(&place, &memory, &member)?;
            output.done(&format!("{member} started"))?;
            Ok(exit::OK)
        }
        LabWord::Down(place) => down(place, output).await,
        LabWord::Revive { one, after } => {
            tokio::time::sleep(after).await;
            let (layout, memory) = lab::open(&one.place.dir)?;
            let place = lab::place(&layout, &memory, &one.member)?;
            if process::running(&place).is_none() {
                start(&place, &memory, &one.member)?;
            }
            Ok(exit::OK)
        }
        LabWord::Detach { words } => Err(process::detach(&words)),
    }
}

async fn go_up(args: UpArgs, output: &Output) -> Result<i32, Problem> {
    let dir = layout::absolute(&args.place.dir)?;
    let mut memory = Memory::load(&dir)?.unwrap_or_default();
    if memory.base_port == 0 {
        memory.base_port = args.base_port.unwrap_or(8080);
    }
    if args.base_port.is_some_and(|port| port != memory.base_port) {
        output.talk(&format!(
            "this laboratory uses port {} and on; for other ports choose another --dir",
            memory.base_port
        ));
    }
    memory.grow(args.members);
    let layout = Layout { dir, base_port: memory.base_port };
    layout.check(memory.members.len().max(args.members))?;
    files::create_dir_all(&layout.dir).map_err(|error| {
        Problem::of(&codes::FILE_UNWRITABLE, format!("cannot make {}: {error}", layout.dir.display()))
    })?;
    let mut up = up::Up::new(layout, memory, output, args.within);
    up.run().await?;
    let report = report(&up.layout, &up.memory).await;
    output.show_ours(&report, || welcome(&report))?;
    Ok(exit::OK)
}

fn start(place: &Place, memory: &Memory, member: &str) -> Result<(), Problem> {
    if process::running(place).is_some() {
        return Err(Problem::of(&codes::LAB_RUNNING, format!("{member} is running")));
    }
    if !memory.members.iter().any(|known| known.name == member && known.joined) {
        return Err(Problem::of(
            &codes::LAB_NOT_JOINED,
            format!("{member} has not joined yet; bring it in with: hsraft lab up"),
        ));
    }
    process::start(place, Begin::Serve).map(drop)
}

async fn down(place: Where, output: &Output) -> Result<i32, Problem> {
    let (layout, memory) = lab::open(&place.dir)?;
    let places: Vec<Place> = (0..memory.members.len()).map(|index| layout.place(index)).collect();
    let mut told = Vec::new();
    for place in &places {
        if process::terminate(place)? {
            told.push(place);
        }
    }
    let deadline = tokio::time::Instant::now() + DRAIN;
    for place in &told {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if !process::ended(place, left).await {
            output.talk(&format!("{} did not end within {} s and is killed", place.name, DRAIN.as_secs()));
            process::kill(place)?;
            process::ended(place, Duration::from_secs(2)).await;
        }
        // The process is gone; nothing reads the file any more.
        files::remove(&place.pid).ok();
    }
    let said = match told.len() {
        0 => "no member was running".to_owned(),
        1 => format!("1 member stopped; all data stays in {}", layout.dir.display()),
        count => format!("{count} members stopped; all data stays in {}", layout.dir.display()),
    };
    output.done(&said)?;
    Ok(exit::OK)
}

fn not_running(member: &str) -> Problem {
    Problem::of(&codes::LAB_STOPPED, format!("{member} is not running; see: hsraft lab status"))
}

fn exit_code(report: &Report) -> i32 {
    match report.cluster.as_ref().map(|cluster| cluster.verdict) {
        Some(Verdict::Healthy) if report.members.iter().all(|member| member.running) => exit::OK,
        Some(Verdict::Healthy | Verdict::Degraded) => exit::FAILED,
        Some(Verdict::NoQuorum) => exit::NO_QUORUM,
        None => exit::UNREACHABLE,
    }
}

fn status_page(report: &Report) -> String {
    let mut table = Table::new(["Member", "Process", "Login server", "Log"]);
    for member in &report.members {
        let process = member.pid.map_or_else(|| "not running".into(), |pid| pid.to_string());
        table.row([member.name.clone(), process, member.url.clone(), member.log.clone()]);
    }
    let cluster = match &report.cluster {
        Some(status) => super::cluster::page(status, crate::files::now()),
        None => "no member answers\n".into(),
    };
    format!("{}\n{cluster}", table.render())
}

/// What a person who just started a laboratory wants to know.
fn welcome(report: &Report) -> String {
    let program = std::env::current_exe().map_or_else(|_| "hsraft".into(), |path| path.display().to_string());
    let dir = &report.dir;
    let socket = report.members.first().map_or("", |member| member.socket.as_str());
    let servers: Vec<String> =
        report.members.iter().map(|member| format!("  {:<4} {}", member.name, member.url)).collect();
    format!(
        "\nYour cluster is up: {count} members on this machine.\n\
         \n\
         Login servers (any of them will do):\n{servers}\n\
         \n\
         Bring a device in:\n  {up}\n\
         \n\
         Pre-auth key of user {user}, reusable, good for a year:\n  {key}\n\
         \n\
         Work with it:\n  \
         {program} --socket {socket} nodes list\n  \
         {program} lab status --dir {dir}\n  \
         {program} lab kill hs1 --dir {dir}      and later: lab start hs1\n\
         \n\
         Data and logs:\n  {dir}/hs1/data, {dir}/hs1/hsraft.log, and so on\n\
         \n\
         Stop it (data stays):\n  {program} lab down --dir {dir}\n",
        count = report.members.len(),
        servers = servers.join("\n"),
        up = report.tailscale_up,
        user = report.user,
        key = report.auth_key,
    )
}
