//! Time passes: the leader proposes `Elapse` when the state says that something is due.

use std::{sync::Arc, time::Duration};

use raft::Cluster;
use state_machine::{Command, Timestamp};
use world::Clock;

use super::{RETRY, now};

/// Clocks are set now and then; a long sleep is taken in pieces.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Between two proposals: many things that are due at nearly the same time take one command.
const GAP: Duration = Duration::from_millis(100);

pub async fn run(cluster: Cluster, clock: Arc<dyn Clock>, by: String) {
    let mut states = cluster.watch();
    let mut status = cluster.watch_status();
    loop {
        let due = states.borrow_and_update().next_deadline();
        status.mark_unchanged();
        let leads = cluster.is_leader();
        match due.filter(|_| leads).map(|(at, why)| (until(at, now(&*clock)), why)) {
            Some((Duration::ZERO, why)) => match cluster.propose(&by, Command::Elapse).await {
                Ok(applied) => {
                    tracing::debug!(why, answer = ?applied.answer, "time elapsed");
                    tokio::time::sleep(GAP).await;
                }
                Err(error) => {
                    tracing::debug!(why, %error, "elapse was not taken");
                    tokio::time::sleep(RETRY).await;
                }
            },
            // Following, nothing is due: whatever could change that wakes us.
            wait => {
                let sleep = wait.map_or(SLEEP_MAX, |(span, _)| span.min(SLEEP_MAX));
                tokio::select! { biased;
                    moved = states.changed() => if moved.is_err() { return },
                    moved = status.changed() => if moved.is_err() { return },
                    () = tokio::time::sleep(sleep) => {}
                }
                // A burst of changes is looked at once.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    at.since(now)
}
