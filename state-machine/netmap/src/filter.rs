//! What lets packets in to the viewer, as clients read it (`tailcfg.FilterRule`).
//!
//! Written by hand: lists of sources are long and shared, and are spliced as the bytes they already are.

use ::policy::{Capabilities, FilterRule, Ports};
use tailcfg::{NetPortRange, PortRange};

use crate::wire::{Bytes, to_bytes};

/// Named filters; clients replace them name by name and deny what no rule allows.
pub(crate) fn page(rules: &[FilterRule]) -> Bytes {
    let mut page = Vec::with_capacity(256 + rules.iter().map(|rule| sources(rule).len() + 512).sum::<usize>());
    page.extend_from_slice(b"{\"base\":[");
    for (at, rule) in rules.iter().enumerate() {
        if at > 0 {
            page.push(b',');
        }
        write(&mut page, rule);
    }
    page.extend_from_slice(b"]}");
    page.into()
}

fn sources(rule: &FilterRule) -> &str {
    match rule {
        FilterRule::Network { sources, .. } | FilterRule::Application { sources, .. } => sources.json(),
    }
}

/// A rule is of one kind: a client in Rust ends its stream over one that is both, or neither.
fn write(page: &mut Vec<u8>, rule: &FilterRule) {
    page.extend_from_slice(b"{\"SrcIPs\":");
    page.extend_from_slice(sources(rule).as_bytes());
    match rule {
        FilterRule::Network { destinations, protocol, .. } => {
            let ports = |ports: Ports| PortRange { first: ports.first, last: ports.last };
            let destinations =
                destinations.iter().map(|(ip, range)| NetPortRange { ip: ip.clone(), ports: ports(*range) });
            page.extend_from_slice(b",\"DstPorts\":");
            page.extend_from_slice(&to_bytes(&destinations.collect::<Vec<_>>()));
            if let Some(protocol) = protocol {
                page.extend_from_slice(format!(",\"IPProto\":[{protocol}]").as_bytes());
            }
        }
        FilterRule::Application { destinations, capabilities, .. } => {
            page.extend_from_slice(b",\"CapGrant\":[{\"Dsts\":");
            page.extend_from_slice(&to_bytes(destinations));
            page.extend_from_slice(b",\"CapMap\":");
            page.extend_from_slice(&to_bytes::<Capabilities>(capabilities));
            page.extend_from_slice(b"}]");
        }
    }
    page.push(b'}');
}
