//! Who votes. The members table of State says who belongs; on the leader this loop makes Raft's membership follow.
//!
//! | what it finds | what it does |
//! |---|---|
//! | two sets of voters for more than two seconds | finishes the change a former leader began |
//! | a removed member with a seat | takes the seat away, as long as a majority of the rest is healthy |
//! | a voter that shall only listen | takes its vote, under the same condition |
//! | this member itself shall go, or be left alone | hands leadership over |
//! | a member without a seat | seats it as a learner |
//! | learners that have caught up and stayed so, and reach the voters and are reached | lets them vote |
//! | a member that was admitted and never came up | removes it after a quarter of an hour |
//! | a voter silent for longer than `auto_remove_after`, and a learner ready to take its vote | removes it |
//! | this member's clock is more than two seconds off most others' | hands leadership over |
//!
//! Numbers of voters are kept odd: 1, 3, 5, 7. One learner beside an odd number of at least three waits for another; it
//! is a warm standby that takes the place of a removed voter at once; an operator may insist that it votes. Two voters are passed through on the way from one
//! to three: the second votes as soon as it has caught up, so that nothing has to be decided when the third comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{ChangeMembers, async_runtime::WatchReceiver};
use state_machine::{Command, JoinRole, Member, MemberId, MemberState, State, Timestamp};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::Core,
    encode::{Call, decode, encode},
    error::ProposeError,
    forward::DEADLINE,
    peers::proto::Frame,
    status::{Role, Status},
    types::{Membership, Seat},
};

/// A learner may be this many entries behind and still counts as caught up.
const LAG_MAX: u64 = 100;
const VOTERS_MAX: usize = 7;
/// A change of voters is two entries; a leader that lives finishes it sooner.
const JOINT_FOR: Duration = Duration::from_secs(2);
const CHANGE_WITHIN: Duration = Duration::from_secs(5);

/// A member that was admitted comes up in seconds; one that did not in this time will not.
const COME_UP_WITHIN: Duration = Duration::from_secs(15 * 60);

/// A clock further off than this is not to be believed (reliability rules, section 6.3).
pub const CLOCK_OFF_MS: u64 = 2_000;

/// A leader has heard from every member that is well, and every member from it, this long after it was elected: they
/// tell each other once a second (board.rs), and may miss it once.
const KNOWS_AFTER: Duration = Duration::from_secs(3);
/// Between two looks at a view that is not settled.
const LOOKS: Duration = Duration::from_millis(50);

/// What the loop remembers between two looks.
#[derive(Default)]
struct Memory {
    joint_since: Option<Instant>,
    /// Since when a learner has been caught up without a break.
    ready_since: BTreeMap<MemberId, Instant>,
    /// Since when a voter was not heard from.
    silent_since: BTreeMap<MemberId, Instant>,
}

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    FinishChange,
    HandOver,
    Unseat {
        member: MemberId,
        voter: bool,
    },
    Demote(MemberId),
    Forget(MemberId),
    /// Silent for too long, and another can vote in its place.
    GiveUp(MemberId),
    Seat {
        member: MemberId,
        seat: Seat,
    },
    Promote(BTreeSet<u64>),
}

/// Runs as long as the member does; acts only while it leads.
pub async fn reconcile(core: Arc<Core>) {
    let mut leadership = core.leadership.clone();
    let mut memory = Memory::default();
    let period = Duration::from_millis((core.dialer.timing.heartbeat_ms * 2).clamp(100, 1000));
    loop {
        if leadership.borrow_and_update().leader != Some(core.me) {
            memory = Memory::default();
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        }
        let status = core.status();
        if status.role == Role::Leader
            && let Some(step) = next_step(&core, &status, &mut memory)
        {
            tracing::info!(?step, "membership");
            take(&core, step).await;
        }
        let _ = timeout(period, leadership.changed()).await;
    }
}

fn next_step(core: &Core, status: &Status, memory: &mut Memory) -> Option<Step> {
    let membership = core.raft.metrics().borrow_watched().membership_config.membership().clone();
    let state = core.latest.borrow().clone();
    let now = Instant::now();
    if status.joint {
        let since = *memory.joint_since.get_or_insert(now);
        return (now - since > JOINT_FOR).then_some(Step::FinishChange);
    }
    memory.joint_since = None;
    let stable = Duration::from_millis(core.dialer.timing.heartbeat_ms * 20);
    let fresh = core.dialer.silence() * 4;
    remember_ready(memory, status, fresh, now);
    remember_silent(memory, status, fresh, now);
    let ready = |member: &MemberId| {
        memory.ready_since.get(member).is_some_and(|since| now - *since >= stable)
            && unreached(core, status, fresh, *member).is_empty()
    };
    unseat(core.me, &state, &membership, status, fresh)
        .or_else(|| demote(core.me, &state, status, fresh))
        .or_else(|| step_aside(core.me, &state, status, fresh))
        .or_else(|| distrust_clock(core.me, core.boards.clock_behind_ms(), &state, status, fresh))
        .or_else(|| seat(&state, &membership))
        .or_else(|| promote(&state, status, fresh, ready))
        .or_else(|| give_up(&state, status, memory, core.auto_remove_after, fresh, now, ready))
        .or_else(|| forget(&state, core.stamp()))
}

/// Voters that `learner` does not reach, or that do not reach it, as they said a moment ago. A voter that is silent
/// itself does not count.
pub fn unreached(core: &Core, status: &Status, fresh: Duration, learner: MemberId) -> Vec<MemberId> {
    let Some(its) = core.boards.report_of(learner) else { return status.voters.clone() };
    let cut_off = |voter: &&MemberId| {
        if **voter == core.me {
            return !its.reaches.contains(&core.me.0);
        }
        let heard = status.members.get(voter).and_then(|progress| progress.last_contact);
        let theirs = core.boards.report_of(**voter);
        heard.is_some_and(|silence| silence < fresh)
            && !(its.reaches.contains(&voter.0) && theirs.is_some_and(|theirs| theirs.reaches.contains(&learner.0)))
    };
    status.voters.iter().filter(cut_off).copied().collect()
}

/// The role a member shall have; `None` when State does not know it.
fn wished(state: &State, member: MemberId) -> Option<JoinRole> {
    state.member(member).filter(|known| known.state == MemberState::Active).map(|known| known.role)
}

/// Enough healthy voters are left without `member`.
fn can_spare(status: &Status, fresh: Duration, member: MemberId) -> bool {
    let left = status.voters.len() - 1;
    left > 0 && healthy(status, fresh, Some(member)) > left / 2
}

fn demote(me: MemberId, state: &State, status: &Status, fresh: Duration) -> Option<Step> {
    let listens = |voter: &&MemberId| wished(state, **voter) == Some(JoinRole::Learner);
    let voter = *status.voters.iter().find(listens)?;
    can_spare(status, fresh, voter).then_some(if voter == me { Step::HandOver } else { Step::Demote(voter) })
}

/// A leader that shall be left alone lets another lead, if one can.
fn step_aside(me: MemberId, state: &State, status: &Status, fresh: Duration) -> Option<Step> {
    let draining = state.member(me).is_some_and(|known| known.draining);
    (draining && another_can_lead(me, state, status, fresh)).then_some(Step::HandOver)
}

/// The leader stamps the time of every entry: one whose clock most others contradict lets another lead. Nobody whom most
/// others contradict takes over, so it ends there.
fn distrust_clock(
    me: MemberId,
    behind_ms: Option<i64>,
    state: &State,
    status: &Status,
    fresh: Duration,
) -> Option<Step> {
    let behind_ms = behind_ms.filter(|behind| behind.unsigned_abs() > CLOCK_OFF_MS)?;
    tracing::warn!(behind_ms, "this member's clock is not what most others say; another shall lead; look at NTP");
    another_can_lead(me, state, status, fresh).then_some(Step::HandOver)
}

fn another_can_lead(me: MemberId, state: &State, status: &Status, fresh: Duration) -> bool {
    let draining = |member: MemberId| state.member(member).is_some_and(|known| known.draining);
    let heard = |voter: &MemberId| {
        status.members.get(voter).and_then(|progress| progress.last_contact).is_some_and(|silence| silence < fresh)
    };
    status.voters.iter().any(|voter| *voter != me && heard(voter) && !draining(*voter))
}

/// Never a voter whose place nobody could take at once, and never one that the rest cannot spare.
fn give_up(
    state: &State,
    status: &Status,
    memory: &Memory,
    after: Option<Duration>,
    fresh: Duration,
    now: Instant,
    ready: impl Fn(&MemberId) -> bool,
) -> Option<Step> {
    let after = after?;
    let standby = |learner: &MemberId| wished(state, *learner) == Some(JoinRole::Voter) && ready(learner);
    if !status.learners.iter().any(standby) {
        return None;
    }
    let lost = memory.silent_since.iter().find(|(_, since)| now - **since >= after).map(|(member, _)| *member)?;
    can_spare(status, fresh, lost).then_some(Step::GiveUp(lost))
}

/// Counted by the leader of now: another begins anew.
fn remember_silent(memory: &mut Memory, status: &Status, fresh: Duration, now: Instant) {
    for voter in status.voters.iter().filter(|voter| **voter != status.me) {
        let contact = status.members.get(voter).and_then(|progress| progress.last_contact);
        if contact.is_some_and(|silence| silence < fresh) {
            memory.silent_since.remove(voter);
        } else {
            memory.silent_since.entry(*voter).or_insert(now);
        }
    }
    memory.silent_since.retain(|member, _| status.voters.contains(member));
}

fn forget(state: &State, now: Timestamp) -> Option<Step> {
    let never_came = |member: &&Arc<Member>| {
        member.state == MemberState::Active && member.incarnation == 0 && member.joined_at.after(COME_UP_WITHIN) <= now
    };
    state.members().values().find(never_came).map(|member| Step::Forget(member.id))
}

fn remember_ready(memory: &mut Memory, status: &Status, fresh: Duration, now: Instant) {
    for learner in &status.learners {
        let caught_up = status.members.get(learner).is_some_and(|progress| {
            progress.matched.is_some()
                && progress.lag <= LAG_MAX
                && progress.last_contact.is_none_or(|silence| silence < fresh)
        });
        if caught_up {
            memory.ready_since.entry(*learner).or_insert(now);
        } else {
            memory.ready_since.remove(learner);
        }
    }
    memory.ready_since.retain(|member, _| status.learners.contains(member));
}

/// Voters that were heard from a moment ago; the leader hears itself.
fn healthy(status: &Status, fresh: Duration, but: Option<MemberId>) -> usize {
    let heard = |member: &MemberId| {
        *member == status.me
            || status
                .members
                .get(member)
                .is_some_and(|progress| progress.last_contact.is_some_and(|silence| silence < fresh))
    };
    status.voters.iter().filter(|voter| Some(**voter) != but && heard(voter)).count()
}

fn unseat(me: MemberId, state: &State, membership: &Membership, status: &Status, fresh: Duration) -> Option<Step> {
    let removed = |id: &u64| state.member(MemberId(*id)).is_some_and(|known| known.state == MemberState::Removed);
    let member = membership.nodes().map(|(id, _)| *id).find(removed).map(MemberId)?;
    let voter = status.voters.contains(&member);
    if voter && !can_spare(status, fresh, member) {
        return None;
    }
    if member == me { Some(Step::HandOver) } else { Some(Step::Unseat { member, voter }) }
}

fn seat(state: &State, membership: &Membership) -> Option<Step> {
    let newcomer = state
        .members()
        .values()
        .find(|member| member.state == MemberState::Active && membership.get_node(&member.id.0).is_none())?;
    let learner_only = newcomer.role == JoinRole::Learner;
    let seat = Seat { address: newcomer.peer_address.clone(), learner_only };
    Some(Step::Seat { member: newcomer.id, seat })
}

fn promote(state: &State, status: &Status, fresh: Duration, ready: impl Fn(&MemberId) -> bool) -> Option<Step> {
    let may_vote = |member: &MemberId| wished(state, *member) == Some(JoinRole::Voter);
    let mut candidates: Vec<MemberId> =
        status.learners.iter().filter(|learner| may_vote(learner) && ready(learner)).copied().collect();
    let insists = |member: &MemberId| state.member(*member).is_some_and(|known| known.insist);
    candidates.sort_by_key(|candidate| !insists(candidate));
    let voters = status.voters.len();
    let wanted = match (voters, candidates.len()) {
        (_, 0) => return None,
        (1, 1) => 1,
        (odd, 1) if odd % 2 == 1 => candidates.first().filter(|only| insists(only)).map(|_| 1)?,
        (odd, _) if odd % 2 == 1 => 2,
        _ => 1,
    };
    candidates.truncate(wanted);
    let then = voters + wanted;
    if then > VOTERS_MAX || healthy(status, fresh, None) + wanted < then / 2 + 1 {
        return None;
    }
    Some(Step::Promote(candidates.into_iter().map(|member| member.0).collect()))
}

async fn take(core: &Arc<Core>, step: Step) {
    let raft = &core.raft;
    world::failpoint!("membership.step.before");
    let result = match step {
        Step::HandOver => {
            if let Err(error) = core.hand_over_here(None).await {
                tracing::warn!(error, "a removed leader could not hand over");
            }
            return;
        }
        Step::FinishChange => {
            timeout(CHANGE_WITHIN, raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), true)).await
        }
        Step::Forget(id) => return take_out(core, id, "never came up").await,
        Step::GiveUp(id) => return take_out(core, id, "auto_remove_after").await,
        Step::Demote(member) => {
            let change = ChangeMembers::RemoveVoters(BTreeSet::from([member.0]));
            timeout(CHANGE_WITHIN, raft.change_membership(change, true)).await
        }
        Step::Unseat { member, voter: true } => {
            world::failpoint!("member.unseat.before");
            let change = ChangeMembers::RemoveVoters(BTreeSet::from([member.0]));
            timeout(CHANGE_WITHIN, raft.change_membership(change, false)).await
        }
        Step::Unseat { member, voter: false } => {
            let change = ChangeMembers::RemoveNodes(BTreeSet::from([member.0]));
            timeout(CHANGE_WITHIN, raft.change_membership(change, false)).await
        }
        Step::Seat { member, seat } => {
            world::failpoint!("member.seat.before");
            timeout(CHANGE_WITHIN, raft.add_learner(member.0, seat, false)).await
        }
        Step::Promote(members) => {
            world::failpoint!("member.promote.before");
            timeout(CHANGE_WITHIN, raft.change_membership(ChangeMembers::AddVoterIds(members), true)).await
        }
    };
    world::failpoint!("membership.step.after");
    match result {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "membership could not be changed; it will be tried again"),
        Err(_) => tracing::warn!("a change of membership takes long; it will be looked at again"),
    }
}

async fn take_out(core: &Arc<Core>, id: MemberId, why: &str) {
    tracing::warn!(member = %id, why, "a member is removed");
    if let Err(error) = core.propose(core.new_request(), why, Command::RemoveMember { id }).await {
        tracing::warn!(member = %id, why, %error, "a member could not be removed yet");
    }
}

impl Core {
    /// Hands leadership to `to`, or to the voter that is furthest along.
    pub async fn hand_over_here(&self, to: Option<MemberId>) -> Result<(), String> {
        let status = self.status();
        if status.role != Role::Leader {
            return Err("this member does not lead".into());
        }
        if to == Some(self.me) {
            return Ok(());
        }
        let state = self.latest.borrow().clone();
        let fresh = self.dialer.silence() * 4;
        let fit = |member: &MemberId| {
            *member != self.me
                && state.member(*member).is_none_or(|known| known.state == MemberState::Active && !known.draining)
                && status
                    .members
                    .get(member)
                    .is_some_and(|progress| progress.last_contact.is_some_and(|silence| silence < fresh))
        };
        let successor = match to {
            Some(to) if status.voters.contains(&to) => to,
            Some(to) => return Err(format!("member {to} does not vote")),
            None => {
                let along = |member: &&MemberId| status.members.get(member).and_then(|progress| progress.matched);
                *status.voters.iter().filter(|voter| fit(voter)).max_by_key(along).ok_or("no other voter is healthy")?
            }
        };
        let mut leadership = self.leadership.clone();
        world::failpoint!("leader.transfer.before", |error: std::io::Error| Err(error.to_string()));
        self.raft.trigger().transfer_leader(successor.0).await.map_err(|fatal| fatal.to_string())?;
        let within = Duration::from_millis(self.dialer.timing.election_max_ms * 2).max(Duration::from_secs(1));
        match timeout(within, leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != self.me))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err("the engine stopped".into()),
            Err(_) => Err(format!("member {successor} did not take over in {within:?}")),
        }
    }

    /// Hands leadership over, whoever leads.
    pub async fn transfer_leader(self: &Arc<Self>, to: Option<MemberId>) -> Result<(), ProposeError> {
        let leader = self.leadership.borrow().leader;
        let result = match leader {
            None => return Err(ProposeError::Deadline("no leader is known".into())),
            Some(leader) if leader == self.me => self.hand_over_here(to).await,
            Some(leader) => {
                let data = encode(&to.map(|to| to.0)).into();
                let frame = Frame { kind: Call::HandOver as u32, data };
                let mut client = self.dialer_client(leader);
                let answer = timeout(DEADLINE, client.call(frame)).await;
                let late = |why: &str| ProposeError::Deadline(format!("leader {leader}: {why}"));
                let answer = answer.map_err(|_| late("no answer in time"))?;
                let frame = answer.map_err(|status| late(status.message()))?.into_inner();
                decode::<Result<(), String>>(&frame.data).map_err(|error| late(&error.to_string()))?
            }
        };
        result.map_err(ProposeError::Impossible)
    }

    /// Whether what this member knows of the others is what the present leader sees, and that has had time to hear
    /// of all: just after leadership was handed over, everybody seems silent.
    fn view_is_settled(&self) -> bool {
        let board = self.board();
        board.by.is_some() && board.by == self.leadership.borrow().leader && board.leading_for >= KNOWS_AFTER
    }

    /// Why a member must not be removed now, as the leader sees it; nothing when it may.
    fn against_removal(&self, id: MemberId) -> Option<String> {
        let (status, board) = (self.status(), self.board());
        if !status.voters.contains(&id) {
            return None;
        }
        let left = status.voters.len() - 1;
        let fresh = self.dialer.silence() * 4;
        let silence = |member: &MemberId| board.members.get(member).and_then(|seen| seen.last_contact);
        let heard = |member: &&MemberId| {
            **member != id && (**member == self.me || silence(member).is_some_and(|silence| silence < fresh))
        };
        let healthy = status.voters.iter().filter(heard).count();
        (healthy <= left / 2).then(|| {
            format!(
                "without it only {healthy} of {left} voters would answer, and writes would stop; \
                 start the silent members first (hsraft members names them), or say --risk-quorum"
            )
        })
    }

    /// Fences a member for ever and takes its seat. Refused when the rest could not go on, unless `force`.
    pub async fn remove_member(self: &Arc<Self>, id: MemberId, force: bool, by: &str) -> Result<(), ProposeError> {
        if !force {
            let until = Instant::now() + KNOWS_AFTER;
            // A view comes once a second and from nobody who could be waited for, so it is looked at again.
            while let Some(why) = self.against_removal(id) {
                if self.view_is_settled() || Instant::now() >= until {
                    return Err(ProposeError::Impossible(why));
                }
                sleep(LOOKS).await;
            }
        }
        if self.leadership.borrow().leader == Some(id) {
            self.transfer_leader(None).await?;
        }
        world::failpoint!("member.remove.before");
        let applied = self.propose(self.new_request(), by, Command::RemoveMember { id }).await?;
        world::failpoint!("member.remove.after");
        applied.answer.map_err(ProposeError::Refused)?;
        if id == self.me {
            return Ok(());
        }
        let mut metrics = self.raft.server_metrics();
        let gone = async {
            while metrics.borrow_watched().membership_config.membership().get_node(&id.0).is_some() {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(DEADLINE, gone).await.map_err(|_| {
            ProposeError::Impossible(format!(
                "member {id} is fenced but keeps its seat until a majority of the others is healthy"
            ))
        })
    }
}

#[cfg(test)]
mod tests;
