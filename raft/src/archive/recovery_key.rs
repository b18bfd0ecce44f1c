//! The key an operator keeps on paper. It opens the sealing key, which a backup carries wrapped; no member keeps it.

use sha2::{Digest, Sha256};
use state_machine::{SealedSecret, State};
use world::Entropy;
use zeroize::Zeroizing;

use crate::{
    seal::SealingKey,
    token::{base32, from_base32},
};

/// The wrapped sealing key's name among the cluster's secrets.
pub const RECOVERY_SECRET: &str = "recovery";

const PREFIX: &str = "hsrk1";
/// Letters in a group, for reading aloud.
const GROUP: usize = 4;
/// Letters of the checksum; one in a million typing errors gets through.
const CHECK: usize = 4;

/// 32 random bytes.
pub struct RecoveryKey(SealingKey);

impl RecoveryKey {
    pub fn new(entropy: &Entropy) -> RecoveryKey {
        RecoveryKey(SealingKey::new(entropy))
    }

    /// `hsrk1-abcd-…`: base32 in groups of four, the last one a checksum.
    pub fn text(&self) -> Zeroizing<String> {
        let mut letters = Zeroizing::new(base32(self.0.bytes()));
        letters.push_str(&check(self.0.bytes()));
        let groups: Vec<&str> = letters
            .as_bytes()
            .chunks(GROUP)
            .map(|group| std::str::from_utf8(group).expect("base32 is ASCII"))
            .collect();
        Zeroizing::new(format!("{PREFIX}-{}", groups.join("-")))
    }

    /// Reads [`RecoveryKey::text`]; spaces, dashes and big letters do not matter.
    pub fn parse(text: &str) -> Option<RecoveryKey> {
        let words: String = text.chars().filter(|letter| !letter.is_whitespace() && *letter != '-').collect();
        let words = Zeroizing::new(words.to_lowercase());
        let letters = words.strip_prefix(PREFIX)?;
        let (letters, sum) = letters.split_at_checked(letters.len().checked_sub(CHECK)?)?;
        let bytes = Zeroizing::new(from_base32(letters)?);
        (check(&bytes) == sum).then(|| SealingKey::from_bytes(&bytes).map(RecoveryKey))?
    }

    pub fn wrap(&self, sealing: &SealingKey, entropy: &Entropy) -> SealedSecret {
        self.0.seal(RECOVERY_SECRET, sealing.bytes(), entropy)
    }

    /// The sealing key a State carries; nothing when it has none or this is not its recovery key.
    pub fn unwrap(&self, state: &State) -> Option<SealingKey> {
        let wrapped = state.secrets().get(RECOVERY_SECRET)?;
        SealingKey::from_bytes(&self.0.unseal(RECOVERY_SECRET, wrapped).ok()?)
    }
}

fn check(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let mut letters = base32(&hash[..3]);
    letters.truncate(CHECK);
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back_and_no_typing_error() {
        let entropy = world::real::entropy();
        let key = RecoveryKey::new(&entropy);
        let text = key.text();
        assert_eq!(text.split('-').count(), 15, "{}", text.len());
        let again = RecoveryKey::parse(&text.to_uppercase().replace('-', " ")).unwrap();
        assert_eq!(again.0.bytes(), key.0.bytes());
        let wrong = text.replacen(['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'], "i", 1);
        assert!(RecoveryKey::parse(&wrong).is_none() || wrong == *text);
        for text in ["", "hsrk1-", "hsrk1-aaaa", "hsr1.x.y"] {
            assert!(RecoveryKey::parse(text).is_none());
        }
    }
}
