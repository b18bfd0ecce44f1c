//! State ⇄ one piece of bytes, for Raft's snapshots and for backups.
//!
//! Magic, format, number of rows, rows (length and bytes of key and value), SHA-256 of everything before it.

use sha2::{Digest, Sha256};

use crate::{codec::DecodeError, state::State};

const MAGIC: &[u8; 8] = b"hsraftst";
const FORMAT: u16 = 1;
const CHECKSUM_BYTES: usize = 32;

impl State {
    /// Everything, complete in itself.
    pub fn to_snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_be_bytes());
        let count_at = bytes.len();
        bytes.extend(0u64.to_be_bytes());
        let mut count = 0u64;
        for (key, value) in self.rows() {
            count += 1;
            for part in [key, value] {
                let length = u32::try_from(part.len()).expect("a row is far smaller than 4 GiB");
                bytes.extend(length.to_be_bytes());
                bytes.extend(part);
            }
        }
        bytes[count_at..count_at + 8].copy_from_slice(&count.to_be_bytes());
        let checksum = Sha256::digest(&bytes);
        bytes.extend(checksum);
        bytes
    }

    /// The state a snapshot holds. Nothing is believed before the checksum agrees.
    pub fn from_snapshot(bytes: &[u8]) -> Result<State, DecodeError> {
        let short = DecodeError::Snapshot("it is too short");
        let (body, checksum) = bytes.split_at_checked(bytes.len().wrapping_sub(CHECKSUM_BYTES)).ok_or(short.clone())?;
        let mut rest = Reader(body.strip_prefix(MAGIC).ok_or(DecodeError::Snapshot("it starts differently"))?);
        let format = u16::from_be_bytes(rest.take()?);
        if format != FORMAT {
            return Err(DecodeError::Snapshot("its format is newer than this program; upgrade it"));
        }
        if Sha256::digest(body).as_slice() != checksum {
            return Err(DecodeError::Checksum);
        }
        let count = u64::from_be_bytes(rest.take()?);
        let mut rows = Vec::new();
        for _ in 0..count {
            rows.push((rest.part()?, rest.part()?));
        }
        if !rest.0.is_empty() {
            return Err(DecodeError::Trailing(rest.0.len()));
        }
        State::from_rows(rows)
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DecodeError::Snapshot("it ends early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn part(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = u32::from_be_bytes(self.take()?) as usize;
        let (part, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Snapshot("it ends early"))?;
        self.0 = rest;
        Ok(part)
    }
}
