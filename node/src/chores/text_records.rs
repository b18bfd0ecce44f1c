//! The leader tells the operator's DNS server which TXT records there are, and which have ended.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus::IntCounter;
use raft::Cluster;
use state_machine::{Command, State, TextRecord, Timestamp};
use tokio::time::Instant;
use world::World;

use super::{RETRY, now};
use crate::{
    cert_dns::update::{self, Change},
    options::DnsUpdate,
};

/// A node waits for some seconds ([`crate::control`]), so the second attempt comes soon.
const FIRST_AGAIN: Duration = Duration::from_secs(1);
const LAST_AGAIN: Duration = Duration::from_secs(60);
/// Nothing is due: look at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often one record was tried, and when again.
type Failures = BTreeMap<String, (u32, Instant)>;

pub async fn run(cluster: Cluster, world: World, server: Option<DnsUpdate>, by: String, failed: IntCounter) {
    let mut states = cluster.watch();
    let mut status = cluster.watch_status();
    let mut failures = Failures::new();
    loop {
        let state = states.borrow_and_update().clone();
        status.mark_unchanged();
        let at = now(&*world.clock).max(state.now());
        failures.retain(|key, _| state.text_records().contains_key(key));
        let leads = cluster.is_leader();
        if leads && let Some((record, change)) = due(&state, at, &failures) {
            let key = TextRecord::key(&record.name, &record.value);
            let told = match &server {
                Some(server) => update::tell(server, change, &record.name, &record.value, &world)
                    .await
                    .map_err(|error| crate::acme::chain_of(&error)),
                None => Err("this member leads, and its file has no cluster.cert_dns.update_server".to_owned()),
            };
            match told {
                Ok(()) => {
                    failures.remove(&key);
                    tracing::info!(name = record.name, ?change, "the DNS server was told");
                    if !propose(&cluster, &by, &record, change).await {
                        tokio::time::sleep(RETRY).await;
                    }
                }
                Err(error) => {
                    failed.inc();
                    let count = failures.get(&key).map_or(0, |(count, _)| *count);
                    let wait = FIRST_AGAIN.saturating_mul(1 << count.min(8)).min(LAST_AGAIN);
                    failures.insert(key, (count + 1, Instant::now() + wait));
                    let again_in_secs = wait.as_secs();
                    tracing::warn!(name = record.name, ?change, error, again_in_secs, "the DNS server was not told");
                }
            }
            continue;
        }
        tokio::select! { biased;
            moved = changed(&mut states, &state) => if !moved { return },
            () = lead_changed(&mut status, leads, &cluster) => failures.clear(),
            () = tokio::time::sleep(until_next(&state, at, &failures)) => {}
        }
    }
}

/// What the server is to be told, and does not know yet.
fn wish(record: &TextRecord, at: Timestamp) -> Option<Change> {
    match (record.elsewhere, record.ends_at <= at) {
        (false, _) => None,
        (true, true) => Some(Change::Remove),
        (true, false) => (!record.acknowledged).then_some(Change::Add),
    }
}

/// The first that may be tried; nodes that wait go before what has ended.
fn due(state: &State, at: Timestamp, failures: &Failures) -> Option<(Arc<TextRecord>, Change)> {
    let now = Instant::now();
    let rows = state.text_records().iter().filter(|(key, _)| failures.get(*key).is_none_or(|(_, again)| *again <= now));
    let wishes = rows.filter_map(|(_, record)| Some((record.clone(), wish(record, at)?)));
    wishes.min_by_key(|(record, change)| (*change == Change::Remove, record.set_at))
}

/// Until a record ends or may be tried again.
fn until_next(state: &State, at: Timestamp, failures: &Failures) -> Duration {
    let ends = state.text_records().values().filter(|record| record.elsewhere && record.ends_at > at);
    let ends = ends.map(|record| record.ends_at.since(at));
    let again = failures.values().map(|(_, again)| again.saturating_duration_since(Instant::now()));
    ends.chain(again).min().unwrap_or(LOOK_EVERY).clamp(Duration::from_millis(100), LOOK_EVERY)
}

/// What the server said becomes a fact. False: nobody heard; the server is told once more.
async fn propose(cluster: &Cluster, by: &str, record: &TextRecord, change: Change) -> bool {
    let (name, value) = (record.name.clone(), record.value.clone());
    let command = match change {
        Change::Add => Command::AcknowledgeTextRecord { name, value },
        Change::Remove => Command::ForgetTextRecord { name, value },
    };
    let proposed = cluster.propose(by, command).await;
    if let Err(error) = &proposed {
        tracing::debug!(%error, "what the DNS server said was not written");
    }
    proposed.is_ok()
}

/// Until records changed; false: the member ends.
async fn changed(states: &mut tokio::sync::watch::Receiver<Arc<State>>, known: &State) -> bool {
    loop {
        if states.changed().await.is_err() {
            return false;
        }
        if !states.borrow().text_records().ptr_eq(known.text_records()) {
            return true;
        }
    }
}

async fn lead_changed(status: &mut tokio::sync::watch::Receiver<raft::Status>, leads: bool, cluster: &Cluster) {
    while status.changed().await.is_ok() {
        if cluster.is_leader() != leads {
            return;
        }
    }
    std::future::pending().await
}
