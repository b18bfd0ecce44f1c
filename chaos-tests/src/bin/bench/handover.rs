//! Planned departures: writers at every member write without a pause, clients hold map streams, and a member is stopped,
//! drained, or hands its lead over.
//!
//! The stall of a writer is the longest time around the departure in which none of its writes was answered; the same
//! without a departure is printed beside it, because this machine has pauses of its own. An error is a request that was
//! sent and not answered with success. A member that refuses a connection is left for the next one, as every client does.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::{
    client::{Connection, Identity, Registered},
    fleet::{Fleet, api::Api},
};
use clap::ValueEnum;
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use world::World;

use crate::product::percentile;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Repetitions of each departure.
    #[arg(long, default_value_t = 20)]
    times: usize,
    /// Which departures.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "nothing,transfer,drain,leader-stop,follower-stop")]
    ways: Vec<Way>,
    /// Writers at each member.
    #[arg(long, default_value_t = 2)]
    writers: usize,
    /// Clients that hold a map stream, spread over the members.
    #[arg(long, default_value_t = 60)]
    clients: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// For comparison.
    Nothing,
    Transfer,
    /// The leader is drained, and used again.
    Drain,
    /// SIGTERM.
    LeaderStop,
    FollowerStop,
}

/// How long is looked after a departure.
const WINDOW: Duration = Duration::from_secs(3);

/// One answered or failed write.
struct Write {
    writer: usize,
    at: Instant,
    error: Option<String>,
}

/// A stream that ended and the next one that began.
struct Gap {
    ended: Instant,
    again: Instant,
}

/// Everything that was seen so far.
#[derive(Default)]
struct Seen {
    writes: Vec<Write>,
    gaps: Vec<Gap>,
}

type Log = Arc<std::sync::Mutex<Seen>>;

pub async fn run(arguments: Arguments) -> Result<()> {
    let mut fleet = Fleet::up(3).await?;
    let log = Log::default();
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let count = fleet.report.members.len();
    for number in 0..arguments.writers * count {
        let apis = (0..count).map(|member| fleet.api(member)).collect();
        tasks.spawn(write(number, number % count, apis, log.clone(), stopped.clone()));
    }
    let servers: Arc<Vec<String>> = Arc::new(fleet.report.members.iter().map(|one| one.address().to_owned()).collect());
    for number in 0..arguments.clients {
        let (world, key) = (fleet.world.clone(), fleet.report.auth_key.clone());
        tasks.spawn(poll(number, world, key, servers.clone(), log.clone(), stopped.clone()));
    }
    // Everybody is in and writes before anything is measured.
    sleep(WINDOW).await;

    for way in &arguments.ways {
        let (mut stalls, mut errors, mut ends, mut back) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..arguments.times {
            let leader = fleet.leader().await?;
            let begun = Instant::now();
            ends.extend(depart(*way, &fleet, leader).await?.map(|span| span.as_secs_f64() * 1e3));
            sleep((begun + WINDOW).saturating_duration_since(Instant::now())).await;
            {
                let seen = log.lock().expect("nobody panics while holding the log");
                stalls.extend(stalls_after(&seen, begun, arguments.writers * count)?);
                errors.extend(seen.writes.iter().filter(|one| one.at > begun).filter_map(|one| one.error.clone()));
                let gaps = seen.gaps.iter().filter(|gap| gap.ended > begun);
                back.extend(gaps.map(|gap| (gap.again - begun).as_secs_f64() * 1e3));
            }
            recover(*way, &mut fleet, leader).await?;
            *log.lock().expect("nobody panics while holding the log") = Seen::default();
            sleep(Duration::from_secs(1)).await;
        }
        tell(*way, arguments.times, &mut stalls, &errors, &mut ends, &mut back);
    }
    let _ = stop.send(true);
    tasks.abort_all();
    Ok(())
}

/// For how long each writer had no answer, at most.
fn stalls_after(seen: &Seen, begun: Instant, writers: usize) -> Result<Vec<f64>> {
    let longest = |writer: usize| {
        let answered = seen.writes.iter().filter(|one| one.writer == writer && one.error.is_none());
        let times: Vec<Instant> = answered.map(|one| one.at).filter(|at| *at + WINDOW > begun).collect();
        let after = times.iter().position(|at| *at > begun)?;
        let around = &times[after.saturating_sub(1)..];
        around.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).max_by(f64::total_cmp)
    };
    (0..writers).map(|writer| longest(writer).with_context(|| format!("writer {writer} writes no more"))).collect()
}

async fn depart(way: Way, fleet: &Fleet, leader: usize) -> Result<Option<Duration>> {
    let members = &fleet.report.members;
    let (socket, name) = (members[leader].socket.as_str(), members[leader].name.as_str());
    match way {
        Way::Nothing => {}
        Way::Transfer => drop(fleet.run(&["transfer-leader", "--socket", socket]).await?),
        Way::Drain => drop(fleet.run(&["drain", name, "--socket", socket]).await?),
        Way::LeaderStop => return fleet.stop(leader).await.map(Some),
        Way::FollowerStop => return fleet.stop((leader + 1) % members.len()).await.map(Some),
    }
    Ok(None)
}

/// All as it was: who was stopped runs, who was drained is used again.
async fn recover(way: Way, fleet: &mut Fleet, leader: usize) -> Result<()> {
    match way {
        Way::Nothing | Way::Transfer => Ok(()),
        Way::Drain => {
            let member = fleet.report.members[leader].clone();
            fleet.run(&["undrain", &member.name, "--socket", &member.socket]).await.map(drop)
        }
        Way::LeaderStop | Way::FollowerStop => fleet.raise().await,
    }
}

fn tell(way: Way, times: usize, stalls: &mut [f64], errors: &[String], ends: &mut [f64], back: &mut [f64]) {
    let three = |values: &mut [f64]| {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(values, share));
        format!("p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms")
    };
    let name = way.to_possible_value().expect("no variant is skipped").get_name().to_owned();
    println!("{name}, {times} times: stall of a writer {}; {} errors", three(stalls), errors.len());
    if !ends.is_empty() {
        println!("  the process ended after {}", three(ends));
    }
    if !back.is_empty() {
        println!("  {} streams ended and were back after {}", back.len(), three(back));
    }
    for error in errors.iter().take(5) {
        println!("  error: {error}");
    }
}

/// Creates users without a pause, at its own member as long as that takes connections.
async fn write(writer: usize, home: usize, mut apis: Vec<Api>, log: Log, stopped: watch::Receiver<bool>) {
    let mut at = home;
    for number in 0_u64.. {
        if *stopped.borrow() {
            return;
        }
        while apis[at].dial(Duration::from_secs(2)).await.is_err() {
            at = (at + 1) % apis.len();
        }
        let body = json!({ "name": format!("w{writer}-{number}") });
        let written = apis[at].post("/api/v1/user", &body, Duration::from_secs(15)).await;
        let error = match written {
            Ok(_) => None,
            // The member closed the connection before the request was on its way: nothing was asked.
            Err(error) if is_unsent(&error) => continue,
            Err(error) => Some(format!("{error:#}")),
        };
        log.lock().expect("nobody panics while holding the log").writes.push(Write {
            writer,
            at: Instant::now(),
            error,
        });
        // Back home as soon as it is there again.
        if at != home && apis[home].dial(Duration::from_millis(200)).await.is_ok() {
            at = home;
        }
    }
}

fn is_unsent(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .any(|error| error.is_canceled() || error.is_closed())
}

/// Holds a map stream; where it ends, the next begins at the next member that takes it.
async fn poll(
    number: usize,
    world: World,
    key: String,
    servers: Arc<Vec<String>>,
    log: Log,
    stopped: watch::Receiver<bool>,
) {
    let identity = Identity::new(&world.entropy, &format!("poller-{number}"));
    let mut at = number % servers.len();
    let mut known = false;
    let mut ended: Option<Instant> = None;
    while !*stopped.borrow() {
        let opened = open(&world, &servers[at], &identity, (!known).then_some(key.as_str())).await;
        let Ok((_connection, mut stream)) = opened else {
            at = (at + 1) % servers.len();
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        known = true;
        if stream.next().await.is_err() {
            continue;
        }
        if let Some(ended) = ended.take() {
            let gap = Gap { ended, again: Instant::now() };
            log.lock().expect("nobody panics while holding the log").gaps.push(gap);
        }
        while stream.next().await.is_ok() {}
        ended = Some(Instant::now());
    }
}

async fn open(
    world: &World,
    server: &str,
    identity: &Identity,
    key: Option<&str>,
) -> Result<(Connection, chaos_tests::client::MapStream)> {
    let connection = Connection::open(world, server, identity).await?;
    if let Some(key) = key {
        let registered = connection.register(identity, Some(key)).await?;
        ensure!(registered == Registered::In, "not let in: {registered:?}");
    }
    match connection.stream(identity, true).await {
        Ok(stream) => Ok((connection, stream)),
        Err(error) => bail!("{server}: {error:#}"),
    }
}
