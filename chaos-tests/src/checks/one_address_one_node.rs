//! An address belongs to one node, and a node keeps its addresses as long as it lives.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use state_machine::{Node, NodeId};

use super::{Law, Sight};

type Addresses = (Option<Ipv4Addr>, Option<Ipv6Addr>);

/// Follows the nodes of every member, and remembers which addresses every node was first seen with.
#[derive(Default)]
pub struct OneAddressOneNode {
    first: BTreeMap<NodeId, Addresses>,
    known: BTreeMap<u64, Known>,
}

#[derive(Default)]
struct Known {
    nodes: OrdMap<NodeId, Arc<Node>>,
    owners: BTreeMap<String, NodeId>,
}

fn texts(node: &Node) -> impl Iterator<Item = String> {
    [node.ipv4.map(|ip| ip.to_string()), node.ipv6.map(|ip| ip.to_string())].into_iter().flatten()
}

impl Law for OneAddressOneNode {
    fn name(&self) -> &'static str {
        "one address, one node"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (member, state) in sight.states {
            let known = self.known.entry(*member).or_default();
            if known.nodes.ptr_eq(state.nodes()) {
                continue;
            }
            let (mut gone, mut come) = (Vec::new(), Vec::new());
            for item in known.nodes.diff(state.nodes()) {
                match item {
                    DiffItem::Add(_, node) => come.push(node.clone()),
                    DiffItem::Remove(_, node) => gone.push(node.clone()),
                    DiffItem::Update { old: (_, old), new: (_, new) } => {
                        gone.push(old.clone());
                        come.push(new.clone());
                    }
                }
            }
            for address in gone.iter().flat_map(|node| texts(node)) {
                known.owners.remove(&address);
            }
            for node in &come {
                for address in texts(node) {
                    if let Some(other) = known.owners.insert(address.clone(), node.id) {
                        return Err(format!("member {member}: {address} belongs to nodes {other} and {}", node.id));
                    }
                }
                let now = (node.ipv4, node.ipv6);
                let first = self.first.entry(node.id).or_insert(now);
                if *first != now {
                    return Err(format!("node {} had {first:?} and has {now:?}", node.id));
                }
            }
            known.nodes = state.nodes().clone();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::staged::{Stage, create_user, founded, register};

    #[test]
    fn a_node_that_has_another_address_after_a_restart_is_noticed() {
        let (mut law, mut stage) = (OneAddressOneNode::default(), Stage::default());
        let mut state = founded();
        let user = create_user(&mut state, "anna");
        let mut other = state.clone();
        register(&mut state, user, 1);
        stage.show(1, &state);
        law.watch(&stage.sight()).unwrap();
        // On the other member the first address went to somebody else.
        register(&mut other, user, 9);
        let other_first = register(&mut other, user, 1);
        let nodes: OrdMap<NodeId, Arc<Node>> = other.nodes().clone();
        let swapped = Node { id: NodeId(1), ..(*nodes[&other_first]).clone() };
        assert_ne!(swapped.ipv4, state.nodes()[&NodeId(1)].ipv4);
        law.known.clear();
        law.first.insert(NodeId(1), (swapped.ipv4, swapped.ipv6));
        assert!(law.watch(&stage.sight()).unwrap_err().contains("node 1 had"));
    }

    #[test]
    fn an_address_with_two_owners_is_noticed() {
        let (mut law, mut stage) = (OneAddressOneNode::default(), Stage::default());
        let mut state = founded();
        let user = create_user(&mut state, "anna");
        let node = register(&mut state, user, 1);
        let address = state.nodes()[&node].ipv4.expect("the stage gives addresses").to_string();
        law.known.entry(1).or_default().owners.insert(address, NodeId(77));
        stage.show(1, &state);
        assert!(law.watch(&stage.sight()).unwrap_err().contains("belongs to nodes 77 and"));
    }
}
