//! Who is here, where a packet goes, whom to tell. Pure: values in, values out.
//!
//! The hub knows connections by an identifier and a handle it does not look into: an outbox in production, a name in
//! the scripts that test it. A key may be connected more than once; the connection that spoke last is the active one
//! and gets the packets, the others hear nothing but keep-alives.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use tailcfg::NodeKey;

use crate::frame::{Gone, present};

/// Tells connections apart; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One connection, as the hub sees it.
#[derive(Clone, Debug)]
pub struct Seat<H> {
    pub id: ConnectionId,
    pub key: NodeKey,
    pub handle: H,
    pub from: SocketAddr,
    /// Bits of [`present`], without [`present::REGULAR`].
    pub flags: u8,
}

/// Something to say or do because of what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tell<H> {
    PeerGone { to: H, key: NodeKey, why: Gone },
    PeerPresent { to: H, key: NodeKey, from: SocketAddr, flags: u8 },
    Close { handle: H, why: Closing },
}

/// Why the hub wants a connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Its key has too many connections and this is the quietest.
    Crowded,
    /// Another relay asked for it.
    Asked,
    /// Its key is no longer admitted.
    Refused,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<H> {
    To(H),
    /// Nobody of that key is here.
    Unknown,
}

/// What can be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub keys: usize,
    pub connections: usize,
    /// Keys with more than one connection.
    pub shared_keys: usize,
    /// Connections of those keys.
    pub shared_connections: usize,
    pub watchers: usize,
}

/// How much the hub remembers.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// Connections of one key; the quietest is closed for a new one.
    pub connections_per_key_max: usize,
    /// Peers one key is remembered to have written to, and to have heard from.
    pub acquaintances_max: usize,
}

impl Default for HubLimits {
    fn default() -> HubLimits {
        HubLimits { connections_per_key_max: 8, acquaintances_max: 4096 }
    }
}

struct Client<H> {
    /// Ordered by who spoke or came last; the last one is active. Never empty.
    seats: Vec<Seat<H>>,
    /// Who must be told when this key is gone, because it was sent a packet and may have kept the way back.
    wrote_to: BTreeSet<NodeKey>,
    /// The other direction of `wrote_to`, so that a key that leaves is forgotten everywhere.
    heard_from: BTreeSet<NodeKey>,
}

/// The table of all who are connected.
pub struct Hub<H> {
    limits: HubLimits,
    clients: BTreeMap<NodeKey, Client<H>>,
    watchers: BTreeMap<ConnectionId, H>,
    counts: Counts,
}

impl<H: Clone> Hub<H> {
    /// An empty hub.
    pub fn new(limits: HubLimits) -> Hub<H> {
        Hub { limits, clients: BTreeMap::new(), watchers: BTreeMap::new(), counts: Counts::default() }
    }

    /// A connection was let in; it is the active one of its key from now on.
    pub fn arrive(&mut self, seat: Seat<H>) -> Vec<Tell<H>> {
        let (key, from, flags) = (seat.key, seat.from, seat.flags);
        let limits = self.limits;
        let client = self.clients.entry(key).or_insert_with(Client::new);
        let before = client.seats.len();
        client.seats.push(seat);
        let mut tells = Vec::new();
        let crowd = client.seats.len().saturating_sub(limits.connections_per_key_max);
        for quietest in &client.seats[..crowd] {
            tells.push(Tell::Close { handle: quietest.handle.clone(), why: Closing::Crowded });
        }
        let after = client.seats.len();
        self.recount(before, after);
        tells.extend(self.watchers.values().map(|watcher| present_tell(watcher.clone(), key, from, flags)));
        tells
    }

    /// A connection ended.
    pub fn leave(&mut self, key: &NodeKey, id: ConnectionId) -> Vec<Tell<H>> {
        if self.watchers.remove(&id).is_some() {
            self.counts.watchers -= 1;
        }
        let Some(client) = self.clients.get_mut(key) else { return Vec::new() };
        let before = client.seats.len();
        client.seats.retain(|seat| seat.id != id);
        let after = client.seats.len();
        self.recount(before, after);
        if after > 0 || before == 0 {
            return Vec::new();
        }
        let Some(gone) = self.clients.remove(key) else { return Vec::new() };
        let mut tells = Vec::new();
        for acquaintance in &gone.wrote_to {
            if let Some(other) = self.clients.get_mut(acquaintance) {
                other.heard_from.remove(key);
                tells.push(gone_tell(other.active().handle.clone(), *key));
            }
        }
        for acquaintance in &gone.heard_from {
            if let Some(other) = self.clients.get_mut(acquaintance) {
                other.wrote_to.remove(key);
            }
        }
        tells.extend(self.watchers.values().map(|watcher| gone_tell(watcher.clone(), *key)));
        tells
    }

    /// A connection wrote something: it becomes the active one of its key.
    pub fn spoke(&mut self, key: &NodeKey, id: ConnectionId) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.seats.len() > 1
            && let Some(index) = client.seats.iter().position(|seat| seat.id == id)
            && index + 1 < client.seats.len()
        {
            let seat = client.seats.remove(index);
            client.seats.push(seat);
        }
    }

    /// Where a packet of `from`, which is connected here, for `to` goes.
    pub fn route(&mut self, from: &NodeKey, to: &NodeKey) -> Route<H> {
        let Some(receiver) = self.clients.get(to) else { return Route::Unknown };
        let handle = receiver.active().handle.clone();
        let room = receiver.heard_from.len() < self.limits.acquaintances_max;
        if let Some(sender) = self.clients.get_mut(from)
            && room
            && sender.wrote_to.len() < self.limits.acquaintances_max
            && sender.wrote_to.insert(*to)
            && let Some(receiver) = self.clients.get_mut(to)
        {
            receiver.heard_from.insert(*from);
        }
        Route::To(handle)
    }

    /// Where a packet another relay forwarded goes. It is never forwarded again.
    pub fn route_forwarded(&self, to: &NodeKey) -> Route<H> {
        self.clients.get(to).map_or(Route::Unknown, |client| Route::To(client.active().handle.clone()))
    }

    /// A connection wants to know who comes and goes; it is told first who is here.
    pub fn watch(&mut self, id: ConnectionId, handle: H) -> Vec<Tell<H>> {
        if self.watchers.insert(id, handle.clone()).is_none() {
            self.counts.watchers += 1;
        }
        let here = self.clients.iter();
        here.map(|(key, client)| {
            let active = client.active();
            present_tell(handle.clone(), *key, active.from, active.flags)
        })
        .collect()
    }

    /// Every connection of `key` is to be closed. They leave when they have.
    pub fn close_peer(&self, key: &NodeKey, why: Closing) -> Vec<Tell<H>> {
        self.close_seats(key, why, |_| true)
    }

    /// Like [`Hub::close_peer`], but spares relays of the mesh.
    pub fn close_clients(&self, key: &NodeKey, why: Closing) -> Vec<Tell<H>> {
        self.close_seats(key, why, |seat| seat.flags & present::MESH_PEER == 0)
    }

    fn close_seats(&self, key: &NodeKey, why: Closing, which: impl Fn(&Seat<H>) -> bool) -> Vec<Tell<H>> {
        let seats = self.clients.get(key).map(|client| client.seats.as_slice()).unwrap_or_default();
        let chosen = seats.iter().filter(|seat| which(seat));
        chosen.map(|seat| Tell::Close { handle: seat.handle.clone(), why }).collect()
    }

    /// Whether a key is connected.
    pub fn is_here(&self, key: &NodeKey) -> bool {
        self.clients.contains_key(key)
    }

    /// Who is connected, in the order of keys.
    pub fn keys(&self) -> impl Iterator<Item = &NodeKey> {
        self.clients.keys()
    }

    /// All connections.
    pub fn seats(&self) -> impl Iterator<Item = &Seat<H>> {
        self.clients.values().flat_map(|client| &client.seats)
    }

    /// The numbers for the metrics, without counting anything.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A key's number of connections went from `before` to `after`.
    fn recount(&mut self, before: usize, after: usize) {
        let shared = |seats: usize| if seats > 1 { seats } else { 0 };
        let counts = &mut self.counts;
        counts.connections = counts.connections + after - before;
        counts.keys = counts.keys + usize::from(after > 0) - usize::from(before > 0);
        counts.shared_keys = counts.shared_keys + usize::from(after > 1) - usize::from(before > 1);
        counts.shared_connections = counts.shared_connections + shared(after) - shared(before);
    }
}

impl<H> Client<H> {
    fn new() -> Client<H> {
        Client { seats: Vec::with_capacity(1), wrote_to: BTreeSet::new(), heard_from: BTreeSet::new() }
    }

    fn active(&self) -> &Seat<H> {
        self.seats.last().expect("a client without connections is removed at once")
    }
}

fn gone_tell<H>(to: H, key: NodeKey) -> Tell<H> {
    Tell::PeerGone { to, key, why: Gone::Disconnected }
}

fn present_tell<H>(to: H, key: NodeKey, from: SocketAddr, flags: u8) -> Tell<H> {
    let flags = if flags == 0 { present::REGULAR } else { flags };
    Tell::PeerPresent { to, key, from, flags }
}
