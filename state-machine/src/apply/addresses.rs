//! Addresses and ranges that people choose. One address is one node's, whoever chooses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{
    model::*,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{invalid, not_found};

/// A user's ranges; more would be a table of addresses.
const RANGES_MAX: usize = 16;

impl State {
    /// Gives a node the addresses somebody chose. Whether they lie in a range of somebody else is the administrator's
    /// business.
    pub(super) fn set_node_addresses(&mut self, id: NodeId, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Answer {
        let node = self.known_node(id)?;
        if ipv4.is_none() && ipv6.is_none() {
            return Err(invalid(What::Node, format!("no address for node {id} is given")));
        }
        if let Some(address) = ipv4.filter(|address| node.ipv4 != Some(*address)) {
            self.check_choice(id, address.into(), self.node_by_ipv4(address).map(|other| other.id))?;
        }
        if let Some(address) = ipv6.filter(|address| node.ipv6 != Some(*address)) {
            self.check_choice(id, address.into(), self.node_by_ipv6(address).map(|other| other.id))?;
        }
        let chosen = Node { ipv4: ipv4.or(node.ipv4), ipv6: ipv6.or(node.ipv6), ..node.clone() };
        self.replace_node(&node, chosen)
    }

    fn check_choice(&self, id: NodeId, address: IpAddr, owner: Option<NodeId>) -> Result<(), Refusal> {
        if let Some(node) = owner.filter(|owner| *owner != id) {
            return Err(Refusal::AddressTaken { address: address.to_string(), node });
        }
        let unfit = |why: String| Err(Refusal::AddressUnfit { address: address.to_string(), why });
        let (prefix, free) = match address {
            IpAddr::V4(one) => {
                (self.settings().prefix_v4.map(IpNet::from), self.indexes.free_ipv4.has(one.to_bits().into()))
            }
            IpAddr::V6(one) => (self.settings().prefix_v6.map(IpNet::from), self.indexes.free_ipv6.has(one.to_bits())),
        };
        match prefix {
            None => unfit("the tailnet has no prefix of that family".into()),
            Some(prefix) if !prefix.contains(&address) => unfit(format!("it is outside {prefix}")),
            Some(_) if !free => unfit("clients, or the prefix itself, keep it for themselves".into()),
            Some(_) => Ok(()),
        }
    }

    /// The whole list. Nodes that are in keep their addresses.
    pub(super) fn set_user_ranges(&mut self, id: UserId, ranges: BTreeSet<IpNet>) -> Answer {
        let user = self.user(id).cloned().ok_or_else(|| not_found(What::User, id))?;
        let ranges: BTreeSet<IpNet> = ranges.iter().map(IpNet::trunc).collect();
        if ranges.len() > RANGES_MAX {
            return Err(invalid(What::User, format!("{} ranges; a user has at most {RANGES_MAX}", ranges.len())));
        }
        for range in &ranges {
            let prefix = match range {
                IpNet::V4(_) => self.settings().prefix_v4.map(IpNet::from),
                IpNet::V6(_) => self.settings().prefix_v6.map(IpNet::from),
            };
            let why = match prefix {
                Some(prefix) if prefix.contains(range) => continue,
                Some(prefix) => format!("it is outside {prefix}"),
                None => "the tailnet has no prefix of that family".into(),
            };
            return Err(Refusal::AddressUnfit { address: range.to_string(), why });
        }
        if user.ranges == ranges {
            return Ok(Outcome::Unchanged);
        }
        self.put_user(User { ranges, ..(*user).clone() });
        Ok(Outcome::User(id))
    }
}
