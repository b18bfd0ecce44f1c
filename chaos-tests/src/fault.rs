//! A RocksDB `Env` in memory that can lose power. One per simulated machine.
#![allow(unsafe_code, reason = "the one bridge to the C++ of fault.cc; every other file of the proof is safe")]

use std::{
    ffi::CString,
    os::raw::{c_char, c_int, c_void},
    path::Path,
};

use librocksdb_sys as ffi;

unsafe extern "C" {
    fn chaos_disk_new() -> *mut c_void;
    fn chaos_disk_env(disk: *mut c_void) -> *mut ffi::rocksdb_env_t;
    fn chaos_disk_lie(disk: *mut c_void);
    fn chaos_disk_freeze(disk: *mut c_void);
    fn chaos_disk_power_loss(disk: *mut c_void, seed: u32, torn: c_int) -> c_int;
    fn chaos_disk_thaw(disk: *mut c_void);
    fn chaos_disk_copy(disk: *mut c_void, folder: *const c_char) -> *mut c_void;
    fn chaos_disk_restore(disk: *mut c_void, folder: *const c_char, copy: *const c_void) -> c_int;
    fn chaos_copy_drop(copy: *mut c_void);
}

/// The files of a database as they once were.
pub struct Copy(*mut c_void);

// SAFETY: a copy is a map of bytes that nothing changes after it was made.
unsafe impl Send for Copy {}
// SAFETY: see above.
unsafe impl Sync for Copy {}

impl Drop for Copy {
    fn drop(&mut self) {
        // SAFETY: made by chaos_disk_copy and dropped once.
        unsafe { chaos_copy_drop(self.0) }
    }
}

fn c_path(folder: &Path) -> CString {
    CString::new(folder.to_string_lossy().as_bytes()).expect("no path of the simulation holds a zero byte")
}

/// The platters of one machine and the `Env` that writes to them.
pub struct Platters {
    /// Owned by `env`; valid as long as that is.
    disk: *mut c_void,
    env: rocksdb::Env,
}

// SAFETY: FaultInjectionTestEnv takes a mutex around everything these calls touch, and a RocksDB Env is shared between
// threads by design.
unsafe impl Send for Platters {}
// SAFETY: see above.
unsafe impl Sync for Platters {}

impl Default for Platters {
    fn default() -> Platters {
        Platters::new()
    }
}

impl Platters {
    /// An empty disk.
    pub fn new() -> Platters {
        // SAFETY: the disk is created here and handed to exactly one handle, which `Env` destroys with its last clone.
        unsafe {
            let disk = chaos_disk_new();
            Platters { disk, env: rocksdb::Env::from_raw(chaos_disk_env(disk)) }
        }
    }

    /// What databases are opened in.
    pub fn env(&self) -> rocksdb::Env {
        self.env.clone()
    }

    /// From here on syncs of write-ahead logs are answered and not done: what the laws must notice.
    pub fn lie(&self) {
        // SAFETY: `self.env` keeps the disk alive, and no database is open in it yet.
        unsafe { chaos_disk_lie(self.disk) }
    }

    /// From here on every write fails. Call it before the member is dropped: closing a database must not flush.
    pub fn freeze(&self) {
        // SAFETY: `self.env` keeps the disk alive.
        unsafe { chaos_disk_freeze(self.disk) }
    }

    /// Forgets what was not synced and works again. Call it when the member and its database are gone.
    /// `torn`: each file keeps a random part of its unsynced tail.
    pub fn power_loss(&self, seed: u32, torn: bool) {
        // SAFETY: `self.env` keeps the disk alive.
        let failed = unsafe { chaos_disk_power_loss(self.disk, seed, c_int::from(torn)) };
        assert_eq!(failed, 0, "the simulated disk could drop its unsynced bytes");
    }

    /// What is in a folder. Call it while no database is open there.
    pub fn copy(&self, folder: &Path) -> Copy {
        // SAFETY: `self.env` keeps the disk alive; the folder's name outlives the call.
        unsafe { Copy(chaos_disk_copy(self.disk, c_path(folder).as_ptr())) }
    }

    /// Puts a folder back to what it was, or empties it. Call it while no database is open there.
    pub fn restore(&self, folder: &Path, copy: Option<&Copy>) {
        let copy = copy.map_or(std::ptr::null(), |copy| copy.0.cast_const());
        // SAFETY: `self.env` keeps the disk alive; name and copy outlive the call.
        let failed = unsafe { chaos_disk_restore(self.disk, c_path(folder).as_ptr(), copy) };
        assert_eq!(failed, 0, "the simulated disk takes what it once held");
    }

    /// Works again with nothing forgotten: only the process died.
    pub fn thaw(&self) {
        // SAFETY: `self.env` keeps the disk alive.
        unsafe { chaos_disk_thaw(self.disk) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(platters: &Platters) -> rocksdb::DB {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_env(&platters.env());
        rocksdb::DB::open(&options, "/db").unwrap()
    }

    #[test]
    fn power_loss_keeps_what_was_synced_and_forgets_the_rest() {
        let platters = Platters::new();
        let db = open(&platters);
        db.put("synced", "1").unwrap();
        db.flush_wal(true).unwrap();
        db.put("unsynced", "1").unwrap();
        platters.freeze();
        assert!(db.put("frozen", "1").is_err(), "a frozen disk takes nothing");
        drop(db);
        platters.power_loss(7, false);

        let db = open(&platters);
        assert!(db.get("synced").unwrap().is_some());
        assert!(db.get("unsynced").unwrap().is_none());
        assert!(db.get("frozen").unwrap().is_none());
    }

    #[test]
    fn a_lying_disk_forgets_what_it_said_was_synced() {
        let platters = Platters::new();
        platters.lie();
        let db = open(&platters);
        db.put("synced", "1").unwrap();
        db.flush_wal(true).unwrap();
        platters.freeze();
        drop(db);
        platters.power_loss(7, false);
        assert!(open(&platters).get("synced").unwrap().is_none());
    }

    #[test]
    fn a_folder_can_be_put_back_and_emptied() {
        let platters = Platters::new();
        let db = open(&platters);
        db.put("first", "1").unwrap();
        db.flush_wal(true).unwrap();
        drop(db);
        let copy = platters.copy(Path::new("/db"));
        let db = open(&platters);
        db.put("second", "1").unwrap();
        db.flush_wal(true).unwrap();
        drop(db);
        platters.restore(Path::new("/db"), Some(&copy));
        let db = open(&platters);
        assert!(db.get("first").unwrap().is_some());
        assert!(db.get("second").unwrap().is_none());
        drop(db);
        platters.restore(Path::new("/db"), None);
        assert!(open(&platters).get("first").unwrap().is_none());
    }

    #[test]
    fn a_mere_crash_forgets_nothing() {
        let platters = Platters::new();
        let db = open(&platters);
        db.put("unsynced", "1").unwrap();
        platters.freeze();
        drop(db);
        platters.thaw();
        assert!(open(&platters).get("unsynced").unwrap().is_some());
    }

    #[test]
    fn a_torn_tail_never_reaches_what_was_synced() {
        for seed in 0..20 {
            let platters = Platters::new();
            let db = open(&platters);
            db.put("synced", "1").unwrap();
            db.flush_wal(true).unwrap();
            for i in 0..50 {
                db.put(format!("tail{i}"), "x".repeat(100)).unwrap();
            }
            platters.freeze();
            drop(db);
            platters.power_loss(seed, true);
            assert!(open(&platters).get("synced").unwrap().is_some(), "seed {seed}");
        }
    }
}
