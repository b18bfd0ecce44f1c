//! The server: puts the rooms together and speaks Tailscale.
//!
//! [`Server::start`] is the only entrance; production hands it the machine's doors, a simulation its own. Start reading
//! there, then `control/session.rs`.
//!
//! | file | holds |
//! |---|---|
//! | `server.rs` | [`Server`]: build, serve, drain |
//! | `config.rs`, `config/` | Headscale-shaped file → [`options::Options`] |
//! | `listen.rs` | ports, TLS, and who gets which path |
//! | `preflight.rs` | can this machine hold its timing profile? asked before a member is made |
//! | `wellness.rs` | is this member well? the checks behind `/readyz` |
//! | `reload.rs` | what SIGHUP takes over |
//! | `fetch.rs` | small files and short talks over HTTP |
//! | `acme.rs` | certificates from an authority of the public |
//! | `cert_dns.rs`, `cert_dns/` | DNS for certificate authorities that ask whose a node's name is |
//! | `control.rs`, `control/` | the paths a Tailscale client knows |
//! | `login.rs`, `login/` | people signing in: the pages a client sends them to |
//! | `mockoidc.rs` | a login provider for trying things out |
//! | `atlas.rs` | the one task that redraws the atlas when the state moves |
//! | `presence.rs` | who is connected here, told to the cluster in batches |
//! | `chores.rs`, `chores/` | the leader's housekeeping |
//! | `relay.rs` | the embedded DERP's doorman |
//! | `keys.rs`, `observe.rs` | long-lived keys; logs and metrics |

// Futures of ACME orders are deep: an order is a talk of a dozen steps over HTTP, each inside the other.
#![recursion_limit = "256"]

mod acme;
pub mod atlas;
mod cert_dns;
mod chores;
pub mod config;
pub mod control;
mod fetch;
mod keys;
mod listen;
mod login;
pub mod mockoidc;
mod node_metrics;
pub mod observe;
pub mod options;
pub mod preflight;
mod presence;
mod relay;
pub mod reload;
mod server;
mod wellness;

pub use options::Options;

pub use server::{Server, StartError};

/// When the certificate in these files ends.
pub fn certificate_ends(
    files: &options::TlsFiles,
    disk: &dyn world::Disk,
) -> std::io::Result<state_machine::Timestamp> {
    Ok(listen::tls::Certificate::load(files, disk)?.expires_at())
}
