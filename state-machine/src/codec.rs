//! Values ⇄ bytes: one version byte, then MessagePack with field names.
//!
//! Names instead of positions, so that fields and variants can be added: an older program skips fields it does not
//! know, a newer one fills in what an older one did not write. A reader checks the length before it looks inside,
//! bounds nesting, and wants every byte used.

use serde::{Serialize, de::DeserializeOwned};

use crate::{command::Entry, outcome::Answer};

/// The format written by this program.
pub const FORMAT: u8 = 1;

/// The longest encoded entry of the log that is read.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The longest encoded answer that is read.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The longest encoded row of a table that is read.
pub const ROW_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Nesting of maps and lists; our deepest value needs a third of it.
const DEPTH_MAX: usize = 32;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("nothing to decode: the value is empty")]
    Empty,
    #[error("{bytes} bytes are more than the {max} allowed here")]
    TooLong { bytes: usize, max: usize },
    #[error("format version {found} is not known to this program (it knows {FORMAT}); upgrade it")]
    Version { found: u8 },
    #[error("not decodable: {0}")]
    Malformed(String),
    #[error("{0} bytes are left over after the value")]
    Trailing(usize),
    #[error("table {0} is not known to this program; upgrade it")]
    UnknownTable(u8),
    #[error("malformed key in table {table}")]
    Key { table: &'static str },
    #[error("the row of table {table} does not belong under its key")]
    Misplaced { table: &'static str },
    #[error("not a snapshot: {0}")]
    Snapshot(&'static str),
    #[error("the snapshot is damaged: its checksum does not match; fetch another one")]
    Checksum,
}

/// An entry of the log as bytes.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    encode(entry)
}

/// The entry of the log these bytes hold.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    decode(bytes, ENTRY_BYTES_MAX)
}

/// An answer as bytes, for the way back to a forwarding member.
pub fn encode_answer(answer: &Answer) -> Vec<u8> {
    encode(answer)
}

/// The answer these bytes hold.
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, DecodeError> {
    decode(bytes, ANSWER_BYTES_MAX)
}

/// The version byte and the value.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    bytes.push(FORMAT);
    let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    value.serialize(&mut serializer).expect("our types have no maps of unknown length, and a Vec takes every byte");
    bytes
}

/// The reverse of [`encode`].
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLong { bytes: bytes.len(), max });
    }
    let (&version, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if version != FORMAT {
        return Err(DecodeError::Version { found: version });
    }
    let mut deserializer = rmp_serde::Deserializer::new(body);
    deserializer.set_max_depth(DEPTH_MAX);
    let value = T::deserialize(&mut deserializer).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    match deserializer.get_ref().len() {
        0 => Ok(value),
        left => Err(DecodeError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, Outcome, Refusal, RequestId, Timestamp, UserId};

    fn entry() -> Entry {
        Entry {
            request: Some(RequestId(u128::MAX - 7)),
            at: Timestamp(1_700_000_000_000),
            by: "cli".into(),
            command: Command::RenameUser { user: UserId(1), name: "alice".into() },
        }
    }

    #[test]
    fn entries_and_answers_go_both_ways() {
        assert_eq!(decode_entry(&encode_entry(&entry())), Ok(entry()));
        let elapse = Entry { command: Command::Elapse, request: None, ..entry() };
        assert_eq!(decode_entry(&encode_entry(&elapse)), Ok(elapse));
        for answer in [Ok(Outcome::Done), Ok(Outcome::Changed(7)), Err(Refusal::KeyUsed)] {
            assert_eq!(decode_answer(&encode_answer(&answer)), Ok(answer));
        }
    }

    #[test]
    fn bad_bytes_are_refused() {
        let good = encode_entry(&entry());
        assert_eq!(decode_entry(&[]), Err(DecodeError::Empty));
        assert_eq!(decode_entry(&[9, 1, 2]), Err(DecodeError::Version { found: 9 }));
        let mut long = good.clone();
        long.push(0);
        assert_eq!(decode_entry(&long), Err(DecodeError::Trailing(1)));
        for cut in 1..good.len() {
            assert!(matches!(decode_entry(&good[..cut]), Err(DecodeError::Malformed(_))), "cut at {cut}");
        }
        // Lists inside lists must end before our stack does.
        let mut deep = vec![FORMAT];
        deep.extend(std::iter::repeat_n(0x91, 100_000));
        assert!(decode_entry(&deep).is_err());
        assert!(matches!(decode_answer(&vec![FORMAT; ANSWER_BYTES_MAX + 1]), Err(DecodeError::TooLong { .. })));
    }
}
