//! What a policy is compiled against: users and nodes as plain facts.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use imbl::OrdMap;
use ipnet::IpNet;

pub use crate::language::alias::Role;

/// Users, nodes and who serves which route. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tailnet {
    pub users: OrdMap<u64, Arc<User>>,
    pub nodes: OrdMap<u64, Arc<Node>>,
    /// Route → the node that serves it for the tailnet; exit routes have none.
    pub primaries: OrdMap<IpNet, u64>,
}

/// A person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub id: u64,
    pub name: String,
    /// Empty when unknown.
    pub email: String,
    /// The identity at a login provider; empty for users made by hand.
    pub provider_id: String,
    /// What the login provider says the user belongs to.
    pub groups: std::collections::BTreeSet<String>,
    pub role: Role,
}

impl User {
    /// What policies may call the user.
    ///
    /// A mail address is proven by the login provider; a name that comes from there and looks like one is not, and means
    /// nothing. An administrator who makes a user by hand may name it so.
    pub(crate) fn called(&self) -> impl Iterator<Item = &str> {
        let by_hand = self.provider_id.is_empty();
        let name = Some(self.name.as_str()).filter(|name| by_hand || !name.contains('@'));
        let email = Some(self.email.as_str()).filter(|email| Some(*email) != name);
        [email, Some(self.provider_id.as_str()), name].into_iter().flatten().filter(|called| !called.is_empty())
    }

    /// The domain of the mail address.
    pub(crate) fn domain(&self) -> Option<&str> {
        self.email.split_once('@').map(|(_, domain)| domain)
    }
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub id: u64,
    /// Absent of tagged nodes.
    pub user: Option<u64>,
    /// Sorted.
    pub tags: Vec<String>,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// Advertised and approved routes, exit routes included; sorted, without host bits.
    pub routes: Vec<IpNet>,
    pub online: bool,
}

impl Node {
    /// The addresses in the tailnet, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    pub fn is_tagged(&self) -> bool {
        !self.tags.is_empty()
    }

    /// Whether it is offered as a way to the internet.
    pub fn is_exit(&self) -> bool {
        self.routes.iter().any(is_exit_route)
    }
}

/// Whether the route is `0.0.0.0/0` or `::/0`.
pub fn is_exit_route(route: &IpNet) -> bool {
    route.prefix_len() == 0
}

impl Tailnet {
    /// The node with this address.
    pub fn node_at(&self, address: IpAddr) -> Option<&Arc<Node>> {
        self.nodes.values().find(|node| node.addresses().any(|own| own == address))
    }

    /// The mail domain the tailnet is named by: that of the user who came first. `None` where no user has a mail address.
    pub fn domain(&self) -> Option<String> {
        self.users.values().find_map(|user| user.domain().map(str::to_ascii_lowercase))
    }
}
