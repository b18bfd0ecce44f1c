//! The hub behind its lock, and its wishes carried out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tailcfg::NodeKey;

use crate::{
    connection::Ended,
    frame::Frame,
    hub::{Closing, ConnectionId, Hub, HubLimits, Route, Seat, Tell},
    metrics::Metrics,
    outbox::Outbox,
};

/// Connects connections.
pub(crate) struct Switchboard {
    hub: Mutex<Hub<Arc<Outbox>>>,
    metrics: Arc<Metrics>,
}

impl Switchboard {
    pub(crate) fn new(limits: HubLimits, metrics: Arc<Metrics>) -> Switchboard {
        Switchboard { hub: Mutex::new(Hub::new(limits)), metrics }
    }

    pub(crate) fn arrive(&self, seat: Seat<Arc<Outbox>>) {
        let mut hub = self.lock();
        let tells = hub.arrive(seat);
        self.show(&hub);
        drop(hub);
        self.carry_out(tells);
    }

    pub(crate) fn leave(&self, key: &NodeKey, id: ConnectionId) {
        let mut hub = self.lock();
        let tells = hub.leave(key, id);
        self.show(&hub);
        drop(hub);
        self.carry_out(tells);
    }

    pub(crate) fn watch(&self, id: ConnectionId, outbox: &Arc<Outbox>) {
        let mut hub = self.lock();
        let tells = hub.watch(id, outbox.clone());
        self.show(&hub);
        drop(hub);
        self.carry_out(tells);
    }

    pub(crate) fn spoke(&self, key: &NodeKey, id: ConnectionId) {
        self.lock().spoke(key, id);
    }

    pub(crate) fn route(&self, from: &NodeKey, to: &NodeKey) -> Route<Arc<Outbox>> {
        self.lock().route(from, to)
    }

    pub(crate) fn route_forwarded(&self, to: &NodeKey) -> Route<Arc<Outbox>> {
        self.lock().route_forwarded(to)
    }

    pub(crate) fn close_peer(&self, key: &NodeKey, why: Closing) {
        let tells = self.lock().close_peer(key, why);
        self.carry_out(tells);
    }

    /// Closes the connections of a key, except those of relays of the mesh, which nobody needs to admit.
    pub(crate) fn close_clients(&self, key: &NodeKey, why: Closing) {
        let tells = self.lock().close_clients(key, why);
        self.carry_out(tells);
    }

    /// Whether a key is connected.
    pub(crate) fn is_here(&self, key: &NodeKey) -> bool {
        self.lock().is_here(key)
    }

    /// Who is connected.
    pub(crate) fn keys(&self) -> Vec<NodeKey> {
        self.lock().keys().copied().collect()
    }

    /// All connections.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.lock().seats().map(|seat| seat.handle.clone()).collect()
    }

    fn carry_out(&self, tells: Vec<Tell<Arc<Outbox>>>) {
        for tell in tells {
            match tell {
                Tell::PeerGone { to, key, why } => {
                    to.notify(&Frame::PeerGone { key, why });
                    self.metrics.peer_gone_disconnected_frames.inc();
                }
                Tell::PeerPresent { to, key, from, flags } => {
                    to.notify(&Frame::PeerPresent { key, endpoint: Some(from), flags });
                }
                Tell::Close { handle, why } => handle.close(match why {
                    Closing::Crowded => Ended::Crowded,
                    Closing::Asked => Ended::Asked,
                    Closing::Refused => Ended::NotAdmitted,
                }),
            }
        }
    }

    fn show(&self, hub: &Hub<Arc<Outbox>>) {
        let (counts, metrics) = (hub.counts(), &self.metrics);
        metrics.current_connections.set(counts.connections as i64);
        metrics.clients_local.set(counts.keys as i64);
        metrics.clients_total.set(counts.keys as i64);
        metrics.current_dup_client_keys.set(counts.shared_keys as i64);
        metrics.current_dup_client_conns.set(counts.shared_connections as i64);
        metrics.watchers.set(counts.watchers as i64);
    }

    fn lock(&self) -> MutexGuard<'_, Hub<Arc<Outbox>>> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
