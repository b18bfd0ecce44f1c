//! Bytes written by earlier versions are read for ever, and mean what they meant.
//!
//! `old/v1.log` is a log (for each entry: revision, length, bytes; numbers big-endian), `old/v1.snapshot` the state it
//! led to; `v2` the same from the last program of feature level 2. Kinds of rows and entries that came later are lines
//! of `v1-kinds.txt`, added with `WRITE_OLD=1 cargo test -p state-machine --test old`; a file that was released is never
//! written again.

#[path = "common/generator.rs"]
#[allow(dead_code, reason = "shared with laws.rs")]
mod generator;
#[path = "common/signed_in.rs"]
mod signed_in;

use state_machine::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/old");

#[test]
fn version_1_is_read() {
    let (state, snapshot) = replay("v1");
    let stored = State::from_snapshot(&snapshot).unwrap();
    stored.check();
    assert!(state.changed_rows(&stored).is_empty(), "this program applies the old log as the old one did");
    assert_eq!(state.hash(), stored.hash());
}

/// The last program before levels were raised by an operator. Its members may be in one cluster with this program's,
/// and they compare hashes: below level 3 not a byte may be different, a new field with its default included
/// (`apply/features.rs`).
#[test]
#[expect(clippy::disallowed_methods, reason = "who adds a kind writes its sample with it")]
fn rows_of_level_2_are_written_as_the_program_of_level_2_wrote_them() {
    if std::env::var("WRITE_OLD").is_ok_and(|what| what == "log2") {
        write_files("v2", 43);
    }
    let (state, snapshot) = replay("v2");
    assert!(state.feature_level() == RISES_BY_ITSELF_TO);
    let stored = State::from_snapshot(&snapshot).unwrap();
    if let Some((name, row)) = state.changed_rows(&stored).into_iter().next() {
        panic!("row {name:?} is {row:?}");
    }
    let differs = state.rows().zip(rows_of(&snapshot)).find(|(now, old)| now != old);
    if let Some(((name, now), (_, old))) = differs {
        panic!("row {name:?}:\n  now {}\n  old {}", String::from_utf8_lossy(&now), String::from_utf8_lossy(&old));
    }
    assert!(state.to_snapshot() == snapshot);
}

/// The rows of a snapshot as they were written (`snapshot.rs` tells the form).
fn rows_of(snapshot: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rest = &snapshot[18..snapshot.len() - 32];
    let mut part = || {
        let (length, tail) = rest.split_first_chunk()?;
        let (part, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        rest = tail;
        Some(part.to_vec())
    };
    std::iter::from_fn(|| Some((part()?, part()?))).collect()
}

/// What an old log leads to, and the old snapshot of it.
#[expect(clippy::disallowed_methods, reason = "test data lies in files")]
fn replay(version: &str) -> (State, Vec<u8>) {
    let log = std::fs::read(format!("{FOLDER}/{version}.log")).unwrap();
    let mut state = State::default();
    let (mut rest, mut entries, mut refused) = (log.as_slice(), 0, 0);
    while let Some((revision, tail)) = rest.split_first_chunk() {
        let (length, tail) = tail.split_first_chunk().unwrap();
        let (bytes, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        let entry = codec::decode_entry(bytes).unwrap();
        let answer = state.apply_entry(Revision(u64::from_be_bytes(*revision)), &entry);
        refused += u32::from(answer.is_err());
        entries += 1;
        rest = tail;
    }
    assert!(rest.is_empty());
    assert_eq!(entries, 400);
    assert!(refused > 10, "refusals are part of the story");
    state.check();
    (state, std::fs::read(format!("{FOLDER}/{version}.snapshot")).unwrap())
}

const KINDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/old/v1-kinds.txt");

/// Entries, answers and rows that came after the log above, one a line: a name and bytes in hexadecimal. New kinds are
/// added at the end.
#[expect(clippy::disallowed_methods, reason = "test data lies in files")]
#[test]
fn later_kinds_are_read() {
    let samples = samples();
    if std::env::var("WRITE_OLD").is_ok_and(|what| what == "1") {
        let known = std::fs::read_to_string(KINDS).unwrap();
        let line = |(name, bytes): &(&str, Vec<u8>)| {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{name} {digits}\n")
        };
        let new: String = samples.iter().skip(known.lines().count()).map(line).collect();
        std::fs::write(KINDS, known + &new).unwrap();
    }
    let text = std::fs::read_to_string(KINDS).unwrap();
    assert_eq!(text.lines().count(), samples.len());
    for (line, (name, bytes)) in text.lines().zip(&samples) {
        let (known, digits) = line.split_once(' ').unwrap();
        assert_eq!(known, *name);
        let old: Vec<u8> =
            (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect();
        match name.split_once('.').unwrap().0 {
            "entry" => assert_eq!(codec::decode_entry(&old), codec::decode_entry(bytes), "{name}"),
            "answer" => assert_eq!(codec::decode_answer(&old), codec::decode_answer(bytes), "{name}"),
            _ => assert_eq!(State::from_snapshot(&old).unwrap().hash(), State::from_snapshot(bytes).unwrap().hash()),
        }
    }
}

fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let entry = |command| {
        codec::encode_entry(&Entry { request: Some(RequestId(9)), at: Timestamp(7), by: "cli".into(), command })
    };
    let (id, by, token) = ("aBc".to_owned(), "cli".to_owned(), "t".to_owned());
    let member = Member { name: "hs2".into(), incarnation: 7, draining: true, ..Member::default() };
    let begin =
        Command::BeginSshCheck { id: id.clone(), source: NodeId(1), target: NodeId(2), local_user: "root".into() };
    let approve = Command::ApproveSshCheck { id: id.clone(), by: by.clone() };
    vec![
        ("entry.begin_ssh_check", entry(begin.clone())),
        ("entry.approve_ssh_check", entry(approve.clone())),
        ("entry.reject_ssh_check", entry(Command::RejectSshCheck { id: id.clone(), by })),
        ("answer.ssh_check", codec::encode_answer(&Ok(Outcome::SshCheck(id)))),
        ("state.ssh_checks", state_with_checks(begin, approve).to_snapshot()),
        ("entry.replace_member", entry(Command::AdmitMember { token, member: member.clone(), replaces: "hs2".into() })),
        (
            "entry.member_role",
            entry(Command::SetMemberRole { id: MemberId(3), role: JoinRole::Learner, insist: false }),
        ),
        ("entry.member_draining", entry(Command::SetMemberDraining { id: MemberId(3), draining: true })),
        ("entry.refound", entry(Command::Refound { cluster_id: "again".into(), member, secrets: vec![] })),
        ("entry.reseal_secrets", entry(certificates::reseal())),
        ("entry.confirm_recovery_key", entry(Command::ConfirmRecoveryKey { key: [3; 32] })),
        ("entry.rotate_authority", entry(certificates::rotate())),
        ("entry.move_certificate", entry(Command::MoveCertificate { member: MemberId(3), generation: 1 })),
        ("entry.want_certificate", entry(certificates::want())),
        ("entry.order_certificate", entry(certificates::order())),
        ("entry.issue_certificate", entry(certificates::issue())),
        ("entry.fail_certificate", entry(certificates::fail())),
        ("answer.token_outdated", codec::encode_answer(&Err(Refusal::TokenOutdated))),
        ("answer.rotation", codec::encode_answer(&Err(Refusal::RotationUnderWay { waiting: vec!["hs2".into()] }))),
        ("answer.secrets_changed", codec::encode_answer(&Err(Refusal::SecretsChanged))),
        ("entry.raise_level", entry(Command::RaiseFeatureLevel { level: 3, at_once: true })),
        ("answer.level_too_low", codec::encode_answer(&Err(Refusal::LevelTooLow { needs: 3, at: 2 }))),
        ("answer.program_too_old", codec::encode_answer(&Err(Refusal::ProgramTooOld { has: 2, needs: 3 }))),
        ("entry.insist", entry(Command::SetMemberRole { id: MemberId(3), role: JoinRole::Voter, insist: true })),
        ("entry.token_conditions", entry(Command::CreateJoinToken { token: token_with_conditions() })),
        ("answer.upgrade_not_yet", codec::encode_answer(&Err(Refusal::UpgradeNotYet { why: "x".into() }))),
        ("entry.member_addresses", {
            let addresses = vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
            entry(Command::SetMemberAddresses { id: MemberId(3), addresses })
        }),
        ("entry.begin_sign_in", entry(signed_in::begin())),
        ("entry.prove_sign_in", entry(signed_in::prove())),
        ("entry.finish_sign_in", entry(signed_in::finish())),
        ("state.signed_in", signed_in::state().to_snapshot()),
        ("entry.user_ranges", entry(beyond::ranges())),
        ("entry.node_addresses", entry(beyond::address())),
        ("entry.node_approval", entry(beyond::hold())),
        ("entry.create_webhook", entry(beyond::webhook())),
        ("entry.delete_webhook", entry(Command::DeleteWebhook { id: "0a1b2c3d".into() })),
        ("entry.webhook_told", entry(beyond::told())),
        ("answer.address_taken", {
            let address = "100.64.0.7".to_owned();
            codec::encode_answer(&Err(Refusal::AddressTaken { address, node: NodeId(7) }))
        }),
        ("answer.address_unfit", {
            let (address, why) = ("10.0.0.7".to_owned(), "x".to_owned());
            codec::encode_answer(&Err(Refusal::AddressUnfit { address, why }))
        }),
        ("state.beyond", beyond::state().to_snapshot()),
        ("entry.replace_policy", {
            entry(Command::ReplacePolicy { over: 3, text: "{}".into(), author: "api key x".into() })
        }),
        ("entry.replace_settings", {
            let settings = Settings { magic_dns: false, ..Settings::default() };
            entry(Command::ReplaceSettings { seen: Box::default(), settings: Box::new(settings) })
        }),
        ("answer.changed", codec::encode_answer(&Err(Refusal::Changed { what: What::Policy }))),
        ("entry.oauth_client", {
            let key = ApiKey {
                prefix: "p".repeat(12),
                scopes: ["devices:core:read".to_owned()].into(),
                tags: ["tag:k8s".to_owned()].into(),
                description: "operator".into(),
                ..ApiKey::default()
            };
            entry(Command::CreateApiKey { key })
        }),
        ("entry.described_key", {
            let key = PreAuthKey { prefix: "p".repeat(12), description: "ci".into(), ..PreAuthKey::default() };
            entry(Command::CreatePreAuthKey { key })
        }),
        ("entry.set_text_record", entry(trust::set())),
        ("entry.acknowledge_text_record", entry(trust::acknowledge())),
        ("entry.forget_text_record", entry(trust::forget())),
        ("entry.node_certificates", entry(trust::settings())),
        ("answer.name_not_own", codec::encode_answer(&Err(Refusal::NameNotOwn { own: "x".into() }))),
        ("answer.too_many_records", codec::encode_answer(&Err(Refusal::TooManyRecords { most: 8 }))),
        ("state.trust", trust::state().to_snapshot()),
    ]
}

#[test]
fn a_rotation_under_way_survives_a_snapshot() {
    let state = certificates::state();
    assert_eq!(State::from_snapshot(&state.to_snapshot()).unwrap().hash(), state.hash());
}

/// Kinds of level 5.
mod trust {
    use super::*;

    const NAME: &str = "_acme-challenge.node1.example.com";

    fn value() -> String {
        "aB3-_".repeat(9)[..43].to_owned()
    }

    pub fn set() -> Command {
        let (machine_key, node_key) = (tailcfg::MachineKey([1; 32]), tailcfg::NodeKey([1; 32]));
        Command::SetTextRecord { machine_key, node_key, name: NAME.into(), value: value() }
    }

    pub fn acknowledge() -> Command {
        Command::AcknowledgeTextRecord { name: NAME.into(), value: value() }
    }

    pub fn forget() -> Command {
        Command::ForgetTextRecord { name: NAME.into(), value: value() }
    }

    pub fn settings() -> Command {
        let settings = Settings {
            base_domain: "example.com".into(),
            node_certificates: NodeCertificates::Updated,
            ..Settings::default()
        };
        Command::ApplySettings { settings }
    }

    /// Level 5, with a record that a DNS server knows.
    pub fn state() -> State {
        let mut state = State::default();
        let member = Member { id: MemberId(1), name: "hs1".into(), feature_level: 5, ..Member::default() };
        let key = PreAuthKey {
            prefix: "p".repeat(12),
            secret_sha256: [7; 32],
            tags: ["tag:x".to_owned()].into(),
            ..PreAuthKey::default()
        };
        let client = Registration {
            machine_key: tailcfg::MachineKey([1; 32]),
            node_key: tailcfg::NodeKey([1; 32]),
            hostname: "node1".into(),
            ..Registration::default()
        };
        let (prefix, secret_sha256) = (key.prefix.clone(), key.secret_sha256);
        let commands = [
            Command::Found { cluster_id: "old".into(), member, settings: Settings::default(), secrets: vec![] },
            settings(),
            Command::CreatePreAuthKey { key },
            Command::RegisterWithKey { client, prefix, secret_sha256 },
            set(),
            acknowledge(),
        ];
        for (index, command) in commands.into_iter().enumerate() {
            let stamp = Stamp { at: Timestamp(1_800_000_000_000), revision: Revision(index as u64 + 1) };
            state.apply(stamp, command).unwrap();
        }
        state.check();
        assert_eq!(state.text_values(NAME).collect::<Vec<_>>(), [value()]);
        state
    }
}

/// Kinds of level 4.
mod beyond {
    use super::*;

    pub fn ranges() -> Command {
        let ranges = ["100.64.8.0/24", "fd7a:115c:a1e0:8::/64"].map(|net| net.parse().unwrap());
        Command::SetUserRanges { user: UserId(1), ranges: ranges.into() }
    }

    pub fn address() -> Command {
        Command::SetNodeAddresses { node: NodeId(1), ipv4: Some([100, 64, 8, 9].into()), ipv6: None }
    }

    pub fn hold() -> Command {
        Command::SetNodeApproval { node: NodeId(1), approved: false }
    }

    pub fn webhook() -> Command {
        let webhook = Webhook {
            id: "0a1b2c3d".into(),
            url: "https://hooks.example/x".into(),
            events: ["nodeCreated".to_owned()].into(),
            ..Webhook::default()
        };
        Command::CreateWebhook {
            webhook,
            secret: SealedSecret { key_id: 1, nonce: vec![1; 12], ciphertext: vec![2; 48] },
        }
    }

    pub fn told() -> Command {
        Command::WebhookTold { id: "0a1b2c3d".into(), through: 3 }
    }

    /// Level 4, with a row of each kind.
    pub fn state() -> State {
        let mut state = signed_in::state();
        let steps = [
            Command::RaiseFeatureLevel { level: 4, at_once: true },
            Command::ApplySettings { settings: Settings { node_approval: true, ..(**state.settings()).clone() } },
            ranges(),
            address(),
            hold(),
            webhook(),
        ];
        for (index, command) in steps.into_iter().enumerate() {
            let revision = Revision(state.revision().0 + 1 + index as u64);
            let entry = Entry { request: None, at: state.now(), by: "cli".into(), command };
            // The founder's row says 3, and its program can more by now.
            let announce = Member { feature_level: 4, ..(**state.member(MemberId(1)).unwrap()).clone() };
            _ = state.apply_entry(
                state.revision(),
                &Entry { command: Command::AnnounceMember { member: announce }, ..entry.clone() },
            );
            state.apply_entry(revision, &entry).unwrap();
        }
        state.check();
        state
    }
}

/// Kinds that came with replaceable certificates.
mod certificates {
    use super::*;

    fn sealed(key_id: u32) -> SealedSecret {
        SealedSecret { key_id, nonce: vec![1; 12], ciphertext: vec![2; 48] }
    }

    pub fn reseal() -> Command {
        let secrets = vec![("noise".to_owned(), sealed(3)), ("data-key.3".to_owned(), sealed(1))];
        Command::ResealSecrets { seen: [4; 32], secrets, dropped: vec!["data-key.2".into()] }
    }

    pub fn rotate() -> Command {
        let der = |byte| Der(vec![byte; 9]);
        Command::RotateAuthority { before: der(1), certificate: der(2), cross: der(3), key: sealed(2) }
    }

    pub fn want() -> Command {
        let wish = CertificateWish {
            name: "hs.example.com".into(),
            directory: "https://ca.example/dir".into(),
            email: "a@example.com".into(),
            challenge: ChallengeKind::TlsAlpn01,
        };
        Command::WantCertificate { member: MemberId(1), wish: Some(wish) }
    }

    pub fn order() -> Command {
        let challenge = Challenge { token: "t".into(), authorization: "t.x".into() };
        let order = CertificateOrder {
            url: "https://ca.example/o/1".into(),
            begun_at: Timestamp(5),
            challenges: vec![challenge],
        };
        Command::OrderCertificate { name: "hs.example.com".into(), order, key: sealed(2) }
    }

    pub fn issue() -> Command {
        let (not_before, not_after) = (Timestamp(6), Timestamp(9));
        let name = "hs.example.com".into();
        Command::IssueCertificate { name, chain: "-----BEGIN".into(), not_before, not_after, key: sealed(2) }
    }

    pub fn fail() -> Command {
        Command::FailCertificate { name: "hs.example.com".into(), error: "no".into(), retry_at: Timestamp(9) }
    }

    /// A rotation under way, a token of before, a certificate with an order for the next, a confirmed recovery key.
    pub fn state() -> State {
        let mut state = State::default();
        let member = Member { id: MemberId(1), name: "hs1".into(), feature_level: 3, ..Member::default() };
        let token = JoinToken {
            id: "t".into(),
            secret_sha256: [1; 32],
            name: String::new(),
            role: JoinRole::Voter,
            created_at: Timestamp(0),
            expires_at: Timestamp(1_900_000_000_000),
            used_by: None,
            ..JoinToken::default()
        };
        let after = JoinToken { id: "u".into(), ..token.clone() };
        let mut commands = vec![
            Command::Found { cluster_id: "old".into(), member, settings: Settings::default(), secrets: vec![] },
            Command::PutSecret { name: "recovery".into(), secret: sealed(1) },
            Command::PutSecret { name: "data-key.2".into(), secret: sealed(1) },
            Command::CreateJoinToken { token },
            rotate(),
            Command::CreateJoinToken { token: after },
            want(),
            order(),
            issue(),
            order(),
        ];
        for round in 0.. {
            for command in std::mem::take(&mut commands) {
                let revision = Revision(state.revision().0 + 1);
                state.apply(Stamp { at: Timestamp(1_800_000_000_000), revision }, command).unwrap();
            }
            if round == 1 {
                break;
            }
            commands = vec![Command::ConfirmRecoveryKey { key: state.recovery_fingerprint().unwrap() }];
        }
        state.check();
        assert!(state.recovery_confirmed() && state.join_token("u").unwrap().generation == 1);
        state
    }
}

fn token_with_conditions() -> JoinToken {
    JoinToken { id: "t".into(), uses: 2, used: 1, from: vec!["10.0.0.0/24".parse().unwrap()], ..JoinToken::default() }
}

/// Two nodes, a policy at level 2, and an approved check.
fn state_with_checks(begin: Command, approve: Command) -> State {
    let mut state = State::default();
    let member = Member { id: MemberId(1), name: "hs1".into(), feature_level: 2, ..Member::default() };
    let client = |number: u8| Registration {
        machine_key: tailcfg::MachineKey([number; 32]),
        node_key: tailcfg::NodeKey([number; 32]),
        hostname: format!("node{number}"),
        ..Registration::default()
    };
    let key = PreAuthKey {
        prefix: "p".repeat(12),
        secret_sha256: [7; 32],
        reusable: true,
        tags: ["tag:x".to_owned()].into(),
        ..PreAuthKey::default()
    };
    let (prefix, secret_sha256) = (key.prefix.clone(), key.secret_sha256);
    let commands = [
        Command::Found { cluster_id: "old".into(), member, settings: Settings::default(), secrets: vec![] },
        Command::SetPolicy { text: "{}".into(), author: "cli".into() },
        Command::CreatePreAuthKey { key },
        Command::RegisterWithKey { client: client(1), prefix: prefix.clone(), secret_sha256 },
        Command::RegisterWithKey { client: client(2), prefix, secret_sha256 },
        begin,
        approve,
    ];
    for (index, command) in commands.into_iter().enumerate() {
        let stamp = Stamp { at: Timestamp(1_800_000_000_000), revision: Revision(index as u64 + 1) };
        state.apply(stamp, command).unwrap();
    }
    state.check();
    assert!(state.ssh_approved_at(NodeId(1), NodeId(2)).is_some());
    state
}

#[expect(clippy::disallowed_methods, reason = "test data lies in files")]
fn write_files(version: &str, seed: u64) {
    let mut log = Vec::new();
    let mut state = State::default();
    for (revision, entry) in generator::log(seed, 400) {
        let bytes = codec::encode_entry(&entry);
        log.extend(revision.0.to_be_bytes());
        log.extend((bytes.len() as u32).to_be_bytes());
        log.extend(bytes);
        _ = state.apply_entry(revision, &entry);
    }
    std::fs::write(format!("{FOLDER}/{version}.log"), log).unwrap();
    std::fs::write(format!("{FOLDER}/{version}.snapshot"), state.to_snapshot()).unwrap();
}
