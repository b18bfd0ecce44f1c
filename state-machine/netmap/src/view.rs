//! What of a node depends on who looks: its addresses and routes, and what it offers.

use ::policy::{Capabilities, DISABLE_IPV4, Meaning, is_exit_route};
use ipnet::IpNet;
use serde_json::value::RawValue;
use tailcfg::CapMap;

/// A peer's attribute that lets clients propose it as a way out (`tailcfg.NodeAttrSuggestExitNode`).
const SUGGEST_EXIT_NODE: &str = "suggest-exit-node";

/// `tailcfg.CapabilityWarnFunnelNoHTTPS`.
const WARN_FUNNEL_NO_HTTPS: &str = "https://tailscale.com/cap/warn-funnel-no-https";

/// A node in the eyes of somebody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Addresses and routes, sorted.
    pub allowed_ips: Vec<IpNet>,
    /// Subnet routes among them that it serves to the viewer.
    pub primary_routes: Vec<IpNet>,
    /// Whether clients may propose it as a way to the internet.
    pub exit: bool,
}

impl View {
    /// A peer that offers these routes.
    pub(crate) fn of_peer(addresses: &[IpNet], routes: &[IpNet]) -> View {
        let primary_routes: Vec<IpNet> = routes.iter().filter(|route| !is_exit_route(route)).copied().collect();
        let exit = primary_routes.len() < routes.len();
        View { allowed_ips: allowed(addresses, routes), primary_routes, exit }
    }

    /// The node as it sees itself: all it may serve, and what it serves now.
    pub(crate) fn of_self(addresses: &[IpNet], routes: &[IpNet], primary_routes: Vec<IpNet>) -> View {
        View { allowed_ips: allowed(addresses, routes), primary_routes, exit: false }
    }

    /// What peers are told that the node can do.
    pub(crate) fn peer_capabilities(&self) -> CapMap {
        self.exit.then(|| (SUGGEST_EXIT_NODE.to_owned(), Vec::new())).into_iter().collect()
    }
}

fn allowed(addresses: &[IpNet], routes: &[IpNet]) -> Vec<IpNet> {
    let mut allowed: Vec<IpNet> = addresses.iter().chain(routes).copied().collect();
    allowed.sort();
    allowed
}

/// Whether the policy hides the node's IPv4 address, and with it those of its peers.
pub(crate) fn hides_ipv4(has_ipv6: bool, attributes: &Capabilities) -> bool {
    attributes.contains_key(DISABLE_IPV4) && has_ipv6
}

/// A node's own addresses; its routes are another matter.
pub(crate) fn addresses(node: &::policy::Node, only_ipv6: bool) -> Vec<IpNet> {
    let shown = node.addresses().filter(|address| !only_ipv6 || node.ipv6.is_none() || address.is_ipv6());
    shown.map(IpNet::from).collect()
}

/// Adds what `nodeAttrs` gives.
pub(crate) fn add_attributes(capabilities: &mut CapMap, attributes: &Capabilities) {
    for (name, values) in attributes {
        let given = capabilities.entry(name.clone()).or_default();
        given.extend(values.iter().filter_map(|value| RawValue::from_string(value.to_string()).ok()));
    }
    // Funnel needs certificates, which this control server does not order: clients then say why it does not work.
    if attributes.contains_key("funnel") {
        capabilities.entry(WARN_FUNNEL_NO_HTTPS.to_owned()).or_default();
    }
}

/// The routes of a node that it serves for the tailnet.
pub(crate) fn primaries_of(meaning: &Meaning, node: &::policy::Node) -> Vec<IpNet> {
    let primaries = &meaning.tailnet().primaries;
    node.routes.iter().filter(|route| primaries.get(*route) == Some(&node.id)).copied().collect()
}
