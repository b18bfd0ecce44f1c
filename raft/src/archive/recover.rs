//! From what is left of a member's folder, when a majority is gone for good.
//!
//! Everything in its log is taken, also what it had not yet heard to be committed: that may bring back a write nobody
//! was told of, and never loses one this member knew. What other members acknowledged and this one never received is
//! lost; how much that can be only their folders, or a backup, can tell.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use state_machine::{MemberId, State};
use tokio::time::timeout;
use world::World;

use super::{ArchiveError, Settled, format, settle::settle_with};
use crate::{
    StartError,
    encode::entry_from_row,
    identity::Home,
    keyring::KeyPlace,
    metrics::Metrics,
    seal::SealingKey,
    store::{Store, StoreOptions},
};

/// What a member's folder holds.
#[derive(Debug)]
pub struct LeftOver {
    pub folder: PathBuf,
    pub cluster_id: String,
    pub member: MemberId,
    pub name: String,
    /// The term of its last vote.
    pub term: u64,
    /// The last log entry: index and term.
    pub last: (u64, u64),
    /// The index it had applied, and so certainly knew to be committed.
    pub applied: u64,
    /// Everything in it, the end of the log included.
    pub state: State,
    /// Members that voted, itself among them.
    pub voters: Vec<MemberId>,
    /// What opens its secrets, or why there is nothing that does.
    sealing: Result<SealingKey, StartError>,
    keys: KeyPlace,
}

const KNOCK: Duration = Duration::from_secs(2);

/// Opens a folder whose member does not run, with all the checks of a start. Nothing is started and no row is changed.
/// `sealing_key`: where its sealing key lies when that is not in the folder.
pub async fn inspect_folder(
    folder: &Path,
    sealing_key: Option<&Path>,
    world: &World,
) -> Result<LeftOver, ArchiveError> {
    let failed = |error| StartError::disk(folder, error);
    let home = Home { disk: &*world.disk, folder };
    let identity = home.identity()?.ok_or_else(|| StartError::NothingThere(folder.display().to_string()))?;
    let keys = KeyPlace::new(folder, sealing_key);
    let lock = world.disk.lock(folder).map_err(failed)?;
    let (store, recovered, broken) = Store::open(StoreOptions {
        folder: folder.to_path_buf(),
        disk: world.disk.clone(),
        entropy: world.entropy.clone(),
        lock,
        metrics: Metrics::default().store.clone(),
        drills: crate::Drills::forbidden(),
    })
    .map_err(StartError::from)?;
    let mut state = recovered.state.0.clone();
    let applied = recovered.applied.map_or(0, |id| id.index);
    let last = recovered.end().map_or((0, 0), |id| (id.index, id.leader_id.term));
    let mut problem = None;
    store
        .read_log(applied + 1, last.0 + 1, |row| {
            let entry = entry_from_row(row)?;
            if let Err(why) = format::apply(&mut state, &entry, None) {
                problem = Some(why);
            }
            Ok(problem.is_none())
        })
        .map_err(failed)?;
    let closed = store.closed();
    drop((store, broken));
    closed.wait().await;
    if let Some(why) = problem {
        return Err(ArchiveError::Unusable(format!("{why}; use a newer program")));
    }
    let sealing = keys.find(&*world.disk, &state);
    Ok(LeftOver {
        folder: folder.to_path_buf(),
        cluster_id: identity.cluster_id.clone(),
        member: identity.member(),
        name: identity.name.clone(),
        term: recovered.vote.map_or(0, |vote| vote.leader_id.term),
        last,
        applied,
        state,
        voters: recovered.membership.membership().voter_ids().map(MemberId).collect(),
        sealing,
        keys,
    })
}

impl LeftOver {
    /// Voters other than this one that answer now, by name and address.
    pub async fn who_answers(&self, world: &World) -> Vec<(MemberId, String)> {
        let mut answering = Vec::new();
        for voter in self.voters.iter().filter(|voter| **voter != self.member) {
            let Some(known) = self.state.member(*voter) else { continue };
            // That something listens there is enough: whoever knows better can say so.
            let connected = timeout(KNOCK, world.net.connect(&known.peer_address)).await;
            if matches!(connected, Ok(Ok(_))) {
                answering.push((*voter, format!("{} ({})", known.name, known.peer_address)));
            }
        }
        answering
    }

    /// How many voters make a majority.
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }
}

/// Makes a new cluster of one of it. The folder is kept under another name, which is returned.
pub async fn recover(left: LeftOver, world: &World) -> Result<(Settled, PathBuf), ArchiveError> {
    let folder = left.folder.clone();
    let sealing = left.sealing?;
    // While the folder is still in its place: what is refused here has changed nothing.
    left.keys.put_elsewhere(&*world.disk, &sealing)?;
    let mut aside = folder.clone().into_os_string();
    aside.push(format!(".before-{}", world.clock.now_ms()));
    let aside = PathBuf::from(aside);
    world.disk.rename(&folder, &aside).map_err(|error| StartError::disk(&folder, error))?;
    world::failpoint!("recover.aside.after");
    let term = left.term.max(left.last.1);
    let settled = settle_with(&left.name, left.state, term, &sealing, &left.keys, world).await?;
    Ok((settled, aside))
}

/// The sealing key a folder has, or a file that holds one.
pub fn sealing_key_of(path: &Path, world: &World) -> Result<SealingKey, ArchiveError> {
    let bytes = world.disk.read(path).map_err(|error| StartError::disk(path, error))?;
    bytes.as_deref().and_then(SealingKey::from_bytes).ok_or_else(|| ArchiveError::NoKey(path.display().to_string()))
}
