use serde::{Deserialize, Serialize};

use super::{NodeId, Timestamp};

/// A person is asked whether a connection by SSH may come in (SSH check mode). A row, so that any member may ask, be
/// answered and answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshCheck {
    /// As it stands in the URL a person opens: 24 URL-safe characters of entropy.
    pub id: String,
    /// Who connects.
    pub source: NodeId,
    /// Whom they connect to; the only node that may ask how it went.
    pub target: NodeId,
    /// Under which name of the target's system.
    pub local_user: String,
    pub created_at: Timestamp,
    /// When it is forgotten.
    pub expires_at: Timestamp,
    pub result: SshCheckResult,
}

/// How far a check is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SshCheckResult {
    Waiting,
    /// Somebody said yes.
    Approved {
        at: Timestamp,
        by: String,
    },
    /// Somebody said no.
    Rejected {
        at: Timestamp,
        by: String,
    },
}

impl SshCheck {
    /// When somebody said yes, if somebody did.
    pub fn approved_at(&self) -> Option<Timestamp> {
        match self.result {
            SshCheckResult::Approved { at, .. } => Some(at),
            _ => None,
        }
    }
}
