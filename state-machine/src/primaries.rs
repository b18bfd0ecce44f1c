//! Which node serves a shared route now.
//!
//! Several nodes may offer the same subnet. One of them is primary: the one that was, while it can; else the lowest
//! id that can; and the one that was even if nobody can, so that a lone router's short absence moves nothing. The
//! choice is kept in a table because it depends on history. Exit routes are offered side by side and have no primary.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{model::*, state::State};

/// Whether the route is `0.0.0.0/0` or `::/0`.
pub(crate) fn is_exit_route(route: &IpNet) -> bool {
    route.prefix_len() == 0
}

/// Routes a node could be primary for.
pub(crate) fn subnet_routes(node: &Node) -> BTreeSet<IpNet> {
    node.enabled_routes().filter(|route| !is_exit_route(route)).collect()
}

impl State {
    /// Decides anew who serves these routes.
    pub(crate) fn elect(&mut self, routes: impl IntoIterator<Item = IpNet>) {
        for route in routes {
            let now = self.tables.primaries.get(&route).copied();
            match self.choose(route, now) {
                next if next == now => {}
                Some(node) => _ = self.tables.primaries.insert(route, node),
                None => _ = self.tables.primaries.remove(&route),
            }
        }
    }

    fn choose(&self, route: IpNet, now: Option<NodeId>) -> Option<NodeId> {
        let offers = |node: &NodeId| self.indexes.routes.contains_key(&(route, *node));
        let serves = |node: &NodeId| self.is_online(*node) && !self.is_expired(*node);
        let now = now.filter(offers);
        if now.as_ref().is_some_and(serves) {
            return now;
        }
        let range = (route, NodeId(0))..=(route, NodeId(u64::MAX));
        let mut candidates = self.indexes.routes.range(range).map(|((_, node), ())| *node);
        candidates.find(serves).or(now)
    }
}
