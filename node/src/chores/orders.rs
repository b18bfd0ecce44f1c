//! The leader orders certificates that members want, one after the other, when they are due.

use std::time::Duration;

use raft::Cluster;
use state_machine::{ManagedCertificate, State, Timestamp};

use super::now;
use crate::acme::{Attempt, Outside};

/// Nothing is due: look at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between two attempts of any kind.
const GAP: Duration = Duration::from_millis(200);

pub async fn run(cluster: Cluster, outside: Outside, by: String) {
    let mut states = cluster.watch();
    let mut status = cluster.watch_status();
    loop {
        let state = states.borrow_and_update().clone();
        status.mark_unchanged();
        if cluster.is_leader()
            && let Some(row) = due(&state, now(&*outside.world.clock))
        {
            let attempt = Attempt { cluster: &cluster, outside: &outside, by: &by };
            let done = tokio::select! { biased;
                // The order stays in State: whoever leads now goes on with it.
                () = leads_no_more(&cluster) => continue,
                done = Box::pin(attempt.fetch(&row)) => done,
            };
            if let Err(error) = done {
                attempt.failed(&row, &error).await;
            }
            tokio::time::sleep(GAP).await;
            continue;
        }
        let leads = cluster.is_leader();
        tokio::select! { biased;
            moved = changed(&mut states, &state) => if !moved { return },
            () = lead_changed(&mut status, leads, &cluster) => {}
            () = tokio::time::sleep(until_next(&state, now(&*outside.world.clock))) => {}
        }
    }
}

/// What is to be fetched now.
fn due(state: &State, now: Timestamp) -> Option<ManagedCertificate> {
    let rows = state.certificates().values();
    rows.filter(|row| row.renew_at() <= now && row.retry_at <= now).map(|row| (**row).clone()).next()
}

/// Until something is due, or the clock may have been set.
fn until_next(state: &State, now: Timestamp) -> Duration {
    let moments = state.certificates().values().map(|row| row.renew_at().max(row.retry_at).since(now));
    moments.min().unwrap_or(LOOK_EVERY).clamp(GAP, LOOK_EVERY)
}

/// Until certificates changed; false: the member ends.
async fn changed(states: &mut tokio::sync::watch::Receiver<std::sync::Arc<State>>, known: &State) -> bool {
    loop {
        if states.changed().await.is_err() {
            return false;
        }
        if !states.borrow().certificates().ptr_eq(known.certificates()) {
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

async fn leads_no_more(cluster: &Cluster) {
    let mut status = cluster.watch_status();
    while cluster.is_leader() {
        if status.changed().await.is_err() {
            return;
        }
    }
}
