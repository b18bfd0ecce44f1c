//! Everything one node should know.

use std::collections::BTreeSet;

use state_machine::{NodeId, Timestamp};

use crate::{Atlas, capability, dial_plan, wire::Frame};

/// What the caller adds, because a state has no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock: clients correct their own by it when they judge key expiry.
    pub control_time: Timestamp,
}

/// The JSON bytes of a complete map; `None` when there is no such node.
///
/// Peers are those the policy shows, spliced in the order of their ids. A viewer without peers gets no list of peers at all: an empty one
/// means nothing to one client and everything to the other.
pub fn full(atlas: &Atlas, viewer: NodeId, moment: &Moment) -> Option<Vec<u8>> {
    let sheet = atlas.sheet(viewer)?;
    let plates = atlas.plates();
    let pages = &plates.pages;
    let eyes = atlas.eyes(sheet);
    let (mut peers, mut owners) = (Vec::new(), BTreeSet::from([sheet.facts.owner]));
    for (_, peer) in plates.sheets.iter().filter(|(id, peer)| **id != viewer && eyes.sees(peer)) {
        owners.insert(peer.facts.owner);
        peers.push(match peer.facts.routes.is_empty() && !eyes.only_ipv6 {
            true => peer.json.clone(),
            false => peer.json_for(&eyes.look(peer)),
        });
    }
    let filters = atlas.filters(viewer);

    let bytes: usize = peers.iter().map(|peer| peer.len() + 1).sum();
    let mut frame = Frame::new(bytes + filters.len() + pages.dns.len() + pages.derp_map.len() + 4096);
    frame.page("Node", &sheet.self_json(&plates.state));
    frame.page("DERPMap", &pages.derp_map);
    frame.list("Peers", peers.iter().map(|peer| &**peer));
    frame.page("DNSConfig", &pages.dns_for(sheet));
    if let Some(domain) = &pages.domain {
        frame.page("Domain", domain);
    }
    frame.page("CollectServices", b"false");
    frame.page("PacketFilters", &filters);
    let profiles = owners.iter().filter_map(|owner| plates.profiles.get(owner));
    frame.list("UserProfiles", profiles.map(|profile| &**profile));
    frame.page("SSHPolicy", &atlas.shells(sheet.facts.class));
    frame.page("ControlDialPlan", dial_plan::of(&pages.dial_plans, viewer));
    if let Some(debug) = &pages.debug {
        frame.page("Debug", debug);
    }
    if sheet.row.capability_version < capability::READS_AUTO_UPDATE_CAPABILITY {
        frame.page("DefaultAutoUpdate", b"false");
    }
    Some(frame.finish(moment))
}
