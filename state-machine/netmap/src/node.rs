//! A node as its peers may see it, and as it sees itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use ::policy::{Capabilities, Meaning, is_exit_route};
use ipnet::IpNet;
use serde_json::value::RawValue;
use state_machine::{Node, NodeId, State, Timestamp};
use tailcfg::{CapMap, PeerChange};

use crate::{
    capability, profiles,
    view::{self, View},
    wire::{Bytes, time, to_bytes},
};

/// One node made ready: its row, what follows for it from other tables, and its bytes in the lists of its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sheet {
    pub row: Arc<Node>,
    pub facts: Facts,
    /// The node as a peer that offers no routes.
    pub json: Bytes,
    variants: Variants,
}

/// What maps say of a node that is not in its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The full name.
    pub name: String,
    /// The user id maps show.
    pub owner: u64,
    pub online: bool,
    /// Only of nodes that are not online.
    pub last_seen: Option<Timestamp>,
    pub expired: bool,
    /// Advertised and approved routes.
    pub routes: Vec<IpNet>,
    /// Subnet routes it serves for the tailnet now.
    pub primary_routes: Vec<IpNet>,
    /// The class in the atlas' meaning.
    pub class: u32,
    /// What the policy gives it.
    pub attributes: Arc<Capabilities>,
    /// Whether the policy hides its IPv4 address.
    pub hides_ipv4: bool,
}

/// How a viewer sees a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Look {
    /// The routes it may use through the node.
    pub routes: Vec<IpNet>,
    /// Whether IPv4 addresses are of no use to the viewer.
    pub only_ipv6: bool,
}

/// The node's bytes for viewers who see more of it, or less. Written when first asked for; no part of a comparison.
#[derive(Default)]
struct Variants(Mutex<BTreeMap<Look, Bytes>>);

impl Clone for Variants {
    fn clone(&self) -> Variants {
        Variants::default()
    }
}

impl PartialEq for Variants {
    fn eq(&self, _: &Variants) -> bool {
        true
    }
}

impl Eq for Variants {}

impl std::fmt::Debug for Variants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Variants")
    }
}

/// How two sheets of one node differ for its peers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// Only in ways a patch can tell.
    Patch(PeerChange),
    /// The peer must be sent anew.
    Whole,
}

impl Sheet {
    pub(crate) fn draw(state: &State, meaning: &Meaning, row: &Arc<Node>) -> Sheet {
        Sheet::of(row, Facts::of(state, meaning, row))
    }

    fn of(row: &Arc<Node>, facts: Facts) -> Sheet {
        let look = Look::default();
        let json = peer(row, &facts, &look);
        Sheet { row: row.clone(), facts, json, variants: Variants::default() }
    }

    /// The sheet for a later state; the old one where nothing moved.
    pub(crate) fn redraw(self: &Arc<Sheet>, state: &State, meaning: &Meaning, row: &Arc<Node>) -> Arc<Sheet> {
        let same_row = Arc::ptr_eq(&self.row, row) || self.row == *row;
        let facts = Facts::of(state, meaning, row);
        match same_row {
            true if self.facts == facts => self.clone(),
            // A class is a number; that it changed is no reason to write the node anew.
            true if self.facts == (Facts { class: self.facts.class, ..facts.clone() }) => {
                let (row, json) = (row.clone(), self.json.clone());
                Arc::new(Sheet { row, facts, json, variants: Variants::default() })
            }
            _ => Arc::new(Sheet::of(row, facts)),
        }
    }

    /// The node as a peer of somebody.
    pub(crate) fn json_for(&self, look: &Look) -> Bytes {
        if look.routes.is_empty() && (!look.only_ipv6 || self.facts.hides_ipv4) {
            return self.json.clone();
        }
        let mut variants = self.variants.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(json) = variants.get(look) {
            return json.clone();
        }
        let json = peer(&self.row, &self.facts, look);
        variants.insert(look.clone(), json.clone());
        json
    }

    /// The node as it sees itself.
    pub(crate) fn self_json(&self, state: &State) -> Bytes {
        let mut capabilities = capability::of_self(state.settings());
        view::add_attributes(&mut capabilities, &self.facts.attributes);
        let addresses = addresses(&self.row, self.facts.hides_ipv4);
        let view = View::of_self(&addresses, &self.facts.routes, self.facts.primary_routes.clone());
        to_bytes(&node(&self.row, &self.facts, &hostinfo(&self.row), addresses, view, capabilities))
    }

    /// Whether a node must be told of its own change. What it told us itself, it knows; and every self node makes a
    /// client rebuild all it has.
    pub(crate) fn self_differs(&self, new: &Sheet) -> bool {
        self.unpatchable_differs(new)
            || self.row.node_key != new.row.node_key
            || self.row.expiry != new.row.expiry
            || self.row.unapproved != new.row.unapproved
            || self.facts.routes != new.facts.routes
            || self.facts.primary_routes != new.facts.primary_routes
            || self.facts.attributes != new.facts.attributes
    }

    /// What a peer must be told that sees the node now, as it did before.
    pub(crate) fn change(&self, new: &Sheet, looks: [&Look; 2]) -> Change {
        let same = std::ptr::eq(self, new) || self.json == new.json;
        if same && (looks[0] == looks[1] || self.json_for(looks[0]) == new.json_for(looks[1])) {
            return Change::Nothing;
        }
        if looks[0] != looks[1] || self.unpatchable_differs(new) || self.row.hostinfo.raw != new.row.hostinfo.raw {
            return Change::Whole;
        }
        self.patch(new).map_or(Change::Whole, Change::Patch)
    }

    fn unpatchable_differs(&self, new: &Sheet) -> bool {
        let (old_row, new_row, old, new) = (&self.row, &new.row, &self.facts, &new.facts);
        old.name != new.name
            || old.owner != new.owner
            || old.expired != new.expired
            || old.hides_ipv4 != new.hides_ipv4
            || old_row.machine_key != new_row.machine_key
            || old_row.ipv4 != new_row.ipv4
            || old_row.ipv6 != new_row.ipv6
            || old_row.tags != new_row.tags
            || old_row.created_at != new_row.created_at
    }

    /// `None` where a patch has no way to say it: it cannot take a value away.
    fn patch(&self, new: &Sheet) -> Option<PeerChange> {
        let (old_row, new_row) = (&self.row, &new.row);
        let mut patch = PeerChange { node_id: new_row.id.0, ..PeerChange::default() };
        if old_row.home_derp != new_row.home_derp {
            patch.derp_region = Some(new_row.home_derp).filter(|region| *region != 0)?;
        }
        if old_row.capability_version != new_row.capability_version {
            patch.cap = Some(new_row.capability_version).filter(|version| *version != 0)?;
        }
        if addrs(old_row).ne(addrs(new_row)) {
            patch.endpoints = Some(addrs(new_row).collect());
        }
        if old_row.node_key != new_row.node_key {
            patch.key = Some(new_row.node_key);
        }
        if old_row.disco_key != new_row.disco_key {
            patch.disco_key = Some(Some(new_row.disco_key).filter(|key| !key.is_zero())?);
        }
        if self.facts.online != new.facts.online {
            patch.online = Some(new.facts.online);
        }
        if self.facts.last_seen != new.facts.last_seen && !new.facts.online {
            patch.last_seen = Some(time(new.facts.last_seen?));
        }
        if old_row.expiry != new_row.expiry {
            patch.key_expiry = Some(time(new_row.expiry?));
        }
        Some(patch)
    }
}

impl Facts {
    fn of(state: &State, meaning: &Meaning, row: &Node) -> Facts {
        let presence = state.presence(row.id);
        let online = presence.is_some_and(|presence| presence.online);
        let routes: Vec<IpNet> = row.enabled_routes().collect();
        let primary = |route: &&IpNet| !is_exit_route(route) && state.primaries().get(*route) == Some(&row.id);
        let class = meaning.class_of(row.id.0).unwrap_or(u32::MAX);
        let attributes = meaning.attributes_of_class(class);
        Facts {
            name: full_name(state, row),
            owner: profiles::owner(state, row),
            online,
            last_seen: presence.filter(|_| !online).and_then(|presence| presence.last_seen),
            expired: state.is_expired(row.id),
            primary_routes: routes.iter().filter(primary).copied().collect(),
            routes,
            class,
            hides_ipv4: view::hides_ipv4(row.ipv6.is_some(), &attributes),
            attributes,
        }
    }
}

/// Who is where in the lists: by id.
pub(crate) type Listed = (NodeId, Bytes);

/// The name clients resolve: the given name in the base domain, with a dot at its end; alone without one.
fn full_name(state: &State, row: &Node) -> String {
    match state.settings().base_domain.trim_matches('.') {
        "" => row.given_name.clone(),
        domain => format!("{}.{domain}.", row.given_name),
    }
}

/// The node as a peer.
fn peer(row: &Node, facts: &Facts, look: &Look) -> Bytes {
    let addresses = addresses(row, facts.hides_ipv4 || look.only_ipv6);
    let view = View::of_peer(&addresses, &look.routes);
    let capabilities = view.peer_capabilities();
    to_bytes(&node(row, facts, &hostinfo(row), addresses, view, capabilities))
}

fn node<'a>(
    row: &Node,
    facts: &Facts,
    hostinfo: &'a RawValue,
    addresses: Vec<IpNet>,
    view: View,
    cap_map: CapMap,
) -> tailcfg::Node<'a> {
    tailcfg::Node {
        id: row.id.0,
        stable_id: row.id.to_string(),
        name: facts.name.clone(),
        user: facts.owner,
        key: row.node_key,
        key_expiry: row.expiry.map(time),
        machine: row.machine_key,
        disco_key: row.disco_key,
        addresses,
        allowed_ips: view.allowed_ips,
        endpoints: addrs(row).collect(),
        home_derp: row.home_derp,
        hostinfo,
        created: time(row.created_at),
        cap: row.capability_version,
        tags: row.tags.iter().cloned().collect(),
        primary_routes: view.primary_routes,
        last_seen: facts.last_seen.map(time),
        online: facts.online,
        machine_authorized: !row.unapproved,
        cap_map,
        expired: facts.expired,
    }
}

/// What the client said of itself, checked once more: broken bytes would break every frame they are spliced into.
fn hostinfo(row: &Node) -> Box<RawValue> {
    let raw = RawValue::from_string(row.hostinfo.raw.to_string()).ok().filter(|raw| raw.get().starts_with('{'));
    raw.unwrap_or_else(|| RawValue::from_string("{}".to_owned()).expect("an empty object"))
}

fn addresses(row: &Node, only_ipv6: bool) -> Vec<IpNet> {
    let v4 = row.ipv4.filter(|_| !only_ipv6 || row.ipv6.is_none()).map(|ip| IpNet::from(std::net::IpAddr::from(ip)));
    let v6 = row.ipv6.map(|ip| IpNet::from(std::net::IpAddr::from(ip)));
    v4.into_iter().chain(v6).collect()
}

fn addrs(row: &Node) -> impl Iterator<Item = std::net::SocketAddr> + '_ {
    row.endpoints.iter().map(|endpoint| endpoint.addr)
}
