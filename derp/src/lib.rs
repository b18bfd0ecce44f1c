//! The relay: DERP and STUN, for nodes that cannot reach each other directly.
//!
//! It interoperates with Tailscale's Go and Rust clients. It knows keys and packets, nothing of tailnets: who may enter
//! is asked of whoever embeds it ([`Admission`]). Streams arrive opened, so the same code runs over TCP, TLS, pipes and
//! a simulated network.
//!
//! Start reading at [`hub`] (who is here, where a packet goes), then [`connection`] (one client), `reception` (from
//! a stream to a client), [`relay`].
//!
//! ```text
//!  serve_tls ─► tls ─┐  reception:
//!  serve ────────────┴► http ─► answers            probes, captive portals
//!                         └───► login ─► hello     who are you, may you enter
//!                                 └────► connection ─ frame ─► switchboard (hub) ─► outbox of another connection
//!  serve_stun ─► stun
//! ```

pub mod admission;
pub mod answers;
pub mod client;
pub mod connection;
pub mod frame;
pub mod hello;
pub mod http;
pub mod hub;
mod login;
pub mod metrics;
mod newcomers;
pub mod options;
mod outbox;
mod read_ahead;
mod reception;
pub mod relay;
pub mod stun;
mod switchboard;
pub mod tls;

pub use admission::Admission;
pub use hello::PrivateKey;
pub use metrics::Metrics;
pub use options::{Limits, MeshKey, QueueLimits, RelayOptions};
pub use relay::{Relay, serve_stun};
pub use tls::{Certificate, CertificateError, SelfSigned};
