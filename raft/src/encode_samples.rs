//! Samples of every form on disk and wire. `tests/old/v1.txt` is what the program of feature level 2 wrote: it must be read
//! for ever, and what this program writes for it must be read by that one. `tests/old/v2.txt` is what this program
//! writes, so that nothing changes by accident; `UPDATE=1 cargo test -p raft` writes that file anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use openraft::EntryPayload;
use state_machine::State;

use crate::{
    agreement::Fingerprint,
    archive::BackupReport,
    board::{BoardRow, Heard, Memory, Report, SeenRow},
    certificates::{ClientCertificate, MemberCertificate},
    encode::*,
    keyring::{self, Successor},
    renewal::Renewed,
    seal::SealingKey,
    space::Room,
    types::{self, AppendError, Membership, Payload, Seat, StoredMembership, log_id},
};

fn entry(index: u64, payload: types::EntryPayload) -> types::Entry {
    types::Entry { log_id: log_id(3, 1, index), payload }
}

fn membership() -> Membership {
    let seat = |address: &str, learner_only| Seat { address: address.into(), learner_only };
    let seats = [(1, seat("hs1:7443", false)), (17, seat("hs2:7443", false)), (20, seat("hs3:7443", true))];
    Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 17])], BTreeMap::from(seats)).unwrap()
}

fn vote(term: u64, member: u64, committed: bool) -> types::Vote {
    Ballot { term, member, committed }.into()
}

fn entries() -> Vec<types::Entry> {
    vec![
        entry(7, EntryPayload::Blank),
        entry(8, EntryPayload::Normal(Payload(vec![1, 2, 3, 255].into()))),
        entry(9, EntryPayload::Membership(membership())),
    ]
}

fn backup() -> BackupReport {
    BackupReport {
        archived_at_ms: 5,
        full_at_ms: 4,
        index: 9,
        error: String::new(),
        acting: true,
        place: "/backup".into(),
        behind_ms: Some(7),
        verified_at_ms: 3,
        trial_error: String::new(),
    }
}

/// As programs of level 2 told of it.
fn before() -> Report {
    let backup = BackupReport { archived_at_ms: 5, full_at_ms: 4, index: 9, ..BackupReport::default() };
    Report { feature_level: 0, room: None, scrubbed_ms: 0, backup: Some(backup), ..report() }
}

fn report() -> Report {
    Report {
        incarnation: 7,
        term: 3,
        applied: 9,
        settled: 8,
        clock_ms: 1_800_000_000_000,
        round_trip_ms: 2,
        certificate_ends_ms: 1_802_592_000_000,
        reaches: BTreeSet::from([1, 20]),
        backup: Some(backup()),
        fingerprints: vec![Fingerprint { revision: 9, hash: 77 }],
        feature_level: 3,
        room: Some(Room { free: 9_000, short: true, needed: 100, exhausted: false }),
        scrubbed_ms: 6,
        ..Report::default()
    }
}

/// With certificates.
fn later_report() -> Report {
    let certificate = MemberCertificate {
        serial: "4a01".into(),
        not_before_ms: 5,
        not_after_ms: 9,
        trusts: vec!["ab".into(), "cd".into()],
    };
    let client_certificate = ClientCertificate {
        source: "acme".into(),
        names: vec!["hs.example.com".into()],
        issuer: "CA".into(),
        not_before_ms: 5,
        not_after_ms: 9,
        error: "no".into(),
    };
    Report { certificate: Some(certificate), client_certificate: Some(client_certificate), ..report() }
}

fn renewed() -> Result<Renewed, String> {
    Ok(Renewed { serial: "4a01".into(), not_after_ms: 9 })
}

fn heard() -> Heard {
    let seen = SeenRow {
        matched: Some(9),
        lag: 1,
        last_contact_ms: Some(40),
        per_second: Some(500),
        clock_ahead_ms: Some(-3),
        report: Some(report()),
    };
    Heard {
        board: Some(BoardRow {
            by: 1,
            term: 3,
            members: BTreeMap::from([(17, seen)]),
            leading_ms: 90_000,
            able: Some((3, 7_000)),
        }),
    }
}

fn memory() -> Memory {
    Memory { incarnation: 7, has: 9 }
}

/// As it lies beside the sealing key, and as members hand it to each other.
fn successor() -> Successor {
    let key = SealingKey::from_bytes(&[7; 32]).unwrap();
    Successor::new(&key, &State::default())
}

fn declined() -> Result<(), keyring::Declined> {
    Err(keyring::Declined::Place("full".into()))
}

/// Name and bytes of everything.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let [blank, command, seating] = <[types::Entry; 3]>::try_from(entries()).unwrap();
    let append = types::AppendRequest {
        vote: vote(3, 1, true),
        prev_log_id: Some(log_id(2, 1, 6)),
        entries: entries(),
        leader_commit: Some(log_id(3, 1, 7)),
    };
    let mut ask = types::VoteRequest::new(vote(4, 17, false), Some(log_id(3, 1, 9)));
    ask.leadership_transfer = true;
    let stored = StoredMembership::new(Some(log_id(3, 1, 9)), membership());
    let head = SnapshotHead {
        last: Some(log_id(3, 1, 9).into()),
        seating: (&stored).into(),
        vote: Some(vote(3, 1, true).into()),
        bytes: None,
    };
    let transfer = types::TransferRequest::new(vote(3, 1, true), 17, Some(log_id(3, 1, 9)));
    let answers = vec![
        (1, Ok(Applied { revision: 9, answer: Blob(vec![1].into()) })),
        (2, Err(Declined::NotLeader(Some(17)))),
        (3, Err(Declined::NotYet)),
    ];
    vec![
        ("row.blank", entry_to_row(&blank)),
        ("row.command", entry_to_row(&command)),
        ("row.membership", entry_to_row(&seating)),
        ("meta.vote", encode(&Ballot::from(vote(3, 1, true)))),
        ("meta.position", encode(&Position::from(log_id(3, 1, 9)))),
        ("meta.membership", encode(&StoredSeating::from(&stored))),
        ("append.request", append.to_wire()),
        ("append.response", types::AppendResponse::PartialSuccess(Some(log_id(3, 1, 8))).to_wire()),
        ("append.matches", types::AppendResult::Ok(Some(log_id(3, 1, 9))).to_wire()),
        ("append.conflict", types::AppendResult::Err(AppendError::Conflict(log_id(2, 1, 6))).to_wire()),
        ("append.higher", types::AppendResult::Err(AppendError::HigherVote(vote(5, 20, true))).to_wire()),
        ("vote.request", ask.to_wire()),
        ("vote.response", types::VoteResponse::new(vote(4, 17, false), Some(log_id(3, 1, 9)), true).to_wire()),
        ("transfer.request", transfer.to_wire()),
        ("transfer.response", types::TransferResponse::Ok(()).to_wire()),
        ("snapshot.head", encode(&head)),
        ("propose.batch", encode(&ProposeBatch { commands: vec![(1, Blob(vec![1, 2].into()))] })),
        ("answer.batch", encode(&AnswerBatch { answers })),
        ("report.request", encode(&report())),
        ("report.answer", encode(&heard())),
        ("remember.answer", encode(&memory())),
        ("sealing_key.request", encode(&successor())),
        ("sealing_key.answer", encode(&declined())),
    ]
}

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old").join(name)
}

fn lines(name: &str) -> Vec<(String, Vec<u8>)> {
    let text = world::real::world().disk.read(&file(name)).unwrap().expect("a file of samples; UPDATE=1 writes v2.txt");
    let text = String::from_utf8(text).unwrap();
    let line = |line: &str| {
        let (name, digits) = line.split_once(' ').unwrap();
        (name.to_owned(), hex::decode(digits).unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn every_form_is_what_it_was() {
    if std::env::var_os("UPDATE").is_some() {
        let text: String = samples().iter().map(|(name, bytes)| format!("{name} {}\n", hex::encode(bytes))).collect();
        world::real::world().disk.write(&file("v2.txt"), text.as_bytes()).unwrap();
    }
    let old = lines("v2.txt");
    for ((old, bytes), (name, now)) in old.iter().zip(&samples()) {
        assert_eq!((old.as_str(), hex::encode(bytes)), (*name, hex::encode(now)));
    }
    assert_eq!(old.len(), samples().len());
}

/// What openraft's log and votes are made of did not change at all; what members tell each other got fields that an
/// older program skips, and misses nothing.
#[test]
fn the_previous_forms_are_read_and_the_log_is_written_as_before() {
    let now: BTreeMap<&str, Vec<u8>> = samples().into_iter().collect();
    let old = lines("v1.txt");
    assert_eq!(old.len(), 21);
    for (name, bytes) in old {
        match name.as_str() {
            "report.request" => {
                assert_eq!(decode::<Report>(&bytes).unwrap(), before(), "{name}");
            }
            "report.answer" => {
                let board = decode::<Heard>(&bytes).unwrap().board.unwrap();
                assert_eq!(board.members[&17].report, Some(before()), "{name}");
            }
            name => assert_eq!(hex::encode(&bytes), hex::encode(&now[name]), "{name}"),
        }
    }
}

#[test]
fn certificates_in_reports_go_both_ways() {
    assert_eq!(decode::<Report>(&encode(&later_report())).unwrap(), later_report());
    assert_eq!(decode::<Result<Renewed, String>>(&encode(&renewed())).unwrap(), renewed());
}

#[test]
fn every_form_can_be_read() {
    for (name, bytes) in samples() {
        read(name, &bytes);
    }
}

fn read(name: &str, bytes: &[u8]) {
    fn round<T: Wire>(bytes: &[u8]) {
        assert_eq!(T::from_wire(bytes).unwrap().to_wire(), bytes);
    }
    match name {
        name if name.starts_with("row.") => {
            let entry = entry_from_row(bytes).unwrap();
            assert!(entries().contains(&entry), "{name}");
        }
        "append.request" => round::<types::AppendRequest>(bytes),
        "append.response" => round::<types::AppendResponse>(bytes),
        "append.matches" | "append.conflict" | "append.higher" => round::<types::AppendResult>(bytes),
        "vote.request" => round::<types::VoteRequest>(bytes),
        "vote.response" => round::<types::VoteResponse>(bytes),
        "transfer.request" => round::<types::TransferRequest>(bytes),
        "transfer.response" => round::<types::TransferResponse>(bytes),
        "snapshot.head" => assert_eq!(encode(&decode::<SnapshotHead>(bytes).unwrap()), bytes),
        "propose.batch" => assert_eq!(encode(&decode::<ProposeBatch>(bytes).unwrap()), bytes),
        "answer.batch" => assert_eq!(encode(&decode::<AnswerBatch>(bytes).unwrap()), bytes),
        "report.request" => assert_eq!(decode::<Report>(bytes).unwrap(), report()),
        "report.answer" => assert_eq!(decode::<Heard>(bytes).unwrap(), heard()),
        "remember.answer" => assert_eq!(decode::<Memory>(bytes).unwrap(), memory()),
        "sealing_key.request" => assert_eq!(encode(&decode::<Successor>(bytes).unwrap()), bytes),
        "sealing_key.answer" => {
            assert_eq!(decode::<Result<(), keyring::Declined>>(bytes).unwrap(), declined());
        }
        "meta.vote" => assert_eq!(decode::<Ballot>(bytes).unwrap(), vote(3, 1, true).into()),
        "meta.position" => assert_eq!(decode::<Position>(bytes).unwrap(), log_id(3, 1, 9).into()),
        "meta.membership" => {
            let stored = StoredMembership::try_from(decode::<StoredSeating>(bytes).unwrap()).unwrap();
            assert_eq!(stored.membership(), &membership());
        }
        other => panic!("{other} is not read"),
    }
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    for (_, bytes) in samples() {
        for cut in 0..bytes.len() {
            let _ = types::AppendRequest::from_wire(&bytes[..cut]);
            let _ = decode::<AnswerBatch>(&bytes[..cut]);
            assert!(entry_from_row(&bytes[..cut]).is_err());
        }
    }
    for entry in entries() {
        let row = entry_to_row(&entry);
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(entry_from_row(&flipped).is_err(), "bit {bit}");
        }
    }
    assert!(matches!(decode::<Ballot>(&[99, 1, 2]), Err(DecodeError::Version(99))));
}
