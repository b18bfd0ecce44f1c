//! Whether this member is well: the checks behind `/readyz`, and the metrics port's other pages.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{Method, Request, StatusCode, header};
use prometheus::Registry;
use raft::Cluster;
use serde::Serialize;
use state_machine::{Timestamp, codes};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use world::World;

use crate::{
    control::body::{Answer, text, with_type},
    keys,
    listen::{
        door::Port,
        tls::{Certificate, Source},
    },
    node_metrics,
    observe::{self, Metrics},
};

/// A read that takes longer helps nobody (reliability rules, section 6.3).
const READ_INDEX_MAX: Duration = Duration::from_millis(500);
/// Committed entries this member may still have before it. At ten thousand a second that is half a second.
const APPLY_LAG_MAX: u64 = 5_000;
/// What is written to see whether the disk takes anything.
const PROBE: &str = "ready.probe";

/// What the metrics port tells.
pub struct Wellness {
    pub cluster: Cluster,
    pub world: World,
    pub metrics: Metrics,
    pub registry: Registry,
    pub leaving: CancellationToken,
    pub data_dir: PathBuf,
    /// Of the client port.
    pub certificate: Option<Arc<Certificate>>,
    /// What clients are answered with.
    pub noise_key: tailcfg::MachineKey,
    /// Where clients come in.
    pub client_port: watch::Receiver<Port>,
}

/// One thing that must be so for this member to serve fully.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    /// What was found; with a failure also what it means.
    pub reason: String,
}

/// All checks, and those a member needs that only hands out maps: it may lag or be without a leader.
const NAMES: [&str; 14] = [
    "engine",
    "raft_leader",
    "read_index",
    "apply_lag",
    "not_learner",
    "not_draining",
    "client_port",
    "storage_writable",
    "disk_space",
    "storage_integrity",
    "state_hash",
    "clock",
    "cert",
    "noise_key",
];
const FOR_CLIENTS: [&str; 5] = ["engine", "not_draining", "client_port", "cert", "noise_key"];

impl Wellness {
    /// The whole port: `/metrics`, `/metrics/nodes`, `/livez`, `/readyz`, `/readyz/<check>`.
    pub async fn answer<B>(&self, request: &Request<B>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET here\n");
        }
        match request.uri().path() {
            "/metrics" => {
                // The tailnet is counted when somebody looks, not whenever it moves.
                self.metrics.count(&self.cluster.latest());
                let text = observe::render(&self.registry);
                with_type(StatusCode::OK, "text/plain; version=0.0.4", text.into())
            }
            "/metrics/nodes" => match node_metrics::render(&self.cluster.latest()) {
                Ok(text) => with_type(StatusCode::OK, "text/plain; version=0.0.4", text.into()),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            // Alive is who answers, unless the engine is dead: disk full and no quorum are no reasons to be restarted.
            "/livez" => match self.engine() {
                Ok(_) => text(StatusCode::OK, "ok\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/readyz" => self.ready(request, &NAMES).await,
            path => match path.strip_prefix("/readyz/").and_then(|name| NAMES.iter().find(|known| **known == name)) {
                Some(name) => self.ready(request, &[name]).await,
                None => text(
                    StatusCode::NOT_FOUND,
                    format!(
                        "paths: /metrics /metrics/nodes /livez /readyz; checks below /readyz: {}\n",
                        NAMES.join(" ")
                    ),
                ),
            },
        }
    }

    async fn ready<B>(&self, request: &Request<B>, names: &[&'static str]) -> Answer {
        let query = request.uri().query().unwrap_or_default();
        let asked: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let excluded = |name: &str| asked.iter().any(|(key, value)| key == "exclude" && value == name);
        let for_clients = asked.iter().any(|(key, value)| key == "mode" && value == "client");
        let mut checks = Vec::new();
        for name in names {
            if !excluded(name) && (!for_clients || FOR_CLIENTS.contains(name)) {
                checks.push(self.check(name).await);
            }
        }
        let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        let json = asked.iter().any(|(key, value)| key == "format" && value == "json")
            || accept.is_some_and(|accept| accept.contains("application/json"));
        page(&checks, json)
    }

    async fn check(&self, name: &'static str) -> Check {
        let found = match name {
            "engine" => self.engine(),
            "raft_leader" => self.leader(),
            "read_index" => self.read_index().await,
            "apply_lag" => self.apply_lag(),
            "not_learner" => self.not_learner(),
            "not_draining" => self.not_draining(),
            "client_port" => self.client_port(),
            "storage_writable" => self.storage_writable(),
            "disk_space" => self.disk_space(),
            "storage_integrity" => self.storage_integrity(),
            "state_hash" => self.state_hash(),
            "clock" => self.clock(),
            "cert" => self.certificate(),
            _ => self.noise_key(),
        };
        match found {
            Ok(reason) => Check { name, ok: true, reason },
            Err(reason) => Check { name, ok: false, reason },
        }
    }

    fn not_draining(&self) -> Result<String, String> {
        let state = self.cluster.latest();
        match state.member(self.cluster.me()) {
            _ if self.leaving.is_cancelled() => {
                Err("this member is leaving; clients are being sent to others".to_owned())
            }
            Some(member) if member.draining => {
                Err(format!("somebody drained this member; back with: hsraft undrain {}", member.name))
            }
            _ => Ok("not leaving".to_owned()),
        }
    }

    fn client_port(&self) -> Result<String, String> {
        match &*self.client_port.borrow() {
            Port::Open(address) => Ok(format!("open at {address}")),
            Port::Closed(why) => Err(format!("closed: {why}; clients are refused at once and go to other members")),
        }
    }

    fn engine(&self) -> Result<String, String> {
        match self.cluster.status().role {
            raft::Role::Stopped => Err("the engine has stopped; the process is about to end".to_owned()),
            role => Ok(format!("{role:?}").to_lowercase()),
        }
    }

    fn leader(&self) -> Result<String, String> {
        match self.cluster.leader() {
            Some(leader) => Ok(format!("member {leader} leads")),
            None => Err("no leader is known; maps are served, changes are not taken".to_owned()),
        }
    }

    async fn read_index(&self) -> Result<String, String> {
        let begun = tokio::time::Instant::now();
        match tokio::time::timeout(READ_INDEX_MAX, self.cluster.confirm()).await {
            Ok(Ok(_)) => Ok(format!("confirmed by a quorum in {} ms", begun.elapsed().as_millis())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no quorum confirmed a read within {} ms", READ_INDEX_MAX.as_millis())),
        }
    }

    fn apply_lag(&self) -> Result<String, String> {
        let status = self.cluster.status();
        let lag = status.committed.unwrap_or(0).saturating_sub(status.applied.unwrap_or(0));
        match lag {
            0..=APPLY_LAG_MAX => Ok(format!("{lag} committed entries to apply")),
            _ => Err(format!("{lag} committed entries are not applied yet, at most {APPLY_LAG_MAX} are fine")),
        }
    }

    fn not_learner(&self) -> Result<String, String> {
        let status = self.cluster.status();
        match status.voters.contains(&status.me) {
            true => Ok("votes".to_owned()),
            false => Err("follows the log and does not vote yet; it is promoted when it has caught up".to_owned()),
        }
    }

    fn storage_writable(&self) -> Result<String, String> {
        match self.world.disk.note(&self.data_dir.join(PROBE), b"probe\n") {
            Ok(()) => Ok("takes writes".to_owned()),
            Err(error) => Err(format!("{} takes no writes: {error}", self.data_dir.display())),
        }
    }

    fn disk_space(&self) -> Result<String, String> {
        match self.cluster.room() {
            None => Ok("not counted here".to_owned()),
            Some(room) if !room.short => Ok(format!("{} MiB free", room.free >> 20)),
            Some(room) => Err(format!(
                "{} MiB are free below {}, {} MiB more are needed; no changes are taken here, reading goes on [{}]",
                room.free >> 20,
                self.data_dir.display(),
                (room.needed >> 20) + 1,
                codes::NO_SPACE
            )),
        }
    }

    fn storage_integrity(&self) -> Result<String, String> {
        let scrubbing = self.cluster.scrubbing();
        match (scrubbing.error, self.cluster.scrubbed_ms()) {
            (Some(error), _) => Err(format!("the disk could not be read through: {error}; look at the log")),
            (None, 0) => Ok("checked at the start; not read through yet (weekly, or: hsraft verify --deep)".to_owned()),
            (None, at) => Ok(format!("read through at {} and whole", Timestamp(at))),
        }
    }

    fn state_hash(&self) -> Result<String, String> {
        if let Some(why) = self.cluster.halted() {
            return Err(format!("no changes are taken: {why} [{}]", codes::STATES_DIFFER));
        }
        match self.cluster.agreements().get(&self.cluster.me()).copied().unwrap_or_default() {
            raft::Agreement::Same => Ok("the same as the others'".to_owned()),
            raft::Agreement::Unknown => Ok("not compared yet".to_owned()),
            raft::Agreement::Differs | raft::Agreement::NoMajority => {
                Err("this member came to another state than others; hsraft verify --cluster".to_owned())
            }
        }
    }

    fn clock(&self) -> Result<String, String> {
        match self.cluster.clock_behind_ms() {
            None => Ok("fewer than two others tell theirs".to_owned()),
            Some(behind) if behind.unsigned_abs() <= raft::CLOCK_OFF_MS => {
                Ok(format!("{behind} ms behind most others"))
            }
            Some(behind) => Err(format!(
                "{behind} ms behind most others, at most {} are fine; look at this machine's NTP",
                raft::CLOCK_OFF_MS
            )),
        }
    }

    fn certificate(&self) -> Result<String, String> {
        let now = Timestamp(self.world.clock.now_ms());
        let left = self.cluster.member_certificate_left();
        if left.is_zero() {
            return Err(
                "the certificate shown to other members has ended; restart this member: it makes a new one".into()
            );
        }
        let members = format!("{} days left of the one for members", left.as_secs() / 86_400);
        let Some(certificate) = &self.certificate else {
            return Ok(format!("plain HTTP, TLS is done elsewhere; {members}"));
        };
        let (facts, source) = (certificate.facts(), certificate.source());
        let days = facts.not_after.since(now).as_secs() / 86_400;
        match source {
            Source::Placeholder => {
                let row = self.cluster.latest();
                let row = facts.names.first().and_then(|name| row.certificates().get(name).cloned());
                let why = row.map(|row| row.error.clone()).filter(|error| !error.is_empty());
                let why = why.unwrap_or_else(|| "it is being ordered".to_owned());
                Err(format!("no certificate for clients yet: {why}; see: hsraft cert status"))
            }
            _ if facts.not_after <= now => {
                Err(format!("expired at {}; renew the files, or see: hsraft cert status", facts.not_after))
            }
            _ if facts.is_late(now) => Ok(format!("ALARM: only {days} more days of the one for clients; {members}")),
            _ => Ok(format!("valid for {days} more days; {members}")),
        }
    }

    fn noise_key(&self) -> Result<String, String> {
        let sealed = self.cluster.secret(keys::NOISE);
        let public = sealed.and_then(|key| <[u8; 32]>::try_from(key.as_slice()).ok()).map(|key| {
            let key = zeroize::Zeroizing::new(key);
            crate::control::noise::public_key(&key)
        });
        match public {
            Some(key) if key == self.noise_key => Ok("the cluster's".to_owned()),
            Some(_) => Err("clients are answered with another key than the cluster's; restart this member".to_owned()),
            None => Err("the cluster's key cannot be unsealed".to_owned()),
        }
    }
}

/// `[+]name ok: …` and `[-]name failed: …`, a line a check; or the same as JSON.
fn page(checks: &[Check], json: bool) -> Answer {
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if json {
        let body = serde_json::json!({ "ready": ready, "checks": checks });
        return with_type(status, "application/json", format!("{body}\n").into());
    }
    let mut lines: String = checks
        .iter()
        .map(|check| match check.ok {
            true => format!("[+]{} ok: {}\n", check.name, check.reason),
            false => format!("[-]{} failed: {}\n", check.name, check.reason),
        })
        .collect();
    lines.push_str(if ready { "ready\n" } else { "not ready\n" });
    text(status, lines)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn shown(answer: Answer) -> (u16, String) {
        let status = answer.status().as_u16();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn people_read_lines_and_programs_json() {
        let good = Check { name: "raft_leader", ok: true, reason: "member 1 leads".to_owned() };
        let bad = Check { name: "cert", ok: false, reason: "expired".to_owned() };
        let (status, text) = shown(page(std::slice::from_ref(&good), false)).await;
        assert_eq!((status, text.as_str()), (200, "[+]raft_leader ok: member 1 leads\nready\n"));
        let both = [good, bad];
        let (status, text) = shown(page(&both, false)).await;
        assert_eq!(status, 503);
        assert!(text.ends_with("[-]cert failed: expired\nnot ready\n"), "{text}");
        let (status, text) = shown(page(&both, true)).await;
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &json["ready"]), (503, &false.into()));
        assert_eq!(json["checks"][1], serde_json::json!({"name": "cert", "ok": false, "reason": "expired"}));
    }
}
