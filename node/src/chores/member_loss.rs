//! A member that the leader has not heard of for ten seconds has lost its clients: their nodes get the long grace.

use std::{collections::BTreeMap, time::Duration};

use raft::{Cluster, Status};
use state_machine::{Command, MemberId, MemberState, State};
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longer than any election, shorter than a client's patience.
const SILENT_TOO_LONG: Duration = Duration::from_secs(10);

pub async fn run(cluster: Cluster, by: String) {
    let mut silence = Silence::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !cluster.is_leader() {
            silence = Silence::default();
            continue;
        }
        let state = cluster.latest();
        for member in silence.look(&cluster.status(), &state, Instant::now()) {
            match cluster.propose(&by, Command::ForgetSessions { member }).await {
                Ok(_) => tracing::warn!(%member, "a member is silent; its map streams are given up"),
                Err(error) => tracing::debug!(%member, %error, "could not give up a member's streams"),
            }
        }
    }
}

/// Since when members are silent, as this leader sees it.
#[derive(Default)]
struct Silence {
    since: BTreeMap<MemberId, Instant>,
}

impl Silence {
    /// Members that are silent too long and still hold streams in the state.
    fn look(&mut self, status: &Status, state: &State, now: Instant) -> Vec<MemberId> {
        let mut lost = Vec::new();
        for (id, member) in state.members() {
            if *id == status.me || member.state != MemberState::Active {
                continue;
            }
            let heard = status.members.get(id).and_then(|progress| progress.last_contact);
            // A new leader has heard of nobody yet; it counts from its own first look.
            let first = *self.since.entry(*id).or_insert(now);
            let silent = heard.unwrap_or_else(|| now.saturating_duration_since(first));
            if heard.is_some_and(|heard| heard < SILENT_TOO_LONG) {
                self.since.remove(id);
            } else if silent >= SILENT_TOO_LONG && holds_streams(state, *id) {
                lost.push(*id);
            }
        }
        lost
    }
}

fn holds_streams(state: &State, member: MemberId) -> bool {
    state.presences().values().any(|presence| presence.session.is_some_and(|session| session.member == member))
}
