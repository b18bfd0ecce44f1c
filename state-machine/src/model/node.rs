use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tailcfg::{DiscoKey, MachineKey, NlKey, NodeKey};

use super::{MemberId, NodeId, PreAuthKeyId, SessionId, Timestamp, UserId};

/// A machine of the tailnet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    pub id: NodeId,
    pub machine_key: MachineKey,
    pub node_key: NodeKey,
    /// Zero until the client has told it.
    pub disco_key: DiscoKey,
    pub nl_key: NlKey,
    /// The tailnet address; absent when the tailnet has no prefix of that family.
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// What the client calls itself (`Hostinfo.Hostname`).
    pub hostname: String,
    /// Unique DNS label, without the base domain.
    pub given_name: String,
    /// Whether a person chose `given_name` (then a new host name does not change it).
    pub renamed: bool,
    /// The owner. Kept for tagged nodes as "who registered it"; [`Node::is_tagged`] decides ownership.
    pub user: Option<UserId>,
    /// `tag:name`, sorted. A tagged node belongs to its tags, not to a user.
    pub tags: BTreeSet<String>,
    pub register_method: RegisterMethod,
    pub pre_auth_key: Option<PreAuthKeyId>,
    pub ephemeral: bool,
    pub created_at: Timestamp,
    /// When the node key expires; absent = never.
    pub expiry: Option<Timestamp>,
    pub hostinfo: Hostinfo,
    pub endpoints: Vec<Endpoint>,
    /// The region id of `NetInfo.PreferredDERP`; 0 = none yet.
    pub home_derp: u32,
    /// `MapRequest.Version`.
    pub capability_version: u16,
    /// Routes an administrator or the policy approved (exit routes included).
    pub approved_routes: BTreeSet<IpNet>,
    /// Whether it waits for an administrator: it is nobody's peer, and serves nothing. Level 4.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unapproved: bool,
}

impl Node {
    /// Whether the node belongs to its tags.
    pub fn is_tagged(&self) -> bool {
        !self.tags.is_empty()
    }

    /// Whether the node key has expired at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expiry.is_some_and(|expiry| expiry <= now)
    }

    /// Routes that are advertised and approved; none of a node that waits for its own approval.
    pub fn enabled_routes(&self) -> impl Iterator<Item = IpNet> + '_ {
        let approved = |route: &IpNet| !self.unapproved && self.approved_routes.contains(route);
        self.hostinfo.routable_ips.iter().copied().filter(approved)
    }
}

/// How a node came in (Headscale's `register_method`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisterMethod {
    #[default]
    Cli,
    AuthKey,
    Oidc,
}

/// What a client says of itself: its own JSON, untouched, and the few fields we read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hostinfo {
    /// The JSON object as `tailcfg.Hostinfo` spells it, without `NetInfo`; at most 64 KiB. Empty before the first.
    pub raw: Arc<str>,
    /// `RoutableIPs`: sorted, masked.
    pub routable_ips: BTreeSet<IpNet>,
    /// `RequestTags`.
    pub request_tags: BTreeSet<String>,
    pub os: String,
    pub ipn_version: String,
    /// Whether `sshHostKeys` is not empty.
    pub ssh_server: bool,
}

/// Where a node can be reached directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    pub addr: SocketAddr,
    /// `tailcfg.EndpointType`: 0 unknown, 1 local, 2 STUN, 3 portmap, 4 STUN with local port, 5 explicit.
    pub kind: u8,
}

/// Whether a node is connected, and where. A table of its own: it moves more often than the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Presence {
    /// The newest stream; absent when none is open.
    pub session: Option<Session>,
    /// What peers are told. Stays true through the grace after the last stream ended.
    pub online: bool,
    /// When `online` turns false unless a stream comes back.
    pub offline_at: Option<Timestamp>,
    /// Last seen, coarsely: at the start and the end of streams.
    pub last_seen: Option<Timestamp>,
}

/// One open map stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub member: MemberId,
    pub id: SessionId,
}
