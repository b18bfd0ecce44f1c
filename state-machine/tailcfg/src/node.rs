//! A node as a map shows it (`tailcfg.Node`, `tailcfg.PeerChange`).

use std::{collections::BTreeMap, net::SocketAddr};

use ipnet::IpNet;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    DiscoKey, MachineKey, NodeKey, Time,
    text::{serialize_plain, serialize_plain_list},
};

/// Capabilities with their values; a capability without values has an empty list.
pub type CapMap = BTreeMap<String, Vec<Box<RawValue>>>;

/// A node. Absent fields are left out, never written as `null`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node<'a> {
    /// Never given to another node; below 2^53.
    #[serde(rename = "ID")]
    pub id: u64,
    #[serde(rename = "StableID", serialize_with = "serialize_plain")]
    pub stable_id: String,
    /// The full name with a dot at its end.
    #[serde(serialize_with = "serialize_plain")]
    pub name: String,
    pub user: u64,
    pub key: NodeKey,
    /// Absent: the key does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<Time>,
    pub machine: MachineKey,
    #[serde(skip_serializing_if = "DiscoKey::is_zero")]
    pub disco_key: DiscoKey,
    /// IPv4, then IPv6: clients in Rust accept exactly this pair.
    pub addresses: Vec<IpNet>,
    /// The addresses and the routes it serves.
    #[serde(rename = "AllowedIPs")]
    pub allowed_ips: Vec<IpNet>,
    /// Written when empty too: absent would mean "as before".
    pub endpoints: Vec<SocketAddr>,
    #[serde(rename = "HomeDERP", skip_serializing_if = "is_zero")]
    pub home_derp: u32,
    pub hostinfo: &'a RawValue,
    pub created: Time,
    #[serde(skip_serializing_if = "is_zero")]
    pub cap: u16,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "serialize_plain_list")]
    pub tags: Vec<String>,
    /// The subnet routes this node serves for the tailnet now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub primary_routes: Vec<IpNet>,
    /// Only of nodes that are not online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// Always written: Go notices later changes only of a value it has.
    pub online: bool,
    pub machine_authorized: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cap_map: CapMap,
    #[serde(skip_serializing_if = "is_false")]
    pub expired: bool,
}

/// What changed of a known peer, where a whole node would be too much.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PeerChange {
    #[serde(rename = "NodeID")]
    pub node_id: u64,
    /// 0 cannot be told this way.
    #[serde(rename = "DERPRegion", skip_serializing_if = "is_zero")]
    pub derp_region: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub cap: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<SocketAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<NodeKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<Time>,
}

/// A person, or the tags, as clients show them (`tailcfg.UserProfile`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserProfile {
    #[serde(rename = "ID")]
    pub id: u64,
    #[serde(serialize_with = "serialize_plain")]
    pub login_name: String,
    #[serde(serialize_with = "serialize_plain")]
    pub display_name: String,
    /// A valid URL, or left out: an invalid one ends the stream of a client in Rust.
    #[serde(rename = "ProfilePicURL", skip_serializing_if = "String::is_empty", serialize_with = "serialize_plain")]
    pub profile_pic_url: String,
}

fn is_zero<T: Copy + Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

fn is_false(flag: &bool) -> bool {
    !flag
}
