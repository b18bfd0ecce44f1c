//! Routes people approve. Who serves them follows by itself (`primaries.rs`).

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{
    model::*,
    outcome::{Answer, Refusal, What},
    primaries,
    state::State,
};

use super::invalid;

const ROUTES_MAX: usize = 1_024;

impl State {
    /// The whole set. A route may be approved before it is advertised.
    pub(super) fn approve_routes(&mut self, id: NodeId, routes: BTreeSet<IpNet>) -> Answer {
        let node = self.known_node(id)?;
        if routes.len() > ROUTES_MAX {
            return Err(invalid(What::Route, format!("more than {ROUTES_MAX} routes")));
        }
        let mut approved = BTreeSet::new();
        for route in routes {
            let route = route.trunc();
            check_route(&route)?;
            approved.insert(route);
        }
        if approved.iter().any(primaries::is_exit_route) {
            // An exit node serves both families or neither.
            approved.insert("0.0.0.0/0".parse().expect("a prefix"));
            approved.insert("::/0".parse().expect("a prefix"));
        }
        self.replace_node(&node.clone(), Node { approved_routes: approved, ..node })
    }
}

fn check_route(route: &IpNet) -> Result<(), Refusal> {
    let first = route.network();
    if !primaries::is_exit_route(route) && (first.is_loopback() || first.is_multicast()) {
        return Err(invalid(What::Route, format!("{route} never leaves a machine or is multicast")));
    }
    Ok(())
}
