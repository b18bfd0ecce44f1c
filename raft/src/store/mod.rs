//! One RocksDB per member: log, metadata and applied rows in three column families over one write-ahead log.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | opening, reading, asking for writes |
//! | `writer.rs` | the one place that writes: group commit |
//! | `mark.rs` | what was synced, remembered outside the database |
//! | `recover.rs` | what a start finds, and what it refuses |
//! | `scrub.rs` | everything read once more from the disk |
//!
//! Everything is written by one queue, in order. So the write-ahead log has log entries before the rows applied from
//! them, and a vote after the entries that came before it; any synced prefix of it is a consistent member.

mod mark;
pub mod pace;
mod recover;
mod scrub;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use openraft::storage::IOFlushed;
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Direction, IteratorMode, ReadOptions};
use tokio::sync::{mpsc, oneshot, watch};
use world::{Disk, Entropy, Syncing};

pub use mark::Mark;
pub use pace::Pace;
pub use recover::{Marker, Recovered};
pub use scrub::Scrubber;
pub use writer::{Durability, is_full};

use crate::{
    drills::Drills,
    integrity::{QUARANTINED, fail},
    metrics::StoreMetrics,
    types::{LogId, Types, Vote},
};

/// The column families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Index (big endian) → entry.
    Log,
    /// Name → value: vote, purged, committed, applied, membership, marker.
    Meta,
    /// The rows of State.
    State,
}

impl Table {
    const ALL: [Table; 3] = [Table::Log, Table::Meta, Table::State];

    fn name(self) -> &'static str {
        match self {
            Table::Log => "log",
            Table::Meta => "meta",
            Table::State => "state",
        }
    }
}

/// Names in [`Table::Meta`].
pub mod key {
    pub const VOTE: &[u8] = b"vote";
    pub const PURGED: &[u8] = b"purged";
    pub const COMMITTED: &[u8] = b"committed";
    pub const APPLIED: &[u8] = b"applied";
    pub const MEMBERSHIP: &[u8] = b"membership";
    pub const MARKER: &[u8] = b"marker";
}

/// The database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something that was written is not there, or is not what was written.
    #[error("{0}")]
    Integrity(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One row to write or to remove.
#[derive(Debug)]
pub enum Change {
    Put(Table, Vec<u8>, Vec<u8>),
    Delete(Table, Vec<u8>),
    /// From (inclusive) to (exclusive).
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}

/// What a job means for the mark.
#[derive(Clone, Copy, Debug)]
enum Note {
    Nothing,
    Appended(LogId),
    /// The log ends here now.
    Truncated(Option<LogId>),
    Voted(Vote),
}

/// Who waits for a job.
enum Waiter {
    Nobody,
    Log(IOFlushed<Types>),
    Someone(oneshot::Sender<io::Result<()>>),
}

struct Job {
    changes: Vec<Change>,
    durability: Durability,
    note: Note,
    waiter: Waiter,
    /// Number of the log job, for [`Store::written`].
    number: u64,
}

/// The database and the right to its folder; the last one to let go closes it.
struct Database {
    db: DB,
    _lock: Box<dyn Send + Sync>,
    /// Dropped last: who waits for it finds the database closed and the folder free.
    gone: watch::Sender<()>,
}

impl Database {
    fn table(&self, table: Table) -> &ColumnFamily {
        self.db.cf_handle(table.name()).expect("all column families are made when the database is opened")
    }
}

fn other(error: rocksdb::Error) -> io::Error {
    io::Error::other(error)
}

/// A handle for reading and for queueing writes.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
    queue: mpsc::Sender<Job>,
    written: Arc<AtomicU64>,
    disk: Arc<dyn Disk>,
    /// Turns to a reason when something cannot be read or written any more.
    broken: watch::Sender<Option<String>>,
}

/// A [`Store`] that does not keep the database open.
pub struct WeakStore {
    database: Weak<Database>,
    queue: mpsc::WeakSender<Job>,
    written: Arc<AtomicU64>,
    disk: Arc<dyn Disk>,
    broken: watch::Sender<Option<String>>,
}

impl WeakStore {
    /// Nothing once the database is closed, or is about to be.
    pub fn upgrade(&self) -> Option<Store> {
        Some(Store {
            database: self.database.upgrade()?,
            queue: self.queue.upgrade()?,
            written: self.written.clone(),
            disk: self.disk.clone(),
            broken: self.broken.clone(),
        })
    }
}

/// What opening needs.
pub struct StoreOptions {
    /// The member's folder.
    pub folder: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub entropy: Entropy,
    /// Taken by the caller, before anything in the folder was read.
    pub lock: Box<dyn Send + Sync>,
    pub metrics: StoreMetrics,
    pub drills: Drills,
}

/// At most this many writes wait for the writer; then whoever writes waits too.
const QUEUE: usize = 1024;

impl Store {
    /// Opens the database (makes an empty one where there is none), checks what it finds, starts the writer.
    ///
    /// The watch turns to a reason once a write or a sync has failed; nothing is written after that.
    pub fn open(options: StoreOptions) -> Result<(Store, Recovered, watch::Receiver<Option<String>>), OpenError> {
        let StoreOptions { folder, disk, entropy, lock, metrics, drills } = options;
        let mark_path = folder.join(mark::FILE);
        world::failpoint!("store.open.before", |error| Err(OpenError::Io(error)));
        let database =
            Database { db: open_database(&folder.join("db"), &*disk)?, _lock: lock, gone: watch::Sender::new(()) };
        let mark = Mark::read(&*disk, &mark_path)?;
        let recovered = recover::recover(&database, &mark)?;
        world::failpoint!("store.open.recovered", |error| Err(OpenError::Io(error)));

        let database = Arc::new(database);
        let written = Arc::new(AtomicU64::new(0));
        let syncing = disk.syncing();
        let (broken, watch_broken) = watch::channel(None);
        let (queue, jobs) = mpsc::channel(QUEUE);
        let writer = writer::Writer {
            database: database.clone(),
            disk: disk.clone(),
            folder,
            mark_path,
            mark,
            written: written.clone(),
            broken: broken.clone(),
            metrics,
            drills,
        };
        writer.start(jobs, syncing, entropy)?;
        Ok((Store { database, queue, written, disk, broken }, recovered, watch_broken))
    }

    /// For whoever outlives the member's engine: as long as a [`Store`] is held, the database is not closed.
    pub fn weak(&self) -> WeakStore {
        WeakStore {
            database: Arc::downgrade(&self.database),
            queue: self.queue.downgrade(),
            written: self.written.clone(),
            disk: self.disk.clone(),
            broken: self.broken.clone(),
        }
    }

    async fn send(&self, job: Job) -> io::Result<()> {
        self.queue.send(job).await.map_err(|_| io::Error::other("the writer has stopped"))
    }

    /// Queues a write and does not wait for it. Later writes come later on disk as well.
    pub async fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        let durability = Durability::Ordered;
        self.send(Job { changes, durability, note: Note::Nothing, waiter: Waiter::Nobody, number: 0 }).await
    }

    async fn write_and_wait(&self, changes: Vec<Change>, note: Note) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        let durability = Durability::Synced;
        self.send(Job { changes, durability, note, waiter: Waiter::Someone(done), number: 0 }).await?;
        wait.await.map_err(|_| io::Error::other("the writer has stopped"))?
    }

    /// Writes and returns once it is on disk.
    pub async fn write_durably(&self, changes: Vec<Change>) -> io::Result<()> {
        self.write_and_wait(changes, Note::Nothing).await
    }

    /// Writes whose database this is.
    pub async fn write_marker(&self, marker: &Marker) -> io::Result<()> {
        let row = crate::encode::encode(marker);
        self.write_durably(vec![Change::Put(Table::Meta, key::MARKER.into(), row)]).await
    }

    /// Writes the vote and returns once it is on disk.
    pub async fn write_vote(&self, vote: Vote, change: Change) -> io::Result<()> {
        self.write_and_wait(vec![change], Note::Voted(vote)).await
    }

    /// Queues log entries ending with `last`; `flushed` is told once they are on disk.
    pub async fn append(
        &self,
        changes: Vec<Change>,
        last: LogId,
        number: u64,
        flushed: IOFlushed<Types>,
    ) -> io::Result<()> {
        let (durability, note, waiter) = (Durability::Synced, Note::Appended(last), Waiter::Log(flushed));
        self.send(Job { changes, durability, note, waiter, number }).await
    }

    /// Queues the removal of log entries after `last`.
    pub async fn truncate(&self, change: Change, last: Option<LogId>, number: u64) -> io::Result<()> {
        let (durability, note) = (Durability::Ordered, Note::Truncated(last));
        self.send(Job { changes: vec![change], durability, note, waiter: Waiter::Nobody, number }).await
    }

    /// Log jobs up to this number can be read from the database.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Rows of the log from `from` up to and without `to`, in order, until `more` says no.
    pub fn read_log(&self, from: u64, to: u64, mut more: impl FnMut(&[u8]) -> io::Result<bool>) -> io::Result<()> {
        if from >= to {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        // Without the bound an iterator wanders over the tombstones of everything purged or truncated.
        options.set_iterate_upper_bound(to.to_be_bytes().to_vec());
        let start = from.to_be_bytes();
        let mode = IteratorMode::From(&start, Direction::Forward);
        for row in self.database.db.iterator_cf_opt(self.database.table(Table::Log), options, mode) {
            let (_, value) = row.map_err(scrub::read_error).inspect_err(|error| self.note_damage(error))?;
            if !more(&value).inspect_err(|error| self.note_damage(error))? {
                break;
            }
        }
        Ok(())
    }

    /// Does slow work (serialising a large state, writing a large file) away from the tasks of Raft: on a thread of
    /// its own, or at once where the disk is simulated.
    pub async fn heavy<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        heavy(&self.disk, work).await
    }

    /// Bytes that are not what was written end this member's part in the cluster.
    fn note_damage(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidData {
            fail(&self.broken, format!("{QUARANTINED}the database is damaged: {error}"));
        }
    }

    /// Something that tells when the database is closed.
    pub fn closed(&self) -> Closed {
        Closed(self.database.gone.subscribe())
    }
}

/// Does slow work away from the tasks of Raft: on a thread of its own, or at once where the disk is simulated.
pub async fn heavy<T: Send + 'static>(
    disk: &Arc<dyn Disk>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if disk.syncing() != Syncing::Thread {
        return Ok(work());
    }
    let (done, wait) = oneshot::channel();
    std::thread::Builder::new().name("raft-heavy".into()).spawn(move || {
        let _ = done.send(work());
    })?;
    wait.await.map_err(|_| io::Error::other("a thread for slow work panicked"))
}

/// Tells when everybody has let go of a database.
pub struct Closed(watch::Receiver<()>);

impl Closed {
    /// Resolves when the database is closed and its folder free.
    pub async fn wait(&self) {
        let mut gone = self.0.clone();
        while gone.changed().await.is_ok() {}
    }
}

fn open_database(path: &Path, disk: &dyn Disk) -> Result<DB, OpenError> {
    let env = disk.database_env();
    let simulated = env.is_some();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn tail after a power loss must not refuse to open; a torn middle is what the mark is for.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_max_total_wal_size(64 << 20);
    options.set_db_write_buffer_size(if simulated { 8 << 20 } else { 64 << 20 });
    if let Some(env) = &env {
        options.set_env(env);
        // Background work is invisible to a simulation as long as there is none.
        options.set_disable_auto_compactions(true);
        options.set_skip_stats_update_on_db_open(true);
    } else {
        disk.create_dir_all(path)?;
    }
    let families = Table::ALL.map(|table| {
        let mut family = rocksdb::Options::default();
        let size = if table == Table::Meta { 1 << 20 } else { 16 << 20 };
        family.set_write_buffer_size(if simulated { 256 << 10 } else { size });
        ColumnFamilyDescriptor::new(table.name(), family)
    });
    DB::open_cf_descriptors(&options, disk.database_path(path), families).map_err(|error| match error.kind() {
        rocksdb::ErrorKind::Corruption => OpenError::Integrity(format!("the database is damaged: {error}")),
        // It names the file. An empty folder is made a database, so nothing can be missing from one that is new.
        rocksdb::ErrorKind::IOError if error.to_string().contains("No such file or directory") => {
            OpenError::Integrity(format!("a file of the database is gone: {error}"))
        }
        _ => OpenError::Io(other(error)),
    })
}
