//! A member that the leader has not heard of for nine seconds has lost its clients: their nodes get the long grace, and
//! its relay leaves the DERP map, so that everybody has a map without it within ten.

use std::{collections::BTreeMap, time::Duration};

use raft::{Cluster, Status};
use state_machine::{Command, Member, MemberId, MemberState, State};
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longer than any election, shorter than a client's patience; and longer than the 8 seconds for which Go's netcheck
/// takes a relay for its home after the last word from it, even when the relay is no longer in the map. When the silent
/// one led, its successor counts from its own election, which takes 0.6 s; both must fit in ten seconds (goal R5b).
const SILENT_TOO_LONG: Duration = Duration::from_millis(8_300);
/// A member that comes and goes must not drag its relay and its address in and out of everybody's map.
const HEARD_LONG_ENOUGH: Duration = Duration::from_secs(30);

pub async fn run(cluster: Cluster, by: String) {
    let mut silence = Silence::default();
    let mut status = cluster.watch_status();
    let (mut led, mut next) = (false, LOOK_EVERY);
    loop {
        tokio::select! { biased;
            // Whoever comes to lead begins to count at once.
            changed = status.changed(), if !led => if changed.is_err() { return },
            () = tokio::time::sleep(next) => {}
        }
        led = cluster.is_leader();
        if !led {
            (silence, next) = (Silence::default(), LOOK_EVERY);
            continue;
        }
        let state = cluster.latest();
        let (news, due) = silence.look(&cluster.status(), &state, Instant::now());
        next = due.min(LOOK_EVERY);
        for (member, silent) in news {
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
    /// What the state does not know yet: who is silent too long, who was heard again for long enough. And how long at
    /// least until somebody else can be silent too long.
    fn look(&mut self, status: &Status, state: &State, now: Instant) -> (Vec<(MemberId, bool)>, Duration) {
        let active = || state.members().values().filter(|member| member.state == MemberState::Active);
        let news = active().filter_map(|member| self.look_at(member, status, state, now)).collect();
        let left = active().map(|member| SILENT_TOO_LONG.saturating_sub(self.silent_for(member.id, status, now)));
        let due = left.filter(|left| !left.is_zero()).min().unwrap_or(SILENT_TOO_LONG);
        (news, due)
    }

    /// Since the last word, or since this leader first looked.
    fn silent_for(&self, id: MemberId, status: &Status, now: Instant) -> Duration {
        let contact = match id == status.me {
            true => Some(Duration::ZERO),
            false => status.members.get(&id).and_then(|progress| progress.last_contact),
        };
        contact.unwrap_or_else(|| {
            self.silent.get(&id).map_or(Duration::ZERO, |first| now.saturating_duration_since(*first))
        })
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

    fn look(silence: &mut Silence, status: &Status, state: &State, now: Instant) -> Vec<(MemberId, bool)> {
        silence.look(status, state, now).0
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
        assert_eq!(look(&mut silence, &status(None), &state, start), []);
        assert_eq!(look(&mut silence, &status(None), &state, after(8)), []);
        assert_eq!(silence.look(&status(None), &state, after(8)).1, SILENT_TOO_LONG - secs(8));
        assert_eq!(look(&mut silence, &status(None), &state, after(9)), LOST);

        let mut silence = Silence::default();
        assert_eq!(look(&mut silence, &status(Some(secs(1))), &state, start), []);
        assert_eq!(look(&mut silence, &status(Some(secs(8))), &state, after(7)), []);
        assert_eq!(look(&mut silence, &status(Some(secs(9))), &state, after(8)), LOST);
        assert_eq!(look(&mut silence, &status(Some(secs(0))), &state, after(9)), []);
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
        assert_eq!(look(&mut silence, &silent, &state, start), [], "known already, and it holds no streams");
        assert_eq!(look(&mut silence, &heard, &state, after(1)), []);
        assert_eq!(look(&mut silence, &heard, &state, after(30)), []);
        assert_eq!(look(&mut silence, &silent, &state, after(31)), []);
        assert_eq!(look(&mut silence, &heard, &state, after(32)), []);
        assert_eq!(look(&mut silence, &heard, &state, after(61)), [], "it was gone in between");
        assert_eq!(look(&mut silence, &heard, &state, after(62)), BACK);
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
        assert_eq!(look(&mut silence, &me, &state, start), []);
        assert_eq!(look(&mut silence, &me, &state, start + HEARD_LONG_ENOUGH), BACK);
    }
}
