//! Snapshots: one file each, written as a whole, the two newest kept.
//!
//! A file is: magic, length and bytes of the head (encode.rs), the state's own snapshot bytes, CRC32C of everything
//! before. On the wire the head goes first and the state's bytes follow in pieces.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use openraft::RaftSnapshotBuilder;
use state_machine::{State, mutants};
use tokio::time::{Instant, sleep};
use world::Disk;

use crate::{
    encode::{self, SnapshotHead},
    store::{Store, heavy, is_full},
    types::{LogId, Snapshot, SnapshotMeta, StoredMembership, Types},
};

const MAGIC: &[u8; 8] = b"HSRSNAP1";
const ENDING: &str = ".snapshot";

/// How many files are kept.
const KEPT: usize = 2;

/// So long a snapshot waits for room; a member that stops waits for no snapshot longer than that either.
const ROOM_WITHIN: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(250);

/// The folder of snapshot files.
#[derive(Clone)]
pub struct Snapshots {
    folder: PathBuf,
    disk: Arc<dyn Disk>,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("snapshot file: {what}"))
}

impl Snapshots {
    pub fn open(folder: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Snapshots> {
        disk.create_dir_all(&folder)?;
        Ok(Snapshots { folder, disk })
    }

    /// Writes one and removes what is too old.
    fn save(&self, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()> {
        let (term, index) = meta.last_log_id.map_or((0, 0), |id| (id.leader_id.term, id.index));
        let path = self.folder.join(format!("{index:020}-{term:010}{ENDING}"));
        world::failpoint!("snapshot.write.before", Err);
        self.disk.write(&path, &to_file(meta, data))?;
        world::failpoint!("snapshot.write.after", Err);
        let files = self.files()?;
        for old in files.iter().rev().skip(KEPT) {
            self.disk.remove(old)?;
            world::failpoint!("snapshot.removed", Err);
        }
        Ok(())
    }

    /// Oldest first.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let names = self.disk.list(&self.folder)?;
        Ok(names.iter().filter(|name| name.ends_with(ENDING)).map(|name| self.folder.join(name)).collect())
    }

    /// The newest. A damaged file counts as none: it can be built again from the rows, which are checked on their own.
    fn newest(&self) -> io::Result<Option<Snapshot>> {
        let Some(path) = self.files()?.pop() else { return Ok(None) };
        let Some(bytes) = self.disk.read(&path)? else { return Ok(None) };
        match from_file(bytes.into()) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a snapshot file is damaged; it will be built again");
                Ok(None)
            }
        }
    }

    pub async fn current(&self, store: &Store) -> io::Result<Option<Snapshot>> {
        let this = self.clone();
        store.heavy(move || this.newest()).await?
    }

    /// Reads a state from a sender's bytes and keeps them as our newest snapshot.
    pub async fn receive(&self, store: &Store, meta: SnapshotMeta, data: Bytes) -> io::Result<State> {
        let bytes = data.clone();
        let read = move || {
            State::from_snapshot(&bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("received snapshot: {error}")))
        };
        let state = store.heavy(read).await??;
        self.keep(store, meta, data).await?;
        Ok(state)
    }

    /// Writes one, away from the tasks of Raft. A snapshot can wait where there is no room for it: the reserve is freed
    /// within half a second (space.rs), and until it is written the log keeps what it holds. An error ends the member.
    async fn keep(&self, store: &Store, meta: SnapshotMeta, data: Bytes) -> io::Result<()> {
        let until = Instant::now() + ROOM_WITHIN;
        loop {
            let (this, meta, data) = (self.clone(), meta.clone(), data.clone());
            match store.heavy(move || this.save(&meta, &data)).await? {
                Err(error) if is_full(&error) && Instant::now() < until => {
                    tracing::warn!(%error, "there is no room for a snapshot; it will be tried again");
                    sleep(AGAIN).await;
                }
                done => return done,
            }
        }
    }
}

/// Names of the files in a folder of snapshots whose bytes are not what was written.
pub async fn damaged_files(folder: &Path, disk: &Arc<dyn Disk>) -> io::Result<Vec<String>> {
    let snapshots = Snapshots { folder: folder.to_path_buf(), disk: disk.clone() };
    let work = move || {
        let mut damaged = Vec::new();
        for path in snapshots.files()? {
            // One that is gone was too old and has just been removed.
            if let Some(bytes) = snapshots.disk.read(&path)?
                && from_file(bytes.into()).is_err()
            {
                damaged.push(path.display().to_string());
            }
        }
        Ok(damaged)
    };
    heavy(disk, work).await?
}

fn to_file(meta: &SnapshotMeta, data: &[u8]) -> Vec<u8> {
    let head = encode::encode(&SnapshotHead::new(meta, None));
    let mut file = Vec::with_capacity(MAGIC.len() + 4 + head.len() + data.len() + 4);
    file.extend(MAGIC);
    file.extend((head.len() as u32).to_le_bytes());
    file.extend(&head);
    file.extend(data);
    let sum = crc32c::crc32c(&file);
    file.extend(sum.to_le_bytes());
    file
}

fn from_file(file: Bytes) -> io::Result<Snapshot> {
    let (body, sum) = file.split_last_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(damaged("the checksum does not match"));
    }
    let rest = body.strip_prefix(MAGIC).ok_or_else(|| damaged("not a snapshot"))?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    let length = u32::from_le_bytes(*length) as usize;
    let head = rest.get(..length).ok_or_else(|| damaged("too short"))?;
    let start = MAGIC.len() + 4 + length;
    let meta = encode::decode::<SnapshotHead>(head)?.meta()?;
    Ok(Snapshot { meta, snapshot: file.slice(start..body.len()) })
}

/// Builds a snapshot from a frozen state, while applying goes on.
pub struct Builder {
    pub store: Store,
    pub snapshots: Snapshots,
    pub state: Arc<State>,
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        world::failpoint!("snapshot.build.before", Err);
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let state = self.state.clone();
        let work = move || match mutants::is("snapshot-misses-a-table") {
            true => Bytes::from(without_pre_auth_keys(&state).to_snapshot()),
            false => Bytes::from(state.to_snapshot()),
        };
        let data = self.store.heavy(work).await?;
        self.snapshots.keep(&self.store, meta.clone(), data.clone()).await?;
        tracing::debug!(revision = %self.state.revision(), bytes = data.len(), "snapshot built");
        Ok(Snapshot { meta, snapshot: data })
    }
}

/// For the mutant `snapshot-misses-a-table`.
fn without_pre_auth_keys(state: &State) -> State {
    const PRE_AUTH_KEYS: u8 = 7;
    let rows = state.rows().filter(|(key, _)| key.first() != Some(&PRE_AUTH_KEYS));
    State::from_rows(rows).unwrap_or_default()
}
