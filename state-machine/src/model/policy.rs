use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// One text of the policy, with who set it and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// Counts from 1.
    pub number: u64,
    /// HuJSON, as it was given.
    pub text: Arc<str>,
    /// Who set it, for people: `cli`, `api key ab12…`.
    pub author: String,
    pub set_at: Timestamp,
}
