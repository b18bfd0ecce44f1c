//! Where this member stands.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{Instant as _, ServerState, async_runtime::WatchReceiver};
use serde::Serialize;
use state_machine::MemberId;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{cluster::Core, options::Timing};

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
        metrics.voters_silent.set(match status.role {
            Role::Leader => status.voters.iter().filter(|voter| self.is_silent(**voter, status)).count() as i64,
            _ => 0,
        });
        metrics.clock_behind.set(self.boards.clock_behind_ms().unwrap_or(0));
        metrics.changes_halted.set(i64::from(self.gate.halted().is_some()));
        metrics.level_possible.set(self.boards.able().map_or(0, |(level, _)| i64::from(level)));
    }

    /// The leader, which this is, has not heard a voter for a while.
    fn is_silent(&self, voter: MemberId, status: &Status) -> bool {
        let heard = status.members.get(&voter).and_then(|progress| progress.last_contact);
        voter != self.me && heard.is_none_or(|silence| silence > SILENT)
    }
}

/// Longer silence is told (as in `hsraft members`).
const SILENT: Duration = Duration::from_secs(5);

/// Who leads, as far as this member knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<MemberId>,
    /// It is this member, and no majority answers it: nothing it is asked for can be promised now.
    pub alone: bool,
}

/// So many looks, a heartbeat apart, must find the lease expired before a leader calls itself alone. They are counted
/// and not timed: a member that stood still (a frozen process, a machine without a free core) first gets the time to
/// hear what it missed, and its clients are not refused for its own slowness.
///
/// So what bounds a refusal from below is the lease (the longest election timeout) and seven heartbeats, 650 ms in the
/// profile `lan`, and a write is refused for no jitter shorter than that: twelve heartbeats in a row may go unanswered by a
/// majority. By then the others have another leader anyway (450 to 600 ms). The goal of R7 is the lease and 600 ms.
const LOOKS_ALONE: u32 = 8;

/// Whether a leader still hears a majority.
struct Hearing {
    lease: Duration,
    heartbeat: Duration,
    /// The term it leads, and since when: a new leader has not been answered yet.
    leads: Option<(u64, Instant)>,
    /// Looks in a row that found the lease expired.
    deaf: u32,
}

impl Hearing {
    fn new(timing: Timing) -> Hearing {
        let millis = Duration::from_millis;
        Hearing { lease: millis(timing.election_max_ms), heartbeat: millis(timing.heartbeat_ms), leads: None, deaf: 0 }
    }

    /// One look. `leading`: the term this member leads with other voters, and when a majority last answered it.
    /// When to look again; none: when it leads.
    fn look(&mut self, leading: Option<(u64, Option<Instant>)>, now: Instant) -> Option<Instant> {
        let Some((term, answered)) = leading else {
            (self.leads, self.deaf) = (None, 0);
            return None;
        };
        let since = match self.leads {
            Some((led, since)) if led == term => since,
            _ => {
                (self.leads, self.deaf) = (Some((term, now)), 0);
                now
            }
        };
        let expires = answered.map_or(since, |answered| answered.max(since)) + self.lease;
        if now < expires {
            self.deaf = 0;
            return Some(expires);
        }
        self.deaf = self.deaf.saturating_add(1);
        Some(now + self.heartbeat)
    }

    fn alone(&self) -> bool {
        self.deaf >= LOOKS_ALONE
    }
}

/// The term this member leads, when others vote as well, and when a majority last answered it.
fn leading(raft: &crate::types::Raft) -> Option<(u64, Option<Instant>)> {
    let metrics = raft.metrics();
    let now = metrics.borrow_watched();
    let voters = now.membership_config.membership().voter_ids();
    let others = voters.filter(|voter| *voter != now.id).count();
    let answered = now.last_quorum_acked.map(|acked| Instant::now() - acked.into_inner().elapsed());
    (now.state == ServerState::Leader && others > 0).then_some((now.current_term, answered))
}

/// Turns openraft's news about leader, term and membership into ours, until the engine stops; then says why.
pub async fn watch_engine(
    raft: crate::types::Raft,
    leadership: watch::Sender<Leadership>,
    changed: watch::Sender<u64>,
    fatal: watch::Sender<Option<String>>,
    stopping: Arc<AtomicBool>,
    timing: Timing,
) {
    let mut metrics = raft.server_metrics();
    let mut hearing = Hearing::new(timing);
    loop {
        let (term, leader) = {
            let now = metrics.borrow_watched();
            (now.vote.leader_id.term, now.current_leader.map(MemberId))
        };
        let look_again = hearing.look(leading(&raft), Instant::now());
        leadership.send_if_modified(|known| {
            let news = Leadership { term, leader, alone: hearing.alone() };
            let changed = *known != news;
            if news.alone && !known.alone {
                tracing::warn!(
                    term,
                    "this member leads and no majority answers it; changes are refused until one does"
                );
            }
            *known = news;
            changed
        });
        tokio::select! { biased;
            news = metrics.changed() => match news {
                Ok(()) => changed.send_modify(|count| *count += 1),
                Err(_) => break,
            },
            () = sleep_until(look_again.unwrap_or_else(Instant::now)), if look_again.is_some() => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_alone_after_looks_and_not_after_a_pause() {
        let timing = Timing::lan();
        let (start, millis) = (Instant::now(), Duration::from_millis);
        let mut hearing = Hearing::new(timing);
        assert_eq!(hearing.look(None, start), None, "followers need no look");
        assert_eq!(hearing.look(Some((1, None)), start), Some(start + millis(300)), "a new leader has time");
        assert_eq!(hearing.look(Some((1, Some(start + millis(200)))), start + millis(300)), Some(start + millis(500)));
        // The process stood still for a minute: that alone says nothing.
        let mut now = start + Duration::from_secs(60);
        for _ in 1..LOOKS_ALONE {
            assert!(!hearing.alone());
            now = hearing.look(Some((1, Some(start + millis(200)))), now).unwrap();
        }
        assert!(!hearing.alone());
        now = hearing.look(Some((1, Some(start + millis(200)))), now).unwrap();
        assert!(hearing.alone());
        hearing.look(Some((1, Some(now))), now);
        assert!(!hearing.alone(), "a majority answers again");
        for _ in 0..LOOKS_ALONE {
            hearing.look(Some((1, None)), now + millis(300));
        }
        assert!(hearing.alone());
        hearing.look(Some((2, None)), now + millis(300));
        assert!(!hearing.alone(), "another term begins anew");
        hearing.look(None, now);
        assert!(!hearing.alone());
    }
}
