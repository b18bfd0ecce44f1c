//! What a server tells a client beside the map: pings, where to dial, how to behave.

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};

use crate::text::serialize_plain;

/// `{"KeepAlive":true}`: clients compare its bytes to skip reading it, so it never differs.
pub const KEEP_ALIVE: &[u8] = br#"{"KeepAlive":true}"#;

/// Asks a client to show that it is there, to ping a peer, or to answer an HTTP request (`tailcfg.PingRequest`).
///
/// `URL`, `URLIsNoise`, `Types` and `IP` are always written: clients in Rust require the first three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PingRequest {
    /// Absolute; a URL seen before is not answered again.
    #[serde(rename = "URL", serialize_with = "serialize_plain")]
    pub url: String,
    #[serde(rename = "URLIsNoise")]
    pub url_is_noise: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub log: bool,
    /// Empty: a HEAD request to the URL. Or `c2n`, or a comma list of `disco`, `TSMP`, `ICMP`, `peerapi`.
    #[serde(serialize_with = "serialize_plain")]
    pub types: String,
    /// What to ping; empty text for none.
    #[serde(rename = "IP", serialize_with = "address_or_empty")]
    pub ip: Option<IpAddr>,
    /// The HTTP/1.1 request of a `c2n`.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "base64_text")]
    pub payload: Vec<u8>,
}

/// Where a client may dial next time (`tailcfg.ControlDialPlan`); an empty list sends it back to DNS.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ControlDialPlan {
    pub candidates: Vec<ControlIpCandidate>,
}

/// One address to dial. Host name and ports stay those of the login URL.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ControlIpCandidate {
    #[serde(rename = "IP")]
    pub ip: IpAddr,
    #[serde(rename = "DialStartDelaySec")]
    pub dial_start_delay_secs: f64,
    /// More than 0: both clients take 0 for no time at all.
    #[serde(rename = "DialTimeoutSec")]
    pub dial_timeout_secs: f64,
    /// Give all the same: older clients wait for all others unless the best answers first.
    pub priority: i32,
}

impl ControlIpCandidate {
    /// A candidate with a usable timeout.
    pub fn new(ip: IpAddr, dial_start_delay_secs: f64) -> ControlIpCandidate {
        ControlIpCandidate { ip, dial_start_delay_secs, dial_timeout_secs: 5.0, priority: 1 }
    }
}

/// Orders to a client (`tailcfg.Debug`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Debug {
    #[serde(skip_serializing_if = "is_zero")]
    pub sleep_seconds: f64,
    /// No logs leave the client, until its process ends.
    #[serde(skip_serializing_if = "is_false")]
    pub disable_log_tail: bool,
}

fn address_or_empty<S: Serializer>(ip: &Option<IpAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match ip {
        Some(ip) => serializer.collect_str(ip),
        None => serializer.serialize_str(""),
    }
}

fn base64_text<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}
