//! How many connections, in all and from one address.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use crate::{observe::Metrics, options::Limits};

/// Counts connections.
pub struct Gate {
    limits: Limits,
    metrics: Metrics,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    /// Connections no node has spoken on yet, by address.
    strangers: BTreeMap<IpAddr, usize>,
}

impl Gate {
    /// Nobody is here yet.
    pub fn new(limits: Limits, metrics: Metrics) -> Arc<Gate> {
        Arc::new(Gate { limits, metrics, counts: Mutex::default() })
    }

    /// A seat for a connection; `None` when there is none left, in all or for this address.
    pub fn enter(gate: &Arc<Gate>, from: IpAddr) -> Option<Seat> {
        gate.metrics.connections.inc();
        let mut counts = gate.counts.lock().expect("nothing panics under this lock");
        let strangers = counts.strangers.get(&from).copied().unwrap_or(0);
        let full = match () {
            () if counts.all >= gate.limits.connections_max => Some("all"),
            () if strangers >= gate.limits.strangers_per_address_max => Some("address"),
            () => None,
        };
        if let Some(reason) = full {
            gate.metrics.connections_refused.with_label_values(&[reason]).inc();
            return None;
        }
        counts.all += 1;
        counts.strangers.insert(from, strangers + 1);
        gate.metrics.connections_open.inc();
        Some(Seat { gate: gate.clone(), stranger: Mutex::new(Some(from)) })
    }
}

/// One connection's place; given back when dropped.
pub struct Seat {
    gate: Arc<Gate>,
    stranger: Mutex<Option<IpAddr>>,
}

impl Seat {
    /// A node of the tailnet speaks here: its address no longer counts the connection.
    pub fn proved(&self) {
        let from = self.stranger.lock().expect("nothing panics under this lock").take();
        if let Some(from) = from {
            self.gate.counts.lock().expect("nothing panics under this lock").forget(from);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.proved();
        self.gate.counts.lock().expect("nothing panics under this lock").all -= 1;
        self.gate.metrics.connections_open.dec();
    }
}

impl Counts {
    fn forget(&mut self, from: IpAddr) {
        if let Some(count) = self.strangers.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                self.strangers.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_and_given_back() {
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let limits = Limits { connections_max: 3, strangers_per_address_max: 2, ..Limits::default() };
        let gate = Gate::new(limits, metrics.clone());
        let (here, there) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let first = Gate::enter(&gate, here).unwrap();
        let _second = Gate::enter(&gate, here).unwrap();
        assert!(Gate::enter(&gate, here).is_none(), "two strangers are enough");
        first.proved();
        let third = Gate::enter(&gate, here).unwrap();
        assert!(Gate::enter(&gate, there).is_none(), "three are enough in all");
        drop(third);
        drop(first);
        assert!(Gate::enter(&gate, there).is_some());
        assert_eq!(metrics.connections_refused.with_label_values(&["address"]).get(), 1);
        assert_eq!(metrics.connections_refused.with_label_values(&["all"]).get(), 1);
        assert_eq!(metrics.connections_open.get(), 1);
    }
}
