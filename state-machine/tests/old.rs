//! Bytes written by earlier versions are read for ever, and mean what they meant.
//!
//! `old/v1.log` is a log (for each entry: revision, length, bytes; numbers big-endian), `old/v1.snapshot` the state it
//! led to. A new format gets new files beside the old ones, written with `WRITE_OLD=1 cargo test -p state-machine
//! --test old`; a file that was released is never written again.

#[path = "common/generator.rs"]
#[allow(dead_code, reason = "shared with laws.rs")]
mod generator;

use state_machine::*;

const LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/old/v1.log");
const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/old/v1.snapshot");

#[expect(clippy::disallowed_methods, reason = "test data lies in files")]
#[test]
fn version_1_is_read() {
    if std::env::var("WRITE_OLD").is_ok() {
        write_files();
    }
    let (log, snapshot) = (std::fs::read(LOG).unwrap(), std::fs::read(SNAPSHOT).unwrap());

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

    let stored = State::from_snapshot(&snapshot).unwrap();
    stored.check();
    assert!(state.changed_rows(&stored).is_empty(), "this program applies the old log as the old one did");
    assert_eq!(state.hash(), stored.hash());
}

#[expect(clippy::disallowed_methods, reason = "test data lies in files")]
fn write_files() {
    let mut log = Vec::new();
    let mut state = State::default();
    for (revision, entry) in generator::log(42, 400) {
        let bytes = codec::encode_entry(&entry);
        log.extend(revision.0.to_be_bytes());
        log.extend((bytes.len() as u32).to_be_bytes());
        log.extend(bytes);
        _ = state.apply_entry(revision, &entry);
    }
    std::fs::write(LOG, log).unwrap();
    std::fs::write(SNAPSHOT, state.to_snapshot()).unwrap();
}
