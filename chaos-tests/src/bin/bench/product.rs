//! What a whole product costs: memory, registrations, first maps, and the gap when the leader dies.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::{
    client::{Connection, Identity, Registered},
    fleet::{Fleet, resident_mb},
};
use tokio::{task::JoinSet, time::Instant};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Peers in the tailnet when a first map is measured; ascending.
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    peers: Vec<u64>,
    /// Devices that register at the same time.
    #[arg(long, default_value_t = 32)]
    at_once: usize,
}

/// What to measure.
#[derive(clap::Args)]
pub struct KillArguments {
    /// How many leaders.
    #[arg(long, default_value_t = 10)]
    times: usize,
}

/// Memory, registrations, first maps.
pub async fn run(arguments: Arguments) -> Result<()> {
    let fleet = Fleet::up(3).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    memory(&fleet, "idle")?;

    let mut registered = 0;
    for peers in arguments.peers {
        register(&fleet, registered..peers + 1, arguments.at_once).await?;
        registered = peers + 1;
        first_maps(&fleet, peers).await?;
    }
    memory(&fleet, "after that")
}

fn memory(fleet: &Fleet, when: &str) -> Result<()> {
    for member in &fleet.report.members {
        let resident = resident_mb(member.pid.context("it runs")?).context("its memory is known")?;
        println!("{} resident {when}: {resident:.0} MB", member.name);
    }
    Ok(())
}

/// Devices come in through all members: key, Noise, HTTP/2, register.
pub(crate) async fn register(fleet: &Fleet, numbers: std::ops::Range<u64>, at_once: usize) -> Result<()> {
    let count = numbers.end - numbers.start;
    let begun = Instant::now();
    let (mut tasks, mut millis) = (JoinSet::new(), Vec::new());
    for number in numbers {
        let world = fleet.world.clone();
        let member = &fleet.report.members[number as usize % fleet.report.members.len()];
        let (server, key) = (member.address().to_string(), fleet.report.auth_key.clone());
        tasks.spawn(async move {
            let begun = Instant::now();
            let identity = Identity::new(&world.entropy, &format!("device-{number}"));
            let connection = Connection::open(&world, &server, &identity).await?;
            let registered = connection.register(&identity, Some(&key)).await?;
            ensure!(registered == Registered::In, "not let in: {registered:?}");
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        });
        if tasks.len() >= at_once {
            millis.push(tasks.join_next().await.expect("not empty")??);
        }
    }
    while let Some(done) = tasks.join_next().await {
        millis.push(done??);
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    let (p50, p99) = (percentile(&mut millis, 0.5), percentile(&mut millis, 0.99));
    println!("{count} registrations, {at_once} at once over 3 members: {rate:.0}/s, p50 {p50:.1} ms, p99 {p99:.1} ms");
    Ok(())
}

/// From the request for a stream to the whole first map, on a connection that stands.
async fn first_maps(fleet: &Fleet, peers: u64) -> Result<()> {
    let member = &fleet.report.members[0];
    let identity = Identity::new(&fleet.world.entropy, "viewer");
    let connection = Connection::open(&fleet.world, member.address(), &identity).await?;
    let registered = connection.register(&identity, Some(&fleet.report.auth_key)).await?;
    ensure!(registered == Registered::In, "not let in: {registered:?}");
    let (mut millis, mut bytes) = (Vec::new(), 0);
    for _ in 0..20 {
        let begun = Instant::now();
        let mut stream = connection.stream(&identity, true).await?;
        bytes = stream.next().await?.len();
        millis.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let (p50, worst) = (percentile(&mut millis, 0.5), percentile(&mut millis, 1.0));
    println!("first map with {peers} peers: p50 {p50:.1} ms, worst of 20 {worst:.1} ms, {} KiB of JSON", bytes >> 10);
    Ok(())
}

/// Kills the leader again and again; somebody writes through a survivor all the while.
pub async fn kills(arguments: KillArguments) -> Result<()> {
    let mut fleet = Fleet::up(3).await?;
    let mut gaps = Vec::new();
    for round in 0..arguments.times {
        let leader = fleet.leader().await?;
        let survivor = (leader + 1) % fleet.report.members.len();
        let mut api = fleet.api(survivor);
        // The connection stands and the cluster is well before the blow.
        fleet.write_gap(&mut api, &format!("before-{round}")).await?;
        fleet.kill(leader).await?;
        let gap = fleet.write_gap(&mut api, &format!("after-{round}")).await?;
        println!("leader {leader} killed: the next write was answered after {:.0} ms", gap.as_secs_f64() * 1e3);
        gaps.push(gap.as_secs_f64() * 1e3);
        fleet.raise().await?;
    }
    if gaps.is_empty() {
        bail!("nobody was killed");
    }
    let (p50, worst) = (percentile(&mut gaps, 0.5), percentile(&mut gaps, 1.0));
    println!("{} kills of the leader: p50 {p50:.0} ms, worst {worst:.0} ms", gaps.len());
    Ok(())
}

pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().saturating_sub(1) as f64 * share).round() as usize).copied().unwrap_or_default()
}
