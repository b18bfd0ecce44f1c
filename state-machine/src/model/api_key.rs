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
