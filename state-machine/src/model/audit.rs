use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One change of the tailnet, as apply saw it: who, what, before, after, from where, at which place of the log.
///
/// The text is one line of JSON, written once and never again, so that its hash can be checked with any tool:
/// `sha256(hash of the row before, as 64 hexadecimal digits, then the text)`. The first row follows 64 zeros.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Counts from 1, without gaps.
    pub number: u64,
    pub text: Arc<str>,
    pub hash: [u8; 32],
}

impl AuditRow {
    /// The hash of a row with this text behind a row with that hash.
    pub fn chain(before: &[u8; 32], text: &str) -> [u8; 32] {
        let mut digits = [0u8; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(before) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        Sha256::new().chain_update(digits).chain_update(text).finalize().into()
    }
}
