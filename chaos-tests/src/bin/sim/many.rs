//! Many seeds, each in a process of its own.

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use chaos_tests::sim::Verdict;
use futures::{Stream, StreamExt};
use tokio::{process::Command, sync::Semaphore};

use crate::{Arguments, Run};

/// No seed takes so long; one that does has lost itself.
const PATIENCE: Duration = Duration::from_secs(1200);

/// A run is one thread that allocates all the time: small pieces are kept at hand, and nothing is given back to the
/// system. Where the allocator is another one, this says nothing to it.
const ALLOCATOR: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.tcache_count=1000:glibc.malloc.trim_threshold=268435456:glibc.malloc.mmap_threshold=268435456:\
     glibc.malloc.top_pad=16777216",
);

/// How a seed ended.
pub enum Ended {
    Kept(Box<Verdict>),
    /// A law was broken; the first line says which.
    Broken(Box<Verdict>, String),
    /// Nothing was broken, but it did not exercise what it should: that proves nothing.
    Void(Box<Verdict>, String),
    /// There is no verdict.
    Died(String),
}

/// So many results wait for an earlier one, which took longer, to be told first.
const AHEAD: usize = 64;

/// Runs seeds, some at a time; the results come in the order of the seeds.
pub fn run_seeds(run: &Run, seeds: impl Iterator<Item = u64>, twice: bool) -> impl Stream<Item = (u64, Ended)> {
    let turns = Arc::new(Semaphore::new(run.jobs()));
    let judged = move |seed| {
        let turns = turns.clone();
        async move {
            let _turn = turns.acquire().await.expect("nobody closes it");
            judge(run, seed, twice).await
        }
    };
    futures::stream::iter(seeds).map(judged).buffered(AHEAD)
}

async fn judge(run: &Run, seed: u64, twice: bool) -> (u64, Ended) {
    let ended = run_in_child(run, seed).await.unwrap_or_else(|error| Ended::Died(format!("{error:#}")));
    let (Ended::Kept(first) | Ended::Void(first, _), true) = (&ended, twice) else { return (seed, ended) };
    let again = run_in_child(run, seed).await.unwrap_or_else(|error| Ended::Died(format!("{error:#}")));
    let second = match again {
        Ended::Kept(verdict) | Ended::Void(verdict, _) | Ended::Broken(verdict, _) => verdict,
        Ended::Died(why) => return (seed, Ended::Died(why)),
    };
    if (&first.hash, first.events) == (&second.hash, second.events) {
        return (seed, ended);
    }
    let why = format!(
        "the same seed gave two traces: {} ({} events) and {} ({} events)",
        first.hash, first.events, second.hash, second.events
    );
    (seed, Ended::Broken(second, why))
}

pub async fn run_in_child(run: &Run, seed: u64) -> Result<Ended> {
    let child = Command::new(std::env::current_exe()?)
        .args(run.words(seed))
        .env_remove("RUST_LOG")
        .env(ALLOCATOR.0, ALLOCATOR.1)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let child = tokio::time::timeout(PATIENCE, child).await.context("the run does not end")?;
    let child = child.context("could not start a run")?;
    let printed = String::from_utf8_lossy(&child.stdout);
    let verdict = printed.lines().last().and_then(|line| serde_json::from_str::<Verdict>(line).ok());
    let Some(verdict) = verdict.map(Box::new) else {
        let complaint = String::from_utf8_lossy(&child.stderr);
        // Under tokio_unstable a panicking task takes the process down with a second panic; the first one tells.
        let mut lines = complaint.lines().skip_while(|line| !line.contains("panicked at"));
        let panic: Vec<_> = lines.by_ref().take(3).collect();
        let last: Vec<_> = complaint.lines().rev().take(2).collect();
        let why = if panic.is_empty() { last.join(" ") } else { panic.join(" ") };
        return Ok(Ended::Died(format!("the run ended with {}: {why}", child.status)));
    };
    Ok(match (verdict.broken.first().cloned(), verdict.void.is_empty()) {
        (Some(broken), _) => Ended::Broken(verdict, broken),
        (None, false) => {
            let why = verdict.void.join("; ");
            Ended::Void(verdict, why)
        }
        (None, true) => Ended::Kept(verdict),
    })
}

/// Sums over many seeds.
#[derive(Default)]
pub struct Sum {
    pub seeds: u64,
    pub failed: u64,
    pub void: u64,
    pub acknowledged: u64,
    pub unanswered: u64,
    pub reads: u64,
    pub operations: u64,
    pub registrations: u64,
    pub frames: u64,
    pub crashes: u64,
    pub partitions: u64,
    pub snapshots_installed: u64,
    pub simulated_secs: f64,
    pub cpu_secs: f64,
}

impl Sum {
    pub fn add(&mut self, one: &Verdict) {
        self.acknowledged += one.acknowledged;
        self.unanswered += one.unanswered;
        self.reads += one.reads;
        self.operations += one.operations;
        self.registrations += one.registrations;
        self.frames += one.frames;
        self.crashes += one.crashes;
        self.partitions += one.partitions;
        self.snapshots_installed += one.snapshots_installed;
        self.simulated_secs += one.simulated_secs;
        self.cpu_secs += one.cpu_secs;
    }
}

/// Runs all seeds; whether every law was kept and no run was void.
pub async fn run_all(arguments: &Arguments) -> Result<bool> {
    let begun = tokio::time::Instant::now();
    let seeds = arguments.from..arguments.from + arguments.seeds;
    let mut runs = std::pin::pin!(run_seeds(&arguments.run, seeds, arguments.twice));
    let mut sum = Sum::default();
    while let Some((seed, ended)) = runs.next().await {
        sum.seeds += 1;
        match &ended {
            Ended::Kept(verdict) => {
                sum.add(verdict);
                if !arguments.quiet {
                    println!("seed {seed} ok: {}", line(verdict));
                }
            }
            Ended::Void(verdict, why) => {
                sum.void += 1;
                sum.add(verdict);
                println!("seed {seed} VOID: {why}: {}", line(verdict));
            }
            Ended::Broken(_, why) | Ended::Died(why) => {
                sum.failed += 1;
                println!("seed {seed} FAILED: {why}");
            }
        }
        if !matches!(ended, Ended::Kept(_)) {
            println!("  reproduce: {}", arguments.run.command_line(seed));
        }
    }
    let wall = begun.elapsed().as_secs_f64();
    println!(
        "{} seeds, {} failed, {} void: {} acknowledged writes, {} unanswered, {} reads, {} operations on registers, \
         {} registrations, {} frames, {} crashes, {} partitions, {} snapshots installed; {:.0} simulated s in {wall:.0} s \
         ({:.1} a second, {:.1} a processor second)",
        sum.seeds,
        sum.failed,
        sum.void,
        sum.acknowledged,
        sum.unanswered,
        sum.reads,
        sum.operations,
        sum.registrations,
        sum.frames,
        sum.crashes,
        sum.partitions,
        sum.snapshots_installed,
        sum.simulated_secs,
        sum.simulated_secs / wall.max(0.001),
        sum.simulated_secs / sum.cpu_secs.max(0.001),
    );
    Ok(sum.failed == 0 && sum.void == 0)
}

fn line(verdict: &Verdict) -> String {
    format!(
        "{}, {} events, hash {}, {} acknowledged, {} unanswered, {} refused, {} reads, {} operations, {} registrations, \
         {} frames on {} streams, {} crashes, {} partitions, {} leaders in {:.1} simulated s, {:.2} processor s",
        verdict.class,
        verdict.events,
        verdict.hash,
        verdict.acknowledged,
        verdict.unanswered,
        verdict.refused,
        verdict.reads,
        verdict.operations,
        verdict.registrations,
        verdict.frames,
        verdict.streams,
        verdict.crashes,
        verdict.partitions,
        verdict.leaders,
        verdict.simulated_secs,
        verdict.cpu_secs
    )
}

/// Processor time of this process so far, where the system tells.
pub fn cpu_secs() -> Option<f64> {
    let world = world::real::world();
    let stat = world.disk.read("/proc/self/stat".as_ref()).ok()??;
    let stat = String::from_utf8(stat).ok()?;
    // The name in brackets may hold anything; the fields after it are numbers (proc(5): utime and stime are 14 and 15).
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / 100.0)
}
