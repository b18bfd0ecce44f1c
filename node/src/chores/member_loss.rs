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
            Command::AdmitMember { token: "ticket".to_owned(), member: named(0, "hs2") },
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

    #[tokio::test]
    async fn silence_is_counted_from_the_last_word_or_the_first_look() {
        let state = tailnet();
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let secs = Duration::from_secs;

        let mut silence = Silence::default();
        assert_eq!(silence.look(&status(None), &state, start), []);
        assert_eq!(silence.look(&status(None), &state, after(9)), []);
        assert_eq!(silence.look(&status(None), &state, after(10)), [MemberId(3)]);

        let mut silence = Silence::default();
        assert_eq!(silence.look(&status(Some(secs(1))), &state, start), []);
        assert_eq!(silence.look(&status(Some(secs(9))), &state, after(8)), []);
        assert_eq!(silence.look(&status(Some(secs(10))), &state, after(9)), [MemberId(3)]);
        assert_eq!(silence.look(&status(Some(secs(0))), &state, after(10)), []);
    }

    #[tokio::test]
    async fn a_member_without_streams_has_nothing_to_lose() {
        let mut state = tailnet();
        let forget = Command::ForgetSessions { member: MemberId(3) };
        state.apply(Stamp { at: NOW, revision: Revision(9) }, forget).unwrap();
        let mut silence = Silence::default();
        assert_eq!(silence.look(&status(Some(Duration::from_secs(60))), &state, Instant::now()), []);
    }
}
