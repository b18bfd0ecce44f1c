//! The one task that redraws the atlas when the state moves.

use std::time::Duration;

use netmap::Atlas;
use raft::Cluster;
use state_machine::Revision;
use tokio::{sync::watch, time::Instant};

use crate::observe::Metrics;

/// Between two drawings. The first change after a quiet time is drawn at once; a burst is drawn once per gap, and every
/// session compares its own atlas with the newest anyway.
const GAP: Duration = Duration::from_millis(10);

/// Draws the first atlas and returns it with the task that keeps it current; the task ends with the cluster.
pub fn start(cluster: Cluster, metrics: Metrics) -> (watch::Receiver<Atlas>, impl Future<Output = ()>) {
    let mut states = cluster.watch();
    let first = Atlas::draw(&states.borrow_and_update().clone());
    tell_problem(None, &first);
    let (atlases, latest) = watch::channel(first);
    let task = async move {
        while states.changed().await.is_ok() {
            let state = states.borrow_and_update().clone();
            let started = Instant::now();
            let known = atlases.borrow().clone();
            let next = known.redraw(&state);
            tell_problem(Some(&known), &next);
            metrics.redraw_seconds.observe(started.elapsed().as_secs_f64());
            atlases.send_replace(next);
            tokio::time::sleep(GAP).await;
        }
    };
    (latest, task)
}

/// A policy this program cannot read lets nobody reach anybody; somebody should know why.
fn tell_problem(known: Option<&Atlas>, next: &Atlas) {
    if let Some(problem) = next.policy_problem()
        && known.and_then(Atlas::policy_problem) != Some(problem)
    {
        tracing::error!(%problem, "the policy in force is not understood by this version: nobody reaches anybody until it is mended");
    }
}

/// Waits until the atlas shows at least this revision.
pub async fn reached(atlas: &mut watch::Receiver<Atlas>, revision: Revision) -> Option<Atlas> {
    atlas.wait_for(|atlas| atlas.revision() >= revision).await.ok().map(|atlas| atlas.clone())
}
