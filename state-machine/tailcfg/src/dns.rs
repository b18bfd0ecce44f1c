//! How a client resolves names (`tailcfg.DNSConfig`).

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use crate::text::{serialize_plain, serialize_plain_list};

/// The whole configuration; what is left out is empty, not unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsConfig {
    /// Asked for every name that no route matches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<DnsResolver>,
    /// Suffix → resolvers; an empty list is answered by the client itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, Vec<DnsResolver>>,
    /// Used where a system needs resolvers of ours only to make routes work.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallback_resolvers: Vec<DnsResolver>,
    /// Search domains, without a dot at the end.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "serialize_plain_list")]
    pub domains: Vec<String>,
    /// MagicDNS.
    #[serde(skip_serializing_if = "is_false")]
    pub proxied: bool,
    /// Names the node may ask certificates for.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "serialize_plain_list")]
    pub cert_domains: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_records: Vec<DnsRecord>,
}

/// A resolver: an address, an address with a port, `https://…`, `tls://…` or `http://…` of an exit node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsResolver {
    #[serde(serialize_with = "serialize_plain")]
    pub addr: String,
}

impl DnsResolver {
    /// `None` when clients could not read it: a client in Rust would end its stream over it.
    pub fn new(addr: &str) -> Option<DnsResolver> {
        let is_url = ["https://", "http://", "tls://"].iter().any(|scheme| addr.starts_with(scheme));
        let is_address = addr.parse::<IpAddr>().is_ok() || addr.parse::<std::net::SocketAddr>().is_ok();
        ((is_url && crate::is_plain(addr)) || is_address).then(|| DnsResolver { addr: addr.to_owned() })
    }
}

/// A record beside the nodes' own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsRecord {
    #[serde(serialize_with = "serialize_plain")]
    pub name: String,
    /// `A` or `AAAA`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    pub value: IpAddr,
}

impl DnsRecord {
    /// A record of the type its address has.
    pub fn new(name: &str, value: IpAddr) -> DnsRecord {
        DnsRecord { name: name.to_owned(), kind: if value.is_ipv4() { "A" } else { "AAAA" }, value }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}
