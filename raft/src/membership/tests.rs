//! What the loop decides, and that it ends what a dead leader began.

use openraft::EntryPayload;
use state_machine::{JoinToken, Revision, Settings, Stamp};

use super::*;
use crate::{Cluster, Options, StartAs, Timing, status::Progress};

/// Members 1..=`voters` vote, the next ones listen; 1 leads. `silent` were not heard from.
fn group(voters: u64, learners: u64, role: JoinRole, silent: &[u64]) -> (State, Status) {
    let all = 1..=voters + learners;
    let mut state = State::default();
    let mut apply = |id, command| state.apply(Stamp { at: Timestamp(1), revision: Revision(id) }, command).unwrap();
    let named = |id: u64| Member { id: MemberId(id), name: format!("hs{id}"), ..Member::default() };
    let (settings, secrets) = (Settings::default(), vec![]);
    apply(1, Command::Found { cluster_id: "c".into(), member: named(1), settings, secrets });
    for id in all.clone().skip(1) {
        let token = JoinToken {
            id: format!("t{id}"),
            secret_sha256: [0; 32],
            name: String::new(),
            role: if id > voters { role } else { JoinRole::Voter },
            created_at: Timestamp(1),
            expires_at: Timestamp(2),
            used_by: None,
            ..JoinToken::default()
        };
        apply(id, Command::CreateJoinToken { token });
        apply(id, Command::AdmitMember { token: format!("t{id}"), member: named(id), replaces: String::new() });
    }
    let progress = |id: u64| Progress {
        matched: Some(100),
        lag: 0,
        last_contact: (!silent.contains(&id)).then_some(Duration::from_millis(10)),
    };
    let status = Status {
        me: MemberId(1),
        role: Role::Leader,
        voters: (1..=voters).map(MemberId).collect(),
        learners: (voters + 1..=voters + learners).map(MemberId).collect(),
        members: all.skip(1).map(|id| (MemberId(id), progress(id))).collect(),
        ..Status::default()
    };
    (state, status)
}

const FRESH: Duration = Duration::from_secs(1);

fn promoted(voters: u64, learners: u64, silent: &[u64]) -> Vec<u64> {
    let (state, status) = group(voters, learners, JoinRole::Voter, silent);
    match promote(&state, &status, FRESH, |_| true) {
        Some(Step::Promote(members)) => members.into_iter().collect(),
        None => vec![],
        other => panic!("{other:?}"),
    }
}

#[test]
fn voters_stay_odd() {
    assert_eq!(promoted(1, 1, &[]), [2]);
    assert_eq!(promoted(1, 2, &[]), [2, 3]);
    assert_eq!(promoted(2, 1, &[]), [3]);
    assert_eq!(promoted(3, 1, &[]), [0; 0], "a warm standby");
    assert_eq!(promoted(3, 2, &[]), [4, 5]);
    assert_eq!(promoted(7, 2, &[]), [0; 0], "enough");
    assert_eq!(promoted(2, 1, &[2]), [3], "two of three are healthy then");
    let (state, status) = group(1, 1, JoinRole::Learner, &[]);
    assert_eq!(promote(&state, &status, FRESH, |_| true), None, "a learner for good");
    let (state, status) = group(1, 1, JoinRole::Voter, &[]);
    assert_eq!(promote(&state, &status, FRESH, |_| false), None, "not caught up");
}

#[test]
fn a_vote_is_taken_only_while_the_rest_can_go_on() {
    let me = MemberId(1);
    let (mut state, status) = group(3, 0, JoinRole::Voter, &[]);
    assert_eq!(demote(me, &state, &status, FRESH), None);
    let listen = |state: &mut State, id| {
        let command = Command::SetMemberRole { id: MemberId(id), role: JoinRole::Learner, insist: false };
        state.apply(Stamp { at: Timestamp(1), revision: Revision(9) }, command).unwrap();
    };
    listen(&mut state, 2);
    assert_eq!(demote(me, &state, &status, FRESH), Some(Step::Demote(MemberId(2))));
    let (_, silent) = group(3, 0, JoinRole::Voter, &[3]);
    assert_eq!(demote(me, &state, &silent, FRESH), None, "one of two would be left");
    listen(&mut state, 1);
    assert_eq!(demote(me, &state, &status, FRESH), Some(Step::HandOver), "a leader does not demote itself");
}

#[test]
fn a_leader_steps_aside_for_somebody_who_can_lead() {
    let me = MemberId(1);
    let (mut state, status) = group(3, 0, JoinRole::Voter, &[3]);
    let mut drain = |id, draining| {
        let command = Command::SetMemberDraining { id: MemberId(id), draining };
        state.apply(Stamp { at: Timestamp(1), revision: Revision(9) }, command).unwrap();
        step_aside(me, &state, &status, FRESH)
    };
    assert_eq!(drain(1, true), Some(Step::HandOver));
    assert_eq!(drain(2, true), None, "the other one is drained too, the third is silent");
    assert_eq!(drain(1, false), None);
}

#[test]
fn a_member_that_never_came_up_is_forgotten() {
    let (state, _) = group(1, 1, JoinRole::Voter, &[]);
    let late = Timestamp(1).after(COME_UP_WITHIN);
    assert_eq!(forget(&state, Timestamp(late.0 - 1)), None);
    // The founder of this test never came up either.
    assert_eq!(forget(&state, late), Some(Step::Forget(MemberId(1))));
}

#[test]
fn a_learner_must_be_caught_up_without_a_break() {
    let (mut memory, fresh) = (Memory::default(), Duration::from_secs(1));
    let (_, mut status) = group(1, 1, JoinRole::Voter, &[]);
    let start = Instant::now();
    remember_ready(&mut memory, &status, fresh, start);
    remember_ready(&mut memory, &status, fresh, start + fresh);
    assert_eq!(memory.ready_since.get(&MemberId(2)), Some(&start));
    status.members.get_mut(&MemberId(2)).unwrap().lag = LAG_MAX + 1;
    remember_ready(&mut memory, &status, fresh, start + fresh);
    assert!(memory.ready_since.is_empty());
}

/// Members over the loopback, in one process.
async fn member(name: &str, folder: &std::path::Path, start: StartAs) -> Cluster {
    let options = Options {
        data_dir: folder.join(name),
        sealing_key: None,
        name: name.into(),
        peer_listen: "127.0.0.1:0".parse().unwrap(),
        peer_advertise: "127.0.0.1:0".into(),
        timing: Timing::cautious(),
        version: "0.0.0-test".into(),
        client_url: String::new(),
        relay: None,
        start,
        snapshot_every: 1000,
        feature_level: state_machine::FEATURE_LEVEL,
        space: crate::space::Space::default(),
        auto_remove_after: None,
        join_within: crate::JOIN_WITHIN,
        arrival: None,
        backup: None,
        drills: false,
        runtime: None,
    };
    Cluster::start(options, &world::real::world()).await.unwrap()
}

async fn joined(name: &str, folder: &std::path::Path, at: &Cluster, role: JoinRole) -> Cluster {
    let token = at.create_join_token(Duration::from_secs(60), name, role, "test").await.unwrap();
    let address = at.latest().member(at.me()).unwrap().peer_address.clone();
    member(name, folder, StartAs::Join { address: vec![address], token, replaces: String::new() }).await
}

async fn until(member: &Cluster, fits: impl FnMut(&Status) -> bool) {
    let mut statuses = member.watch_status();
    timeout(Duration::from_secs(60), statuses.wait_for(fits)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_leader_died_is_finished_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let founding = StartAs::FoundIfEmpty { settings: Settings::default(), secrets: vec![] };
    let one = member("hs1", folder.path(), founding).await;
    let two = joined("hs2", folder.path(), &one, JoinRole::Voter).await;
    let three = joined("hs3", folder.path(), &one, JoinRole::Voter).await;
    until(&one, |status| status.voters.len() == 3 && !status.joint).await;
    // Stays a learner, so that nothing but the broken change wants it to vote.
    let four = joined("hs4", folder.path(), &one, JoinRole::Learner).await;
    until(&one, |status| status.learners == [four.me()]).await;
    one.transfer_leader(Some(one.me())).await.unwrap();
    until(&one, |status| status.leader == Some(one.me())).await;

    // The first half of a change, and then the leader is gone.
    let old: BTreeSet<u64> = [&one, &two, &three].map(|member| member.me().0).into();
    let new: BTreeSet<u64> = [&two, &three, &four].map(|member| member.me().0).into();
    let seats: BTreeMap<u64, Seat> = {
        let metrics = one.core.raft.metrics().borrow_watched().clone();
        metrics.membership_config.membership().nodes().map(|(id, seat)| (*id, seat.clone())).collect()
    };
    let joint = Membership::new(vec![old, new.clone()], seats).unwrap();
    one.core.raft.append_membership(joint, EntryPayload::Blank, []).await.unwrap();
    until(&two, |status| status.joint).await;
    drop(one);

    for member in [&two, &three, &four] {
        until(member, |status| !status.joint && status.voters.iter().map(|id| id.0).eq(new.iter().copied())).await;
    }
}
