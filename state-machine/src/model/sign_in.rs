use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{LoginId, Timestamp};

/// A browser on its way to a login provider and back. A row, so that it may leave from one member, come back to another
/// and say yes to a third.
///
/// The row holds nothing that would let anybody walk this way: of the random text in the browser's URL (the OAuth
/// `state`) and of the word on the confirmation page only hashes are kept, and nonce and proof key are derived from that
/// text and a key of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignIn {
    /// SHA-256 of the `state`, as 64 hexadecimal digits.
    pub id: String,
    /// What the person wants to say yes to.
    pub subject: SignInSubject,
    /// Issuer and client id, so that a member with another configuration refuses instead of asking a wrong provider.
    pub provider: String,
    pub created_at: Timestamp,
    /// When it is forgotten (15 minutes after it began).
    pub expires_at: Timestamp,
    pub progress: SignInProgress,
}

/// What waits for a person to prove who they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignInSubject {
    /// A node asks to be let in.
    Login(LoginId),
    /// A connection by SSH asks to be let in.
    SshCheck(String),
}

/// How far a sign-in is. It only ever goes forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "rows lie behind an Arc")]
pub enum SignInProgress {
    /// At the provider.
    Away,
    /// The provider has said who it is; the person looks at the confirmation page.
    Proved {
        identity: Identity,
        /// SHA-256 of the word the page carries.
        confirm_sha256: [u8; 32],
    },
    /// Said yes or no.
    Over,
}

/// Who somebody is, as a login provider has proved and the rules of the configuration have let through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// `issuer/subject`; never changes.
    pub provider_id: String,
    /// `preferred_username`; empty when there is none.
    pub name: String,
    pub display_name: String,
    /// Empty unless it may be believed.
    pub email: String,
    pub profile_pic_url: String,
    pub groups: BTreeSet<String>,
    /// The end of the token, where the node's key shall end with it.
    pub expiry: Option<Timestamp>,
}
