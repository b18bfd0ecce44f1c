use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Timestamp, UserId};

/// A person or a service that owns nodes (Headscale's `users` table).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    pub id: UserId,
    /// Unique; what people type.
    pub name: String,
    pub display_name: String,
    pub email: String,
    /// `oidc` or `cli`; with [`User::provider_id`] the identity at a login provider.
    pub provider: String,
    /// `iss/sub` of an OIDC identity; empty for users made by hand.
    pub provider_id: String,
    /// A valid URL or empty (`tailcfg.UserProfile.ProfilePicURL`).
    pub profile_pic_url: String,
    /// What the login provider says the user belongs to; policies call it `oidc:GROUP`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
    pub created_at: Timestamp,
    /// Where the addresses of the user's new nodes come from; empty: from everywhere. Masked. Level 4.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub ranges: BTreeSet<IpNet>,
}
