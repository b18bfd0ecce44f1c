//! The tailnet as the policy compiler wants to see it.

use std::sync::Arc;

use crate::{
    model::{self, NodeId},
    state::State,
};

/// What a policy asks of a user.
pub fn user(user: &model::User) -> policy::User {
    policy::User {
        id: user.id.0,
        name: user.name.clone(),
        email: user.email.clone(),
        provider_id: user.provider_id.clone(),
        ..policy::User::default()
    }
}

/// What a policy asks of a node. A tagged node is nobody's.
pub fn node(node: &model::Node, online: bool) -> policy::Node {
    policy::Node {
        id: node.id.0,
        user: node.user.filter(|_| !node.is_tagged()).map(|user| user.0),
        tags: node.tags.iter().cloned().collect(),
        ipv4: node.ipv4,
        ipv6: node.ipv6,
        routes: node.enabled_routes().collect(),
        online,
    }
}

impl State {
    /// Users, nodes and who serves which route. Looks at every row: for a policy that is being set, and for questions.
    pub fn inventory(&self) -> policy::Tailnet {
        policy::Tailnet {
            users: self.users().values().map(|row| (row.id.0, Arc::new(user(row)))).collect(),
            nodes: self.nodes().values().map(|row| (row.id.0, Arc::new(self.inventory_node(row)))).collect(),
            primaries: self.primaries().iter().map(|(route, node)| (*route, node.0)).collect(),
        }
    }

    /// One node of [`State::inventory`].
    pub fn inventory_node(&self, row: &model::Node) -> policy::Node {
        node(row, self.is_online(NodeId(row.id.0)))
    }

    /// The policy in force, read once for all who ask; absent where none was set, or where its text means nothing to
    /// this program (an older one may have taken it).
    pub fn policy_in_force(&self) -> Option<&policy::Policy> {
        self.indexes.policy.get()
    }
}
