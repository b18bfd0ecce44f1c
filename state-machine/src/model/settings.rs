use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// What all members must share. Written by `ApplySettings`; a configuration file differs between members, a log does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `prefixes.v4`; within 100.64.0.0/10.
    pub prefix_v4: Option<Ipv4Net>,
    /// `prefixes.v6`; within fd7a:115c:a1e0::/48.
    pub prefix_v6: Option<Ipv6Net>,
    /// `prefixes.allocation`.
    pub allocation: Allocation,
    /// `server_url`: what clients were told to log in at; the base of login URLs.
    pub server_url: String,
    /// `dns.base_domain`, without a dot at either end.
    pub base_domain: String,
    /// `dns.magic_dns`.
    pub magic_dns: bool,
    /// `dns.override_local_dns`.
    pub override_local_dns: bool,
    /// `dns.nameservers.global`: addresses or `https://` URLs.
    pub nameservers: Vec<String>,
    /// `dns.nameservers.split`: suffix → resolvers.
    pub split_dns: BTreeMap<String, Vec<String>>,
    /// `dns.search_domains`.
    pub search_domains: Vec<String>,
    /// `dns.extra_records`.
    pub extra_records: Vec<DnsRecord>,
    /// `node.expiry` in seconds; 0 = node keys do not expire.
    pub node_expiry_secs: u64,
    /// `node.ephemeral.inactivity_timeout` in seconds.
    pub ephemeral_inactivity_secs: u64,
    /// How long a node whose stream ended is still told online.
    pub presence_grace_secs: u64,
    /// The same for a node whose member died: its client needs time to notice.
    pub member_loss_grace_secs: u64,
    /// `randomize_client_port`.
    pub randomize_client_port: bool,
    /// `logtail.enabled`.
    pub logtail: bool,
    /// `taildrop.enabled`.
    pub taildrop: bool,
    /// `cluster.dial_plan`: clients are told the members' addresses and need DNS no more. Level 3.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dial_plan: bool,
    /// `cluster.audit_rows`: how many changes the audit log remembers.
    #[serde(skip_serializing_if = "is_usual_audit")]
    pub audit_rows: u64,
    /// `node.approval`: nodes that people bring in by a login provider wait for an administrator. Level 4.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub node_approval: bool,
    /// `cluster.cert_dns.mode`: whether nodes may have certificates for their names, and who tells the world's
    /// certificate authorities that they are theirs. Level 5.
    #[serde(skip_serializing_if = "NodeCertificates::is_off")]
    pub node_certificates: NodeCertificates,
}

/// Not written, so that the row stays what an older program writes.
fn is_usual_audit(rows: &u64) -> bool {
    *rows == AUDIT_ROWS
}

/// How many changes the audit log remembers unless told otherwise; a row takes about half a kilobyte.
pub const AUDIT_ROWS: u64 = 10_000;

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            prefix_v4: Some("100.64.0.0/10".parse().expect("a prefix")),
            prefix_v6: Some("fd7a:115c:a1e0::/48".parse().expect("a prefix")),
            allocation: Allocation::Sequential,
            server_url: String::new(),
            base_domain: String::new(),
            magic_dns: true,
            override_local_dns: false,
            nameservers: Vec::new(),
            split_dns: BTreeMap::new(),
            search_domains: Vec::new(),
            extra_records: Vec::new(),
            node_expiry_secs: 0,
            ephemeral_inactivity_secs: 30 * 60,
            presence_grace_secs: 10,
            member_loss_grace_secs: 60,
            randomize_client_port: false,
            logtail: false,
            taildrop: true,
            dial_plan: false,
            audit_rows: AUDIT_ROWS,
            node_approval: false,
            node_certificates: NodeCertificates::Off,
        }
    }
}

/// Who answers for the TXT records by which nodes prove their names to certificate authorities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeCertificates {
    /// Nobody: nodes are not told that they could have any.
    #[default]
    Off,
    /// Every member, from State.
    Answered,
    /// A DNS server the leader updates (RFC 2136).
    Updated,
}

impl NodeCertificates {
    pub fn is_off(&self) -> bool {
        *self == NodeCertificates::Off
    }
}

/// Which tailnet address comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allocation {
    /// The lowest that was never given out since the last wrap.
    #[default]
    Sequential,
    /// By the seed the registration carries.
    Random,
}

/// A record MagicDNS answers beside the nodes (`tailcfg.DNSRecord`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    pub name: String,
    /// `A` or `AAAA`.
    pub kind: String,
    pub value: IpAddr,
}
