//! The smaller questions clients ask inside Noise, and the one DERP servers ask outside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    NodeKey,
    lenient::{ClientMessage, Fields, Kind},
    text::serialize_plain,
};

/// `POST /machine/set-dns`: a TXT record for an ACME challenge.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SetDnsRequest {
    pub version: u16,
    pub node_key: NodeKey,
    /// `_acme-challenge.` and one of the node's certificate domains.
    pub name: String,
    /// `TXT`.
    #[serde(rename = "Type")]
    pub kind: String,
    pub value: String,
}

/// `POST /machine/id-token`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TokenRequest {
    pub cap_version: u16,
    pub node_key: NodeKey,
    pub audience: String,
}

/// The answer to `/machine/id-token`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenResponse {
    /// A signed JWT.
    pub id_token: String,
}

/// `POST /machine/feature/query`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct QueryFeatureRequest {
    /// `serve`, `funnel`.
    pub feature: String,
    pub node_key: NodeKey,
}

/// The answer to `/machine/feature/query`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct QueryFeatureResponse {
    /// Whether nothing is left to do.
    pub complete: bool,
    /// What the person is told.
    #[serde(serialize_with = "serialize_plain")]
    pub text: String,
    /// Where the person could enable it.
    #[serde(rename = "URL", serialize_with = "serialize_plain")]
    pub url: String,
    /// Whether the client should wait until it is enabled.
    pub should_wait: bool,
}

/// `POST /machine/update-health`, sent by clients up to 1.88.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthChangeRequest {
    pub subsys: String,
    /// Empty: healthy again.
    pub error: String,
    pub node_key: NodeKey,
}

/// `POST /machine/audit-log`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AuditLogRequest {
    pub version: u16,
    pub node_key: NodeKey,
    /// `DISCONNECT_NODE`.
    pub action: String,
    pub details: String,
}

/// `PATCH /machine/set-device-attr`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SetDeviceAttributesRequest {
    pub version: u16,
    pub node_key: NodeKey,
    /// Attributes to set; `null` deletes one.
    pub update: BTreeMap<String, Value>,
}

/// `POST /verify`: may this key use a relay (`tailcfg.DERPAdmitClientRequest`)?
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DerpAdmitClientRequest {
    pub node_public: NodeKey,
    /// The client's address, as the relay sees it.
    pub source: String,
}

/// The answer to `/verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DerpAdmitClientResponse {
    pub allow: bool,
}

macro_rules! fields {
    ($($message:ty { $($name:literal: $kind:ident),+ })+) => {$(
        impl ClientMessage for $message {
            const FIELDS: Fields = Fields { known: &[$(($name, Kind::$kind)),+], keep_unknown: false };
        }
    )+};
}

fields! {
    SetDnsRequest { "Version": Port, "NodeKey": Text, "Name": Text, "Type": Text, "Value": Text }
    TokenRequest { "CapVersion": Port, "NodeKey": Text, "Audience": Text }
    QueryFeatureRequest { "Feature": Text, "NodeKey": Text }
    HealthChangeRequest { "Subsys": Text, "Error": Text, "NodeKey": Text }
    AuditLogRequest { "Version": Port, "NodeKey": Text, "Action": Text, "Details": Text }
    SetDeviceAttributesRequest { "Version": Port, "NodeKey": Text, "Update": Any }
    DerpAdmitClientRequest { "NodePublic": Text, "Source": Text }
}
