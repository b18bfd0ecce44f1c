//! Backups: everything a cluster needs to begin again, kept in a folder or bucket elsewhere.
//!
//! | file | holds |
//! |---|---|
//! | `format.rs` | the two kinds of file: a full state, a piece of the log |
//! | `shelf.rs` | a cluster's objects in one place: list, read, write and read back, prune |
//! | `folder.rs` | a folder as a place; a bucket is the closet `raft/bucket` |
//! | `agent.rs` | the task that fills the shelf: whose turn it is, what is due |
//! | `replay.rs` | from a shelf to the State at some moment |
//! | `recovery_key.rs` | the key that opens the secrets in it |
//! | `settle.rs` | from a State to a member's folder: the same tailnet as a new cluster of one |
//! | `recover.rs` | the same from what is left of a member's folder |
//!
//! The leader fills the one shelf of the cluster; when it has no place for one, or nothing was archived for a while,
//! another member does. Secrets lie in the State sealed, and so they do in a backup; the sealing key is in there too,
//! wrapped with the recovery key, which no member keeps.

mod agent;
mod folder;
mod format;
mod recover;
mod recovery_key;
mod replay;
mod settle;
mod shelf;
#[cfg(test)]
mod tests;

pub use agent::{BackupReport, keep, measure};
pub use folder::folder;
pub use format::{Full, FullHead, SegmentHead, full_from_file as read_full, full_to_file as write_full};
pub use recover::{LeftOver, inspect_folder, recover, sealing_key_of};
pub use recovery_key::{RECOVERY_SECRET, RecoveryKey};
pub use replay::{Begin, Replayed, reaches, replay};
pub use settle::{Settled, settle};
pub use shelf::{Item, Kept, Shelf, shelves};

pub use crate::seal::SealingKey;
pub use world::Objects;

use state_machine::codes::{self, Code};

/// A backup could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("{path}: {source}")]
    Disk { path: String, source: std::io::Error },
    /// The bytes are not what was written.
    #[error("{path} is damaged: {why}")]
    Damaged { path: String, why: String },
    /// Nothing that could be used for what was asked.
    #[error("{0}")]
    Unusable(String),
    #[error("{0} is no sealing key; it is the file sealing.key of a member's folder")]
    NoKey(String),
    #[error(transparent)]
    Start(#[from] crate::StartError),
}

impl ArchiveError {
    /// Its line in the table of codes.
    pub fn code(&self) -> &'static Code {
        match self {
            ArchiveError::Damaged { .. } => &codes::BACKUP_DAMAGED,
            ArchiveError::Disk { .. } => &codes::START_PLACE,
            ArchiveError::Unusable(_) => &codes::BACKUP_UNFIT,
            ArchiveError::NoKey(_) => &codes::RECOVERY_KEY_FILE,
            ArchiveError::Start(error) => error.code(),
        }
    }

    /// The process's exit code: 41 for damage, 1 otherwise, or what a start would say.
    pub fn exit_code(&self) -> i32 {
        match self {
            ArchiveError::Damaged { .. } => 41,
            ArchiveError::Disk { .. } => 16,
            ArchiveError::Unusable(_) | ArchiveError::NoKey(_) => 1,
            ArchiveError::Start(error) => error.exit_code(),
        }
    }
}
