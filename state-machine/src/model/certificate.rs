use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{MemberId, Timestamp, member::serde_bytes_vec};

/// Bytes of a certificate or of a CSR. Public.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Der(#[serde(with = "serde_bytes_vec")] pub Vec<u8>);

impl std::fmt::Debug for Der {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Der({} bytes)", self.0.len())
    }
}

/// One authority of the members' certificates. There are no rows before the first rotation: then the only authority is
/// the founder's, which every member keeps in its identity file. While one replaces another there are two rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Authority {
    /// Counted from 0, the founder's.
    pub generation: u64,
    pub certificate: Der,
    /// The same key signed by the authority before: who trusts only that one believes this one as well. Empty for the
    /// founder's.
    pub cross: Der,
    pub begun_at: Timestamp,
    /// When the authority before was distrusted; absent while members still have to move.
    pub settled_at: Option<Timestamp>,
    /// Members that trust it and show a certificate it signed.
    pub moved: BTreeSet<MemberId>,
}

/// How a certificate authority of the public convinces itself that a name is ours (RFC 8555, section 8.3; RFC 8737).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChallengeKind {
    #[default]
    Http01,
    TlsAlpn01,
}

/// What a member's configuration file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateWish {
    /// A DNS name.
    pub name: String,
    /// URL of the authority's directory.
    pub directory: String,
    /// Whom the authority may write to; may be empty.
    pub email: String,
    pub challenge: ChallengeKind,
}

/// A question of the authority that any member answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Challenge {
    pub token: String,
    /// The answer: the token and the fingerprint of the account's key. Public.
    pub authorization: String,
}

/// An order under way at the authority. Its private key lies sealed beside it ([`ManagedCertificate::next_key`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateOrder {
    pub url: String,
    pub begun_at: Timestamp,
    pub challenges: Vec<Challenge>,
}

/// A certificate for clients that the cluster fetches itself (ACME).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ManagedCertificate {
    pub wish: CertificateWish,
    pub wanted_by: BTreeSet<MemberId>,
    /// PEM, the name's own certificate first; empty before the first one came.
    pub chain: String,
    /// The directory it came from.
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub order: Option<CertificateOrder>,
    /// In a row.
    pub failures: u32,
    /// Why the last attempt failed; empty when it did not.
    pub error: String,
    /// Not before this moment again.
    pub retry_at: Timestamp,
}

impl ManagedCertificate {
    /// Under which name the private key of the certificate lies among the sealed secrets.
    pub fn key(name: &str) -> String {
        format!("tls.{}", short_hash(name))
    }

    /// The same for the order under way.
    pub fn next_key(name: &str) -> String {
        format!("tls-next.{}", short_hash(name))
    }

    /// The same for the account at an authority.
    pub fn account(directory: &str) -> String {
        format!("acme.{}", short_hash(directory))
    }

    /// When a new one is fetched: at two thirds of its life; at once when there is none, or one of another authority.
    pub fn renew_at(&self) -> Timestamp {
        match self.chain.is_empty() || self.issuer != self.wish.directory {
            true => Timestamp(0),
            false => Timestamp(self.not_before.0 + self.not_after.0.saturating_sub(self.not_before.0) / 3 * 2),
        }
    }
}

/// Names of secrets are bounded, names of hosts and URLs are longer.
fn short_hash(text: &str) -> String {
    Sha256::digest(text).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// Somebody has written the recovery key down and showed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryConfirmed {
    /// Which one: the fingerprint of the sealed secret.
    pub key: [u8; 32],
    pub at: Timestamp,
}
