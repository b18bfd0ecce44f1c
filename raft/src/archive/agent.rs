//! Fills the cluster's shelf: a full state each hour, what was applied since every ten seconds.
//!
//! One member does it. The leader, when it has a place for backups; else, or when nothing was archived for a while, the
//! member with the lowest id that has one. Two that overlap for a moment write the same entries twice, which no reader
//! minds.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use openraft::storage::RaftLogReader;
use serde::{Deserialize, Serialize};
use state_machine::{MemberId, State};
use tokio::time::{Instant, sleep_until};
use world::Objects;

use super::{
    ArchiveError,
    format::{FullHead, SegmentHead},
    replay::{Begin, reaches, replay},
    shelf::{Item, Kept, Shelf},
};
use crate::{
    cluster::Core,
    encode::{decode, encode},
    log::Log,
    types::Entry,
};

/// The age of the newest acknowledged write that can be missing from a backup.
const PERIOD: Duration = Duration::from_secs(10);
const FULL_EVERY_MS: u64 = 3_600_000;
/// Entries in one file.
const SEGMENT_ENTRIES: usize = 10_000;
/// After so long without news another member steps in; with its period that is within 30 s (reliability rules, 6.2).
const SILENT_MS: u64 = 18_000;
/// Restoring on trial.
const TRIAL_EVERY_MS: u64 = 7 * 24 * 3_600_000;
/// So many hourly fulls are compared with what the log between them leads to.
const TRIAL_FULLS: usize = 24;
/// Remembers the last trial in the member's folder.
const TRIAL_NOTE: &str = "backup.trial";

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
    /// This member fills the shelf now.
    pub acting: bool,
    /// The place, as people call it.
    pub place: String,
    /// How old the newest write is that might be missing, when this was told; none: nothing was archived yet.
    pub behind_ms: Option<u64>,
    /// When a backup was last restored on trial and its states compared; zero: never by this member.
    pub verified_at_ms: u64,
    /// What the last trial found; empty when nothing.
    pub trial_error: String,
}

impl BackupReport {
    /// As it is to be told now.
    pub fn at(mut self, now_ms: u64) -> BackupReport {
        self.behind_ms = (self.archived_at_ms > 0).then(|| now_ms.saturating_sub(self.archived_at_ms));
        self
    }
}

/// Whether it is `me` who fills the shelf. `told`: what members with a place said a moment ago; `newest_ms`: when
/// anything was last archived, as far as this member ever heard.
fn is_my_turn(
    me: MemberId,
    leader: Option<MemberId>,
    told: &BTreeMap<MemberId, BackupReport>,
    newest_ms: u64,
    now_ms: u64,
) -> bool {
    if leader == Some(me) {
        return true;
    }
    let is_fresh = |report: &BackupReport| now_ms.saturating_sub(report.archived_at_ms) < SILENT_MS;
    // A stand-in goes on until the leader does it, so that they do not take turns.
    let leader_does =
        leader.and_then(|leader| told.get(&leader)).is_some_and(|report| is_fresh(report) && report.acting);
    if leader_does {
        return false;
    }
    let others = || told.iter().filter(|(id, _)| **id != me && Some(**id) != leader);
    if others().any(|(_, report)| report.acting && is_fresh(report)) {
        return false;
    }
    let is_lowest = others().all(|(id, report)| *id > me || !report.error.is_empty());
    is_lowest && now_ms.saturating_sub(newest_ms) >= SILENT_MS
}

struct Agent {
    core: Arc<Core>,
    shelf: Shelf,
    log: Log,
    name: String,
    folder: PathBuf,
    report: BackupReport,
    /// When anything was last archived by anybody; at first when this member started.
    newest_ms: u64,
    trial_due_ms: u64,
}

/// Runs as long as the member does.
pub async fn keep(core: Arc<Core>, place: Arc<dyn Objects>, log: Log, name: String, folder: PathBuf) {
    let now = core.world.clock.now_ms();
    let shelf = Shelf::new(place.clone(), &*core.cluster_id, core.world.disk.clone());
    let note = core.world.disk.read(&folder.join(TRIAL_NOTE)).ok().flatten();
    let verified_at_ms = note.and_then(|bytes| decode::<u64>(&bytes).ok()).unwrap_or_default();
    let report = BackupReport { place: place.name().to_owned(), verified_at_ms, ..BackupReport::default() };
    let mut agent = Agent { core, shelf, log, name, folder, report, newest_ms: now, trial_due_ms: 0 };
    agent.core.boards.tell_backup(agent.report.clone());
    let mut next = Instant::now();
    loop {
        agent.turn().await;
        next = next.max(Instant::now()) + PERIOD;
        sleep_until(next).await;
    }
}

impl Agent {
    async fn turn(&mut self) {
        let now = self.core.world.clock.now_ms();
        let told = self.core.boards.backups();
        self.newest_ms = told.values().map(|report| report.archived_at_ms).fold(self.newest_ms, u64::max);
        let leader = self.core.leadership.borrow().leader;
        if !is_my_turn(self.core.me, leader, &told, self.newest_ms, now) {
            if self.report.acting {
                tracing::info!("another member fills the shelf");
            }
            self.report = BackupReport { acting: false, error: String::new(), ..std::mem::take(&mut self.report) };
            self.core.boards.tell_backup(self.report.clone());
            return;
        }
        let begins = !self.report.acting;
        self.report.acting = true;
        let result = match begins {
            true => self.pick_up().await,
            false => Ok(()),
        };
        let result = match result {
            Ok(()) => self.step().await,
            // What lies there is not known: that must be known before anything is added.
            Err(error) => {
                self.report.acting = false;
                Err(error)
            }
        };
        match result {
            Ok(()) => self.report.error.clear(),
            Err(error) => {
                tracing::warn!(%error, "the backup failed; it will be tried again");
                self.report.error = error.to_string();
            }
        }
        self.core.boards.tell_backup(self.report.clone());
        self.try_out(now).await;
    }

    /// Goes on where another member, or an earlier start, ended.
    async fn pick_up(&mut self) -> Result<(), ArchiveError> {
        let items = self.shelf.items().await?;
        let full = items.iter().rev().find(|item| matches!(item, Item::Full { .. }));
        (self.report.full_at_ms, self.report.index) = match full {
            Some(full) => (full.taken_ms(), reaches(&items, full.last())),
            None => (0, 0),
        };
        tracing::info!(shelf = self.shelf.name(), index = self.report.index, "fills the shelf of backups");
        Ok(())
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
            let last = head.last;
            if state_machine::mutants::is("backup-skips-an-entry") && entries.len() > 1 {
                entries.pop();
            }
            self.shelf.put_segment(head, entries).await?;
            self.report.index = last;
        }
        Ok(true)
    }

    async fn archive_full(&mut self, state: Arc<State>, now: u64) -> Result<(), ArchiveError> {
        let index = state.revision().0;
        let head = FullHead {
            cluster_id: self.core.cluster_id.to_string(),
            member: self.name.clone(),
            index,
            term: self.core.status().term,
            taken_ms: now,
            state_ms: state.now().0,
            program: env!("CARGO_PKG_VERSION").into(),
            ..FullHead::default()
        };
        let item = self.shelf.put_full(head, state).await?;
        // A rehearsal of the bad day: read it and compare the state.
        self.shelf.full(&item).await?;
        self.shelf.prune(Kept::default(), now).await?;
        (self.report.full_at_ms, self.report.index) = (now, self.report.index.max(index));
        tracing::debug!(index, "a full backup was written and read back");
        Ok(())
    }

    /// Once a week, and an hour after a failure: restores the last day on trial and compares all states on the way.
    async fn try_out(&mut self, now: u64) {
        let told = self.core.boards.backups();
        let last = told.values().map(|report| report.verified_at_ms).fold(self.report.verified_at_ms, u64::max);
        let ready = self.report.full_at_ms > 0 && self.report.error.is_empty() && now >= self.trial_due_ms;
        if !ready || now.saturating_sub(last) < TRIAL_EVERY_MS {
            return;
        }
        let found = match replay(&self.shelf, None, Begin::Back(TRIAL_FULLS)).await {
            Ok(done) => match done.stopped {
                None => Ok((done.entries, done.compared, done.gaps, done.state.revision())),
                Some(why) => Err(why),
            },
            Err(error) => Err(error.to_string()),
        };
        match found {
            Ok((entries, compared, gaps, revision)) => {
                if !gaps.is_empty() {
                    tracing::warn!(?gaps, "moments between two full backups cannot be restored; later ones can");
                }
                tracing::info!(entries, compared, %revision, "a backup was restored on trial; all states are the same");
                self.report.verified_at_ms = now;
                self.report.trial_error.clear();
                if let Err(error) = self.core.world.disk.write(&self.folder.join(TRIAL_NOTE), &encode(&now)) {
                    tracing::warn!(%error, "when a backup was tried could not be noted");
                }
            }
            Err(why) => {
                tracing::error!(why, "the backup cannot be restored; a full is written now");
                self.report.trial_error = why;
                self.trial_due_ms = now + FULL_EVERY_MS;
                // Whatever is wrong with what lies there, from here on it is whole.
                self.report.full_at_ms = 0;
            }
        }
        self.core.boards.tell_backup(self.report.clone());
    }
}

/// What everybody's backups come to, as metrics of this member.
pub fn measure(core: &Core, own: Option<BackupReport>) {
    let now = core.world.clock.now_ms();
    let mut reports: Vec<BackupReport> = core.boards.backups().into_values().collect();
    reports.extend(own);
    let newest = |of: fn(&BackupReport) -> u64| reports.iter().map(of).max().filter(|at| *at > 0);
    let age = |at: Option<u64>| at.map_or(-1, |at| (now.saturating_sub(at) / 1000) as i64);
    let metrics = &core.metrics;
    metrics.backup_age.set(age(newest(|report| report.full_at_ms)));
    metrics.backup_rpo.set(age(newest(|report| report.archived_at_ms)));
    metrics.backup_verified_age.set(age(newest(|report| report.verified_at_ms)));
    let failing = reports.iter().any(|report| !report.error.is_empty() || !report.trial_error.is_empty());
    metrics.backup_failing.set(i64::from(failing));
    metrics.backup_trial_failed.set(i64::from(reports.iter().any(|report| !report.trial_error.is_empty())));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: MemberId = MemberId(2);

    fn told(reports: &[(u64, u64, bool)]) -> BTreeMap<MemberId, BackupReport> {
        let report = |(id, archived_at_ms, acting): &(u64, u64, bool)| {
            (
                MemberId(*id),
                BackupReport { archived_at_ms: *archived_at_ms, acting: *acting, ..BackupReport::default() },
            )
        };
        reports.iter().map(report).collect()
    }

    #[test]
    fn the_leader_does_it_and_another_when_it_does_not() {
        let (leader, now) = (Some(MemberId(1)), 100_000);
        assert!(is_my_turn(MemberId(1), leader, &told(&[]), now, now), "the leader, at once");
        assert!(!is_my_turn(ME, leader, &told(&[(1, now - 10_000, true)]), now - 10_000, now));
        // The leader keeps no backup: after a while one of the others steps in, the one with the lowest id.
        let nobody = told(&[(3, 0, false)]);
        assert!(!is_my_turn(ME, leader, &nobody, now - SILENT_MS + 1, now));
        assert!(is_my_turn(ME, leader, &nobody, now - SILENT_MS, now));
        assert!(!is_my_turn(MemberId(3), leader, &told(&[(2, 0, false)]), now - SILENT_MS, now));
        // The leader's place fails.
        let failing = told(&[(1, now - SILENT_MS, true)]);
        assert!(is_my_turn(ME, leader, &failing, now - SILENT_MS, now));
        // A stand-in that works is left alone, until the leader does it again.
        let standing_in = told(&[(1, 0, true), (3, now - 9_000, true)]);
        assert!(!is_my_turn(ME, leader, &standing_in, now - 9_000, now));
        assert!(is_my_turn(ME, None, &told(&[]), now - SILENT_MS, now), "nobody leads");
    }
}
