//! Two kinds of file. Each is: magic, length and bytes of the head (encode.rs), the body, CRC32C of everything before.
//!
//! The body of a full is State's own snapshot; the body of a segment is log rows, each with its length before it.

use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use state_machine::{Revision, State, codec};

use crate::{
    encode::{self, Blob},
    types::Entry,
};

const FULL: &[u8; 8] = b"HSRFULL1";
const SEGMENT: &[u8; 8] = b"HSRLOGS1";

/// What stands before a full state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FullHead {
    pub cluster_id: String,
    /// Name of the member that wrote it.
    pub member: String,
    /// The log index it reflects.
    pub index: u64,
    pub term: u64,
    /// When it was written, in milliseconds since 1970.
    pub taken_ms: u64,
    /// The State's own time: of the last command in it.
    pub state_ms: u64,
    pub state_hash: Blob,
    /// Version of the program.
    pub program: String,
}

/// What stands before a piece of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SegmentHead {
    pub cluster_id: String,
    pub member: String,
    pub first: u64,
    pub last: u64,
    pub term: u64,
    pub taken_ms: u64,
}

/// A full state with its head.
#[derive(Clone, Debug)]
pub struct Full {
    pub head: FullHead,
    pub state: State,
}

fn write<H: Serialize>(magic: &[u8; 8], head: &H, body: &[u8]) -> Vec<u8> {
    let head = encode::encode(head);
    let mut file = Vec::with_capacity(magic.len() + 4 + head.len() + body.len() + 4);
    file.extend(magic);
    file.extend((head.len() as u32).to_le_bytes());
    file.extend(head);
    file.extend(body);
    let sum = crc32c::crc32c(&file);
    file.extend(sum.to_le_bytes());
    file
}

fn read<H: DeserializeOwned>(magic: &[u8; 8], file: &Bytes) -> Result<(H, Bytes), String> {
    let (body, sum) = file.split_last_chunk::<4>().ok_or("it is too short")?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err("the checksum does not match".into());
    }
    let rest = body.strip_prefix(magic).ok_or("it starts differently, perhaps it is of a newer program")?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
    let length = u32::from_le_bytes(*length) as usize;
    let head = rest.get(..length).ok_or("it is too short")?;
    let head = encode::decode(head).map_err(|error| error.to_string())?;
    Ok((head, file.slice(magic.len() + 4 + length..body.len())))
}

/// A full as a file.
pub fn full_to_file(head: &FullHead, state: &State) -> Vec<u8> {
    write(FULL, head, &state.to_snapshot())
}

/// Reads [`full_to_file`] and compares the State's hash.
pub fn full_from_file(file: &Bytes) -> Result<Full, String> {
    let (head, body): (FullHead, Bytes) = read(FULL, file)?;
    let state = State::from_snapshot(&body).map_err(|error| error.to_string())?;
    if state.hash()[..] != head.state_hash.0[..] || state.revision().0 != head.index {
        return Err("the state in it is not the one its head names".into());
    }
    Ok(Full { head, state })
}

/// The head alone; the checksum over everything is compared all the same.
pub fn full_head(file: &Bytes) -> Result<FullHead, String> {
    read(FULL, file).map(|(head, _)| head)
}

/// A piece of the log as a file.
pub fn segment_to_file(head: &SegmentHead, entries: &[Entry]) -> Vec<u8> {
    let mut body = Vec::new();
    for entry in entries {
        let row = encode::entry_to_row(entry);
        body.extend((row.len() as u32).to_le_bytes());
        body.extend(row);
    }
    write(SEGMENT, head, &body)
}

/// Reads [`segment_to_file`].
pub fn segment_from_file(file: &Bytes) -> Result<(SegmentHead, Vec<Entry>), String> {
    let (head, body): (SegmentHead, Bytes) = read(SEGMENT, file)?;
    let mut entries = Vec::new();
    let mut rest = &body[..];
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let (row, more) =
            more.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("it ends within an entry")?;
        let entry = encode::entry_from_row(row).map_err(|error| error.to_string())?;
        if entry.log_id.index != head.first + entries.len() as u64 {
            return Err(format!(
                "entry {} is where {} should be",
                entry.log_id.index,
                head.first + entries.len() as u64
            ));
        }
        entries.push(entry);
        rest = more;
    }
    if !rest.is_empty() || entries.last().is_none_or(|entry| entry.log_id.index != head.last) {
        return Err("it does not end where its head says".into());
    }
    Ok((head, entries))
}

/// Applies one entry to a State as a member does. `Ok(false)`: the entry is later than `until_ms`, nothing happened.
pub fn apply(state: &mut State, entry: &Entry, until_ms: Option<u64>) -> Result<bool, String> {
    let revision = Revision(entry.log_id.index);
    let EntryPayload::Normal(payload) = &entry.payload else {
        state.advance(revision);
        return Ok(true);
    };
    let command = codec::decode_entry(&payload.0).map_err(|error| format!("log entry {revision}: {error}"))?;
    if until_ms.is_some_and(|until| command.at.0 > until) {
        return Ok(false);
    }
    // A refusal is an answer: it changes nothing, now as then.
    let _ = state.apply_entry(revision, &command);
    Ok(true)
}
