//! What was synced, remembered outside the database.
//!
//! RocksDB ends its recovery at the first damaged record of the write-ahead log and drops the rest without a word. A
//! note kept in the same log would be dropped with it. So the last synced log id and vote stand in a small file of
//! their own, and a start that finds less than the file says stops (exit code 40): this member promised entries or a
//! vote that it no longer has, and must not take part again.
//!
//! The file is overwritten after each sync and before anybody is told of it, without waiting for the disk (a few
//! microseconds; it survives the process but perhaps not a power loss, when an older note is found). An older note
//! only makes the check weaker, never wrong: what it names is still there, because before a truncation it is lowered
//! and synced.

use std::path::Path;

use serde::{Deserialize, Serialize};
use world::Disk;

use super::OpenError;
use crate::{
    encode::{self, Ballot, Position},
    types::{LogId, Vote},
};

/// The file's name in the member's folder.
pub(super) const FILE: &str = "synced";

/// Fixed, so that a short note over a longer one leaves no rest. Within one sector.
const SIZE: usize = 256;

/// The last synced log id and vote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub last: Option<LogId>,
    pub vote: Option<Vote>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    last: Option<Position>,
    vote: Option<Ballot>,
}

impl Mark {
    pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Mark, OpenError> {
        match disk.read(path)? {
            None => Ok(Mark::default()),
            Some(bytes) => {
                Mark::from_bytes(&bytes).ok_or_else(|| OpenError::Integrity(format!("{} is damaged", path.display())))
            }
        }
    }

    pub(super) fn write(&self, disk: &dyn Disk, path: &Path) -> std::io::Result<()> {
        disk.write(path, &self.to_bytes())
    }

    pub(super) fn note(&self, disk: &dyn Disk, path: &Path) -> std::io::Result<()> {
        disk.note(path, &self.to_bytes())
    }

    /// Length, checksum, row, zeros.
    fn to_bytes(&self) -> Vec<u8> {
        let row = encode::encode(&Row { last: self.last.map(Into::into), vote: self.vote.map(Into::into) });
        let mut bytes = Vec::with_capacity(SIZE);
        bytes.extend((row.len() as u16).to_le_bytes());
        bytes.extend(crc32c::crc32c(&row).to_le_bytes());
        bytes.extend(row);
        assert!(bytes.len() <= SIZE, "seven numbers fit");
        bytes.resize(SIZE, 0);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Mark> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        let row = rest.get(..usize::from(u16::from_le_bytes(*length)))?;
        if crc32c::crc32c(row) != u32::from_le_bytes(*sum) {
            return None;
        }
        let row: Row = encode::decode(row).ok()?;
        Some(Mark { last: row.last.map(Into::into), vote: row.vote.map(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::log_id;

    #[test]
    fn survives_its_own_bytes_and_notices_a_flipped_bit() {
        let mark = Mark { last: Some(log_id(u64::MAX, u64::MAX, u64::MAX)), vote: None };
        let mut bytes = mark.to_bytes();
        assert_eq!(Mark::from_bytes(&bytes), Some(mark));
        bytes[20] ^= 1;
        assert_eq!(Mark::from_bytes(&bytes), None);
        assert_eq!(Mark::from_bytes(&[]), None);
    }
}
