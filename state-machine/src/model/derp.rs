use serde::{Deserialize, Serialize};

/// A region of relays that is not ours (Headscale's `derp.urls` and `derp.paths`). Members' own regions are derived
/// from the members table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DerpRegion {
    /// 1..=65535; clients keep it in a UDP port.
    pub id: u32,
    pub code: String,
    pub name: String,
    pub nodes: Vec<DerpNode>,
}

/// One relay of a region (`tailcfg.DERPNode`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DerpNode {
    /// Unique in the whole map.
    pub name: String,
    pub host_name: String,
    pub cert_name: String,
    /// A literal, empty (ask DNS) or `none`.
    pub ipv4: String,
    pub ipv6: String,
    /// 0 = 443.
    pub derp_port: u16,
    /// 0 = 3478, -1 = no STUN.
    pub stun_port: i32,
    pub stun_only: bool,
    pub can_port_80: bool,
    pub insecure_for_tests: bool,
}
