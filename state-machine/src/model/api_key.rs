use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{ApiKeyId, Timestamp, UserId};

/// A key for programs: text form `hskey-api-<prefix:12>-<secret:64>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiKey {
    pub id: ApiKeyId,
    /// The public 12 characters; unique.
    pub prefix: String,
    /// SHA-256 of the secret part.
    pub secret_sha256: [u8; 32],
    /// How a key of another server is proved the first time (`$2b$10$…`); until then `secret_sha256` is zero.
    pub bcrypt: Option<String>,
    pub role: Role,
    /// Whose things the key may see and change, where its role is [`Role::User`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Of an OAuth client, what it may do within its role, such as `devices:core:read`; empty: all of it. Level 4.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub scopes: BTreeSet<String>,
    /// Of an OAuth client, the tags of the keys it makes. Level 4.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// What its owner calls it. Level 4.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub expiration: Option<Timestamp>,
    pub created_at: Timestamp,
    /// Coarse: written at most once an hour.
    pub last_seen: Option<Timestamp>,
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    #[default]
    Admin,
    ReadOnly,
    /// One user's own nodes and pre-auth keys.
    User,
}
