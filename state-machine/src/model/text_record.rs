use serde::{Deserialize, Serialize};

use super::{NodeId, Timestamp};

/// A TXT record a node asked for, to prove to a certificate authority that its name is its own
/// (`tailcfg.go, SetDNSRequest`; RFC 8555, section 8.4). A row, so that any member may be asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextRecord {
    /// `_acme-challenge.` and the node's full name; lower case, no dot at the end.
    pub name: String,
    /// SHA-256 of what only the node and the authority know, as 43 URL-safe characters.
    pub value: String,
    pub node: NodeId,
    pub set_at: Timestamp,
    /// From here on nobody is told of it.
    pub ends_at: Timestamp,
    /// A DNS server that is not ours has to be told, and to be told again when it ends.
    pub elsewhere: bool,
    /// That server has said that it knows it.
    pub acknowledged: bool,
}

impl TextRecord {
    /// In front of a node's name.
    pub const PREFIX: &str = "_acme-challenge.";

    /// What a record stands under: a name may have several values.
    pub fn key(name: &str, value: &str) -> String {
        format!("{name} {value}")
    }
}
