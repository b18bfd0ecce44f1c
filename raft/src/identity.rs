//! Who this member is: a file beside the database, written once when the member came and at each renewal.
//!
//! An id is never used twice, so a folder that lost its database must not come back under its old id: it could vote
//! again in a term it voted in, and its short log would deny what it promised. `start` compares the two.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use state_machine::MemberId;
use world::Disk;

use crate::{
    encode::{self, Blob},
    error::StartError,
};

pub const FILE: &str = "identity";
pub const SEALING_KEY_FILE: &str = "sealing.key";
/// The one that is about to take its place (keyring.rs).
pub const SEALING_KEY_NEXT_FILE: &str = "sealing.key.next";
pub const JOINING_KEY_FILE: &str = "joining.key";
/// What a member that left leaves behind (wipe.rs).
pub const LEFT_FILE: &str = "left";

/// The identity file.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Identity {
    pub cluster_id: String,
    pub member: u64,
    pub name: String,
    /// How often this member was started.
    pub incarnation: u64,
    /// This member's certificate and its private key.
    pub certificate: Blob,
    pub key: Blob,
    /// The authority that signed it.
    pub authority: Blob,
    /// How often the authority had been replaced then.
    #[serde(default)]
    pub generation: u64,
    /// Shown behind the authority while it replaces another: the same key signed by the one before, and that one.
    #[serde(default)]
    pub chain: Vec<Blob>,
    /// Authorities whose certificates are taken; empty: `authority` alone.
    #[serde(default)]
    pub trusted: Vec<Blob>,
    /// A founder keeps the authority's key here until the log has it, sealed.
    #[serde(default)]
    pub authority_key: Option<Blob>,
    /// Where other members were when this one came, for the first words of a new member.
    #[serde(default)]
    pub peers: Vec<(u64, String)>,
}

/// Whether a folder is some member's already.
pub fn is_taken(disk: &dyn Disk, folder: &Path) -> bool {
    !matches!(disk.read(&folder.join(FILE)), Ok(None))
}

/// The folder of one member.
pub struct Home<'a> {
    pub disk: &'a dyn Disk,
    pub folder: &'a Path,
}

impl Home<'_> {
    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    fn read(&self, file: &str) -> Result<Option<Vec<u8>>, StartError> {
        self.disk.read(&self.path(file)).map_err(|error| StartError::disk(&self.path(file), error))
    }

    fn write(&self, file: &str, bytes: &[u8]) -> Result<(), StartError> {
        self.disk.write(&self.path(file), bytes).map_err(|error| StartError::disk(&self.path(file), error))
    }

    pub fn identity(&self) -> Result<Option<Identity>, StartError> {
        let Some(bytes) = self.read(FILE)? else { return Ok(None) };
        let identity = encode::decode(&bytes)
            .map_err(|error| StartError::Integrity(format!("{}: {error}", self.path(FILE).display())))?;
        Ok(Some(identity))
    }

    pub fn put_identity(&self, identity: &Identity) -> Result<(), StartError> {
        self.write(FILE, &encode::encode(identity))
    }

    /// The key a joiner asks under; kept over restarts, so that a repeated request is known as the same.
    pub fn joining_key(&self, make: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, StartError> {
        if let Some(key) = self.read(JOINING_KEY_FILE)? {
            return Ok(key);
        }
        let key = make();
        self.write(JOINING_KEY_FILE, &key)?;
        Ok(key)
    }

    /// A folder that `join` began and no cluster took in, or whose member left, was meant for a cluster that exists. To
    /// found another there in silence would give clients two truths under one name.
    pub fn refuse_to_found_for_the_second_time(&self) -> Result<(), StartError> {
        for (file, why) in [
            (JOINING_KEY_FILE, "it was begun by hsraft join, and no cluster has let it in yet"),
            (LEFT_FILE, "its member left its cluster"),
        ] {
            if self.read(file)?.is_some() {
                return Err(StartError::NotForFounding { why, file: self.path(file).display().to_string() });
            }
        }
        Ok(())
    }

    /// The folder is a member's again.
    pub fn forget_who_left(&self) -> Result<(), StartError> {
        self.disk.remove(&self.path(LEFT_FILE)).map_err(|error| StartError::disk(&self.path(LEFT_FILE), error))
    }
}

impl Identity {
    pub fn member(&self) -> MemberId {
        MemberId(self.member)
    }
}
