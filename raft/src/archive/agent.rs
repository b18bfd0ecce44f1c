//! Fills this member's shelf: a full state each hour, what was applied since every ten seconds.

use std::{path::PathBuf, sync::Arc, time::Duration};

use openraft::storage::RaftLogReader;
use serde::{Deserialize, Serialize};
use state_machine::State;
use tokio::time::{Instant, sleep_until};

use super::{
    ArchiveError,
    format::{FullHead, SegmentHead},
    shelf::{Item, Kept, Shelf},
};
use crate::{cluster::Core, encode::Blob, log::Log, store::Store, types::Entry};

/// The age of the newest acknowledged write that can be missing from a backup.
const PERIOD: Duration = Duration::from_secs(10);
const FULL_EVERY_MS: u64 = 3_600_000;
/// Entries in one file.
const SEGMENT_ENTRIES: usize = 10_000;

/// How a member's backup stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupReport {
    /// When everything applied had last been archived, in milliseconds since 1970; zero: never.
    pub archived_at_ms: u64,
    /// When the newest full was written and read back.
    pub full_at_ms: u64,
    /// The log index up to which everything is archived.
    pub index: u64,
    /// Why the last attempt failed; empty when it did not.
    pub error: String,
}

struct Agent {
    core: Arc<Core>,
    shelf: Shelf,
    store: Store,
    log: Log,
    name: String,
    report: BackupReport,
}

/// Runs as long as the member does.
pub async fn keep(core: Arc<Core>, target: PathBuf, store: Store, log: Log, name: String) {
    let folder = target.join(&*core.cluster_id).join(format!("{name}-{}", core.me));
    let shelf = Shelf::new(folder, core.world.disk.clone());
    let mut agent = Agent { core, shelf, store, log, name, report: BackupReport::default() };
    agent.pick_up();
    let mut next = Instant::now();
    loop {
        match agent.step().await {
            Ok(()) => agent.report.error.clear(),
            Err(error) => {
                tracing::warn!(%error, "the backup failed; it will be tried again");
                agent.report.error = error.to_string();
            }
        }
        agent.core.boards.tell_backup(agent.report.clone());
        next = next.max(Instant::now()) + PERIOD;
        sleep_until(next).await;
    }
}

impl Agent {
    /// Goes on where an earlier start ended.
    fn pick_up(&mut self) {
        let items = self.shelf.items().unwrap_or_default();
        let full = items.iter().rev().find(|item| matches!(item, Item::Full { .. }));
        if let Some(full) = full {
            self.report.full_at_ms = full.taken_ms();
            self.report.index = super::replay::reaches(&items, full.last());
        }
    }

    async fn step(&mut self) -> Result<(), ArchiveError> {
        let state = self.core.latest.borrow().clone();
        if !state.is_founded() {
            return Ok(());
        }
        let (now, index) = (self.core.world.clock.now_ms(), state.revision().0);
        let mut complete = self.report.full_at_ms > 0;
        if complete && index > self.report.index {
            complete = self.archive_log(index, now).await?;
        }
        if !complete || now.saturating_sub(self.report.full_at_ms) >= FULL_EVERY_MS {
            self.archive_full(state, now).await?;
        }
        self.report.archived_at_ms = now;
        Ok(())
    }

    /// False: the log was cut meanwhile, and only a full can close the gap.
    async fn archive_log(&mut self, index: u64, now: u64) -> Result<bool, ArchiveError> {
        while self.report.index < index {
            let first = self.report.index + 1;
            let broken = |source| ArchiveError::Disk { path: "log".into(), source };
            let mut entries: Vec<Entry> = self.log.limited_get_log_entries(first, index + 1).await.map_err(broken)?;
            entries.truncate(SEGMENT_ENTRIES);
            let (Some(begin), Some(end)) = (entries.first(), entries.last()) else { return Ok(false) };
            if begin.log_id.index != first {
                return Ok(false);
            }
            let head = SegmentHead {
                cluster_id: self.core.cluster_id.to_string(),
                member: self.name.clone(),
                first,
                last: end.log_id.index,
                term: end.log_id.leader_id.term,
                taken_ms: now,
            };
            let shelf = self.shelf.clone();
            let last = head.last;
            let work = move || shelf.put_segment(&head, &entries);
            self.store.heavy(work).await.map_err(broken)??;
            self.report.index = last;
        }
        Ok(true)
    }

    async fn archive_full(&mut self, state: Arc<State>, now: u64) -> Result<(), ArchiveError> {
        let index = state.revision().0;
        let mut head = FullHead {
            cluster_id: self.core.cluster_id.to_string(),
            member: self.name.clone(),
            index,
            term: self.core.status().term,
            taken_ms: now,
            state_ms: state.now().0,
            program: env!("CARGO_PKG_VERSION").into(),
            ..FullHead::default()
        };
        let shelf = self.shelf.clone();
        let work = move || {
            head.state_hash = Blob(state.hash().to_vec().into());
            let item = shelf.put_full(&head, &state)?;
            // A rehearsal of the bad day: read it and compare the state.
            shelf.full(&item)?;
            shelf.prune(Kept::default(), now)
        };
        let broken = |source| ArchiveError::Disk { path: "backup".into(), source };
        self.store.heavy(work).await.map_err(broken)??;
        (self.report.full_at_ms, self.report.index) = (now, self.report.index.max(index));
        tracing::debug!(index, "a full backup was written and read back");
        Ok(())
    }
}
