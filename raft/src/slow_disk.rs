//! A leader whose disk is slow lets another lead.
//!
//! Every write waits for the leader's disk, and for the faster half of the others' only. So when 99 of 100 appends of the
//! leader need up to more than half of an election timeout, for ten seconds without a break, leadership goes to the voter
//! whose disk is fastest. Never when no voter is much better, and never twice within a minute in the whole cluster:
//! leaders that change too often cost more than a slow one.

use std::{sync::Arc, time::Duration};

use state_machine::{MemberId, MemberState};
use tokio::time::{Instant, sleep};

use crate::{cluster::Core, status::Role};

/// How often the leader looks at itself; reports of the others come as often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A moment's noise is none of our business.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// Between two hand-overs because of a disk, whoever led.
const REST: Duration = Duration::from_secs(60);
/// A successor this far behind would first have to catch up, and nobody could write meanwhile.
const LAG_MAX: u64 = 1_000;

/// A voter that could lead instead.
#[derive(Clone, Copy, Debug)]
struct Other {
    id: MemberId,
    /// Its appends; none: it said nothing lately.
    append_p99: Option<Duration>,
    lag: u64,
}

/// What the decision is made from.
#[derive(Clone, Debug)]
struct Look {
    /// Half of the shortest election timeout.
    limit: Duration,
    /// This member's appends; none: nothing was written lately.
    append_p99: Option<Duration>,
    /// Since any member last gave its lead away because of its disk.
    stepped_aside_ago: Option<Duration>,
    /// Voters that were heard a moment ago and shall lead.
    others: Vec<Other>,
}

/// Since when this leader's disk has been slow.
#[derive(Default)]
struct Slowness {
    since: Option<Instant>,
}

impl Slowness {
    /// Who shall lead instead; `None`: all stays as it is.
    fn judge(&mut self, look: &Look, now: Instant) -> Option<MemberId> {
        match look.append_p99 {
            Some(p99) if p99 > look.limit => _ = self.since.get_or_insert(now),
            // Slow once, it counts as slow until it is clearly fast: around the limit nothing changes.
            Some(p99) if p99 > look.limit / 2 => {}
            _ => self.since = None,
        }
        let slow_for = now.duration_since(self.since?);
        if slow_for < SLOW_FOR || look.stepped_aside_ago.is_some_and(|ago| ago < REST) {
            return None;
        }
        let fast = look.others.iter().filter(|other| other.lag <= LAG_MAX);
        let fast =
            fast.filter_map(|other| Some((other.append_p99?, other.id))).filter(|(p99, _)| *p99 <= look.limit / 2);
        fast.min().map(|(_, id)| id)
    }
}

/// Runs as long as the member does; acts only while it leads.
pub async fn watch(core: Arc<Core>) {
    let mut slowness = Slowness::default();
    loop {
        sleep(LOOK_EVERY).await;
        let status = core.status();
        if status.role != Role::Leader {
            slowness = Slowness::default();
            continue;
        }
        let look = look(&core);
        let Some(successor) = slowness.judge(&look, Instant::now()) else { continue };
        slowness = Slowness::default();
        core.boards.note_stepping_aside();
        core.metrics.stepped_aside.inc();
        let append_p99_ms = look.append_p99.unwrap_or_default().as_millis() as u64;
        let limit_ms = look.limit.as_millis() as u64;
        tracing::warn!(append_p99_ms, limit_ms, %successor, "this member's disk is slow; another member shall lead");
        if let Err(error) = core.hand_over_here(Some(successor)).await {
            tracing::warn!(error, %successor, "leadership was not handed over");
        }
    }
}

fn look(core: &Core) -> Look {
    let (status, board) = (core.status(), core.board());
    let state = core.latest.borrow().clone();
    let fresh = core.dialer.silence() * 4;
    let fit = |id: &MemberId| {
        *id != core.me
            && state.member(*id).is_some_and(|member| member.state == MemberState::Active && !member.draining)
            && status
                .members
                .get(id)
                .is_some_and(|progress| progress.last_contact.is_some_and(|silence| silence < fresh))
    };
    let other = |id: &MemberId| {
        let seen = board.members.get(id)?;
        let append_p99 = seen.report.as_ref().and_then(|report| report.append_p99_us).map(Duration::from_micros);
        Some(Other { id: *id, append_p99, lag: seen.lag })
    };
    Look {
        limit: Duration::from_millis(core.dialer.timing.election_min_ms) / 2,
        append_p99: core.metrics.store.pace.p99(),
        stepped_aside_ago: core.boards.stepped_aside_ago(),
        others: status.voters.iter().filter(|id| fit(id)).filter_map(other).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second a word: how long the leader's appends take, in ms, or `-` for none. The other two voters' in `others`.
    /// In which second who took over.
    fn story(words: &str, others: [Option<u64>; 2], stepped_aside_secs_ago: Option<u64>) -> Option<(usize, u64)> {
        let start = Instant::now();
        let mut slowness = Slowness::default();
        let millis = |p99: Option<u64>| p99.map(Duration::from_millis);
        words.split_whitespace().enumerate().find_map(|(second, word)| {
            let elapsed = Duration::from_secs(second as u64);
            let look = Look {
                limit: Duration::from_millis(75),
                append_p99: millis(word.parse().ok()),
                stepped_aside_ago: stepped_aside_secs_ago.map(|ago| Duration::from_secs(ago) + elapsed),
                others: [2, 3]
                    .map(|id| Other { id: MemberId(id), append_p99: millis(others[id as usize - 2]), lag: 0 })
                    .to_vec(),
            };
            slowness.judge(&look, start + elapsed).map(|id| (second, id.0))
        })
    }

    #[tokio::test]
    async fn ten_slow_seconds_and_the_fastest_takes_over() {
        let slow = "200 ".repeat(12);
        assert_eq!(story(&slow, [Some(5), Some(2)], None), Some((10, 3)));
        assert_eq!(story(&slow, [Some(2), Some(2)], None), Some((10, 2)), "as good as each other");
        assert_eq!(story(&slow, [None, Some(9)], None), Some((10, 3)), "who says nothing is not known to be fast");
        assert_eq!(story(&"75 ".repeat(100), [Some(2), Some(2)], None), None, "at the limit is not beyond it");
    }

    #[tokio::test]
    async fn around_the_limit_it_stays_slow_and_clearly_below_it_is_fast() {
        let others = [Some(2), Some(2)];
        assert_eq!(story("80 60 50 40 60 70 38 60 74 50 60 60", others, None), Some((10, 2)));
        assert_eq!(story("80 80 80 80 37 80 80 80 80 80 80 80", others, None), None);
        assert_eq!(story("80 80 80 80 - 80 80 80 80 80 80 80", others, None), None, "idle is not slow");
        assert_eq!(story("60 60 60 60 60 60 60 60 60 60 60 60", others, None), None, "it never was slow");
    }

    #[tokio::test]
    async fn never_when_all_are_slow_and_not_twice_a_minute() {
        let slow = "200 ".repeat(100);
        assert_eq!(story(&slow, [Some(190), Some(60)], None), None, "nobody is clearly fast");
        assert_eq!(story(&slow, [None, None], None), None);
        assert_eq!(story(&slow, [Some(3), Some(200)], Some(20)), Some((40, 2)));
        assert_eq!(story(&slow, [Some(3), Some(200)], Some(59)), Some((10, 2)));
    }

    #[tokio::test]
    async fn who_lags_does_not_lead() {
        let others = [(2, 5_000, 1), (3, 10, 8)].map(|(id, lag, p99)| Other {
            id: MemberId(id),
            append_p99: Some(Duration::from_millis(p99)),
            lag,
        });
        let look = Look {
            limit: Duration::from_millis(75),
            append_p99: Some(Duration::from_secs(2)),
            stepped_aside_ago: None,
            others: others.to_vec(),
        };
        let start = Instant::now();
        let mut slowness = Slowness::default();
        assert_eq!(slowness.judge(&look, start), None);
        assert_eq!(slowness.judge(&look, start + SLOW_FOR), Some(MemberId(3)));
    }
}
