//! Where relays are: one region for each member that runs one, and the regions that are not ours.
//!
//! Clients leave a region whose entry differs in any byte from the one they know. So a region follows from its member's
//! facts alone, and in the order of ids.

use std::collections::{BTreeMap, BTreeSet};

use state_machine::{DerpNode, DerpRegion, Member, MemberState, RelayFacts, State};

/// The map all nodes get. A member's own region and relay name win over another's.
///
/// The region of a silent member is left out: a client may measure relays only when it is sent a map, and would stay
/// with a dead one. By then it has heard nothing from that relay for more than the 8 seconds in which Go's netcheck
/// would still take it for its home. The last region of ours stays, dead or not.
pub(crate) fn map(state: &State) -> tailcfg::DerpMap {
    let mut own: BTreeMap<u32, tailcfg::DerpRegion> = regions_of(state, |member| !member.silent);
    if own.is_empty() {
        own = regions_of(state, |_| true);
    }
    let own_names: BTreeSet<&str> = own.values().flat_map(|region| &region.nodes).map(|node| &*node.name).collect();
    let mut regions = BTreeMap::new();
    for (id, region) in state.derp_regions().iter().filter(|(id, _)| **id != 0 && !own.contains_key(id)) {
        let mut region = of_others(region);
        region.nodes.retain(|node| !own_names.contains(&*node.name));
        regions.insert(*id, region);
    }
    regions.extend(own.iter().map(|(id, region)| (*id, region.clone())));
    // Tailscale's own relays know nothing of our nodes.
    tailcfg::DerpMap { regions, omit_default_regions: true }
}

fn regions_of(state: &State, wanted: impl Fn(&Member) -> bool) -> BTreeMap<u32, tailcfg::DerpRegion> {
    state.members().values().filter(|member| wanted(member)).filter_map(|member| of_member(member)).collect()
}

fn of_member(member: &Member) -> Option<(u32, tailcfg::DerpRegion)> {
    let relay = member.relay.as_ref().filter(|_| member.state == MemberState::Active && member.region_id != 0)?;
    let id = member.region_id;
    let named = |text: &str| if text.is_empty() { member.name.clone() } else { text.to_owned() };
    let region = tailcfg::DerpRegion {
        region_id: id,
        region_code: named(&relay.region_code),
        region_name: named(&relay.region_name),
        nodes: vec![relay_node(id, relay)],
    };
    Some((id, region))
}

fn relay_node(id: u32, relay: &RelayFacts) -> tailcfg::DerpNode {
    tailcfg::DerpNode {
        name: format!("{id}a"),
        region_id: id,
        host_name: relay.host_name.clone(),
        cert_name: String::new(),
        ipv4: literal::<std::net::Ipv4Addr>(&relay.ipv4),
        ipv6: literal::<std::net::Ipv6Addr>(&relay.ipv6),
        stun_port: port(relay.stun_port),
        stun_only: false,
        derp_port: relay.derp_port,
        insecure_for_tests: relay.insecure_for_tests,
        can_port_80: relay.can_port_80,
    }
}

fn of_others(region: &DerpRegion) -> tailcfg::DerpRegion {
    tailcfg::DerpRegion {
        region_id: region.id,
        region_code: region.code.clone(),
        region_name: region.name.clone(),
        nodes: region.nodes.iter().map(|node| other_node(region.id, node)).collect(),
    }
}

fn other_node(region: u32, node: &DerpNode) -> tailcfg::DerpNode {
    tailcfg::DerpNode {
        name: node.name.clone(),
        region_id: region,
        host_name: node.host_name.clone(),
        cert_name: node.cert_name.clone(),
        ipv4: literal::<std::net::Ipv4Addr>(&node.ipv4),
        ipv6: literal::<std::net::Ipv6Addr>(&node.ipv6),
        stun_port: port(node.stun_port),
        stun_only: node.stun_only,
        derp_port: node.derp_port,
        insecure_for_tests: node.insecure_for_tests,
        can_port_80: node.can_port_80,
    }
}

/// A literal or `none`; what is neither is left to DNS, because clients would refuse the whole map over it.
fn literal<A: std::str::FromStr>(text: &str) -> String {
    let known = text == "none" || text.parse::<A>().is_ok();
    if known { text.to_owned() } else { String::new() }
}

/// -1 for none, 0 for the default.
fn port(port: i32) -> i32 {
    if (-1..=i32::from(u16::MAX)).contains(&port) { port } else { 0 }
}
