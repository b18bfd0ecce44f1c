//! What a node asks for, and what it reports of itself (`tailcfg.MapRequest`).

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, de};

use crate::{
    DiscoKey, Hostinfo, NodeKey,
    hostinfo::HOSTINFO,
    lenient::{ClientMessage, Fields, Kind},
};

/// More endpoints than this are not kept; a client has a handful.
pub const ENDPOINTS_MAX: usize = 128;

/// A map request. Zero keys are absent keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct MapRequest {
    /// The client's capability version.
    pub version: u16,
    /// `zstd`, or empty for plain JSON.
    pub compress: String,
    pub keep_alive: bool,
    pub node_key: NodeKey,
    pub disco_key: DiscoKey,
    /// Whether the answer is a stream of frames that does not end.
    pub stream: bool,
    pub hostinfo: Option<Hostinfo>,
    /// Those another node could use; see [`MapRequest::reported_endpoints`].
    #[serde(deserialize_with = "endpoints")]
    endpoints: Vec<Option<SocketAddr>>,
    endpoint_types: Vec<i64>,
    pub read_only: bool,
    pub omit_peers: bool,
    pub debug_flags: Vec<String>,
}

/// Where a node can be reached directly, and how it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReportedEndpoint {
    pub addr: SocketAddr,
    /// `tailcfg.EndpointType`: 0 unknown, 1 local, 2 STUN, 3 portmap, 4 STUN with local port, 5 explicit.
    pub kind: u8,
}

/// What a request wants (`tailcfg.go`, `MapRequest.Stream`, `MapRequest.OmitPeers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapRequestKind {
    /// A full map, then changes for as long as the stream lives.
    Stream,
    /// Only reports; the answer is an empty body.
    Update,
    /// One full map.
    Once,
}

impl MapRequest {
    /// Whether every frame must be zstd.
    pub fn wants_zstd(&self) -> bool {
        self.compress == "zstd"
    }

    /// What the request wants.
    pub fn kind(&self) -> MapRequestKind {
        match (self.stream, self.omit_peers) {
            (true, _) => MapRequestKind::Stream,
            (false, true) => MapRequestKind::Update,
            (false, false) => MapRequestKind::Once,
        }
    }

    /// The endpoints peers could use, in the client's order, without repetition: no link-local IPv6, no zones, no
    /// unspecified address.
    pub fn reported_endpoints(&self) -> Vec<ReportedEndpoint> {
        let mut reported: Vec<ReportedEndpoint> = Vec::new();
        for (place, addr) in self.endpoints.iter().enumerate() {
            let Some(addr) = addr.filter(is_useful) else { continue };
            let kind = self.endpoint_types.get(place).and_then(|kind| u8::try_from(*kind).ok()).unwrap_or(0);
            if reported.len() < ENDPOINTS_MAX && !reported.iter().any(|known| known.addr == addr) {
                reported.push(ReportedEndpoint { addr, kind });
            }
        }
        reported
    }
}

fn is_useful(addr: &SocketAddr) -> bool {
    let ip = addr.ip();
    addr.port() != 0 && !ip.is_unspecified() && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Endpoints that carry a zone or are empty hold their place, because the types are a list of their own.
fn endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Option<SocketAddr>>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |text: String| match text.parse() {
        _ if text.is_empty() || text.contains('%') => Ok(None),
        Ok(addr) => Ok(Some(addr)),
        Err(_) => Err(de::Error::custom("an endpoint is not an address with a port")),
    };
    texts.into_iter().map(parse).collect()
}

impl ClientMessage for MapRequest {
    const FIELDS: Fields = Fields {
        known: &[
            ("Version", Kind::Port),
            ("Compress", Kind::Text),
            ("KeepAlive", Kind::Bool),
            ("NodeKey", Kind::Text),
            ("DiscoKey", Kind::Text),
            ("Stream", Kind::Bool),
            ("Hostinfo", Kind::Object(&HOSTINFO)),
            ("Endpoints", Kind::Texts),
            ("EndpointTypes", Kind::Integers),
            ("ReadOnly", Kind::Bool),
            ("OmitPeers", Kind::Bool),
            ("DebugFlags", Kind::Texts),
        ],
        keep_unknown: false,
    };
}
