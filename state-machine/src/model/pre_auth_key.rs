use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{PreAuthKeyId, Timestamp, UserId};

/// A key that lets nodes in without a person: text form `hskey-auth-<prefix:12>-<secret:64>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreAuthKey {
    pub id: PreAuthKeyId,
    /// The public 12 characters; unique.
    pub prefix: String,
    /// SHA-256 of the secret part. The secret has 256 bits or more, so a slow hash would add nothing.
    pub secret_sha256: [u8; 32],
    /// How a key of another server is proved the first time (`$2b$10$…`); until then `secret_sha256` is zero.
    pub bcrypt: Option<String>,
    /// The owner of nodes registered with it; absent for keys that only tag.
    pub user: Option<UserId>,
    pub reusable: bool,
    pub ephemeral: bool,
    /// Whether it let a node in already.
    pub used: bool,
    pub tags: BTreeSet<String>,
    /// What its owner calls it. Level 4.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub expiration: Option<Timestamp>,
    pub created_at: Timestamp,
}
