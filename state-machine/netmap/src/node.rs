//! A node as its peers may see it, and as it sees itself.

use std::sync::Arc;

use ipnet::IpNet;
use serde_json::value::RawValue;
use state_machine::{Node, NodeId, State, Timestamp};
use tailcfg::{CapMap, PeerChange};

use crate::{
    capability, profiles,
    wire::{Bytes, time, to_bytes},
};

/// One node made ready: its row, what follows for it from other tables, and its bytes in the lists of its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sheet {
    pub row: Arc<Node>,
    pub facts: Facts,
    /// The node as a peer.
    pub json: Bytes,
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
    /// Subnet routes it serves for the tailnet now.
    pub primary_routes: Vec<IpNet>,
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
    pub(crate) fn draw(state: &State, row: &Arc<Node>) -> Sheet {
        let facts = Facts::of(state, row);
        let json = to_bytes(&node(row, &facts, &hostinfo(row), CapMap::new()));
        Sheet { row: row.clone(), facts, json }
    }

    /// The sheet for a later state; the old one where nothing moved.
    pub(crate) fn redraw(self: &Arc<Sheet>, state: &State, row: &Arc<Node>) -> Arc<Sheet> {
        let same_row = Arc::ptr_eq(&self.row, row) || self.row == *row;
        if same_row && self.facts == Facts::of(state, row) { self.clone() } else { Arc::new(Sheet::draw(state, row)) }
    }

    /// The node as it sees itself.
    pub(crate) fn self_json(&self, state: &State) -> Bytes {
        to_bytes(&node(&self.row, &self.facts, &hostinfo(&self.row), capability::of_self(state.settings())))
    }

    /// Whether a node must be told of its own change. What it told us itself, it knows; and every self node makes a
    /// client rebuild all it has.
    pub(crate) fn self_differs(&self, new: &Sheet) -> bool {
        self.unpatchable_differs(new) || self.row.node_key != new.row.node_key || self.row.expiry != new.row.expiry
    }

    /// What peers must be told.
    pub(crate) fn change(&self, new: &Sheet) -> Change {
        if self.json == new.json {
            return Change::Nothing;
        }
        if self.unpatchable_differs(new) || self.row.hostinfo.raw != new.row.hostinfo.raw {
            return Change::Whole;
        }
        self.patch(new).map_or(Change::Whole, Change::Patch)
    }

    fn unpatchable_differs(&self, new: &Sheet) -> bool {
        let (old_row, new_row, old, new) = (&self.row, &new.row, &self.facts, &new.facts);
        old.name != new.name
            || old.owner != new.owner
            || old.expired != new.expired
            || old.primary_routes != new.primary_routes
            || old_row.machine_key != new_row.machine_key
            || old_row.ipv4 != new_row.ipv4
            || old_row.ipv6 != new_row.ipv6
            || old_row.tags != new_row.tags
            || old_row.created_at != new_row.created_at
            || exit_routes(old_row).ne(exit_routes(new_row))
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
    fn of(state: &State, row: &Node) -> Facts {
        let presence = state.presence(row.id);
        let online = presence.is_some_and(|presence| presence.online);
        let primary = |route: &IpNet| state.primaries().get(route) == Some(&row.id);
        Facts {
            name: full_name(state, row),
            owner: profiles::owner(state, row),
            online,
            last_seen: presence.filter(|_| !online).and_then(|presence| presence.last_seen),
            expired: state.is_expired(row.id),
            primary_routes: row.enabled_routes().filter(primary).collect(),
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

fn node<'a>(row: &Node, facts: &Facts, hostinfo: &'a RawValue, cap_map: CapMap) -> tailcfg::Node<'a> {
    let addresses = addresses(row);
    let routes = facts.primary_routes.iter().copied().chain(exit_routes(row));
    let mut allowed_ips: Vec<IpNet> = addresses.iter().copied().chain(routes).collect();
    allowed_ips.sort();
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
        allowed_ips,
        endpoints: addrs(row).collect(),
        home_derp: row.home_derp,
        hostinfo,
        created: time(row.created_at),
        cap: row.capability_version,
        tags: row.tags.iter().cloned().collect(),
        primary_routes: facts.primary_routes.clone(),
        last_seen: facts.last_seen.map(time),
        online: facts.online,
        machine_authorized: true,
        cap_map,
        expired: facts.expired,
    }
}

/// What the client said of itself, checked once more: broken bytes would break every frame they are spliced into.
fn hostinfo(row: &Node) -> Box<RawValue> {
    let raw = RawValue::from_string(row.hostinfo.raw.to_string()).ok().filter(|raw| raw.get().starts_with('{'));
    raw.unwrap_or_else(|| RawValue::from_string("{}".to_owned()).expect("an empty object"))
}

fn addresses(row: &Node) -> Vec<IpNet> {
    let v4 = row.ipv4.map(|ip| IpNet::from(std::net::IpAddr::from(ip)));
    let v6 = row.ipv6.map(|ip| IpNet::from(std::net::IpAddr::from(ip)));
    v4.into_iter().chain(v6).collect()
}

fn exit_routes(row: &Node) -> impl Iterator<Item = IpNet> + '_ {
    row.enabled_routes().filter(|route| route.prefix_len() == 0)
}

fn addrs(row: &Node) -> impl Iterator<Item = std::net::SocketAddr> + '_ {
    row.endpoints.iter().map(|endpoint| endpoint.addr)
}
