//! Reads the member's whole disk once a week, slowly, and on command: damage that nobody reads is damage nobody knows of
//! until the day it is needed.
//!
//! The database is read from the disk itself with every checksum (store/scrub.rs), its rows are made into a State once
//! more and compared with the one in memory, and the snapshot files are read. Damage quarantines the member
//! (integrity.rs); a damaged snapshot file is only named, because it is built again from the rows.

use std::{
    path::Path,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use state_machine::State;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use world::{Disk, World};

use crate::{
    cluster::Core,
    encode::{decode, encode},
    error::StartError,
    integrity::{self, Warden},
    snapshot,
    store::{OpenError, Scrubber, heavy},
};

/// Enough for a gigabyte a minute, little enough for a disk to bear beside its work (reliability rules, section 6.3).
pub const BYTES_A_SECOND: u64 = 20 << 20;
/// Read at once, then a pause.
const PIECE: usize = 1 << 20;
const WEEK_MS: u64 = 7 * 24 * 3_600_000;
/// How often it is seen whether a week has passed.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Remembers the last time in the member's folder.
const NOTE: &str = "scrubbed";

/// What reading everything came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scrubbed {
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    pub took_ms: u64,
    pub entries: u64,
    pub rows: u64,
    pub bytes: u64,
    /// Of the State its rows say.
    pub revision: u64,
    pub state_hash: String,
    /// The State in memory was at the same revision, and equal.
    pub compared: bool,
    /// Snapshot files that are damaged; they are built again.
    pub bad_snapshots: Vec<String>,
}

/// Reads a folder through. `rate`: bytes a second, none: as fast as it goes. `memory`: the State in memory, if a member
/// runs there.
pub async fn read_through(
    folder: &Path,
    disk: &Arc<dyn Disk>,
    rate: Option<u64>,
    memory: Option<Arc<State>>,
) -> Result<Scrubbed, OpenError> {
    let start = Instant::now();
    let (at, opener) = (folder.to_path_buf(), disk.clone());
    let mut scrubber = heavy(disk, move || Scrubber::open(&at, &opener)).await??;
    let mut read = 0u64;
    loop {
        let (back, piece) = heavy(disk, move || {
            let piece = scrubber.read(PIECE);
            (scrubber, piece)
        })
        .await?;
        scrubber = back;
        let Some(piece) = piece? else { break };
        read += piece as u64;
        if let Some(rate) = rate {
            sleep_until(start + Duration::from_millis(read * 1000 / rate.max(1))).await;
        }
    }
    let tally = scrubber.tally();
    let state = heavy(disk, move || scrubber.state().map(|state| (state.hash(), state.revision().0))).await??;
    let (hash, revision) = state;
    let mut compared = false;
    if let Some(memory) = memory.filter(|memory| memory.revision().0 == revision) {
        if heavy(disk, move || memory.hash()).await? != hash {
            return Err(OpenError::Integrity(format!(
                "the rows on disk say another state than the memory at log index {revision}"
            )));
        }
        compared = true;
    }
    let bad_snapshots = snapshot::damaged_files(&folder.join("snapshots"), disk).await?;
    Ok(Scrubbed {
        at_ms: 0,
        took_ms: start.elapsed().as_millis() as u64,
        entries: tally.entries,
        rows: tally.rows,
        bytes: tally.bytes,
        revision,
        state_hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        compared,
        bad_snapshots,
    })
}

/// The folder of a member that does not run. Damage is written down there, so that it is not started.
pub async fn verify_folder(folder: &Path, world: &World) -> Result<Scrubbed, StartError> {
    let disk = &world.disk;
    let (name, version) = match (crate::identity::Home { disk: &**disk, folder }).identity()? {
        Some(identity) => (identity.name.clone(), env!("CARGO_PKG_VERSION")),
        None => return Err(StartError::NothingThere(folder.display().to_string())),
    };
    let _lock = disk.lock(folder).map_err(|error| StartError::disk(folder, error))?;
    let mut done = read_through(folder, disk, None, None).await.map_err(StartError::from).inspect_err(|error| {
        if let StartError::Integrity(_) = error {
            Warden::of(folder, &name, version, world).report(&error.to_string());
        }
    })?;
    done.at_ms = world.clock.now_ms();
    Ok(done)
}

/// How reading goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scrubbing {
    pub running: bool,
    /// The last time that ended well since this member started.
    pub last: Option<Scrubbed>,
    /// Why the last time did not.
    pub error: Option<String>,
}

impl Core {
    fn scrubs(&self) -> MutexGuard<'_, Scrubbing> {
        self.scrubbing.lock().expect("nobody panics while holding how reading goes")
    }

    pub fn scrubbing(&self) -> Scrubbing {
        self.scrubs().clone()
    }

    /// Reads in the background, unless that goes on already.
    pub fn begin_scrub(self: &Arc<Self>) -> Scrubbing {
        let begin = !std::mem::replace(&mut self.scrubs().running, true);
        if begin {
            let core = self.clone();
            self.tasks.spawn(async move {
                let done = core.scrub(&core.fatal_sender).await;
                let mut now = core.scrubs();
                now.running = false;
                match done {
                    Ok(done) => (now.last, now.error) = (Some(done), None),
                    Err(why) => now.error = Some(why),
                }
            });
        }
        self.scrubbing()
    }

    /// Reads this member's disk through; damage quarantines it.
    pub async fn scrub(&self, fatal: &watch::Sender<Option<String>>) -> Result<Scrubbed, String> {
        let folder = self.warden.folder().to_path_buf();
        // Everything in memory now is in the database at once or a moment later; the other way round could be missed.
        let memory = self.latest.borrow().clone();
        match read_through(&folder, &self.world.disk, Some(BYTES_A_SECOND), Some(memory)).await {
            Ok(mut done) => {
                done.at_ms = self.world.clock.now_ms();
                self.boards.tell_scrubbed(done.at_ms);
                self.metrics.scrubbed.set((done.at_ms / 1000) as i64);
                for file in &done.bad_snapshots {
                    tracing::error!(file, "a snapshot file is damaged; it is built again from the rows");
                }
                tracing::info!(
                    bytes = done.bytes,
                    entries = done.entries,
                    rows = done.rows,
                    seconds = done.took_ms / 1000,
                    "the disk was read through and is whole"
                );
                if let Err(error) = self.world.disk.write(&folder.join(NOTE), &encode(&done)) {
                    tracing::warn!(%error, "when the disk was read through could not be noted");
                }
                Ok(done)
            }
            Err(OpenError::Integrity(why)) => {
                integrity::quarantine(self, fatal, &why).await;
                Err(why)
            }
            Err(OpenError::Io(error)) => {
                tracing::warn!(%error, "the disk could not be read through; it will be tried again");
                Err(error.to_string())
            }
        }
    }
}

/// Once a week, as long as the member lives.
pub async fn keep(core: Arc<Core>, fatal: watch::Sender<Option<String>>) {
    let note = core.world.disk.read(&core.warden.folder().join(NOTE)).ok().flatten();
    let last = note.and_then(|bytes| decode::<Scrubbed>(&bytes).ok());
    if let Some(last) = &last {
        core.boards.tell_scrubbed(last.at_ms);
        core.metrics.scrubbed.set((last.at_ms / 1000) as i64);
    }
    // A new member has just written all it has.
    let mut since = last.map_or_else(|| core.world.clock.now_ms(), |last| last.at_ms);
    loop {
        sleep(LOOK_EVERY).await;
        let now = core.world.clock.now_ms();
        if now.saturating_sub(since) >= WEEK_MS && core.scrub(&fatal).await.is_ok() {
            since = now;
        }
    }
}
