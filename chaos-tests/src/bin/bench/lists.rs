//! How long somebody waits who asks for all nodes: a console over REST, a person at the command line.
//!
//! The first byte is what a person sees; the last is what a console needs. Every figure is the median of some rounds, on
//! connections that stand, each round at another member.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chaos_tests::fleet::Fleet;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncReadExt,
    process::Command,
    time::{Instant, timeout},
};

use crate::product::{percentile, register};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Nodes in the tailnet.
    #[arg(long, default_value_t = 10_000)]
    nodes: u64,
    /// Devices that register at the same time.
    #[arg(long, default_value_t = 32)]
    at_once: usize,
    /// Rounds of each question.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

/// A list that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Milliseconds until the first and the last byte, and how many bytes.
struct Took {
    first: f64,
    last: f64,
    bytes: usize,
}

/// Fills a tailnet and asks.
pub async fn run(arguments: Arguments) -> Result<()> {
    let fleet = Fleet::up(3).await?;
    register(&fleet, 0..arguments.nodes, arguments.at_once).await?;
    for path in ["/api/v1/node", "/api/v1/node?limit=500", "/api/v1/node?limit=500&after=9000"] {
        let mut took = Vec::new();
        for round in 0..arguments.rounds {
            took.push(rest(&fleet, round % 3, path).await?);
        }
        tell(&format!("GET {path}"), &took);
    }
    for words in [&["nodes", "list"][..], &["nodes", "list", "-o", "json"]] {
        let mut took = Vec::new();
        for round in 0..arguments.rounds {
            took.push(command(&fleet, round % 3, words).await?);
        }
        tell(&format!("hsraft {}", words.join(" ")), &took);
    }
    Ok(())
}

fn tell(what: &str, took: &[Took]) {
    let median = |of: fn(&Took) -> f64| percentile(&mut took.iter().map(of).collect::<Vec<_>>(), 0.5);
    let worst = percentile(&mut took.iter().map(|one| one.first).collect::<Vec<_>>(), 1.0);
    println!(
        "{what}: first byte {:.1} ms (worst of {} {worst:.1} ms), last {:.0} ms, {} KiB",
        median(|one| one.first),
        took.len(),
        median(|one| one.last),
        took.first().map_or(0, |one| one.bytes >> 10),
    );
}

async fn rest(fleet: &Fleet, member: usize, path: &str) -> Result<Took> {
    let address = fleet.report.members[member].address();
    let stream = fleet.world.net.connect(address).await?;
    let (mut requests, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(driver);
    let request = Request::get(path)
        .header("Host", address)
        .header("Authorization", format!("Bearer {}", fleet.api_key))
        .body(Empty::<Bytes>::new())?;
    let begun = Instant::now();
    let response = timeout(PATIENCE, requests.send_request(request)).await??;
    ensure!(response.status().is_success(), "{path}: {}", response.status());
    let (mut body, mut first, mut bytes) = (response.into_body(), None, 0);
    while let Some(frame) = timeout(PATIENCE, body.frame()).await? {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
        first.get_or_insert_with(|| begun.elapsed());
    }
    let last = begun.elapsed();
    driver.abort();
    let first = first.context("an empty answer")?;
    Ok(Took { first: first.as_secs_f64() * 1e3, last: last.as_secs_f64() * 1e3, bytes })
}

async fn command(fleet: &Fleet, member: usize, words: &[&str]) -> Result<Took> {
    let begun = Instant::now();
    let mut child = Command::new(chaos_tests::fleet::program().await?)
        .args(words)
        .args(["--socket", &fleet.report.members[member].socket])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut printed = child.stdout.take().context("what it prints")?;
    let (mut buffer, mut first, mut bytes) = (vec![0; 1 << 16], None, 0);
    loop {
        match timeout(PATIENCE, printed.read(&mut buffer)).await?? {
            0 => break,
            read => {
                bytes += read;
                first.get_or_insert_with(|| begun.elapsed());
            }
        }
    }
    let last = begun.elapsed();
    ensure!(child.wait().await?.success(), "hsraft {} failed", words.join(" "));
    let first = first.context("it printed nothing")?;
    Ok(Took { first: first.as_secs_f64() * 1e3, last: last.as_secs_f64() * 1e3, bytes })
}
