//! Laws that hold for every log, shown on many logs made from seeds.
//!
//! * the same log gives the same bytes, on every member and after every restart
//! * a snapshot and the rest of the log are as good as the whole log
//! * rows and changed rows describe a state completely
//! * the invariants hold after every command, and a refusal changes nothing

#[path = "common/generator.rs"]
mod generator;
#[path = "common/story.rs"]
#[allow(dead_code, reason = "shared with scripts.rs")]
mod story;

use std::{collections::BTreeMap, sync::Arc};

use generator::Generator;
use state_machine::*;

const SEEDS: u64 = 24;
const COMMANDS: usize = 250;

fn replay(entries: &[(Revision, Entry)]) -> State {
    let mut state = State::default();
    for (revision, entry) in entries {
        _ = state.apply_entry(*revision, entry);
    }
    state
}

#[test]
fn invariants_hold_and_refusals_change_nothing() {
    let (mut done, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let (mut state, mut generator) = (State::default(), Generator::new(seed));
        for step in 0..COMMANDS {
            let before = state.clone();
            let (revision, entry) = generator.next(&state);
            let known = entry.request.is_some_and(|id| state.answer_to(id).is_some());
            let answer = state.apply_entry(revision, &entry);
            assert_eq!(state.revision(), revision);
            assert!(state.now() >= before.now(), "time never goes back");
            match &answer {
                _ if known => {
                    let changed = state.changed_rows(&before);
                    assert!(changed.iter().all(|(key, _)| key == &[1]), "seed {seed} step {step}: a retry changed");
                }
                Ok(_) => done += 1,
                Err(_) => {
                    story::assert_nothing_happened(&before, &state);
                    refused += 1;
                }
            }
            if matches!(entry.command, Command::Elapse) && answer.is_ok() && !known {
                let next = state.next_deadline();
                assert!(next.is_none_or(|(at, _)| at > state.now()), "seed {seed}: {next:?} is over");
            }
            let text = format!("{entry:?}");
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| state.check()));
            assert!(checked.is_ok(), "seed {seed} step {step}: {text}");
        }
    }
    // A generator that is refused all the time, or never, shows nothing.
    assert!(done > refused && refused > done / 20, "{done} done, {refused} refused");
}

#[test]
fn the_same_log_gives_the_same_bytes() {
    for seed in 0..SEEDS {
        let entries = generator::log(seed, COMMANDS);
        let (one, two) = (replay(&entries), replay(&entries));
        assert_eq!(one.to_snapshot(), two.to_snapshot(), "seed {seed}");
        assert_eq!(one.hash(), two.hash());
    }
    assert_ne!(replay(&generator::log(1, 50)).hash(), replay(&generator::log(2, 50)).hash());
}

#[test]
fn entries_and_answers_survive_their_encoding() {
    for seed in 0..SEEDS {
        let (mut state, mut generator) = (State::default(), Generator::new(seed));
        for _ in 0..COMMANDS {
            let (revision, entry) = generator.next(&state);
            assert_eq!(codec::decode_entry(&codec::encode_entry(&entry)).as_ref(), Ok(&entry));
            let answer = state.apply_entry(revision, &entry);
            assert_eq!(codec::decode_answer(&codec::encode_answer(&answer)), Ok(answer));
        }
    }
}

#[test]
fn a_snapshot_and_the_tail_are_the_whole_log() {
    for seed in 0..SEEDS {
        let entries = generator::log(seed, COMMANDS);
        let whole = replay(&entries);
        for cut in [0, 1, COMMANDS / 3, COMMANDS - 1, COMMANDS] {
            let mut state = State::from_snapshot(&replay(&entries[..cut]).to_snapshot()).unwrap();
            state.check();
            for (revision, entry) in &entries[cut..] {
                _ = state.apply_entry(*revision, entry);
            }
            assert_eq!(state.to_snapshot(), whole.to_snapshot(), "seed {seed} cut at {cut}");
        }
    }
}

#[test]
fn changed_rows_lead_from_one_state_to_the_next() {
    for seed in 0..SEEDS {
        let mut store: BTreeMap<Vec<u8>, Vec<u8>> = State::default().rows().collect();
        let (mut state, mut generator) = (State::default(), Generator::new(seed));
        let mut stored = state.clone();
        for step in 0..COMMANDS {
            let (revision, entry) = generator.next(&state);
            _ = state.apply_entry(revision, &entry);
            if step % (1 + seed as usize % 5) != 0 {
                continue;
            }
            for (key, value) in state.changed_rows(&stored) {
                match value {
                    Some(value) => _ = store.insert(key, value),
                    None => assert!(store.remove(&key).is_some(), "only rows that were there are removed"),
                }
            }
            stored = state.clone();
            assert!(store.iter().map(|(k, v)| (k.clone(), v.clone())).eq(state.rows()), "seed {seed} step {step}");
        }
        let loaded = State::from_rows(&store).unwrap();
        loaded.check();
        assert_eq!(loaded.hash(), stored.hash());
        assert!(loaded.changed_rows(&stored).is_empty());
    }
}

/// Whatever can be decoded can be applied: a command from a strange proposer is refused or does something sensible.
#[test]
fn damaged_commands_do_no_harm() {
    let mut decoded = 0;
    for seed in 0..SEEDS {
        let mut dice = generator::Dice::new(seed + 1_000);
        let mut state = State::default();
        for (step, (revision, entry)) in generator::log(seed, COMMANDS).into_iter().enumerate() {
            let mut bytes = codec::encode_entry(&entry);
            // The founding stays whole, or there would be nothing to harm.
            if step > 0 && dice.below(2) == 0 {
                for _ in 0..1 + dice.below(2) {
                    let at = dice.below(bytes.len() as u64) as usize;
                    bytes[at] = dice.roll() as u8;
                }
            }
            let Ok(entry) = codec::decode_entry(&bytes) else { continue };
            decoded += 1;
            _ = state.apply_entry(revision, &entry);
            state.check();
            // Nothing that a log can bring may be too strange for disk.
            assert_eq!(State::from_rows(state.rows()).unwrap().hash(), state.hash());
        }
    }
    assert!(decoded > SEEDS as usize * COMMANDS / 2, "{decoded} of the damaged commands could be decoded");
}

#[test]
fn damaged_snapshots_are_refused() {
    let whole = replay(&generator::log(3, COMMANDS)).to_snapshot();
    for cut in (0..whole.len()).step_by(97) {
        assert!(State::from_snapshot(&whole[..cut]).is_err(), "cut at {cut}");
    }
    for at in (0..whole.len()).step_by(61) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        assert!(State::from_snapshot(&damaged).is_err(), "damaged at {at}");
    }
    assert!(State::from_snapshot(&[]).is_err());
}

#[test]
fn foreign_rows_are_refused() {
    let row = |key: &[u8], value: &[u8]| State::from_rows([(key.to_vec(), value.to_vec())]).unwrap_err();
    assert_eq!(row(&[], &[]), DecodeError::Empty);
    assert_eq!(row(&[99], &[1, 0x80]), DecodeError::UnknownTable(99));
    assert_eq!(row(&[5, 1], &[1, 0x80]), DecodeError::Key { table: "nodes" });
    let mut key = vec![5];
    key.extend(7u64.to_be_bytes());
    assert_eq!(row(&key, &[1, 0x80]), DecodeError::Misplaced { table: "nodes" });
    assert_eq!(row(&key, &[2, 0x80]), DecodeError::Version { found: 2 });
}

/// Hot commands must not look at every node. Counted in time would be a guess; counted in rows it is exact: two states
/// share all rows but those that were named, and the comparison of persistent maps shows them.
#[test]
fn hot_commands_change_only_what_they_name() {
    let (mut state, mut revision) = generator::large(2_000);
    let first = state.clone();
    let mut apply = |state: &mut State, command: Command| {
        let before = state.clone();
        revision += 1;
        let stamp = Stamp { at: Timestamp(state.now().0 + 1), revision: Revision(revision) };
        state.apply(stamp, command).unwrap();
        state.changed_rows(&before).len()
    };
    let node = state.nodes().values().nth(1_234).unwrap().clone();
    let change = PresenceChange { node: node.id, session: SessionId(9), here: true };
    assert_eq!(apply(&mut state, Command::Presence { member: MemberId(1), changes: vec![change] }), 2);
    let report = Report { node: node.id, node_key: node.node_key, home_derp: Some(901), ..Report::default() };
    assert_eq!(apply(&mut state, Command::Report { reports: vec![report] }), 2);
    // All others are still the very same rows, not copies.
    let same = |(id, row): (&NodeId, &Arc<Node>)| Arc::ptr_eq(row, first.node(*id).unwrap());
    assert_eq!(state.nodes().iter().filter(|row| same(*row)).count(), 1_999);
    state.check();
}

#[test]
fn many_nodes_of_one_name_find_numbers() {
    let (state, _) = generator::large(300);
    let names: std::collections::BTreeSet<_> = state.nodes().values().map(|node| node.given_name.clone()).collect();
    assert_eq!(names.len(), 300);
    assert!(names.contains("job") && names.contains("job-1") && names.contains("job-16"));
}
