//! Tailscale's words: keys and the messages between clients and a control server.
//!
//! Types only, no behaviour, nothing of ours: a leaf vocabulary shared by maps, server, relay and simulated clients.
//! Numbers and field names come from `tailcfg/tailcfg.go` and `types/key` of the client.

mod keys;

pub use keys::{ChallengeKey, DiscoKey, KeyError, MachineKey, NlKey, NodeKey};
