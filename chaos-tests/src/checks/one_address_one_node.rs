//! An address belongs to one node, and a node keeps its addresses as long as it lives.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use state_machine::NodeId;

use super::{Law, Sight};

/// Remembers which addresses every node was first seen with.
#[derive(Default)]
pub struct OneAddressOneNode {
    first: BTreeMap<NodeId, (Option<Ipv4Addr>, Option<Ipv6Addr>)>,
}

impl Law for OneAddressOneNode {
    fn name(&self) -> &'static str {
        "one address, one node"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (member, state) in sight.states {
            let mut owners = BTreeMap::new();
            for node in state.nodes().values() {
                let addresses = [node.ipv4.map(|ip| ip.to_string()), node.ipv6.map(|ip| ip.to_string())];
                for address in addresses.into_iter().flatten() {
                    if let Some(other) = owners.insert(address.clone(), node.id) {
                        return Err(format!("member {member}: {address} belongs to nodes {other} and {}", node.id));
                    }
                }
                let now = (node.ipv4, node.ipv6);
                let first = self.first.entry(node.id).or_insert(now);
                if *first != now {
                    return Err(format!("node {} had {first:?} and has {now:?}", node.id));
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        self.watch(sight)
    }
}
