//! Secrets, sealed outside: put, sealed anew, and the key that opens them in an emergency.
//!
//! State cannot open any of them. It keeps their names, so it can tell whether a proposer read what is there now.

use sha2::{Digest, Sha256};

use crate::{
    model::*,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{check_text, features::OPERATION, invalid, not_found};

const SECRET_BYTES_MAX: usize = 64 * 1024;
const SECRETS_MAX: usize = 1_024;
/// The id of the key that seals data keys; it is in no State.
const SEALING_KEY: u32 = 1;
/// How the names of data keys begin.
const DATA_KEYS: &str = "data-key.";
/// Under which the wrapped sealing key lies.
const RECOVERY: &str = "recovery";

impl State {
    pub(super) fn replace_secret(&mut self, name: String, secret: SealedSecret) -> Answer {
        check_secret(&name, &secret)?;
        self.check_seal(&secret)?;
        if self.secrets().get(&name).is_some_and(|known| **known == secret) {
            return Ok(Outcome::Unchanged);
        }
        self.put_secret(name, secret);
        Ok(Outcome::Done)
    }

    pub(super) fn reseal_secrets(
        &mut self,
        seen: [u8; 32],
        secrets: Vec<(String, SealedSecret)>,
        dropped: &[String],
    ) -> Answer {
        if self.secrets_fingerprint() != seen {
            return Err(Refusal::SecretsChanged);
        }
        if secrets.len() > SECRETS_MAX || dropped.len() > SECRETS_MAX {
            return Err(invalid(What::Name, format!("more than {SECRETS_MAX} secrets")));
        }
        for (name, secret) in &secrets {
            check_secret(name, secret)?;
        }
        if let Some(other) = dropped.iter().find(|name| !name.starts_with(DATA_KEYS)) {
            return Err(invalid(What::Name, format!("secret {other:?} is no data key")));
        }
        if let Some(both) = dropped.iter().find(|name| secrets.iter().any(|(sealed, _)| sealed == *name)) {
            return Err(invalid(What::Name, format!("secret {both:?} cannot be sealed and dropped at once")));
        }
        dropped.iter().for_each(|name| self.drop_secret(name));
        let count = secrets.len() as u64;
        for (name, secret) in secrets {
            self.put_secret(name, secret);
        }
        Ok(Outcome::Changed(count))
    }

    pub(super) fn confirm_recovery_key(&mut self, key: [u8; 32]) -> Answer {
        if self.recovery_fingerprint().ok_or_else(|| not_found(What::Name, RECOVERY))? != key {
            return Err(Refusal::SecretsChanged);
        }
        if self.recovery_confirmed() {
            return Ok(Outcome::Unchanged);
        }
        let at = self.now();
        self.cluster_mut().recovery_confirmed = Some(RecoveryConfirmed { key, at });
        Ok(Outcome::Done)
    }

    /// Refuses what was sealed with a data key that is gone: while it was on its way all secrets got another, and nobody
    /// could ever open it. To be sealed again.
    pub(super) fn check_seal(&self, secret: &SealedSecret) -> Result<(), Refusal> {
        let known = || self.secrets().contains_key(&format!("{DATA_KEYS}{}", secret.key_id));
        if self.feature_level() < OPERATION || secret.key_id <= SEALING_KEY || known() {
            return Ok(());
        }
        Err(Refusal::SecretsChanged)
    }

    /// Which secrets there are and how they are sealed; another one after every change.
    pub fn secrets_fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (name, secret) in self.secrets() {
            for part in [name.as_bytes(), &secret.key_id.to_be_bytes(), &secret.nonce, &secret.ciphertext] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        hash.finalize().into()
    }

    /// Which recovery key there is; none before the first was made.
    pub fn recovery_fingerprint(&self) -> Option<[u8; 32]> {
        let sealed = self.secrets().get(RECOVERY)?;
        Some(Sha256::new().chain_update(&sealed.nonce).chain_update(&sealed.ciphertext).finalize().into())
    }

    /// Whether somebody has shown the recovery key of now.
    pub fn recovery_confirmed(&self) -> bool {
        let confirmed = self.tables.cluster.recovery_confirmed.as_ref();
        confirmed.is_some_and(|confirmed| Some(confirmed.key) == self.recovery_fingerprint())
    }
}

pub(super) fn check_secret(name: &str, secret: &SealedSecret) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(invalid(What::Name, "a secret needs a name"));
    }
    check_text(What::Name, "name of a secret", name, 64)?;
    if secret.ciphertext.len() > SECRET_BYTES_MAX || secret.nonce.len() > 64 {
        return Err(invalid(What::Name, format!("secret {name:?} is longer than {SECRET_BYTES_MAX} bytes")));
    }
    Ok(())
}
