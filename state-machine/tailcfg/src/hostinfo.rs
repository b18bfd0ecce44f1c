//! What a client says of the computer it runs on (`tailcfg.Hostinfo`).
//!
//! Peers get it back as it came, in the spelling of `tailcfg.go`, also the fields only newer clients know. We read a few.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use crate::lenient::{Fields, Kind};

/// The longest Hostinfo that is kept, without its NetInfo.
pub const HOSTINFO_BYTES_MAX: usize = 64 << 10;

/// A Hostinfo in parts: the text for peers and the fields we read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hostinfo {
    /// A JSON object without `NetInfo`, free of `null`, in canonical spelling.
    pub raw: String,
    /// `Hostname`.
    pub hostname: String,
    /// `OS`.
    pub os: String,
    /// `IPNVersion`.
    pub ipn_version: String,
    /// `RoutableIPs`, host bits cleared.
    pub routable_ips: BTreeSet<IpNet>,
    /// `RequestTags`.
    pub request_tags: BTreeSet<String>,
    /// Whether `sshHostKeys` is not empty: the client runs Tailscale SSH.
    pub ssh_server: bool,
    /// `NetInfo.PreferredDERP`, the home region; absent without a NetInfo or while it is 0.
    pub preferred_derp: Option<u32>,
}

impl Hostinfo {
    fn from_normal(mut object: Map<String, Value>) -> Result<Hostinfo, &'static str> {
        let net_info = object.remove("NetInfo");
        let preferred_derp = net_info.as_ref().and_then(|info| info.get("PreferredDERP")).and_then(Value::as_u64);
        let raw = Value::Object(object).to_string();
        if raw.len() > HOSTINFO_BYTES_MAX {
            return Err("Hostinfo is longer than 64 KiB");
        }
        let View { hostname, os, ipn_version, routable_ips, request_tags, ssh_host_keys } =
            serde_json::from_str(&raw).map_err(|_| "Hostinfo has unusable fields")?;
        Ok(Hostinfo {
            hostname,
            os,
            ipn_version,
            routable_ips,
            request_tags,
            ssh_server: !ssh_host_keys.is_empty(),
            preferred_derp: preferred_derp.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != 0),
            raw,
        })
    }
}

/// The fields we read.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct View {
    hostname: String,
    #[serde(rename = "OS")]
    os: String,
    #[serde(rename = "IPNVersion")]
    ipn_version: String,
    #[serde(rename = "RoutableIPs")]
    routable_ips: BTreeSet<IpNet>,
    request_tags: BTreeSet<String>,
    #[serde(rename = "sshHostKeys")]
    ssh_host_keys: Vec<String>,
}

impl<'de> Deserialize<'de> for Hostinfo {
    /// Expects the spelling of `tailcfg.go`, which [`from_client_json`](crate::from_client_json) has brought about.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hostinfo, D::Error> {
        Hostinfo::from_normal(Map::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// `tailcfg.Hostinfo`.
pub(crate) const HOSTINFO: Fields = Fields {
    known: &[
        ("IPNVersion", Kind::Text),
        ("FrontendLogID", Kind::Text),
        ("BackendLogID", Kind::Text),
        ("OS", Kind::Text),
        ("OSVersion", Kind::Text),
        ("Container", Kind::Bool),
        ("Env", Kind::Text),
        ("Distro", Kind::Text),
        ("DistroVersion", Kind::Text),
        ("DistroCodeName", Kind::Text),
        ("App", Kind::Text),
        ("Desktop", Kind::Bool),
        ("Package", Kind::Text),
        ("DeviceModel", Kind::Text),
        ("PushDeviceToken", Kind::Text),
        ("Hostname", Kind::Text),
        ("ShieldsUp", Kind::Bool),
        ("ShareeNode", Kind::Bool),
        ("NoLogsNoSupport", Kind::Bool),
        ("RemoteConfig", Kind::Bool),
        ("WireIngress", Kind::Bool),
        ("IngressEnabled", Kind::Bool),
        ("AllowsUpdate", Kind::Bool),
        ("Machine", Kind::Text),
        ("GoArch", Kind::Text),
        ("GoArchVar", Kind::Text),
        ("GoVersion", Kind::Text),
        ("RoutableIPs", Kind::Prefixes),
        ("RequestTags", Kind::Texts),
        ("WoLMACs", Kind::Texts),
        ("Services", Kind::Objects(&SERVICE)),
        ("NetInfo", Kind::Object(&NET_INFO)),
        ("sshHostKeys", Kind::Texts),
        ("Cloud", Kind::Text),
        ("Userspace", Kind::Bool),
        ("UserspaceRouter", Kind::Bool),
        ("AppConnector", Kind::Bool),
        ("ServicesHash", Kind::Text),
        ("PeerRelay", Kind::Bool),
        ("ExitNodeID", Kind::Text),
        ("Location", Kind::Object(&LOCATION)),
        ("TPM", Kind::Object(&TPM)),
        ("StateEncrypted", Kind::Bool),
    ],
    keep_unknown: true,
};

/// `tailcfg.NetInfo`: read for the home region only, so its other fields may be what they like.
const NET_INFO: Fields = Fields { known: &[("PreferredDERP", Kind::Unsigned)], keep_unknown: false };

/// `tailcfg.Service`.
const SERVICE: Fields =
    Fields { known: &[("Proto", Kind::Text), ("Port", Kind::Port), ("Description", Kind::Text)], keep_unknown: true };

/// `tailcfg.Location`.
const LOCATION: Fields = Fields {
    known: &[
        ("Country", Kind::Text),
        ("CountryCode", Kind::Text),
        ("City", Kind::Text),
        ("CityCode", Kind::Text),
        ("Latitude", Kind::Number),
        ("Longitude", Kind::Number),
        ("Priority", Kind::Integer),
    ],
    keep_unknown: true,
};

/// `tailcfg.TPMInfo`.
const TPM: Fields = Fields {
    known: &[
        ("Manufacturer", Kind::Text),
        ("Vendor", Kind::Text),
        ("Model", Kind::Integer),
        ("FirmwareVersion", Kind::Unsigned),
        ("SpecRevision", Kind::Integer),
        ("FamilyIndicator", Kind::Text),
    ],
    keep_unknown: true,
};
