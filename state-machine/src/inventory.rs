//! The tailnet as the policy compiler wants to see it.

use std::sync::Arc;

use crate::{
    model::{self, UserId},
    state::State,
};

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
            users: self.users().values().map(|row| (row.id.0, Arc::new(self.inventory_user(row)))).collect(),
            nodes: self
                .nodes()
                .values()
                .filter_map(|row| Some((row.id.0, Arc::new(self.in_inventory(row)?))))
                .collect(),
            primaries: self.primaries().iter().map(|(route, node)| (*route, node.0)).collect(),
        }
    }

    /// One user of [`State::inventory`]. There are no roles of users yet: all are shown as administrators, and who came
    /// first is the owner.
    pub fn inventory_user(&self, row: &model::User) -> policy::User {
        let role = if self.founder() == Some(row.id) { policy::Role::Owner } else { policy::Role::Admin };
        policy::User {
            id: row.id.0,
            name: row.name.clone(),
            email: row.email.clone(),
            provider_id: row.provider_id.clone(),
            groups: row.groups.clone(),
            role,
        }
    }

    /// The user who came first.
    pub fn founder(&self) -> Option<UserId> {
        self.users().keys().next().copied()
    }

    /// One node of [`State::inventory`]; none of one that waits for an approval: policies do not speak of it.
    pub fn in_inventory(&self, row: &model::Node) -> Option<policy::Node> {
        (!row.unapproved).then(|| self.inventory_node(row))
    }

    /// A node as the inventory has it. Who serves a route depends on who is there; of other nodes policies do not ask
    /// it, and all are shown as there.
    pub fn inventory_node(&self, row: &model::Node) -> policy::Node {
        let router = row.enabled_routes().next().is_some();
        node(row, !router || self.is_online(row.id))
    }

    /// The policy in force, read once for all who ask; absent where none was set, or where its text means nothing to
    /// this program (an older one may have taken it).
    pub fn policy_in_force(&self) -> Option<&policy::Policy> {
        self.indexes.policy.get()
    }
}
