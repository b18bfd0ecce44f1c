//! Where this member stands.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{Instant, ServerState, async_runtime::WatchReceiver};
use serde::Serialize;
use state_machine::MemberId;
use tokio::sync::watch;

use crate::cluster::Core;

/// What a member does in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    /// Follows the log and does not vote.
    #[default]
    Learner,
    /// The engine has stopped.
    Stopped,
}

/// One member as the leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The last log index it is known to have on disk.
    pub matched: Option<u64>,
    /// Entries it is behind.
    pub lag: u64,
    /// Since it was last heard from.
    pub last_contact: Option<Duration>,
}

/// A state on its way to this member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arriving {
    /// Bytes that came.
    pub received: u64,
    /// Bytes in all; none from a program that did not say.
    pub total: Option<u64>,
}

/// Where this member stands in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    pub cluster_id: String,
    pub me: MemberId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<MemberId>,
    pub last_log: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub snapshot: Option<u64>,
    pub purged: Option<u64>,
    /// All that vote; of both sets while one replaces the other.
    pub voters: Vec<MemberId>,
    pub learners: Vec<MemberId>,
    /// One set of voters is replacing another.
    pub joint: bool,
    /// All members but this one; on the leader only.
    pub members: BTreeMap<MemberId, Progress>,
    /// Since a majority was last heard from; on the leader only.
    pub quorum_contact: Option<Duration>,
}

impl Core {
    /// Everything, from openraft's newest numbers.
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let last_log = metrics.last_log_index;
        let mut members: BTreeMap<MemberId, Progress> = BTreeMap::new();
        if let Some(replication) = &metrics.replication {
            for (id, matched) in replication.iter().filter(|(id, _)| **id != self.me.0) {
                let matched = matched.map(|id| id.index);
                let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
                let lag = next(last_log).saturating_sub(next(matched));
                members.insert(MemberId(*id), Progress { matched, lag, last_contact: None });
            }
        }
        if let Some(heartbeat) = &metrics.heartbeat {
            for (id, acked) in heartbeat {
                if let (Some(progress), Some(acked)) = (members.get_mut(&MemberId(*id)), acked) {
                    progress.last_contact = Some(acked.into_inner().elapsed());
                }
            }
        }
        Status {
            cluster_id: self.cluster_id.to_string(),
            me: self.me,
            role: match metrics.state {
                ServerState::Leader => Role::Leader,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Learner => Role::Learner,
                ServerState::Shutdown => Role::Stopped,
            },
            term: metrics.current_term,
            leader: metrics.current_leader.map(MemberId),
            last_log,
            committed: metrics.local_committed.map(|id| id.index),
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            voters: membership.voter_ids().map(MemberId).collect(),
            learners: membership.learner_ids().map(MemberId).collect(),
            joint: membership.get_joint_config().len() > 1,
            members,
            quorum_contact: metrics.last_quorum_acked.map(|acked| acked.into_inner().elapsed()),
        }
    }

    pub(crate) fn update_metrics(&self, status: &Status) {
        let metrics = &self.metrics;
        metrics.term.set(status.term as i64);
        metrics.leader.set(status.leader.map_or(0, |leader| leader.0 as i64));
        metrics.is_leader.set(i64::from(status.role == Role::Leader));
        metrics.applied.set(status.applied.unwrap_or(0) as i64);
        metrics.last_log.set(status.last_log.unwrap_or(0) as i64);
        metrics.voters.set(status.voters.len() as i64);
        metrics.learners.set(status.learners.len() as i64);
        metrics.lag_max.set(status.members.values().map(|progress| progress.lag).max().unwrap_or(0) as i64);
    }
}

/// Who leads, as far as this member knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<MemberId>,
}

/// Turns openraft's news about leader, term and membership into ours, until the engine stops; then says why.
pub async fn watch_engine(
    raft: crate::types::Raft,
    leadership: watch::Sender<Leadership>,
    changed: watch::Sender<u64>,
    fatal: watch::Sender<Option<String>>,
    stopping: Arc<AtomicBool>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let (term, leader) = {
            let now = metrics.borrow_watched();
            (now.vote.leader_id.term, now.current_leader.map(MemberId))
        };
        leadership.send_if_modified(|known| {
            let news = Leadership { term, leader };
            let changed = *known != news;
            *known = news;
            changed
        });
        changed.send_modify(|count| *count += 1);
        if metrics.changed().await.is_err() {
            break;
        }
    }
    if stopping.load(Ordering::SeqCst) {
        return;
    }
    let reason = match &raft.metrics().borrow_watched().running_state {
        Err(fatal) => fatal.to_string(),
        Ok(()) => "the engine stopped".into(),
    };
    crate::integrity::fail(&fatal, reason);
}
