//! A member's sealing key, and the one that is about to take its place.
//!
//! The key lies in the member's folder, or where an operator took it, so that the folder alone, or a copy of it, opens
//! nothing. Its successor lies beside it (`sealing.key.next`) from before it is used until State is sealed with it: at
//! every moment, also after a death, a member has the key its State is sealed with, and tells by trying (rotation.rs).

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use state_machine::State;
use tokio::time::sleep;
use world::Disk;
use zeroize::Zeroizing;

use crate::{
    cluster::Core,
    encode::{self, Blob},
    error::StartError,
    identity::{SEALING_KEY_FILE, SEALING_KEY_NEXT_FILE},
    options::Options,
    seal::SealingKey,
    store::Store,
};

/// After a disk said no.
const RETRY: Duration = Duration::from_secs(5);

/// A key that takes the place of the sealing key in the moment State is sealed with it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Successor {
    /// Of the State it was made for.
    pub revision: u64,
    /// That State's [`State::secrets_fingerprint`]. Only from it the successor can come into force: once State has
    /// another, it either has come, or never will.
    pub seen: Blob,
    key: Blob,
}

impl Successor {
    pub fn new(key: &SealingKey, state: &State) -> Successor {
        Successor {
            revision: state.revision().0,
            seen: Blob(state.secrets_fingerprint().to_vec().into()),
            key: Blob(key.bytes().to_vec().into()),
        }
    }

    fn key(&self) -> Option<SealingKey> {
        SealingKey::from_bytes(&self.key.0)
    }

    fn is_of(&self, state: &State) -> bool {
        *self.seen.0 == state.secrets_fingerprint()
    }
}

/// Why a successor was not taken.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Declined {
    /// The secrets are not those it was made for any more.
    Changed,
    /// This member has not come as far.
    Behind,
    /// It cannot put the key away.
    Place(String),
    /// Its own key does not open its secrets.
    Locked,
}

/// The places where one member's key may be.
#[derive(Clone, Debug)]
pub struct KeyPlace {
    folder: PathBuf,
    elsewhere: Option<PathBuf>,
}

impl KeyPlace {
    pub fn new(folder: &Path, elsewhere: Option<&Path>) -> KeyPlace {
        KeyPlace { folder: folder.to_path_buf(), elsewhere: elsewhere.map(Path::to_path_buf) }
    }

    pub fn of(options: &Options) -> KeyPlace {
        KeyPlace::new(&options.data_dir, options.sealing_key.as_deref())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where it belongs.
    fn file(&self) -> PathBuf {
        self.elsewhere.clone().unwrap_or_else(|| self.in_folder())
    }

    fn in_folder(&self) -> PathBuf {
        self.folder.join(SEALING_KEY_FILE)
    }

    /// Where its successor waits: never in the folder when the key is kept out of it.
    fn next_file(&self) -> PathBuf {
        match &self.elsewhere {
            Some(path) => {
                let mut name = path.clone().into_os_string();
                name.push(".next");
                name.into()
            }
            None => self.folder.join(SEALING_KEY_NEXT_FILE),
        }
    }

    fn locked(&self, why: &'static str) -> StartError {
        StartError::Locked { why, file: self.file().display().to_string() }
    }

    /// The key that opens this State's secrets.
    pub fn find(&self, disk: &dyn Disk, state: &State) -> Result<SealingKey, StartError> {
        Ok(self.held(disk, state)?.of(state))
    }

    /// What lies there. A key that still lies in the folder is used as long as there is none, or another cluster's, where
    /// it belongs.
    fn held(&self, disk: &dyn Disk, state: &State) -> Result<Held, StartError> {
        let next = self.next(disk)?;
        let here = read(disk, &self.in_folder())?;
        let Some(path) = &self.elsewhere else {
            let key = here.as_deref().and_then(|bytes| SealingKey::from_bytes(bytes)).ok_or_else(|| {
                StartError::Integrity(format!("{} is missing or damaged", self.in_folder().display()))
            })?;
            return Ok(Held { key, next });
        };
        let there = read(disk, path)?;
        let opens = |bytes: &Option<Zeroizing<Vec<u8>>>| {
            let held = Held { key: SealingKey::from_bytes(bytes.as_deref()?)?, next: next.clone() };
            (held.of(state).opens(state) != Some(false)).then_some(held)
        };
        match (opens(&there), opens(&here)) {
            (Some(held), _) => {
                if here.is_some() {
                    tracing::warn!(
                        file = %self.in_folder().display(),
                        "a sealing key lies in the data folder as well: remove it there"
                    );
                }
                Ok(held)
            }
            (None, Some(held)) => {
                tracing::warn!(to = %path.display(), "the sealing key still lies in the data folder: move it");
                Ok(held)
            }
            (None, None) => Err(self.locked(match there {
                None => "it is not there",
                Some(bytes) if SealingKey::from_bytes(&bytes).is_none() => {
                    "what lies there is no sealing key (32 bytes)"
                }
                Some(_) => "it is not this cluster's",
            })),
        }
    }

    fn next(&self, disk: &dyn Disk) -> Result<Option<Successor>, StartError> {
        let path = self.next_file();
        let Some(bytes) = read(disk, &path)? else { return Ok(None) };
        let next: Successor =
            encode::decode(&bytes).map_err(|error| StartError::Integrity(format!("{}: {error}", path.display())))?;
        match next.key() {
            Some(_) => Ok(Some(next)),
            None => Err(StartError::Integrity(format!("{} holds no sealing key", path.display()))),
        }
    }

    /// The key somebody laid down for a cluster that is about to be founded.
    pub fn given(&self, disk: &dyn Disk) -> Result<Option<SealingKey>, StartError> {
        let Some(path) = &self.elsewhere else { return Ok(None) };
        match read(disk, path)? {
            None => Ok(None),
            Some(bytes) => match SealingKey::from_bytes(&bytes) {
                Some(key) => Ok(Some(key)),
                None => Err(self.locked("what lies there is no sealing key (32 bytes)")),
            },
        }
    }

    /// Puts the key of a cluster that was just joined or founded where it belongs.
    pub fn put(&self, disk: &dyn Disk, key: &SealingKey) -> Result<(), StartError> {
        if let Some(given) = self.given(disk)? {
            return match given.bytes() == key.bytes() {
                true => Ok(()),
                false => Err(self.locked("it is not this cluster's; take it away, and the cluster's is put there")),
            };
        }
        let file = self.file();
        if let Some(folder) = file.parent() {
            disk.create_dir_all(folder).map_err(|error| StartError::disk(folder, error))?;
        }
        disk.write(&file, key.bytes()).map_err(|error| StartError::disk(&file, error))
    }

    /// The same for a member that does not keep it in its folder; nothing for one that does.
    pub fn put_elsewhere(&self, disk: &dyn Disk, key: &SealingKey) -> Result<(), StartError> {
        match self.elsewhere {
            Some(_) => self.put(disk, key),
            None => Ok(()),
        }
    }

    /// Puts a successor beside the key, or takes one of before away.
    pub fn put_next(&self, disk: &dyn Disk, next: Option<&Successor>) -> Result<(), StartError> {
        let path = self.next_file();
        let done = match next {
            Some(next) => disk.write(&path, &Zeroizing::new(encode::encode(next))),
            None => disk.remove(&path),
        };
        done.map_err(|error| StartError::disk(&path, error))
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StartError> {
    Ok(disk.read(path).map_err(|error| StartError::disk(path, error))?.map(Zeroizing::new))
}

#[derive(Clone)]
struct Held {
    key: SealingKey,
    next: Option<Successor>,
}

impl Held {
    fn of(&self, state: &State) -> SealingKey {
        match self.next.as_ref().and_then(Successor::key) {
            Some(next) if self.key.opens(state) == Some(false) && next.opens(state) == Some(true) => next,
            _ => self.key.clone(),
        }
    }
}

/// What is to be done about a successor.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// State is sealed with it.
    Replace,
    /// State went on without it.
    Forget,
}

/// The keys of a running member.
pub struct Keyring {
    place: KeyPlace,
    disk: Arc<dyn Disk>,
    held: Mutex<Held>,
}

impl Keyring {
    /// As they lie there.
    pub fn open(place: KeyPlace, disk: Arc<dyn Disk>, state: &State) -> Result<Keyring, StartError> {
        let held = Mutex::new(place.held(&*disk, state)?);
        Ok(Keyring { place, disk, held })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing is left half done in it: each change is one assignment.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key this State is sealed with.
    pub fn of(&self, state: &State) -> SealingKey {
        self.held().of(state)
    }

    /// What a newcomer needs: whichever of the two State will be sealed with, it opens it.
    pub fn both(&self) -> (SealingKey, Option<Successor>) {
        let held = self.held();
        (held.key.clone(), held.next.clone())
    }

    /// Whether a successor waits.
    pub fn is_waiting(&self) -> bool {
        self.held().next.is_some()
    }

    /// Puts a successor away for good, before it may be used. `state`: at least as far as the one it was made for.
    pub fn take(&self, successor: Successor, state: &State) -> Result<(), Declined> {
        let mut held = self.held();
        if state.revision().0 < successor.revision {
            return Err(Declined::Behind);
        }
        if !successor.is_of(state) || held.next.as_ref().is_some_and(|next| next.revision > successor.revision) {
            return Err(Declined::Changed);
        }
        if held.key.opens(state) != Some(true) || successor.key().is_none() {
            return Err(Declined::Locked);
        }
        world::failpoint!("sealing.take.before", |error: std::io::Error| Err(Declined::Place(error.to_string())));
        self.place.put_next(&*self.disk, Some(&successor)).map_err(|error| Declined::Place(error.to_string()))?;
        held.next = Some(successor);
        drop(held);
        world::failpoint!("sealing.take.after", |error: std::io::Error| Err(Declined::Place(error.to_string())));
        Ok(())
    }

    fn due(&self, state: &State) -> Due {
        let held = self.held();
        let Some(next) = held.next.as_ref().filter(|next| state.revision().0 >= next.revision) else {
            return Due::Nothing;
        };
        match next.key() {
            _ if next.is_of(state) => Due::Nothing,
            Some(key) if key.opens(state) == Some(true) => Due::Replace,
            _ if held.key.opens(state) == Some(true) => Due::Forget,
            _ => Due::Nothing,
        }
    }

    /// The successor takes the key's place. The old key is gone after that: nothing a start could find may need it.
    fn replace(&self) -> Result<(), StartError> {
        let mut held = self.held();
        let Some(key) = held.next.as_ref().and_then(Successor::key) else { return Ok(()) };
        let file = self.place.file();
        world::failpoint!("sealing.replace.before", |error| Err(StartError::disk(&file, error)));
        self.disk.write(&file, key.bytes()).map_err(|error| StartError::disk(&file, error))?;
        held.key = key;
        world::failpoint!("sealing.replace.after", |error| Err(StartError::disk(&file, error)));
        self.place.put_next(&*self.disk, None)?;
        held.next = None;
        tracing::info!(file = %file.display(), "the sealing key was replaced");
        Ok(())
    }

    fn forget(&self) -> Result<(), StartError> {
        let mut held = self.held();
        self.place.put_next(&*self.disk, None)?;
        held.next = None;
        tracing::info!("a sealing key that never came into force was forgotten");
        Ok(())
    }
}

/// Lets a successor take the key's place once State is sealed with it, or forgets it, as long as the member lives.
pub async fn keep(core: Arc<Core>, store: Store) {
    let mut latest = core.latest.clone();
    loop {
        let state = latest.borrow_and_update().clone();
        if let Err(error) = settle(&core.sealing, &state, &store).await {
            tracing::warn!(%error, "the sealing key could not be replaced; it will be tried again");
            sleep(RETRY).await;
            continue;
        }
        if latest.changed().await.is_err() {
            return;
        }
    }
}

async fn settle(keyring: &Keyring, state: &State, store: &Store) -> Result<(), StartError> {
    match keyring.due(state) {
        Due::Nothing => Ok(()),
        Due::Forget => keyring.forget(),
        Due::Replace => {
            // Rows are applied without a sync: after a power loss a start may find those of before, which the old key
            // opens. It goes when they cannot come back.
            store.write_durably(Vec::new()).await.map_err(StartError::engine)?;
            keyring.replace()
        }
    }
}

#[cfg(test)]
mod tests {
    use state_machine::{Command, Member, MemberId, Revision, Settings, Stamp, Timestamp};
    use world::World;

    use super::*;
    use crate::seal::DataKey;

    fn apply(state: &State, command: Command) -> State {
        let mut state = state.clone();
        let revision = Revision(state.revision().0 + 1);
        state.apply(Stamp { at: Timestamp(1), revision }, command).unwrap();
        state
    }

    fn founded(key: &SealingKey, world: &World) -> State {
        let member = Member {
            id: MemberId(1),
            name: "hs1".into(),
            feature_level: state_machine::FEATURE_LEVEL,
            ..Member::default()
        };
        let data = DataKey::after(0, &world.entropy);
        let noise = data.seal("noise", b"noise", &world.entropy);
        let secrets = vec![data.row(key, &world.entropy), ("noise".to_owned(), noise)];
        apply(
            &State::default(),
            Command::Found { cluster_id: "c".into(), member, settings: Settings::default(), secrets },
        )
    }

    fn resealed(state: &State, from: &SealingKey, under: &SealingKey, world: &World) -> State {
        let (secrets, dropped) = from.reseal_under(under, state, &world.entropy).unwrap();
        apply(state, Command::ResealSecrets { seen: state.secrets_fingerprint(), secrets, dropped })
    }

    fn opens(place: &KeyPlace, world: &World, state: &State) -> bool {
        let key = place.find(&*world.disk, state).unwrap();
        crate::seal::unseal(&key, state, "noise").is_some_and(|noise| **noise == *b"noise")
    }

    #[test]
    fn whatever_state_a_start_finds_is_opened() {
        let (world, folder) = (world::real::world(), tempfile::tempdir().unwrap());
        let (old, new) = (SealingKey::new(&world.entropy), SealingKey::new(&world.entropy));
        let place = KeyPlace::new(folder.path(), None);
        place.put(&*world.disk, &old).unwrap();
        let before = founded(&old, &world);
        let keyring = || Keyring::open(place.clone(), world.disk.clone(), &before).unwrap();
        let ring = keyring();
        let successor = Successor::new(&new, &before);

        // Made for a State this member has not, or has no more.
        let ahead = Successor { revision: before.revision().0 + 1, ..successor.clone() };
        assert_eq!(ring.take(ahead, &before), Err(Declined::Behind));
        let other = resealed(&before, &old, &old, &world);
        assert_eq!(ring.take(successor.clone(), &other), Err(Declined::Changed));
        assert!(!ring.is_waiting());

        ring.take(successor.clone(), &before).unwrap();
        let after = resealed(&before, &old, &new, &world);
        // Dead here, or later: both States are opened, by what is in memory and by what a start finds.
        for state in [&before, &after] {
            assert!(opens(&place, &world, state));
            assert!(crate::seal::unseal(&ring.of(state), state, "noise").is_some());
            assert!(crate::seal::unseal(&keyring().of(state), state, "noise").is_some());
        }
        assert_eq!((ring.due(&before), ring.due(&after)), (Due::Nothing, Due::Replace));
        // A State from before it was made says nothing about it.
        let young = Successor { revision: after.revision().0 + 9, ..successor.clone() };
        ring.held().next = Some(young);
        assert_eq!(ring.due(&after), Due::Nothing);
        ring.held().next = Some(successor.clone());

        // Dead between the two steps: the successor lies there twice.
        world.disk.write(&place.file(), new.bytes()).unwrap();
        assert!(opens(&place, &world, &after));
        let ring = keyring();
        assert_eq!(ring.due(&after), Due::Replace);
        ring.replace().unwrap();
        assert!(opens(&place, &world, &after) && !ring.is_waiting());
        assert_eq!(world.disk.list(folder.path()).unwrap(), [SEALING_KEY_FILE], "the old one is gone");
    }

    #[test]
    fn what_never_came_into_force_is_forgotten() {
        let (world, folder) = (world::real::world(), tempfile::tempdir().unwrap());
        let (old, new) = (SealingKey::new(&world.entropy), SealingKey::new(&world.entropy));
        let elsewhere = folder.path().join("memory/key");
        let place = KeyPlace::new(&folder.path().join("data"), Some(&elsewhere));
        place.put(&*world.disk, &old).unwrap();
        let state = founded(&old, &world);
        let ring = Keyring::open(place.clone(), world.disk.clone(), &state).unwrap();
        ring.take(Successor::new(&new, &state), &state).unwrap();
        assert!(world.disk.read(&folder.path().join("memory/key.next")).unwrap().is_some(), "not in the folder");
        let went_on = resealed(&state, &old, &old, &world);
        assert_eq!(ring.due(&went_on), Due::Forget);
        // A younger one takes its place; an older one that was late does not.
        let younger = Successor::new(&SealingKey::new(&world.entropy), &went_on);
        ring.take(younger, &went_on).unwrap();
        assert_eq!(
            ring.take(Successor { revision: 1, ..Successor::new(&new, &went_on) }, &went_on),
            Err(Declined::Changed)
        );
        let further = resealed(&went_on, &old, &old, &world);
        assert_eq!(ring.due(&further), Due::Forget);
        ring.forget().unwrap();
        assert_eq!(world.disk.list(&folder.path().join("memory")).unwrap(), ["key"]);
        assert!(opens(&place, &world, &further));

        world.disk.write(&place.next_file(), b"\x01nonsense").unwrap();
        assert!(matches!(Keyring::open(place, world.disk.clone(), &state), Err(StartError::Integrity(_))));
    }
}
