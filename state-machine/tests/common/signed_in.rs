//! Kinds that came with people who sign in at a login provider, and the audit log.

use state_machine::*;

fn sign_in_id() -> String {
    "ab".repeat(32)
}

pub fn begin() -> Command {
    let provider = "https://idp.example.com hsraft".into();
    Command::BeginSignIn { id: sign_in_id(), subject: SignInSubject::Login(LoginId("login1".into())), provider }
}

pub fn prove() -> Command {
    let identity = Identity {
        provider_id: "https://idp.example.com/1".into(),
        name: "ann".into(),
        display_name: "Ann".into(),
        email: "ann@example.com".into(),
        profile_pic_url: "https://idp.example.com/ann.png".into(),
        groups: ["/dev".to_owned()].into(),
        expiry: Some(Timestamp(1_800_000_900_000)),
    };
    Command::ProveSignIn { id: sign_in_id(), identity, confirm_sha256: [7; 32] }
}

pub fn finish() -> Command {
    Command::FinishSignIn { id: sign_in_id(), confirm_sha256: [7; 32], accept: true, seed: 9 }
}

/// A person who came by a login provider, their node, a key of theirs, and what the audit log says of it.
pub fn state() -> State {
    let mut state = State::default();
    let member = Member { id: MemberId(1), name: "hs1".into(), feature_level: 3, ..Member::default() };
    let client = Registration {
        machine_key: tailcfg::MachineKey([1; 32]),
        node_key: tailcfg::NodeKey([1; 32]),
        hostname: "laptop".into(),
        ..Registration::default()
    };
    let key = ApiKey { prefix: "k".repeat(12), role: Role::User, user: Some(UserId(1)), ..ApiKey::default() };
    let commands = [
        Command::Found { cluster_id: "old".into(), member, settings: Settings::default(), secrets: vec![] },
        Command::BeginLogin { client, id: LoginId("login1".into()) },
        begin(),
        prove(),
        finish(),
        Command::CreateApiKey { key },
    ];
    for (index, command) in commands.into_iter().enumerate() {
        let by = "oidc ann@example.com from 192.0.2.7".into();
        let entry = Entry { request: None, at: Timestamp(1_800_000_000_000), by, command };
        state.apply_entry(Revision(index as u64 + 1), &entry).unwrap();
    }
    state.check();
    assert_eq!((state.users().len(), state.nodes().len(), state.audit_log().len()), (1, 1, 3));
    state
}
