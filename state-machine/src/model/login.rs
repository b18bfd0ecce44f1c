use serde::{Deserialize, Serialize};
use tailcfg::{MachineKey, NlKey, NodeKey};

use super::{Hostinfo, LoginId, NodeId, Timestamp};

/// A node that waits for a person. Any member can finish it and any member can answer the waiting client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub id: LoginId,
    pub machine_key: MachineKey,
    pub node_key: NodeKey,
    /// Zero unless a known node authenticates anew.
    pub old_node_key: NodeKey,
    pub nl_key: NlKey,
    pub hostname: String,
    pub hostinfo: Hostinfo,
    pub capability_version: u16,
    pub ephemeral: bool,
    /// The client's own wish for the end of its key; only ever shortens.
    #[serde(default)]
    pub expiry: Option<Timestamp>,
    pub created_at: Timestamp,
    /// When it is forgotten (15 minutes after it began).
    pub expires_at: Timestamp,
    pub result: LoginResult,
}

/// How far a login is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginResult {
    Waiting,
    /// Done: this node came of it. Kept until it expires, so that a follow-up at another member finds it.
    Registered(NodeId),
    /// A person said no; the reason is shown to the client.
    Rejected(String),
}
