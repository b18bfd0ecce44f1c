//! Who may reach a node (`tailcfg.FilterRule`).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::text::{serialize_plain, serialize_plain_list};

/// One rule. Two kinds that share a wire form; a rule that is both, or neither, ends the stream of a client in Rust.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum FilterRule {
    Network(NetworkRule),
    Application(ApplicationRule),
}

/// Packets from these sources may reach these ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NetworkRule {
    /// `*`, an address, a prefix without host bits, `first-last`, or `cap:<node capability>`.
    #[serde(rename = "SrcIPs", serialize_with = "serialize_plain_list")]
    pub src_ips: Vec<String>,
    #[serde(rename = "DstPorts")]
    pub dst_ports: Vec<NetPortRange>,
    /// IANA protocol numbers; empty: TCP, UDP and both ICMPs.
    #[serde(rename = "IPProto", skip_serializing_if = "Vec::is_empty")]
    pub ip_proto: Vec<u8>,
}

/// Applications are told that these sources have these capabilities.
#[derive(Clone, Debug, Serialize)]
pub struct ApplicationRule {
    #[serde(rename = "SrcIPs", serialize_with = "serialize_plain_list")]
    pub src_ips: Vec<String>,
    #[serde(rename = "CapGrant")]
    pub cap_grant: Vec<CapGrant>,
}

/// Ports of destinations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetPortRange {
    /// As a source, without `cap:`.
    #[serde(rename = "IP", serialize_with = "serialize_plain")]
    pub ip: String,
    pub ports: PortRange,
}

/// From first to last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: PortRange = PortRange { first: 0, last: u16::MAX };
}

/// Capabilities towards destinations.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CapGrant {
    /// Prefixes without host bits.
    pub dsts: Vec<ipnet::IpNet>,
    pub cap_map: BTreeMap<String, Vec<Box<RawValue>>>,
}
