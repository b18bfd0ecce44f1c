//! Runs simulations: `cargo sim --seeds 200`, `cargo sim --reproduce 17`, `cargo sim --twice --seeds 3`.
//!
//! Each seed is a process of its own; this one starts them and reads what they print last.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use chaos_tests::sim::{self, Plan, Verdict};
use clap::Parser;
use futures::StreamExt;
use tokio::process::Command;

/// Simulates whole clusters from seeds.
#[derive(Clone, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Runs this one seed here, with the log (RUST_LOG) on standard error.
    #[arg(long)]
    reproduce: Option<u64>,
    /// Runs every seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Processes at a time; 0: as many as there are processors.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    #[arg(long, default_value_t = 3)]
    members: u64,
    #[arg(long, default_value_t = 4)]
    devices: u64,
    /// Simulated seconds in which things go wrong.
    #[arg(long, default_value_t = 20)]
    storm: u64,
    /// Disks that answer syncs without doing them: the laws must notice, so these seeds must fail.
    #[arg(long)]
    lying_disks: bool,
    /// Writes every event of a reproduced run to this file.
    #[arg(long)]
    trace: Option<std::path::PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.reproduce {
        Some(seed) => reproduce(&arguments, seed),
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let kept = runtime.block_on(run_all(arguments))?;
            std::process::exit(if kept { 0 } else { 1 });
        }
    }
}

/// Runs one seed in this process; the last line of standard output is the verdict.
fn reproduce(arguments: &Arguments, seed: u64) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into()))
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let plan = Plan {
        seed,
        members: arguments.members,
        devices: arguments.devices,
        storm: Duration::from_secs(arguments.storm),
        lying_disks: arguments.lying_disks,
        keep_trace: arguments.trace.is_some(),
    };
    let verdict = sim::run(&plan);
    if let Some(path) = &arguments.trace {
        let world = world::real::world();
        world.disk.write(path, verdict.trace.join("\n").as_bytes()).context("could not write the trace")?;
    }
    println!("{}", serde_json::to_string(&verdict)?);
    // The members of a run that failed half-way need not be torn down in order.
    std::process::exit(if verdict.broken.is_empty() { 0 } else { 1 });
}

/// Runs all seeds; whether every law was kept.
async fn run_all(arguments: Arguments) -> Result<bool> {
    let jobs = match arguments.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    };
    let begun = tokio::time::Instant::now();
    let seeds = arguments.from..arguments.from + arguments.seeds;
    let mut runs = futures::stream::iter(seeds).map(|seed| judge(&arguments, seed)).buffered(jobs);
    let (mut failed, mut all) = (0, Verdict::default());
    while let Some((seed, judged)) = runs.next().await {
        match judged {
            Ok(verdict) => {
                println!(
                    "seed {seed} ok: {} events, hash {}, {} acknowledged, {} unanswered, {} refused, {} reads, \
                     {} registrations, {} frames, {} crashes, {} partitions in {:.1} simulated s",
                    verdict.events,
                    verdict.hash,
                    verdict.acknowledged,
                    verdict.unanswered,
                    verdict.refused,
                    verdict.reads,
                    verdict.registrations,
                    verdict.frames,
                    verdict.crashes,
                    verdict.partitions,
                    verdict.simulated_secs
                );
                add(&mut all, &verdict);
            }
            Err(error) => {
                failed += 1;
                println!("seed {seed} FAILED: {error:#}");
                println!("  reproduce: {}", command_line(&arguments, seed));
            }
        }
    }
    println!(
        "{} seeds, {failed} failed: {} acknowledged writes, {} reads, {} registrations, {} crashes, {} partitions, \
         {:.0} simulated s in {:.0} s",
        arguments.seeds,
        all.acknowledged,
        all.reads,
        all.registrations,
        all.crashes,
        all.partitions,
        all.simulated_secs,
        begun.elapsed().as_secs_f64()
    );
    Ok(failed == 0)
}

async fn judge(arguments: &Arguments, seed: u64) -> (u64, Result<Verdict>) {
    let judged = async {
        let verdict = run_in_child(arguments, seed).await?;
        if arguments.twice {
            let again = run_in_child(arguments, seed).await?;
            if (&verdict.hash, verdict.events) != (&again.hash, again.events) {
                bail!(
                    "the same seed gave two traces: {} ({} events) and {} ({} events)",
                    verdict.hash,
                    verdict.events,
                    again.hash,
                    again.events
                );
            }
        }
        Ok(verdict)
    };
    (seed, judged.await)
}

async fn run_in_child(arguments: &Arguments, seed: u64) -> Result<Verdict> {
    let child = Command::new(std::env::current_exe()?)
        .args(child_arguments(arguments, seed))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("could not start a run")?;
    let printed = String::from_utf8_lossy(&child.stdout);
    let verdict = printed.lines().last().and_then(|line| serde_json::from_str::<Verdict>(line).ok());
    let Some(verdict) = verdict else {
        let complaint = String::from_utf8_lossy(&child.stderr);
        // Under tokio_unstable a panicking task takes the process down with a second panic; the first one tells.
        let mut lines = complaint.lines().skip_while(|line| !line.contains("panicked at"));
        let panic: Vec<_> = lines.by_ref().take(3).collect();
        bail!("the run ended with {}: {}", child.status, panic.join(" "));
    };
    match verdict.broken.first() {
        Some(broken) => bail!("{broken}"),
        None => Ok(verdict),
    }
}

fn child_arguments(arguments: &Arguments, seed: u64) -> Vec<String> {
    let numbers = [
        ("--reproduce", seed),
        ("--members", arguments.members),
        ("--devices", arguments.devices),
        ("--storm", arguments.storm),
    ];
    let mut words: Vec<String> =
        numbers.into_iter().flat_map(|(name, value)| [name.to_string(), value.to_string()]).collect();
    if arguments.lying_disks {
        words.push("--lying-disks".into());
    }
    words
}

fn command_line(arguments: &Arguments, seed: u64) -> String {
    format!("RUST_LOG=info cargo sim {}", child_arguments(arguments, seed).join(" "))
}

fn add(all: &mut Verdict, one: &Verdict) {
    all.acknowledged += one.acknowledged;
    all.reads += one.reads;
    all.registrations += one.registrations;
    all.crashes += one.crashes;
    all.partitions += one.partitions;
    all.simulated_secs += one.simulated_secs;
}
