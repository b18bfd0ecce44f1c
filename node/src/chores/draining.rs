//! A member that somebody drained sends its clients elsewhere, once. Whoever comes back all the same is served: the name
//! clients dial may know of no other member.

use std::sync::Arc;

use raft::Cluster;

use crate::control::Control;

/// Watches the State for as long as the member runs.
pub async fn watch(cluster: Cluster, control: Arc<Control>) {
    let mut states = cluster.watch();
    let mut was_draining = false;
    loop {
        let is_draining = states.borrow_and_update().member(cluster.me()).is_some_and(|member| member.draining);
        if is_draining && !was_draining {
            tracing::info!("drained by somebody: clients are sent to other members");
            control.send_away();
        }
        was_draining = is_draining;
        if states.changed().await.is_err() {
            return;
        }
    }
}
