//! What was found, judged: each line says what, why it matters, and what to do next.

use std::{collections::BTreeSet, io, net::IpAddr, path::Path, time::Duration};

use raft::{
    Timing,
    fitness::{APPENDS_IN_ELECTION, ROUND_TRIPS_IN_ELECTION, Spans, best_profile},
};
use serde::Serialize;
use state_machine::Timestamp;

use crate::{
    cli::problem::Problem,
    cluster::view::{Member, Status},
};

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// It works, and should not stay like this.
    Warn,
    /// A member should not run here as things are.
    Fail,
    /// It could not be looked at.
    Skipped,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub check: &'static str,
    pub verdict: Verdict,
    pub what: String,
    pub why: String,
    pub next: String,
}

fn line(check: &'static str, verdict: Verdict, what: impl Into<String>, why: &str, next: impl Into<String>) -> Line {
    Line { check, verdict, what: what.into(), why: why.to_owned(), next: next.into() }
}

/// For people.
pub fn page(lines: &[Line]) -> String {
    let mut page = String::new();
    for Line { check, verdict, what, why, next } in lines {
        let word = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
            Verdict::Skipped => "-",
        };
        page += &format!("{word:<5} {check:<7} {what}\n      {:<7} why:  {why}\n", "");
        if !next.is_empty() {
            page += &format!("      {:<7} next: {next}\n", "");
        }
    }
    page
}

fn millis(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1e3)
}

fn other_profile(append: Option<Duration>, trip: Option<Duration>) -> String {
    match best_profile(append, trip) {
        Some(profile) => format!("set cluster.timing: {profile} on every member, one after the other"),
        None => "no profile holds: not even wan".to_owned(),
    }
}

/// `live`: what the member that runs here needs for its own appends.
pub fn perf(folder: &Path, timing: Timing, measured: io::Result<Option<Spans>>, live: Option<Duration>) -> Line {
    let why = format!(
        "every write waits for a sync; {} needs {} or less at the hundredth, a {APPENDS_IN_ELECTION}th of its shortest election timeout",
        timing.name(),
        millis(timing.append_max())
    );
    let spans = match measured {
        Ok(Some(spans)) => spans,
        Ok(None) => return line("perf", Verdict::Skipped, "there is no real disk here", &why, ""),
        Err(error) => {
            let what = format!("{} takes no writes: {error}", folder.display());
            return line("perf", Verdict::Fail, what, &why, "make the folder, and run this as the user hsraft runs as");
        }
    };
    let Spans { count, p50, p99, max } = spans;
    let mut what = format!(
        "an append is synced within {} at the hundredth (half within {}, worst {}; {count} measured)",
        millis(p99),
        millis(p50),
        millis(max)
    );
    if let Some(live) = live {
        what += &format!("; the member that runs here needs {}", millis(live));
    }
    match timing.holds(Some(p99), None) {
        true => line("perf", Verdict::Ok, what, &why, ""),
        false => {
            let next = format!("use a faster disk for {}, or {}", folder.display(), other_profile(Some(p99), None));
            line("perf", Verdict::Fail, what, &why, next)
        }
    }
}

/// The way to one member.
pub fn net(name: &str, address: &str, timing: Timing, trips: io::Result<Spans>) -> Line {
    let why = format!(
        "heartbeats must be answered in time; {} needs {} or less there and back, a {ROUND_TRIPS_IN_ELECTION}th of its shortest election timeout",
        timing.name(),
        millis(timing.round_trip_max())
    );
    match trips {
        Err(error) => {
            let next = format!("open TCP to {address} (cluster.peer_listen_addr of {name}) and see that it runs");
            line("net", Verdict::Fail, format!("{name} at {address} is not reached: {error}"), &why, next)
        }
        Ok(Spans { p50, max, count, .. }) => {
            let what =
                format!("{name} at {address}: {} there and back (worst of {count}: {})", millis(p50), millis(max));
            match timing.holds(None, Some(p50)) {
                true => line("net", Verdict::Ok, what, &why, ""),
                false => line("net", Verdict::Fail, what, &why, other_profile(None, Some(p50))),
            }
        }
    }
}

/// Whether a member lets clients in; nothing where it does not say.
pub fn client_port(member: &Member) -> Option<Line> {
    let closed = member.client_port_closed.as_ref()?;
    let why = "a member that cannot serve refuses clients at once, so that they try the next address";
    let name = &member.name;
    Some(match closed.as_str() {
        "" => line("net", Verdict::Ok, format!("{name} lets clients in"), why, ""),
        closed => {
            let next =
                if member.draining { format!("hsraft undrain {name}") } else { format!("look at the log of {name}") };
            line("net", Verdict::Warn, format!("the client port of {name} is closed: {closed}"), why, next)
        }
    })
}

/// No other member is known.
pub fn nobody_to_measure(status: &Result<Status, Problem>) -> Line {
    let why = "elections and writes wait for the network";
    match status {
        Ok(_) => line("net", Verdict::Ok, "there is no other member", why, ""),
        Err(problem) => {
            let next = "name members: hsraft check net --members HOST:PORT,HOST:PORT";
            line("net", Verdict::Skipped, format!("no member answers here ({problem})"), why, next)
        }
    }
}

/// Compaction and a snapshot beside the one before need room.
const FREE_BYTES_MIN: u64 = 256 << 20;
const FREE_BYTES_GOOD: u64 = 2 << 30;

pub fn disk(folder: &Path, free: io::Result<Option<u64>>) -> Line {
    let why = "the log, compaction and a new snapshot beside the old one need room; a full disk takes no writes";
    let place = folder.display();
    match free {
        Err(error) => {
            let next = "make the folder, and run this as the user hsraft runs as";
            line("disk", Verdict::Fail, format!("free space below {place} is not known: {error}"), why, next)
        }
        Ok(None) => line("disk", Verdict::Skipped, "free space is not counted here", why, ""),
        Ok(Some(free)) => {
            let what = format!("{} MiB are free below {place}", free >> 20);
            let next =
                format!("make room: at least {} MiB, better {} GiB", FREE_BYTES_MIN >> 20, FREE_BYTES_GOOD >> 30);
            match free {
                0..FREE_BYTES_MIN => line("disk", Verdict::Fail, what, why, next),
                FREE_BYTES_MIN..FREE_BYTES_GOOD => line("disk", Verdict::Warn, what, why, next),
                _ => line("disk", Verdict::Ok, what, why, ""),
            }
        }
    }
}

/// The URL has no host.
pub fn no_name(server_url: &str) -> Line {
    let what = format!("server_url {server_url:?} names no host");
    line("dns", Verdict::Fail, what, "clients need a name to log in at", "set server_url: https://hs.example.com")
}

/// `members`: by name, where clients reach them; empty: not known.
pub fn dns(host: &str, found: Result<BTreeSet<IpAddr>, String>, members: &[(String, BTreeSet<IpAddr>)]) -> Vec<Line> {
    let why = "new clients find the members by this name; each address is tried, a dead one costs 0.3 s";
    let found = match found {
        Ok(found) if !found.is_empty() => found,
        other => {
            let reason = other.err().unwrap_or_else(|| "it has no addresses".to_owned());
            let next =
                format!("add A or AAAA records for {host}, one for each member (deploy/proxies/dns-round-robin.md)");
            return vec![line("dns", Verdict::Fail, format!("{host} cannot be resolved: {reason}"), why, next)];
        }
    };
    let list = |addresses: &BTreeSet<IpAddr>| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
    let mut lines = Vec::new();
    for (name, addresses) in members.iter().filter(|(_, addresses)| !addresses.is_empty()) {
        if addresses.is_disjoint(&found) {
            let what = format!("{host} does not lead to {name} ({})", list(addresses));
            let next =
                format!("add {} to the records of {host}; nothing to do where a proxy has that name", list(addresses));
            lines.push(line("dns", Verdict::Warn, what, why, next));
        }
    }
    let known: BTreeSet<IpAddr> = members.iter().flat_map(|(_, addresses)| addresses.iter().copied()).collect();
    let strangers: BTreeSet<IpAddr> = found.difference(&known).copied().collect();
    if !known.is_empty() && !strangers.is_empty() && known.intersection(&found).next().is_some() {
        let what = format!("{host} leads to {}, where no member is", list(&strangers));
        let next = "take the record away, or start the member that should be there";
        lines.push(line("dns", Verdict::Warn, what, why, next));
    }
    if lines.is_empty() {
        lines.push(line("dns", Verdict::Ok, format!("{host} leads to {}", list(&found)), why, ""));
    }
    lines
}

/// Renewed at two thirds of their life, so this few days mean that renewal failed.
const DAYS_WARN: u64 = 7;

pub fn certs(
    client: Option<&Result<Timestamp, String>>,
    status: &Result<Status, Problem>,
    now: Timestamp,
) -> Vec<Line> {
    let why = "clients and members refuse who shows a certificate that has ended";
    let judged = |whose: String, ends: Timestamp, next: &str| {
        let days = ends.0.saturating_sub(now.0) / 86_400_000;
        let what = format!("the certificate of {whose} ends in {days} days, at {ends}");
        match () {
            () if ends <= now => {
                line("certs", Verdict::Fail, format!("the certificate of {whose} ended at {ends}"), why, next)
            }
            () if days < DAYS_WARN => line("certs", Verdict::Warn, what, why, next),
            () => line("certs", Verdict::Ok, what, why, ""),
        }
    };
    let mut lines = Vec::new();
    match client {
        Some(Ok(ends)) => {
            lines.push(judged("the client port".to_owned(), *ends, "renew the files of tls_cert_path and send SIGHUP"));
        }
        Some(Err(error)) => {
            let what = format!("the certificate of tls_cert_path cannot be used: {error}");
            lines.push(line("certs", Verdict::Fail, what, why, "give a certificate chain and its key as PEM"));
        }
        None => lines.push(line(
            "certs",
            Verdict::Ok,
            "the client port speaks plain HTTP here",
            "something in front of it has to do TLS",
            "",
        )),
    }
    match status {
        Err(problem) => lines.push(unasked("certs", "members know each other by certificates", problem)),
        Ok(status) => {
            let known = status.members.iter().filter_map(|member| Some((&member.name, member.certificate_ends?)));
            lines.extend(known.filter(|(_, ends)| ends.0 > 0).map(|(name, ends)| {
                judged(
                    format!("member {name}"),
                    ends,
                    "it renews itself: look at its log for why it does not, then restart it",
                )
            }));
        }
    }
    lines
}

const CLOCK_WARN_MS: u64 = 250;
const CLOCK_FAIL_MS: u64 = 2_000;

pub fn clock(status: &Result<Status, Problem>) -> Vec<Line> {
    let why = "expiries and certificates go by the clock; the leader's is the log's";
    let status = match status {
        Ok(status) => status,
        Err(problem) => return vec![unasked("clock", why, problem)],
    };
    let mut lines = Vec::new();
    for member in &status.members {
        let Some(ahead) = member.clock_ahead_ms else { continue };
        let what = format!("the clock of {} is {ahead:+} ms from the leader's", member.name);
        let verdict = match ahead.unsigned_abs() {
            0..CLOCK_WARN_MS => Verdict::Ok,
            CLOCK_WARN_MS..CLOCK_FAIL_MS => Verdict::Warn,
            _ => Verdict::Fail,
        };
        let next = if verdict == Verdict::Ok { String::new() } else { format!("start NTP on {}", member.name) };
        lines.push(line("clock", verdict, what, why, next));
    }
    if lines.is_empty() {
        lines.push(line(
            "clock",
            Verdict::Skipped,
            "nobody leads, so clocks are not compared",
            why,
            "see: hsraft status",
        ));
    }
    lines
}

/// Older than this, what was written since would be lost with all members.
const BACKUP_OLD: Duration = Duration::from_secs(60);

pub fn backup(keeps: bool, status: &Result<Status, Problem>, now: Timestamp) -> Vec<Line> {
    let why = "a backup is all that is left when every member is lost";
    let set = "set cluster.backup_dir or cluster.backup_url, best on another machine's disk";
    let status = match status {
        Ok(status) => status,
        Err(_) if keeps => return vec![line("backup", Verdict::Ok, "this member is to keep a backup", why, "")],
        Err(_) => return vec![line("backup", Verdict::Warn, "this member keeps no backup", why, set)],
    };
    let Some(at) = status.summary.backup_at else {
        return vec![line("backup", Verdict::Warn, "no member keeps a backup", why, set)];
    };
    let mut lines = Vec::new();
    let age = Duration::from_millis(now.0.saturating_sub(at.0));
    let what = format!("everything was archived {} s ago", age.as_secs());
    match age > BACKUP_OLD {
        false => lines.push(line("backup", Verdict::Ok, what, why, "")),
        true => {
            lines.push(line("backup", Verdict::Warn, what, why, "look at the log of the members that keep backups"))
        }
    }
    let about =
        status.summary.warnings.iter().filter(|warning| warning.contains("backup") || warning.contains("recovery key"));
    lines.extend(about.map(|warning| line("backup", Verdict::Warn, warning.as_str(), why, "as it says")));
    lines
}

fn unasked(check: &'static str, why: &str, problem: &Problem) -> Line {
    let next = "start the member, or name it with --socket or --address";
    line(check, Verdict::Skipped, format!("no member answers here ({problem})"), why, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::view::{Member, Summary};

    fn spans(p99_ms: u64) -> Spans {
        let p99 = Duration::from_millis(p99_ms);
        Spans { count: 200, p50: p99 / 2, p99, max: p99 * 2 }
    }

    #[test]
    fn the_profile_that_holds_is_named() {
        let folder = Path::new("/data");
        let judged = |timing, p99| perf(folder, timing, Ok(Some(spans(p99))), None);
        assert_eq!(judged(Timing::lan(), 15).verdict, Verdict::Ok);
        let slow = judged(Timing::lan(), 16);
        assert_eq!(slow.verdict, Verdict::Fail);
        assert!(slow.next.contains("cluster.timing: cautious"), "{slow:?}");
        assert_eq!(judged(Timing::wan(), 100).verdict, Verdict::Ok);
        assert!(judged(Timing::wan(), 101).next.contains("no profile holds"));
        let refused = perf(folder, Timing::lan(), Err(io::ErrorKind::PermissionDenied.into()), None);
        assert!(refused.verdict == Verdict::Fail && refused.what.starts_with("/data takes no writes"), "{refused:?}");

        let far = net("hs2", "10.0.0.2:7443", Timing::lan(), Ok(spans(90)));
        assert!(far.verdict == Verdict::Fail && far.next.contains("cluster.timing: cautious"), "{far:?}");
        assert_eq!(net("hs2", "10.0.0.2:7443", Timing::lan(), Ok(spans(50))).verdict, Verdict::Ok);
    }

    #[test]
    fn names_and_members_are_compared_both_ways() {
        let set = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<BTreeSet<IpAddr>>();
        let member = |name: &str, address: &str| (name.to_owned(), set(&[address]));
        let two = [member("hs1", "192.0.2.1"), member("hs2", "192.0.2.2")];
        let said = |found: &[&str]| dns("hs.example.com", Ok(set(found)), &two);
        assert_eq!(said(&["192.0.2.1", "192.0.2.2"])[0].verdict, Verdict::Ok);
        let lines = said(&["192.0.2.1", "192.0.2.9"]);
        assert_eq!(lines.iter().map(|line| line.verdict).collect::<Vec<_>>(), [Verdict::Warn, Verdict::Warn]);
        assert!(
            lines[0].what.contains("does not lead to hs2") && lines[1].what.contains("192.0.2.9, where no member is")
        );
        assert_eq!(dns("hs.example.com", Ok(set(&[])), &two)[0].verdict, Verdict::Fail);
        assert_eq!(dns("hs.example.com", Err("gone".into()), &two)[0].verdict, Verdict::Fail);
    }

    #[test]
    fn what_the_member_says_is_judged() {
        let now = Timestamp(1_800_000_000_000);
        let member = |name: &str, clock: i64, days: u64| Member {
            name: name.into(),
            clock_ahead_ms: Some(clock),
            certificate_ends: Some(Timestamp(now.0 + days * 86_400_000)),
            ..Member::default()
        };
        let members = vec![member("hs1", 0, 30), member("hs2", -300, 6), member("hs3", 2_000, 0)];
        let status = Ok(Status { members, ..Status::default() });
        let verdicts = |lines: &[Line]| lines.iter().map(|line| line.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(&clock(&status)), [Verdict::Ok, Verdict::Warn, Verdict::Fail]);
        assert_eq!(verdicts(&certs(None, &status, now))[1..], [Verdict::Ok, Verdict::Warn, Verdict::Fail]);
        assert_eq!(verdicts(&backup(true, &status, now)), [Verdict::Warn], "nobody keeps one");
        let summary = Summary { backup_at: Some(Timestamp(now.0 - 8_000)), ..Summary::default() };
        let kept = Ok(Status { summary, ..Status::default() });
        assert_eq!(verdicts(&backup(false, &kept, now)), [Verdict::Ok]);
        let nobody = Err(Problem::of(&state_machine::codes::CALL_UNREACHABLE, "no socket"));
        assert_eq!(verdicts(&clock(&nobody)), [Verdict::Skipped]);
        assert!(page(&clock(&nobody)).contains("next: start the member"));
    }

    #[test]
    fn a_disk_that_fills_is_told_before_it_is_full() {
        let judged = |free: u64| disk(Path::new("/data"), Ok(Some(free))).verdict;
        assert_eq!([judged(100 << 20), judged(1 << 30), judged(9 << 30)], [Verdict::Fail, Verdict::Warn, Verdict::Ok]);
    }
}
