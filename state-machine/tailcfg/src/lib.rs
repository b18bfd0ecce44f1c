//! Tailscale's words: keys and the messages between clients and a control server.
//!
//! Types only, no behaviour, nothing of ours: a leaf vocabulary shared by maps, server, relay and simulated clients.
//! Numbers and field names come from `tailcfg/tailcfg.go` and `types/key` of the client.
//!
//! | file | holds |
//! |---|---|
//! | `keys.rs` `time.rs` `text.rs` | words: keys, moments, strings that need no escapes |
//! | `lenient.rs` | how clients' messages are read: [`from_client_json`] |
//! | `map_request.rs` `register.rs` `hostinfo.rs` `requests.rs` | what clients send, and short answers |
//! | `node.rs` `derp_map.rs` `dns.rs` `filter.rs` `ssh.rs` `signals.rs` | the pages of a map |
//! | `early.rs` | the first bytes inside Noise |
//!
//! What goes out obeys the stricter of two readers. Go's forgives; the Rust client's does not: no `null`, no missing
//! field, no escaped string. The types here hold what one value can hold of these rules; `netmap::contract` checks the
//! rest on whole frames.

mod derp_map;
mod dns;
mod early;
mod filter;
mod hostinfo;
mod keys;
mod lenient;
mod map_request;
mod node;
mod register;
mod requests;
mod signals;
mod ssh;
mod text;
mod time;

pub use derp_map::{DerpMap, DerpNode, DerpRegion};
pub use dns::{DnsConfig, DnsRecord, DnsResolver};
pub use early::{EARLY_PAYLOAD_MAGIC, EarlyNoise};
pub use filter::{ApplicationRule, CapGrant, FilterRule, NetPortRange, NetworkRule, PortRange};
pub use hostinfo::{HOSTINFO_BYTES_MAX, Hostinfo};
pub use keys::{ChallengeKey, DiscoKey, KeyError, MachineKey, NlKey, NodeKey};
pub use lenient::{ClientMessage, DecodeError, Fields, Kind, MESSAGE_BYTES_MAX, from_client_json};
pub use map_request::{ENDPOINTS_MAX, MapRequest, MapRequestKind, ReportedEndpoint};
pub use node::{CapMap, Node, PeerChange, UserProfile};
pub use register::{Login, OverTlsPublicKeyResponse, RegisterAuth, RegisterRequest, RegisterResponse, User};
pub use requests::{
    AuditLogRequest, DerpAdmitClientRequest, DerpAdmitClientResponse, HealthChangeRequest, QueryFeatureRequest,
    QueryFeatureResponse, SetDeviceAttributesRequest, SetDnsRequest, TokenRequest, TokenResponse,
};
pub use signals::{ControlDialPlan, ControlIpCandidate, Debug, KEEP_ALIVE, PingRequest};
pub use ssh::{SshAction, SshPolicy, SshPrincipal, SshRecordingFailure, SshRule};
pub use text::{is_plain, plain};
pub use time::Time;
