//! Which routes a viewer is offered through which router.

use ipnet::IpNet;

use super::{bits::Bits, classes::Classes, table::Table};
use crate::tailnet::{Node, Tailnet, is_exit_route};

/// The routes of `router` that nodes of class `viewer` may use through it, sorted.
pub(crate) fn offered(table: &Table, classes: &Classes, tailnet: &Tailnet, viewer: usize, router: &Node) -> Vec<IpNet> {
    let Some(own) = classes.of(router.id) else { return Vec::new() };
    let offered = router.routes.iter().filter(|route| {
        let plain = table.uses(viewer, route);
        let through = if table.steers() { table.steered(viewer, route) } else { Bits::default() };
        if is_exit_route(route) {
            return plain || through.contains(own as usize);
        }
        match plain || !through.contains(own as usize) {
            true => plain && tailnet.primaries.get(*route) == Some(&router.id),
            false => steered_primary(classes, tailnet, &through, route) == Some(router.id),
        }
    });
    offered.copied().collect()
}

/// Who serves a route to those who are steered: the primary if it is among the routers, else the lowest id that is online,
/// else the lowest.
fn steered_primary(classes: &Classes, tailnet: &Tailnet, through: &Bits, route: &IpNet) -> Option<u64> {
    let primary = tailnet.primaries.get(route).copied();
    let serving = |class: &usize| classes.list[*class].role.routes.contains(route);
    let mut candidates: Vec<u64> =
        through.iter().filter(serving).flat_map(|class| classes.list[class].members.iter().copied()).collect();
    candidates.sort_unstable();
    let is_online = |id: &&u64| tailnet.nodes.get(*id).is_some_and(|node| node.online);
    primary
        .filter(|primary| candidates.contains(primary))
        .or_else(|| candidates.iter().find(is_online).copied())
        .or_else(|| candidates.first().copied())
}
