//! Coming into a tailnet (`tailcfg.RegisterRequest`, `tailcfg.RegisterResponse`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Hostinfo, MachineKey, NlKey, NodeKey, Time,
    hostinfo::HOSTINFO,
    lenient::{ClientMessage, Fields, Kind},
    text::serialize_plain,
    time,
};

/// A registration. Zero keys are absent keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegisterRequest {
    /// The client's capability version.
    pub version: u16,
    pub node_key: NodeKey,
    /// The key a rotation replaces.
    pub old_node_key: NodeKey,
    #[serde(rename = "NLKey")]
    pub nl_key: NlKey,
    pub auth: Option<RegisterAuth>,
    /// A wish for an end of the key; one in the past is a logout.
    #[serde(deserialize_with = "time::unless_zero")]
    pub expiry: Option<Time>,
    /// The `AuthURL` of an earlier answer: wait until a person has dealt with it. Empty when there was none.
    pub followup: String,
    pub hostinfo: Option<Hostinfo>,
    pub ephemeral: bool,
    pub tailnet: String,
}

/// What a client proves itself with. Its Debug form keeps the secret.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegisterAuth {
    /// The text of a pre-auth key; may be empty.
    pub auth_key: String,
}

impl fmt::Debug for RegisterAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.auth_key.is_empty() { "RegisterAuth(none)" } else { "RegisterAuth(…)" })
    }
}

impl RegisterRequest {
    /// The pre-auth key, where there is one.
    pub fn auth_key(&self) -> Option<&str> {
        self.auth.as_ref().map(|auth| auth.auth_key.as_str()).filter(|key| !key.is_empty())
    }
}

impl ClientMessage for RegisterRequest {
    const FIELDS: Fields = Fields {
        known: &[
            ("Version", Kind::Port),
            ("NodeKey", Kind::Text),
            ("OldNodeKey", Kind::Text),
            ("NLKey", Kind::Text),
            ("Auth", Kind::Object(&Fields { known: &[("AuthKey", Kind::Text)], keep_unknown: false })),
            ("Expiry", Kind::Text),
            ("Followup", Kind::Text),
            ("Hostinfo", Kind::Object(&HOSTINFO)),
            ("Ephemeral", Kind::Bool),
            ("Tailnet", Kind::Text),
        ],
        keep_unknown: false,
    };
}

/// The answer to a registration. All keys are always written: clients in Rust require them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegisterResponse {
    pub user: User,
    pub login: Login,
    /// The client must make a new node key.
    pub node_key_expired: bool,
    /// Clients in Rust take this for success.
    pub machine_authorized: bool,
    /// Where a person finishes the login; empty when there is nothing to do.
    #[serde(rename = "AuthURL", serialize_with = "serialize_plain")]
    pub auth_url: String,
    /// Shown to the person; empty for none.
    #[serde(serialize_with = "serialize_plain")]
    pub error: String,
}

/// `tailcfg.User`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct User {
    #[serde(rename = "ID")]
    pub id: u64,
    #[serde(serialize_with = "serialize_plain")]
    pub display_name: String,
}

/// `tailcfg.Login`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Login {
    #[serde(rename = "ID")]
    pub id: u64,
    #[serde(serialize_with = "serialize_plain")]
    pub provider: String,
    #[serde(serialize_with = "serialize_plain")]
    pub login_name: String,
    #[serde(serialize_with = "serialize_plain")]
    pub display_name: String,
}

/// The answer to `GET /key` (`tailcfg.OverTLSPublicKeyResponse`). Both keys are always written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OverTlsPublicKeyResponse {
    /// Zero: the protocol before Noise is not spoken.
    pub legacy_public_key: MachineKey,
    /// Our Noise key.
    pub public_key: MachineKey,
}
