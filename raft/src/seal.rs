//! Secrets of the cluster lie in State sealed: whoever has a copy of the log, a snapshot or a backup, but not the
//! sealing key in a member's folder, cannot read them.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use state_machine::{SealedSecret, State};
use world::Entropy;
use zeroize::Zeroizing;

/// The only sealing key there is so far.
const KEY_ID: u32 = 1;

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

    /// Seals a secret under its name; it opens under no other.
    pub fn seal(&self, name: &str, secret: &[u8], entropy: &Entropy) -> SealedSecret {
        let nonce = entropy.bytes::<12>();
        let payload = Payload { msg: secret, aad: name.as_bytes() };
        let ciphertext = self.cipher().encrypt((&nonce).into(), payload).expect("a secret is shorter than 256 GiB");
        SealedSecret { key_id: KEY_ID, nonce: nonce.to_vec(), ciphertext }
    }

    pub fn unseal(&self, name: &str, sealed: &SealedSecret) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let failed = || UnsealError { name: name.into() };
        let nonce: [u8; 12] = sealed.nonce.as_slice().try_into().map_err(|_| failed())?;
        if sealed.key_id != KEY_ID {
            return Err(failed());
        }
        let payload = Payload { msg: &sealed.ciphertext, aad: name.as_bytes() };
        self.cipher().decrypt((&nonce).into(), payload).map(Zeroizing::new).map_err(|_| failed())
    }
}

/// A secret of the cluster as a State has it.
pub fn unseal(sealing: &SealingKey, state: &State, name: &str) -> Option<Zeroizing<Vec<u8>>> {
    let sealed = state.secrets().get(name)?;
    sealing.unseal(name, sealed).inspect_err(|error| tracing::error!(%error, "unsealing failed")).ok()
}

#[cfg(test)]
mod tests {
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
}
