//! Secrets of the cluster lie in State sealed: whoever has a copy of the log, a snapshot or a backup, but not the
//! sealing key in a member's folder, cannot read them.
//!
//! The sealing key seals data keys, and the newest data key seals everything else, so that all secrets can be sealed
//! anew while the cluster runs (`Cluster::rotate_data_key`). Data keys are secrets themselves, named `data-key.<id>`.
//! Clusters of before, and secrets put down by hand, are sealed with the sealing key itself: id 1.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use state_machine::{SealedSecret, State};
use world::Entropy;
use zeroize::Zeroizing;

use crate::archive::RECOVERY_SECRET;

/// The sealing key itself; data keys count on from it.
const KEY_ID: u32 = 1;
const DATA_KEYS: &str = "data-key.";

/// The cluster's sealing key. Every member has it; it never enters the log.
#[derive(Clone)]
pub struct SealingKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey")
    }
}

/// A sealed secret does not open with this key.
#[derive(Debug, thiserror::Error)]
#[error("secret {name:?} does not open with this member's sealing key")]
pub struct UnsealError {
    name: String,
}

/// A key that seals secrets and is sealed itself.
pub struct DataKey {
    pub id: u32,
    key: SealingKey,
}

impl DataKey {
    /// For a new cluster, or after the one of this id.
    pub fn after(id: u32, entropy: &Entropy) -> DataKey {
        DataKey { id: id.max(KEY_ID) + 1, key: SealingKey::new(entropy) }
    }

    /// Its row among the secrets.
    pub fn row(&self, sealing: &SealingKey, entropy: &Entropy) -> (String, SealedSecret) {
        let name = name_of(self.id);
        let sealed = sealing.seal(&name, self.key.bytes(), entropy);
        (name, sealed)
    }

    pub fn seal(&self, name: &str, secret: &[u8], entropy: &Entropy) -> SealedSecret {
        SealedSecret { key_id: self.id, ..self.key.seal(name, secret, entropy) }
    }
}

fn name_of(id: u32) -> String {
    format!("{DATA_KEYS}{id}")
}

/// The new rows, and the names of rows that are needed no more.
pub type Resealed = (Vec<(String, SealedSecret)>, Vec<String>);

/// The data keys a State has.
fn data_keys(state: &State) -> impl Iterator<Item = u32> {
    state.secrets().keys().filter_map(|name| name.strip_prefix(DATA_KEYS)?.parse().ok())
}

impl SealingKey {
    pub fn new(entropy: &Entropy) -> SealingKey {
        SealingKey(Zeroizing::new(entropy.bytes()))
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<SealingKey> {
        Some(SealingKey(Zeroizing::new(bytes.try_into().ok()?)))
    }

    pub fn bytes(&self) -> &[u8] {
        &*self.0
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(self.bytes().into())
    }

    /// Seals a secret under its name with this very key; it opens under no other.
    pub fn seal(&self, name: &str, secret: &[u8], entropy: &Entropy) -> SealedSecret {
        let nonce = entropy.bytes::<12>();
        let payload = Payload { msg: secret, aad: name.as_bytes() };
        let ciphertext = self.cipher().encrypt((&nonce).into(), payload).expect("a secret is shorter than 256 GiB");
        SealedSecret { key_id: KEY_ID, nonce: nonce.to_vec(), ciphertext }
    }

    /// Opens what [`SealingKey::seal`] sealed.
    pub fn unseal(&self, name: &str, sealed: &SealedSecret) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        match sealed.key_id {
            KEY_ID => self.open(name, sealed),
            _ => Err(UnsealError { name: name.into() }),
        }
    }

    fn open(&self, name: &str, sealed: &SealedSecret) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let failed = || UnsealError { name: name.into() };
        let nonce: [u8; 12] = sealed.nonce.as_slice().try_into().map_err(|_| failed())?;
        let payload = Payload { msg: &sealed.ciphertext, aad: name.as_bytes() };
        self.cipher().decrypt((&nonce).into(), payload).map(Zeroizing::new).map_err(|_| failed())
    }

    /// Whether a State's secrets are sealed with this key; none where it has none to try.
    pub fn opens(&self, state: &State) -> Option<bool> {
        let newest = data_keys(state).max().map(name_of);
        let (name, sealed) = match newest.as_ref().and_then(|name| state.secrets().get_key_value(name)) {
            Some(row) => row,
            None => {
                let mut rows = state.secrets().iter();
                rows.find(|(name, sealed)| sealed.key_id == KEY_ID && *name != RECOVERY_SECRET)?
            }
        };
        Some(self.open(name, sealed).is_ok())
    }

    fn data_key(&self, state: &State, id: u32) -> Result<DataKey, UnsealError> {
        let name = name_of(id);
        let failed = || UnsealError { name: name.clone() };
        let opened = self.unseal(&name, state.secrets().get(&name).ok_or_else(failed)?)?;
        Ok(DataKey { id, key: SealingKey::from_bytes(&opened).ok_or_else(failed)? })
    }

    /// Seals a secret the way this State seals: with its newest data key, if it has any.
    pub fn seal_in(&self, state: &State, name: &str, secret: &[u8], entropy: &Entropy) -> SealedSecret {
        match data_keys(state).max().map(|id| self.data_key(state, id)) {
            Some(Ok(key)) => key.seal(name, secret, entropy),
            Some(Err(error)) => {
                tracing::error!(%error, "the data key cannot be used; the sealing key is");
                self.seal(name, secret, entropy)
            }
            None => self.seal(name, secret, entropy),
        }
    }

    /// Opens a secret of a State.
    pub fn unseal_in(
        &self,
        state: &State,
        name: &str,
        sealed: &SealedSecret,
    ) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        match sealed.key_id {
            KEY_ID => self.open(name, sealed),
            id => self.data_key(state, id)?.key.open(name, sealed),
        }
    }

    /// Everything under a new data key, whose row comes first: the new rows, and the names of data keys that are needed no
    /// more. The wrapped sealing key stays as it is: the recovery key sealed it.
    pub fn reseal(&self, state: &State, entropy: &Entropy) -> Result<Resealed, UnsealError> {
        self.reseal_under(self, state, entropy)
    }

    /// The same, with the data key sealed with another sealing key.
    pub fn reseal_under(
        &self,
        sealing: &SealingKey,
        state: &State,
        entropy: &Entropy,
    ) -> Result<Resealed, UnsealError> {
        let newest = data_keys(state).max().unwrap_or(KEY_ID);
        let next = DataKey::after(newest, entropy);
        let mut rows = vec![next.row(sealing, entropy)];
        for (name, sealed) in state.secrets() {
            if name == RECOVERY_SECRET || name.starts_with(DATA_KEYS) {
                continue;
            }
            let secret = self.unseal_in(state, name, sealed)?;
            rows.push((name.clone(), next.seal(name, &secret, entropy)));
        }
        Ok((rows, data_keys(state).map(name_of).collect()))
    }
}

/// A secret of the cluster as a State has it.
pub fn unseal(sealing: &SealingKey, state: &State, name: &str) -> Option<Zeroizing<Vec<u8>>> {
    let sealed = state.secrets().get(name)?;
    sealing.unseal_in(state, name, sealed).inspect_err(|error| tracing::error!(%error, "unsealing failed")).ok()
}

#[cfg(test)]
mod tests {
    use state_machine::{Command, Member, MemberId, Revision, Settings, Stamp, Timestamp};

    use super::*;

    #[test]
    fn opens_under_its_name_and_key_only() {
        let entropy = world::real::entropy();
        let key = SealingKey::new(&entropy);
        let sealed = key.seal("noise", b"secret", &entropy);
        assert_eq!(&**key.unseal("noise", &sealed).unwrap(), b"secret");
        assert!(key.unseal("ca", &sealed).is_err());
        assert!(SealingKey::new(&entropy).unseal("noise", &sealed).is_err());
        assert!(!sealed.ciphertext.windows(6).any(|window| window == b"secret"));
    }

    fn apply(state: &mut State, command: Command) {
        let revision = Revision(state.revision().0 + 1);
        state.apply(Stamp { at: Timestamp(1), revision }, command).unwrap();
    }

    #[test]
    fn a_cluster_of_before_is_read_and_gets_data_keys() {
        let entropy = world::real::entropy();
        let key = SealingKey::new(&entropy);
        let mut state = State::default();
        let member = Member { id: MemberId(1), name: "hs1".into(), feature_level: 3, ..Member::default() };
        let secrets = ["noise", "ca"].map(|name| (name.to_owned(), key.seal(name, name.as_bytes(), &entropy)));
        let recovery = SealingKey::new(&entropy).seal(RECOVERY_SECRET, key.bytes(), &entropy);
        let secrets = secrets.into_iter().chain([(RECOVERY_SECRET.to_owned(), recovery.clone())]).collect();
        apply(&mut state, Command::Found { cluster_id: "c".into(), member, settings: Settings::default(), secrets });
        assert_eq!(&**unseal(&key, &state, "noise").unwrap(), b"noise", "sealed with the sealing key itself");

        for round in 0..3u32 {
            let (secrets, dropped) = key.reseal(&state, &entropy).unwrap();
            assert_eq!(dropped.len(), usize::from(round > 0), "{dropped:?}");
            let old = state.clone();
            let seen = state.secrets_fingerprint();
            apply(&mut state, Command::ResealSecrets { seen, secrets, dropped });
            for name in ["noise", "ca"] {
                assert_eq!(&**unseal(&key, &state, name).unwrap(), name.as_bytes());
                assert_eq!(&**unseal(&key, &old, name).unwrap(), name.as_bytes(), "a backup has the data key it needs");
                assert_eq!(state.secrets()[name].key_id, round + 2);
                assert_ne!(old.secrets()[name].ciphertext, state.secrets()[name].ciphertext);
            }
            assert_eq!(*state.secrets()[RECOVERY_SECRET], recovery, "that one only the recovery key opens");
            assert_eq!(data_keys(&state).collect::<Vec<_>>(), [round + 2]);
            assert!(unseal(&SealingKey::new(&entropy), &state, "noise").is_none());
        }
        let put = key.seal_in(&state, "new", b"word", &entropy);
        assert_eq!(put.key_id, 4);
        assert_eq!(&**key.unseal_in(&state, "new", &put).unwrap(), b"word");
    }
}
