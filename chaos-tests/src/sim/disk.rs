//! The disk of a simulated host: small files in memory and a RocksDB `Env` that forgets what was not synced.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use world::{Disk, Syncing};

use crate::fault::{self, Platters};

/// How long a simulated sync takes: between a good SSD and a busy one.
const SYNC_MIN: Duration = Duration::from_micros(500);
const SYNC_MAX: Duration = Duration::from_millis(3);

/// How many older versions of a note may turn up after a power loss.
const OLDER_NOTES: usize = 4;

/// One machine's disk. It outlives the member that runs on it.
#[derive(Default)]
pub struct SimDisk {
    platters: Platters,
    frozen: AtomicBool,
    files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    /// What notes said before, oldest first; nothing makes them durable.
    older_notes: Mutex<BTreeMap<PathBuf, VecDeque<Vec<u8>>>>,
    locks: Arc<Mutex<BTreeSet<PathBuf>>>,
    /// How long a sync takes while the disk is slow, in milliseconds; zero: as usual.
    slow_ms: AtomicU64,
}

/// Everything on a disk as it once was.
pub struct OldDay {
    database: fault::Copy,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// Where members keep their database, below their folder.
const DATABASE: &str = "/data/db";

impl SimDisk {
    /// A copy of everything. Call it while the machine is down.
    pub fn copy(&self) -> OldDay {
        self.assert_closed();
        let files = self.files.lock().expect("no panic while locked").clone();
        OldDay { database: self.platters.copy(Path::new(DATABASE)), files }
    }

    /// Puts everything back to an earlier day, or wipes the disk. Call it while the machine is down.
    pub fn put_back(&self, day: Option<&OldDay>) {
        self.assert_closed();
        self.platters.restore(Path::new(DATABASE), day.map(|day| &day.database));
        *self.files.lock().expect("no panic while locked") = day.map(|day| day.files.clone()).unwrap_or_default();
        self.older_notes.lock().expect("no panic while locked").clear();
    }

    /// From here on every sync takes so long; zero: as usual.
    pub fn slow_down(&self, sync: Duration) {
        self.slow_ms.store(sync.as_millis() as u64, Ordering::Relaxed);
    }

    /// Answers syncs from here on without doing them.
    pub fn lie(&self) {
        self.platters.lie();
    }

    /// The member is about to die: from here on nothing it does reaches the disk.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
        self.platters.freeze();
    }

    /// The machine lost power and has it again.
    pub fn power_loss(&self, seed: u32, torn: bool) {
        self.assert_closed();
        self.platters.power_loss(seed, torn);
        self.lose_notes(seed);
        self.frozen.store(false, Ordering::Relaxed);
    }

    /// Only the process died.
    pub fn thaw(&self) {
        self.assert_closed();
        self.platters.thaw();
        self.frozen.store(false, Ordering::Relaxed);
    }

    /// Of each note the newest is found, or an older one, or none.
    fn lose_notes(&self, seed: u32) {
        let mut files = self.files.lock().expect("no panic while locked");
        for (path, older) in std::mem::take(&mut *self.older_notes.lock().expect("no panic while locked")) {
            match seed as usize % (older.len() + 2) {
                0 => {}
                1 => drop(files.remove(&path)),
                back => drop(files.insert(path, older[older.len() + 1 - back].clone())),
            }
        }
    }

    /// A member that survives its own crash would write where its successor writes.
    fn assert_closed(&self) {
        let held = self.locks.lock().expect("no panic while locked");
        assert!(held.is_empty(), "a crashed member still holds {held:?}");
    }

    fn writable(&self) -> io::Result<()> {
        match self.frozen.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the disk is gone")),
            false => Ok(()),
        }
    }
}

impl Disk for SimDisk {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files.lock().expect("no panic while locked").get(path).cloned())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.writable()?;
        self.files.lock().expect("no panic while locked").insert(path.to_path_buf(), bytes.to_vec());
        // The file was replaced as a whole: what notes said before lies in one that is gone.
        self.older_notes.lock().expect("no panic while locked").remove(path);
        Ok(())
    }

    fn note(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.writable()?;
        assert!(bytes.len() <= 512, "a note fits into one sector");
        let before = self.files.lock().expect("no panic while locked").insert(path.to_path_buf(), bytes.to_vec());
        let mut older = self.older_notes.lock().expect("no panic while locked");
        let older = older.entry(path.to_path_buf()).or_default();
        older.extend(before);
        while older.len() > OLDER_NOTES {
            older.pop_front();
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.writable()?;
        self.files.lock().expect("no panic while locked").remove(path);
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let files = self.files.lock().expect("no panic while locked");
        let mut names = BTreeSet::new();
        for path in files.keys() {
            if let Ok(rest) = path.strip_prefix(folder)
                && let Some(first) = rest.components().next()
            {
                names.insert(first.as_os_str().to_string_lossy().into_owned());
            }
        }
        Ok(names.into_iter().collect())
    }

    fn create_dir_all(&self, _folder: &Path) -> io::Result<()> {
        self.writable()
    }

    fn lock(&self, folder: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut locks = self.locks.lock().expect("no panic while locked");
        match locks.insert(folder.to_path_buf()) {
            true => Ok(Box::new(Held { folder: folder.to_path_buf(), locks: self.locks.clone() })),
            false => Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{} is in use", folder.display()))),
        }
    }

    fn database_env(&self) -> Option<rocksdb::Env> {
        Some(self.platters.env())
    }

    fn syncing(&self) -> Syncing {
        match Duration::from_millis(self.slow_ms.load(Ordering::Relaxed)) {
            Duration::ZERO => Syncing::Simulated { min: SYNC_MIN, max: SYNC_MAX },
            slow => Syncing::Simulated { min: slow / 2, max: slow },
        }
    }
}

/// A folder that is taken until this is dropped.
struct Held {
    folder: PathBuf,
    locks: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Ok(mut locks) = self.locks.lock() {
            locks.remove(&self.folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_disk_takes_nothing_and_forgets_nothing_it_had() {
        let disk = SimDisk::default();
        let path = Path::new("/data/identity");
        disk.write(path, b"one").unwrap();
        disk.freeze();
        assert!(disk.write(path, b"two").is_err());
        disk.power_loss(1, true);
        assert_eq!(disk.read(path).unwrap().unwrap(), b"one");
        assert_eq!(disk.list(Path::new("/data")).unwrap(), ["identity"]);
    }

    #[test]
    fn a_note_may_be_older_or_missing_after_a_power_loss_but_never_after_a_crash() {
        let path = Path::new("/data/mark");
        let mut found = BTreeSet::new();
        for seed in 0..30 {
            let disk = SimDisk::default();
            for note in ["one", "two", "three"] {
                disk.note(path, note.as_bytes()).unwrap();
            }
            disk.freeze();
            disk.thaw();
            assert_eq!(disk.read(path).unwrap().unwrap(), b"three");
            disk.freeze();
            disk.power_loss(seed, false);
            found.insert(disk.read(path).unwrap());
        }
        let all = [None, Some(b"one".to_vec()), Some(b"three".to_vec()), Some(b"two".to_vec())];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), all);
    }

    #[test]
    fn a_folder_is_taken_once() {
        let disk = SimDisk::default();
        let held = disk.lock(Path::new("/data")).unwrap();
        assert!(disk.lock(Path::new("/data")).is_err());
        drop(held);
        assert!(disk.lock(Path::new("/data")).is_ok());
    }
}
