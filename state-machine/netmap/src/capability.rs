//! What older clients understand, and what a node may do.
//!
//! Clients count their abilities in one number (`tailcfg.CapabilityVersion`), sent with every request.

use serde_json::value::RawValue;
use state_machine::Settings;
use tailcfg::CapMap;

/// The oldest client that is served: 1.80. Everything in a frame that this client understands is sent to all.
pub const MINIMUM: u16 = 113;

/// From here on clients read `default-auto-update` from their capabilities; before, from a field of the frame.
pub const READS_AUTO_UPDATE_CAPABILITY: u16 = 131;

/// Whether a client of this version is served.
pub fn is_served(version: u16) -> bool {
    version >= MINIMUM
}

/// What every node may do: be shown as an administrator's, use SSH and, where it is on, Taildrop.
pub(crate) fn of_self(settings: &Settings) -> CapMap {
    let mut capabilities = default_set(false, settings.taildrop);
    // Clients look for it before they serve HTTPS by themselves (`tailcfg.go, CapabilityHTTPS`).
    if !settings.node_certificates.is_off() {
        capabilities.insert("https".to_owned(), vec![]);
    }
    if settings.randomize_client_port {
        capabilities.insert("randomize-client-port".to_owned(), vec![]);
    }
    capabilities
}

/// The same without State.
pub(crate) fn default_set(auto_update: bool, taildrop: bool) -> CapMap {
    let mut capabilities = CapMap::from([
        ("https://tailscale.com/cap/is-admin".to_owned(), vec![]),
        ("https://tailscale.com/cap/ssh".to_owned(), vec![]),
        ("default-auto-update".to_owned(), vec![json(if auto_update { "true" } else { "false" })]),
    ]);
    if taildrop {
        capabilities.insert("https://tailscale.com/cap/file-sharing".to_owned(), vec![]);
    }
    capabilities
}

/// Whether nodes' own capabilities differ between two settings.
pub(crate) fn differ(old: &Settings, new: &Settings) -> bool {
    let parts = |of: &Settings| (of.taildrop, of.randomize_client_port, of.node_certificates.is_off());
    parts(old) != parts(new)
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("a literal of this file")
}
