//! The one place that writes: takes what waits, writes it as one batch, syncs once, tells everybody.
//!
//! Real disks get a thread, so that neither a slow write nor a slow sync holds up a heartbeat. Simulated disks get a
//! task that sleeps as long as a sync would take. Both do the same three steps: [`Writer::write`], wait,
//! [`Writer::sync`].

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rocksdb::WriteBatch;
use state_machine::mutants;
use tokio::sync::{mpsc, watch};
use world::{Disk, Entropy, Syncing};

use super::{Change, Database, Job, Mark, Note, Waiter, other};
use crate::{drills::Drills, integrity::fail, metrics::StoreMetrics, space};

/// What a write has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In order with everything else; lost with the power, unless something later was synced.
    Ordered,
    /// On disk.
    Synced,
}

/// At most this many jobs share one batch and one sync.
const TOGETHER: usize = 256;

pub(super) struct Writer {
    pub database: Arc<Database>,
    pub disk: Arc<dyn Disk>,
    /// The member's.
    pub folder: PathBuf,
    pub mark_path: PathBuf,
    pub mark: Mark,
    pub written: Arc<AtomicU64>,
    /// The first failure. After it nothing is written any more: what a failed sync left behind is unknown, and asking
    /// again would be answered with a lie.
    pub broken: watch::Sender<Option<String>>,
    pub metrics: StoreMetrics,
    pub drills: Drills,
}

impl Writer {
    pub(super) fn start(self, jobs: mpsc::Receiver<Job>, syncing: Syncing, entropy: Entropy) -> io::Result<()> {
        match syncing {
            Syncing::Thread => {
                std::thread::Builder::new().name("raft-writer".into()).spawn(move || self.run_on_thread(jobs))?;
            }
            Syncing::Simulated { .. } => {
                let disk = self.disk.clone();
                // Asked each time: a simulated disk may be slow for a while.
                let span = move || match disk.syncing() {
                    Syncing::Simulated { min, max } => min + entropy.jitter(max.saturating_sub(min)),
                    Syncing::Thread => std::time::Duration::ZERO,
                };
                tokio::spawn(self.run_as_task(jobs, span));
            }
        }
        Ok(())
    }

    fn run_on_thread(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        while queue.blocking_recv_many(&mut jobs, TOGETHER) > 0 {
            self.metrics.pace.begin();
            let written = self.write(&jobs);
            let synced = matches!(written, Ok(true));
            let result = written.and_then(|sync| if sync { self.sync(&jobs) } else { Ok(()) });
            self.metrics.pace.end(synced);
            self.finish(&mut jobs, result);
        }
    }

    async fn run_as_task(mut self, mut queue: mpsc::Receiver<Job>, span: impl Fn() -> std::time::Duration) {
        let mut jobs = Vec::new();
        while queue.recv_many(&mut jobs, TOGETHER).await > 0 {
            self.metrics.pace.begin();
            let mut result = self.write(&jobs);
            if mutants::is("ack-before-fsync") {
                self.metrics.pace.end(false);
                self.finish(&mut jobs, result.map(drop));
                continue;
            }
            let synced = matches!(result, Ok(true));
            if synced {
                tokio::time::sleep(span()).await;
                result = self.sync(&jobs).map(|()| true);
            }
            self.metrics.pace.end(synced);
            self.finish(&mut jobs, result.map(drop));
        }
    }

    /// Puts all jobs into the write-ahead log. Whether one of them wants a sync.
    fn write(&mut self, jobs: &[Job]) -> io::Result<bool> {
        if let Some(reason) = &*self.broken.borrow() {
            return Err(io::Error::other(reason.clone()));
        }
        world::failpoint!("store.batch.before", Err);
        self.lower_mark(jobs)?;
        let mut batch = WriteBatch::default();
        for change in jobs.iter().flat_map(|job| &job.changes) {
            match change {
                Change::Put(table, key, value) => batch.put_cf(self.database.table(*table), key, value),
                Change::Delete(table, key) => batch.delete_cf(self.database.table(*table), key),
                Change::DeleteRange(table, from, to) => {
                    batch.delete_range_cf(self.database.table(*table), from, to);
                }
            }
        }
        self.database.db.write(batch).map_err(other)?;
        world::failpoint!("store.batch.after", Err);
        if let Some(number) = jobs.iter().map(|job| job.number).max().filter(|number| *number > 0) {
            self.written.fetch_max(number, Ordering::AcqRel);
        }
        Ok(jobs.iter().any(|job| job.durability == Durability::Synced))
    }

    /// Entries are about to go that the mark says are there. The mark must forget them on disk first: were the power
    /// to fail in between, a start would otherwise miss them and stop.
    fn lower_mark(&mut self, jobs: &[Job]) -> io::Result<()> {
        let mut lowered = false;
        for job in jobs {
            if let Note::Truncated(last) = job.note
                && self.mark.last > last
            {
                self.mark.last = last;
                lowered = true;
            }
        }
        if lowered { self.mark.write(&*self.disk, &self.mark_path) } else { Ok(()) }
    }

    /// Makes everything written so far durable, then remembers how far that is.
    fn sync(&mut self, jobs: &[Job]) -> io::Result<()> {
        let timer = self.metrics.sync_seconds.start_timer();
        world::failpoint!("store.sync.before", Err);
        self.drills.hold_sync();
        self.database.db.flush_wal(true).map_err(other)?;
        world::failpoint!("store.sync.after", Err);
        timer.observe_duration();
        let before = self.mark.clone();
        for job in jobs {
            match job.note {
                Note::Nothing => {}
                Note::Appended(last) => self.mark.last = Some(last),
                // A truncation after an append of the same batch.
                Note::Truncated(last) => self.mark.last = self.mark.last.min(last),
                Note::Voted(vote) => self.mark.vote = Some(vote),
            }
        }
        if self.mark != before {
            self.mark.note(&*self.disk, &self.mark_path)?;
            world::failpoint!("store.mark.after", Err);
        }
        Ok(())
    }

    fn finish(&mut self, jobs: &mut Vec<Job>, result: io::Result<()>) {
        if let Err(error) = &result
            && self.broken.borrow().is_none()
        {
            tracing::error!(%error, "the disk failed; this member writes nothing any more");
            let full = is_full(error);
            if full && let Err(error) = space::free_reserve(&*self.disk, &self.folder) {
                tracing::warn!(%error, "the reserve could not be freed");
            }
            let what = if full { "the disk is full, its reserve was freed" } else { "the disk failed" };
            fail(&self.broken, format!("{what}: {error}"));
        }
        for job in jobs.drain(..) {
            let result = result.as_ref().map_or_else(|error| Err(io::Error::other(error.to_string())), |()| Ok(()));
            match job.waiter {
                Waiter::Nobody => {}
                Waiter::Log(flushed) => flushed.io_completed(result),
                Waiter::Someone(done) => drop(done.send(result)),
            }
        }
    }
}

/// A write for which there was no room. What it left behind is unknown, as with any other failure, and a start finds
/// out; the freed reserve lets it.
pub fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull || error.to_string().contains("No space left")
}
