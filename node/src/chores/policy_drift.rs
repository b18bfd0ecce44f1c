//! Does this member's policy file still say what is in force (`policy.mode: file`)?
//!
//! A file that differs changes nothing by itself: three members with three files would take turns. It is told whenever
//! the policy in force or the file changes, and taken over on request (SIGHUP). As every member compares its own file
//! with what is in force, files that differ from each other are told too.

use std::sync::Arc;

use raft::Cluster;
use tokio::sync::watch;

use crate::observe::Metrics;

/// Looks whenever one of the two changes.
pub async fn run(cluster: Cluster, mut file: watch::Receiver<Option<Arc<str>>>, metrics: Metrics) {
    let mut states = cluster.watch();
    let mut told = None;
    loop {
        let in_force = states.borrow_and_update().policy().cloned();
        let text = file.borrow_and_update().clone();
        let differs = match (&text, &in_force) {
            (Some(text), Some(version)) => *text != version.text,
            // Nothing in force yet: the founder is about to set it.
            _ => false,
        };
        metrics.policy_file_differs.set(differs.into());
        let seen = (in_force.as_ref().map(|version| version.number), text);
        if differs && told.as_ref() != Some(&seen) {
            let (number, author) =
                in_force.map_or((0, String::new()), |version| (version.number, version.author.clone()));
            tracing::warn!(
                number,
                author,
                "the policy file differs from the policy in force; send SIGHUP to take the file over, or bring it in \
                 line with: hsraft policy get"
            );
        }
        told = Some(seen);
        tokio::select! { biased;
            moved = states.changed() => if moved.is_err() { return },
            moved = file.changed() => if moved.is_err() { return },
        }
    }
}
