//! A member that the leader has not heard of for ten seconds has lost its clients: their nodes get the long grace.

use std::{collections::BTreeMap, time::Duration};

use raft::{Cluster, Status};
use state_machine::{Command, Member, MemberId, MemberState, State};
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longer than any election, shorter than a client's patience; and longer than the 8 seconds for which Go's netcheck
/// takes a relay for its home after the last word from it, even when the relay is no longer in the map.
const SILENT_TOO_LONG: Duration = Duration::from_secs(10);
/// A member that comes and goes must not drag its relay and its address in and out of everybody's map.
const HEARD_LONG_ENOUGH: Duration = Duration::from_secs(30);

pub async fn run(cluster: Cluster, by: String) {
    let mut silence = Silence::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !cluster.is_leader() {
            silence = Silence::default();
            continue;
        }
        let state = cluster.latest();
        for (member, silent) in silence.look(&cluster.status(), &state, Instant::now()) {
            match cluster.propose(&by, Command::MemberSilence { member, silent }).await {
                Ok(_) if silent => tracing::warn!(
                    %member,
                    "a member is silent; its map streams are given up and its relay leaves the DERP map"
                ),
                Ok(_) => tracing::info!(%member, "a member is heard again; its relay is back in the DERP map"),
                Err(error) => tracing::debug!(%member, silent, %error, "could not note a member's silence"),
            }
        }
    }
}

/// Since when members are silent, or heard again, as this leader sees it.
#[derive(Default)]
struct Silence {
    silent: BTreeMap<MemberId, Instant>,
    heard: BTreeMap<MemberId, Instant>,
}

impl Silence {
    /// What the state does not know yet: who is silent too long, who was heard again for long enough.
    fn look(&mut self, status: &Status, state: &State, now: Instant) -> Vec<(MemberId, bool)> {
        let active = state.members().values().filter(|member| member.state == MemberState::Active);
        active.filter_map(|member| self.look_at(member, status, state, now)).collect()
    }

    fn look_at(&mut self, member: &Member, status: &Status, state: &State, now: Instant) -> Option<(MemberId, bool)> {
        let id = member.id;
        let contact = match id == status.me {
            true => Some(Duration::ZERO),
            false => status.members.get(&id).and_then(|progress| progress.last_contact),
        };
        if contact.is_some_and(|contact| contact < SILENT_TOO_LONG) {
            self.silent.remove(&id);
            let since = *self.heard.entry(id).or_insert(now);
            let steady = now.saturating_duration_since(since) >= HEARD_LONG_ENOUGH;
            return (member.silent && steady).then_some((id, false));
        }
        self.heard.remove(&id);
        // A new leader has heard of nobody yet; it counts from its own first look.
        let first = *self.silent.entry(id).or_insert(now);
        let silent = contact.unwrap_or_else(|| now.saturating_duration_since(first));
        let news = !member.silent || holds_streams(state, id);
        (silent >= SILENT_TOO_LONG && news).then_some((id, true))
    }
}

fn holds_streams(state: &State, member: MemberId) -> bool {
    state.presences().values().any(|presence| presence.session.is_some_and(|session| session.member == member))
}

#[cfg(test)]
mod tests {
    use raft::Progress;
    use state_machine::{
        JoinRole, JoinToken, Member, NodeId, PresenceChange, Registration, Revision, SessionId, Settings, Stamp,
        Timestamp,
    };
    use tailcfg::{MachineKey, NodeKey};

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    /// Two members, and one node connected to the second.
    fn tailnet() -> State {
        let mut state = State::default();
        let named = |id: u64, name: &str| Member { id: MemberId(id), name: name.to_owned(), ..Member::default() };
        let token = JoinToken {
            id: "ticket".to_owned(),
            secret_sha256: [0; 32],
            name: String::new(),
            role: JoinRole::Voter,
            created_at: NOW,
            expires_at: NOW.after(Duration::from_secs(60)),
            used_by: None,
            ..JoinToken::default()
        };
        let client =
            Registration { machine_key: MachineKey([1; 32]), node_key: NodeKey([1; 32]), ..Registration::default() };
        let key = state_machine::PreAuthKey {
            prefix: "p".repeat(12),
            secret_sha256: [7; 32],
            tags: ["tag:x".to_owned()].into(),
            ..state_machine::PreAuthKey::default()
        };
        let commands = [
            Command::Found {
                cluster_id: "c".to_owned(),
                member: named(1, "hs1"),
                settings: Settings::default(),
                secrets: Vec::new(),
            },
            Command::CreateJoinToken { token },
            Command::AdmitMember { token: "ticket".to_owned(), member: named(0, "hs2"), replaces: String::new() },
            Command::CreatePreAuthKey { key: key.clone() },
            Command::RegisterWithKey { client, prefix: key.prefix, secret_sha256: key.secret_sha256 },
            Command::Presence {
                member: MemberId(3),
                changes: vec![PresenceChange { node: NodeId(1), session: SessionId(5), here: true }],
            },
        ];
        for (index, command) in commands.into_iter().enumerate() {
            state.apply(Stamp { at: NOW, revision: Revision(index as u64 + 1) }, command).unwrap();
        }
        state
    }

    fn status(last_contact: Option<Duration>) -> Status {
        let progress = Progress { last_contact, ..Progress::default() };
        Status { me: MemberId(1), members: [(MemberId(3), progress)].into(), ..Status::default() }
    }

    const LOST: [(MemberId, bool); 1] = [(MemberId(3), true)];
    const BACK: [(MemberId, bool); 1] = [(MemberId(3), false)];

    #[tokio::test]
    async fn silence_is_counted_from_the_last_word_or_the_first_look() {
        let state = tailnet();
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let secs = Duration::from_secs;

        let mut silence = Silence::default();
        assert_eq!(silence.look(&status(None), &state, start), []);
        assert_eq!(silence.look(&status(None), &state, after(9)), []);
        assert_eq!(silence.look(&status(None), &state, after(10)), LOST);

        let mut silence = Silence::default();
        assert_eq!(silence.look(&status(Some(secs(1))), &state, start), []);
        assert_eq!(silence.look(&status(Some(secs(9))), &state, after(8)), []);
        assert_eq!(silence.look(&status(Some(secs(10))), &state, after(9)), LOST);
        assert_eq!(silence.look(&status(Some(secs(0))), &state, after(10)), []);
    }

    #[tokio::test]
    async fn a_member_is_back_once_it_was_heard_for_a_while() {
        let mut state = tailnet();
        let lost = Command::MemberSilence { member: MemberId(3), silent: true };
        state.apply(Stamp { at: NOW, revision: Revision(9) }, lost).unwrap();
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let (heard, silent) = (status(Some(Duration::ZERO)), status(Some(Duration::from_secs(60))));

        let mut silence = Silence::default();
        assert_eq!(silence.look(&silent, &state, start), [], "known already, and it holds no streams");
        assert_eq!(silence.look(&heard, &state, after(1)), []);
        assert_eq!(silence.look(&heard, &state, after(30)), []);
        assert_eq!(silence.look(&silent, &state, after(31)), []);
        assert_eq!(silence.look(&heard, &state, after(32)), []);
        assert_eq!(silence.look(&heard, &state, after(61)), [], "it was gone in between");
        assert_eq!(silence.look(&heard, &state, after(62)), BACK);
    }

    #[tokio::test]
    async fn a_leader_hears_itself() {
        let mut state = tailnet();
        let lost = Command::MemberSilence { member: MemberId(3), silent: true };
        state.apply(Stamp { at: NOW, revision: Revision(9) }, lost).unwrap();
        let mut silence = Silence::default();
        let other = Progress { last_contact: Some(Duration::ZERO), ..Progress::default() };
        let me = Status { me: MemberId(3), members: [(MemberId(1), other)].into(), ..Status::default() };
        let start = Instant::now();
        assert_eq!(silence.look(&me, &state, start), []);
        assert_eq!(silence.look(&me, &state, start + HEARD_LONG_ENOUGH), BACK);
    }
}
