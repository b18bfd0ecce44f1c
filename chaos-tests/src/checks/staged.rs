//! A stage for tests of laws: states and books made by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use raft::{LogFact, Status};
use state_machine::{
    Command, Member, MemberId, Outcome, PreAuthKey, Registration, Revision, Settings, Stamp, State, Timestamp,
};
use tailcfg::{MachineKey, NodeKey};

use super::Sight;
use crate::{history::History, workload::device::Device};

#[derive(Default)]
pub struct Stage {
    pub at: Duration,
    pub states: BTreeMap<u64, Arc<State>>,
    pub statuses: BTreeMap<u64, Status>,
    pub logs: BTreeMap<u64, Vec<LogFact>>,
    pub members: BTreeSet<u64>,
    pub settled: bool,
    pub acknowledged: BTreeMap<u64, u64>,
    pub history: History,
    pub devices: BTreeMap<u64, Device>,
    pub restored: Vec<Result<super::backups_restore::Restored, String>>,
}

impl Stage {
    pub fn sight(&self) -> Sight<'_> {
        Sight {
            at: self.at,
            states: &self.states,
            statuses: &self.statuses,
            logs: &self.logs,
            members: &self.members,
            settled: self.settled,
            acknowledged_when_healed: &self.acknowledged,
            history: &self.history,
            devices: &self.devices,
            restored: &self.restored,
        }
    }

    /// Member `number` shows this state.
    pub fn show(&mut self, number: u64, state: &State) {
        self.states.insert(number, Arc::new(state.clone()));
    }
}

/// A founded cluster at revision 1.
pub fn founded() -> State {
    let member = Member {
        id: MemberId(1),
        name: "hs1".into(),
        peer_address: "hs1:9000".into(),
        feature_level: state_machine::FEATURE_LEVEL,
        ..Member::default()
    };
    let mut state = State::default();
    let command = Command::Found {
        cluster_id: "stage".into(),
        member,
        settings: Settings { base_domain: "tail.example".into(), ..Settings::default() },
        secrets: Vec::new(),
    };
    apply(&mut state, command);
    state
}

/// Applies at the next revision, a second later.
pub fn apply(state: &mut State, command: Command) -> Outcome {
    let revision = Revision(state.revision().0 + 1);
    let at = Timestamp(1_767_225_600_000 + revision.0 * 1000);
    state.apply(Stamp { at, revision }, command).expect("the stage asks only for what is granted")
}

pub fn create_user(state: &mut State, name: &str) -> state_machine::UserId {
    let command = Command::CreateUser {
        name: name.into(),
        display_name: String::new(),
        email: String::new(),
        profile_pic_url: String::new(),
    };
    match apply(state, command) {
        Outcome::User(id) => id,
        other => panic!("{other:?} instead of a user"),
    }
}

/// Brings a node in with a key of its own; `number` makes it different from others.
pub fn register(state: &mut State, user: state_machine::UserId, number: u8) -> state_machine::NodeId {
    let (prefix, secret_sha256) = (format!("prefix{number:06}"), [number; 32]);
    let key = PreAuthKey { prefix: prefix.clone(), secret_sha256, user: Some(user), ..PreAuthKey::default() };
    apply(state, Command::CreatePreAuthKey { key });
    let client = Registration {
        machine_key: MachineKey([number; 32]),
        node_key: NodeKey([number; 32]),
        hostname: format!("device{number}"),
        capability_version: 113,
        ..Registration::default()
    };
    match apply(state, Command::RegisterWithKey { client, prefix, secret_sha256 }) {
        Outcome::Registered(id) => id,
        other => panic!("{other:?} instead of a node"),
    }
}
