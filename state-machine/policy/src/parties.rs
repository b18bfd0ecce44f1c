//! Who may be meant by a word: a node, or a user or tag that has no node yet.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    language::{
        alias::{Alias, Names},
        document::{Document, Rule},
        ports::{DEFAULT_PROTOCOLS, Ports},
    },
    ranges::{Ranges, internet},
    tailnet::{Node, Tailnet, User},
};

/// One end of a connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Party {
    /// Absent of tagged nodes and of addresses outside.
    pub user: Option<Arc<User>>,
    pub tags: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Party {
    pub fn of_node(tailnet: &Tailnet, node: &Node) -> Party {
        let user = node.user.filter(|_| !node.is_tagged()).and_then(|user| tailnet.users.get(&user).cloned());
        Party { user, tags: node.tags.clone(), addresses: node.addresses().collect() }
    }

    /// An address, and the node that has it.
    pub fn at(tailnet: &Tailnet, address: IpAddr) -> Party {
        match tailnet.node_at(address) {
            Some(node) => Party { addresses: vec![address], ..Party::of_node(tailnet, node) },
            None => Party { addresses: vec![address], ..Party::default() },
        }
    }

    fn of_user(tailnet: &Tailnet, user: &Arc<User>) -> Vec<Party> {
        let own = tailnet.nodes.values().filter(|node| node.user == Some(user.id) && !node.is_tagged());
        let nodes: Vec<Party> = own.map(|node| Party::of_node(tailnet, node)).collect();
        match nodes.is_empty() {
            true => vec![Party { user: Some(user.clone()), ..Party::default() }],
            false => nodes,
        }
    }

    /// All that a word means. A user or tag without nodes is a party too; a user nobody knows is one only where no users
    /// are known at all. Empty where the word means nobody.
    pub fn meant(names: &Names, tailnet: &Tailnet, alias: &Alias) -> Vec<Party> {
        match alias {
            Alias::Tag(tag) => {
                let nodes = tailnet.nodes.values().filter(|node| node.tags.contains(tag));
                let parties: Vec<Party> = nodes.map(|node| Party::of_node(tailnet, node)).collect();
                match parties.is_empty() {
                    true => vec![Party { tags: vec![tag.clone()], ..Party::default() }],
                    false => parties,
                }
            }
            Alias::Tagged => {
                let nodes = tailnet.nodes.values().filter(|node| node.is_tagged());
                nodes.map(|node| Party::of_node(tailnet, node)).collect()
            }
            Alias::Nets(nets) => nets.nets.iter().map(|net| Party::at(tailnet, net.addr())).collect(),
            Alias::User(name) if tailnet.users.is_empty() => {
                let email = if name.contains('@') { name.clone() } else { String::new() };
                let user = Arc::new(User { name: name.clone(), email, ..User::default() });
                vec![Party { user: Some(user), ..Party::default() }]
            }
            Alias::Group(group) if tailnet.users.is_empty() => {
                let members = names.groups.get(group).into_iter().flatten();
                members.flat_map(|member| Party::meant(names, tailnet, member)).collect()
            }
            alias => {
                let users = tailnet.users.values().filter(|user| means_user(names, alias, user));
                users.flat_map(|user| Party::of_user(tailnet, user)).collect()
            }
        }
    }

    /// Whether a word means this party, except where it depends on the other end.
    pub fn is(&self, names: &Names, alias: &Alias) -> bool {
        match alias {
            Alias::Everything | Alias::Danger => true,
            Alias::Internet => self.user.is_none() && self.tags.is_empty() && self.addresses.iter().any(is_public),
            Alias::Own => false,
            Alias::Tag(tag) => self.tags.contains(tag),
            Alias::Tagged => !self.tags.is_empty(),
            Alias::Nets(nets) => self.addresses.iter().any(|address| nets.nets.iter().any(|net| net.contains(address))),
            alias => self.user.as_ref().is_some_and(|user| means_user(names, alias, user)),
        }
    }

    /// Whether both are nodes of one user.
    pub fn shares_user(&self, other: &Party) -> bool {
        match (&self.user, &other.user) {
            (Some(a), Some(b)) => a.id == b.id && a.name == b.name,
            _ => false,
        }
    }

    /// Whether a word as a source means this party: `*` is the tailnet and what its routers lead to, not the world.
    fn is_source(&self, names: &Names, tailnet: &Tailnet, alias: &Alias) -> bool {
        let inside = || {
            let subnets =
                || tailnet.nodes.values().flat_map(|node| &node.routes).filter(|route| route.prefix_len() > 0);
            let known = |address: &IpAddr| is_tailnet(address) || subnets().any(|route| route.contains(address));
            self.user.is_some() || !self.tags.is_empty() || self.addresses.iter().any(known)
        };
        self.is(names, alias) && (*alias != Alias::Everything || inside())
    }
}

/// Whether a word means a user.
pub(crate) fn means_user(names: &Names, alias: &Alias, user: &User) -> bool {
    match alias {
        Alias::User(name) => user.called().any(|called| called.to_lowercase() == name.to_lowercase()),
        Alias::Domain(domain) => user.domain().is_some_and(|own| own.to_lowercase() == *domain),
        Alias::Group(group) => {
            names.groups.get(group).into_iter().flatten().any(|member| means_user(names, member, user))
        }
        Alias::Directory(group) => user.groups.contains(group),
        Alias::Member => true,
        Alias::Role(role) => user.role >= *role,
        _ => false,
    }
}

fn is_tailnet(address: &IpAddr) -> bool {
    let nets = ["100.64.0.0/10", "fd7a:115c:a1e0::/48"].map(|net| net.parse::<IpNet>().expect("a prefix"));
    nets.iter().any(|net| net.contains(address))
}

fn is_public(address: &IpAddr) -> bool {
    let alone = Ranges::of(&[IpNet::from(*address)]);
    alone.without(&internet()) != alone
}

/// What of a rule fits a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fit {
    pub source: bool,
    pub target: bool,
    /// At a target that fits.
    pub port: bool,
    pub protocol: bool,
}

impl Fit {
    pub fn all(self) -> bool {
        self.source && self.target && self.port && self.protocol
    }

    pub fn count(self) -> usize {
        [self.source, self.target, self.port, self.protocol].into_iter().filter(|fits| *fits).count()
    }
}

/// A connection.
pub(crate) struct Connection<'a> {
    pub source: &'a Party,
    pub target: &'a Party,
    /// `None`: any port.
    pub port: Option<u16>,
    /// One of these will do.
    pub protocols: &'a [u8],
}

/// How a rule fits a connection.
pub(crate) fn fit(document: &Document, tailnet: &Tailnet, rule: &Rule, connection: &Connection) -> Fit {
    let names = &document.names;
    let mut fit = Fit {
        source: rule.sources.iter().any(|alias| connection.source.is_source(names, tailnet, alias)),
        ..Fit::default()
    };
    for traffic in &rule.traffic {
        let protocols = traffic.protocol.map_or(DEFAULT_PROTOCOLS.to_vec(), |protocol| vec![protocol]);
        let protocol = connection.protocols.iter().any(|protocol| protocols.contains(protocol));
        for target in &rule.targets {
            let own = || connection.source.shares_user(connection.target);
            let meant = if target.alias == Alias::Own { own() } else { connection.target.is(names, &target.alias) };
            let ports: &[Ports] = if target.ports.is_empty() { &traffic.ports } else { &target.ports };
            let port = meant && ports.iter().any(|ports| connection.port.is_none_or(|port| ports.contains(port)));
            let this = Fit { source: fit.source, target: meant, port, protocol };
            if this.count() > fit.count() {
                fit = this;
            }
        }
    }
    fit
}
