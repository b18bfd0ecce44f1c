//! A member that has left takes what it kept out of its folder.
//!
//! Only files of ours go, by their names: a folder of backups or a configuration that somebody put there stays. A note is
//! left, so that a service that starts again on the empty folder does not found a cluster of its own.

use std::{io, path::Path};

use state_machine::MemberId;
use world::Disk;

use crate::{
    error::StartError,
    identity::{self, Home},
    integrity::QUARANTINE_FILE,
};

/// What lies beside the database: of the log, of the checks, of the relay.
const FILES: [&str; 10] = [
    identity::SEALING_KEY_FILE,
    identity::SEALING_KEY_NEXT_FILE,
    identity::JOINING_KEY_FILE,
    "derp.key",
    "synced",
    "scrubbed",
    "reserve",
    "backup.trial",
    "ready.probe",
    QUARANTINE_FILE,
];
const FOLDERS: [&str; 2] = ["db", "snapshots"];
/// The lock is empty and of no harm; the note is new.
const STAYS: [&str; 2] = ["LOCK.hsraft", identity::LEFT_FILE];

/// Whose folder it is: the cluster's id and the member's; `None` when it is nobody's.
pub fn owner(disk: &dyn Disk, folder: &Path) -> Result<Option<(String, MemberId)>, StartError> {
    let identity = Home { disk, folder }.identity()?;
    Ok(identity.map(|identity| (identity.cluster_id.clone(), identity.member())))
}

/// Takes a member's files out of a folder no process uses, keys first. Tells what is left and not ours.
pub fn wipe(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<String>> {
    // Fails where the process still runs.
    let _lock = disk.lock(folder)?;
    disk.write(
        &folder.join(identity::LEFT_FILE),
        b"The member of this folder left its cluster and took its data with it.\n\
          Join again with: hsraft join. No cluster is founded here as long as this file lies here.\n",
    )?;
    for file in FILES {
        disk.remove(&folder.join(file))?;
    }
    for below in FOLDERS.map(|name| folder.join(name)) {
        for name in disk.list(&below)? {
            disk.remove(&below.join(name))?;
        }
    }
    // Last: without it nobody could tell any more whose the rest was.
    disk.remove(&folder.join(identity::FILE))?;
    let mut rest = disk.list(folder)?;
    rest.retain(|name| !STAYS.contains(&name.as_str()) && !FOLDERS.contains(&name.as_str()));
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_goes_and_others_things_stay() {
        let world = world::real::world();
        let (disk, folder) = (&*world.disk, tempfile::tempdir().unwrap());
        let path = |name: &str| folder.path().join(name);
        disk.create_dir_all(&path("db")).unwrap();
        disk.create_dir_all(&path("backups")).unwrap();
        let identity = identity::Identity { cluster_id: "abc".into(), member: 17, ..Default::default() };
        Home { disk, folder: folder.path() }.put_identity(&identity).unwrap();
        for name in ["sealing.key", "db/000004.log", "backups/full", "config.yaml", "synced", "quarantine.txt"] {
            disk.write(&path(name), b"x").unwrap();
        }
        assert_eq!(owner(disk, folder.path()).unwrap(), Some(("abc".into(), MemberId(17))));

        let lock = disk.lock(folder.path()).unwrap();
        assert_eq!(wipe(disk, folder.path()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(disk.read(&path("sealing.key")).unwrap().is_some(), "nothing is touched while somebody runs there");
        drop(lock);

        assert_eq!(wipe(disk, folder.path()).unwrap(), ["backups", "config.yaml"]);
        assert_eq!(owner(disk, folder.path()).unwrap(), None);
        assert_eq!(disk.list(folder.path()).unwrap(), ["LOCK.hsraft", "backups", "config.yaml", "db", "left"]);
        assert!(disk.list(&path("db")).unwrap().is_empty());
        assert_eq!(disk.list(&path("backups")).unwrap(), ["full"]);
    }
}
