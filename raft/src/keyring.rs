//! Where a member's sealing key lies: in its folder, or where an operator took it, so that the folder alone, or a copy of
//! it, opens nothing.

use std::path::{Path, PathBuf};

use state_machine::State;
use world::Disk;
use zeroize::Zeroizing;

use crate::{error::StartError, identity::SEALING_KEY_FILE, options::Options, seal::SealingKey};

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
    pub fn file(&self) -> PathBuf {
        self.elsewhere.clone().unwrap_or_else(|| self.in_folder())
    }

    fn in_folder(&self) -> PathBuf {
        self.folder.join(SEALING_KEY_FILE)
    }

    fn locked(&self, why: &'static str) -> StartError {
        StartError::Locked { why, file: self.file().display().to_string() }
    }

    /// The key that opens this State's secrets. One that still lies in the folder is used as long as there is none, or
    /// another cluster's, where it belongs.
    pub fn find(&self, disk: &dyn Disk, state: &State) -> Result<SealingKey, StartError> {
        let here = read(disk, &self.in_folder())?;
        let Some(path) = &self.elsewhere else {
            return here
                .as_deref()
                .and_then(|bytes| SealingKey::from_bytes(bytes))
                .ok_or_else(|| StartError::Integrity(format!("{} is missing or damaged", self.in_folder().display())));
        };
        let there = read(disk, path)?;
        let opens = |bytes: &Option<Zeroizing<Vec<u8>>>| {
            let key = SealingKey::from_bytes(bytes.as_deref()?)?;
            (key.opens(state) != Some(false)).then_some(key)
        };
        match (opens(&there), opens(&here)) {
            (Some(key), _) => {
                if here.is_some() {
                    tracing::warn!(
                        file = %self.in_folder().display(),
                        "the sealing key lies in the data folder as well: remove it there"
                    );
                }
                Ok(key)
            }
            (None, Some(key)) => {
                tracing::warn!(to = %path.display(), "the sealing key still lies in the data folder: move it");
                Ok(key)
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
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StartError> {
    Ok(disk.read(path).map_err(|error| StartError::disk(path, error))?.map(Zeroizing::new))
}
