//! `check`: whether this machine and its surroundings can carry a member; before it is made, and whenever in doubt.
//!
//! Measures what can be measured from here (the disk, the way to the other members, names), asks the member that runs
//! here for the rest, and says of everything what was found, why it matters and what to do. What was found is judged by
//! functions of their arguments: `check/judge.rs`.

mod judge;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use raft::{Timing, World, fitness};
use serde::Serialize;
use state_machine::Timestamp;
use url::Url;

use super::{
    Global,
    desk::{self, Desk},
    output::Output,
    problem::{Problem, exit},
};
use crate::cluster::view::Status;
use judge::{Line, Verdict};

/// `check`.
#[derive(Args, Clone, Debug, Default)]
pub struct CheckArgs {
    /// What to look at; without a word all of it
    #[arg(value_enum, value_name = "WHAT", value_delimiter = ',')]
    what: Vec<What>,
    /// Members to measure the way to, host:port with commas; without it those the local member knows
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    members: Vec<String>,
}

/// What can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// How fast the disk below the data folder syncs
    Perf,
    /// How far the other members are
    Net,
    /// Free space
    Disk,
    /// Whether the server's name leads to the members
    Dns,
    /// When certificates end
    Certs,
    /// Whether the members' clocks agree
    Clock,
    /// Whether backups are made
    Backup,
    /// All of it
    All,
}

const EACH: [What; 7] = [What::Perf, What::Net, What::Disk, What::Dns, What::Certs, What::Clock, What::Backup];

/// What the configuration says of this member.
#[derive(Clone, Debug)]
pub struct Place {
    pub data_dir: PathBuf,
    pub timing: Timing,
    pub server_url: String,
    pub client_addresses: Vec<IpAddr>,
    pub keeps_backup: bool,
    /// When the certificate of `tls_cert_path` ends, or why that is not known; none: plain HTTP.
    pub client_certificate: Option<Result<Timestamp, String>>,
}

/// Syncs that are measured; a slow disk gets fewer.
const SYNCS: usize = 200;
const SYNCS_WITHIN: Duration = Duration::from_secs(10);
const TRIPS: usize = 7;
const TRIP_WITHIN: Duration = Duration::from_secs(2);
const NAME_WITHIN: Duration = Duration::from_secs(5);

/// Everything, for programs.
#[derive(Serialize)]
struct Report<'a> {
    ready: bool,
    lines: &'a [Line],
}

/// Carries it out; the result is the exit code: 0, or 16 when something failed.
pub async fn run(args: CheckArgs, global: &Global, place: &Place, world: &World) -> i32 {
    let output = Output::new(global.output, desk::shape());
    let lines = look(&args, global, place, world).await;
    let ready = lines.iter().all(|line| line.verdict != Verdict::Fail);
    match output.show_ours(&Report { ready, lines: &lines }, || judge::page(&lines)) {
        Ok(()) if ready => exit::OK,
        Ok(()) => exit::PREFLIGHT,
        Err(problem) => {
            output.problem(&problem);
            problem.exit
        }
    }
}

async fn look(args: &CheckArgs, global: &Global, place: &Place, world: &World) -> Vec<Line> {
    let all = args.what.is_empty() || args.what.contains(&What::All);
    let wanted = |what: &What| all || args.what.contains(what);
    // Before a member is made nobody answers; that is no failure.
    let status = ask(global).await;
    let mut lines = Vec::new();
    for what in EACH.iter().filter(|what| wanted(what)) {
        match what {
            What::Perf => lines.push(perf(place, world, status.as_ref().ok())),
            What::Net => lines.extend(net(args, place, world, &status).await),
            What::Disk => lines.push(judge::disk(&place.data_dir, world.disk.free_bytes(&place.data_dir))),
            What::Dns => lines.extend(dns(place, world, status.as_ref().ok()).await),
            What::Certs => lines.extend(judge::certs(place.client_certificate.as_ref(), &status, now(world))),
            What::Clock => lines.extend(judge::clock(&status)),
            What::Backup => lines.extend(judge::backup(place.keeps_backup, &status, now(world))),
            What::All => {}
        }
    }
    lines
}

fn now(world: &World) -> Timestamp {
    Timestamp(world.clock.now_ms())
}

/// What the member says that runs here.
async fn ask(global: &Global) -> Result<Status, Problem> {
    let desk = Desk::open(global, Output::default())?;
    desk.client.get("/api/v1/cluster/status").await
}

fn perf(place: &Place, world: &World, status: Option<&Status>) -> Line {
    let live = status.and_then(|status| {
        let mine = status.members.iter().find(|member| member.name == status.me)?;
        mine.append_p99_us.map(Duration::from_micros)
    });
    let measured = fitness::time_appends(&*world.disk, &place.data_dir, SYNCS, SYNCS_WITHIN);
    judge::perf(&place.data_dir, place.timing, measured, live)
}

async fn net(args: &CheckArgs, place: &Place, world: &World, status: &Result<Status, Problem>) -> Vec<Line> {
    let named = args.members.iter().map(|address| (address.clone(), address.clone()));
    let known = status.iter().flat_map(|status| {
        let others = status.members.iter().filter(move |member| member.name != status.me);
        others.map(|member| (member.name.clone(), member.peer_address.clone()))
    });
    let targets: Vec<(String, String)> = if args.members.is_empty() { known.collect() } else { named.collect() };
    if targets.is_empty() {
        return vec![judge::nobody_to_measure(status)];
    }
    let mut lines: Vec<Line> =
        status.iter().flat_map(|status| &status.members).filter_map(judge::client_port).collect();
    for (name, address) in targets {
        let trips = fitness::time_round_trips(&*world.net, &address, TRIPS, TRIP_WITHIN).await;
        lines.push(judge::net(&name, &address, place.timing, trips));
    }
    lines
}

async fn dns(place: &Place, world: &World, status: Option<&Status>) -> Vec<Line> {
    let host = Url::parse(&place.server_url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let Some(host) = host else { return vec![judge::no_name(&place.server_url)] };
    let found = match tokio::time::timeout(NAME_WITHIN, world.net.resolve(&host)).await {
        Ok(Ok(found)) => Ok(found.into_iter().collect::<BTreeSet<IpAddr>>()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", NAME_WITHIN.as_secs())),
    };
    let mut members = Vec::new();
    for member in status.iter().flat_map(|status| &status.members) {
        let mut addresses: BTreeSet<IpAddr> = member.addresses.iter().copied().collect();
        let own = Url::parse(&member.client_url).ok().and_then(|url| url.host_str().map(str::to_owned));
        if let (true, Some(own)) = (addresses.is_empty(), own)
            && let Ok(Ok(found)) = tokio::time::timeout(NAME_WITHIN, world.net.resolve(&own)).await
        {
            addresses.extend(found);
        }
        members.push((member.name.clone(), addresses));
    }
    if members.is_empty() && !place.client_addresses.is_empty() {
        members.push(("this member".to_owned(), place.client_addresses.iter().copied().collect()));
    }
    judge::dns(&host, found, &members)
}
