//! Who may open a shell (`tailcfg.SSHPolicy`). Lower-case keys, unlike everything else.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Serialize;

use crate::Time;

/// The rules; the first that matches decides. Without rules nobody may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SshPolicy {
    pub rules: Vec<SshRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SshRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_expires: Option<Time>,
    pub principals: Vec<SshPrincipal>,
    /// The user that is asked for, or `*` → the local user; `=` is the same name, empty is no match.
    pub ssh_users: BTreeMap<String, String>,
    pub action: SshAction,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accept_env: Vec<String>,
}

/// Who connects; one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SshPrincipal {
    /// A stable node id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    #[serde(rename = "nodeIP", skip_serializing_if = "String::is_empty")]
    pub node_ip: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_login: String,
    #[serde(skip_serializing_if = "is_false")]
    pub any: bool,
}

/// What then happens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SshAction {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "is_false")]
    pub reject: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub accept: bool,
    /// Nanoseconds; 0 = no end.
    #[serde(rename = "sessionDuration", skip_serializing_if = "is_none")]
    pub session_duration_nanos: u64,
    #[serde(skip_serializing_if = "is_false")]
    pub allow_agent_forwarding: bool,
    /// Where the node asks for the action instead.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hold_and_delegate: String,
    #[serde(skip_serializing_if = "is_false")]
    pub allow_local_port_forwarding: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub allow_remote_port_forwarding: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recorders: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_recording_failure: Option<SshRecordingFailure>,
}

/// What happens when no recorder takes the session (`tailcfg.SSHRecorderFailureAction`). Keys as everywhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SshRecordingFailure {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reject_session_with_message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub terminate_session_with_message: String,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_none(nanos: &u64) -> bool {
    *nanos == 0
}
