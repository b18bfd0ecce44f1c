//! Where relays are (`tailcfg.DERPMap`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::text::serialize_plain;

/// All regions. Clients compare regions byte by byte and leave those that differ, so it is written the same each time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DerpMap {
    #[serde(rename = "Regions")]
    pub regions: BTreeMap<u32, DerpRegion>,
    /// Whether Tailscale's own relays are left out.
    #[serde(rename = "omitDefaultRegions")]
    pub omit_default_regions: bool,
}

/// Relays that know of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DerpRegion {
    #[serde(rename = "RegionID")]
    pub region_id: u32,
    #[serde(serialize_with = "serialize_plain")]
    pub region_code: String,
    #[serde(serialize_with = "serialize_plain")]
    pub region_name: String,
    /// In the order clients try them.
    pub nodes: Vec<DerpNode>,
}

/// One relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DerpNode {
    /// Unique in the whole map.
    #[serde(serialize_with = "serialize_plain")]
    pub name: String,
    #[serde(rename = "RegionID")]
    pub region_id: u32,
    #[serde(serialize_with = "serialize_plain")]
    pub host_name: String,
    #[serde(skip_serializing_if = "String::is_empty", serialize_with = "serialize_plain")]
    pub cert_name: String,
    /// A literal, empty (ask DNS) or `none`.
    #[serde(rename = "IPv4", skip_serializing_if = "String::is_empty", serialize_with = "serialize_plain")]
    pub ipv4: String,
    #[serde(rename = "IPv6", skip_serializing_if = "String::is_empty", serialize_with = "serialize_plain")]
    pub ipv6: String,
    /// 0 = 3478, -1 = none.
    #[serde(rename = "STUNPort", skip_serializing_if = "is_default_port")]
    pub stun_port: i32,
    #[serde(rename = "STUNOnly", skip_serializing_if = "is_false")]
    pub stun_only: bool,
    /// 0 = 443.
    #[serde(rename = "DERPPort", skip_serializing_if = "is_default_derp_port")]
    pub derp_port: u16,
    #[serde(skip_serializing_if = "is_false")]
    pub insecure_for_tests: bool,
    #[serde(rename = "CanPort80", skip_serializing_if = "is_false")]
    pub can_port_80: bool,
}

fn is_default_port(port: &i32) -> bool {
    *port == 0
}

fn is_default_derp_port(port: &u16) -> bool {
    *port == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}
