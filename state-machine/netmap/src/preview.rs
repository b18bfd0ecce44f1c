//! What nodes would be told under a policy, without a server: for `hsraft policy preview` and for comparing with captures.
//!
//! A scenario is a policy and a small tailnet in which all nodes are online; the oldest of several routers serves a route.

use std::collections::BTreeMap;

use ::policy::{Meaning, Node, Policy, Rejection, Role, Tailnet, User, is_exit_route};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    capability, filter, ssh,
    view::{self, View},
};

/// A policy and a tailnet. What else a scenario file holds is not looked at.
#[derive(Debug, Deserialize)]
pub struct Scenario {
    /// HuJSON.
    policy: String,
    #[serde(default)]
    tailnet: Settings,
    #[serde(default)]
    users: Vec<ScenarioUser>,
    nodes: BTreeMap<String, ScenarioNode>,
    /// Names, oldest first. Nodes that are not named are younger.
    #[serde(default)]
    creation_order: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Settings {
    #[serde(default)]
    settings: Switches,
}

#[derive(Debug, Default, Deserialize)]
struct Switches {
    #[serde(default)]
    devices_auto_updates_on: bool,
}

#[derive(Debug, Deserialize)]
struct ScenarioUser {
    id: u64,
    name: String,
    #[serde(default)]
    email: String,
}

#[derive(Debug, Deserialize)]
struct ScenarioNode {
    user: Option<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    ipv4: Option<std::net::Ipv4Addr>,
    ipv6: Option<std::net::Ipv6Addr>,
    #[serde(default)]
    advertised_routes: Option<Vec<IpNet>>,
    #[serde(default)]
    approved_routes: Option<Vec<IpNet>>,
}

/// What each node would be told, by name: `packet_filter`, `peers`, `allowed_ips`, `primary_routes`, `ssh_rules` and
/// `cap_map`, as JSON. A policy that could not be set is refused.
pub fn preview(scenario: &Scenario) -> Result<Map<String, Value>, Rejection> {
    let policy = Policy::parse(&scenario.policy)?.policy;
    let (tailnet, ids) = scenario.tailnet(&policy);
    policy.check(&tailnet)?;
    let meaning = Meaning::compile(&policy, tailnet);
    let told = |name: &String, id: &u64| (name.clone(), told(scenario, &meaning, &ids, *id));
    Ok(ids.iter().map(|(name, id)| told(name, id)).collect())
}

impl Scenario {
    /// The facts, and nodes' ids by name.
    fn tailnet(&self, policy: &Policy) -> (Tailnet, BTreeMap<String, u64>) {
        let ordered = self.creation_order.iter().filter(|name| self.nodes.contains_key(*name));
        let others = self.nodes.keys().filter(|name| !self.creation_order.contains(name));
        let ids: BTreeMap<String, u64> = ordered.chain(others).cloned().zip(1..).collect();
        let mut tailnet = Tailnet::default();
        let first = self.users.iter().map(|user| user.id).min();
        for user in &self.users {
            let role = if Some(user.id) == first { Role::Owner } else { Role::Admin };
            let row = User { id: user.id, name: user.name.clone(), email: user.email.clone(), role, ..User::default() };
            tailnet.users.insert(user.id, row.into());
        }
        for (name, node) in &self.nodes {
            let id = ids[name];
            let user = node.user.as_ref().and_then(|name| self.users.iter().find(|user| user.name == *name));
            let mut tags = node.tags.clone().unwrap_or_default();
            tags.sort();
            let user = user.filter(|_| tags.is_empty()).map(|user| user.id);
            let mut row = Node { id, user, tags, ipv4: node.ipv4, ipv6: node.ipv6, online: true, ..Node::default() };
            let user = user.and_then(|user| tailnet.users.get(&user));
            row.routes = node.routes(|route| policy.auto_approves(&row, user.map(|user| &**user), route));
            for route in row.routes.iter().filter(|route| !is_exit_route(route)) {
                let serves = tailnet.primaries.get(route).is_none_or(|primary| id < *primary);
                if serves {
                    tailnet.primaries.insert(*route, id);
                }
            }
            tailnet.nodes.insert(id, row.into());
        }
        (tailnet, ids)
    }
}

impl ScenarioNode {
    /// Advertised and approved, by hand or by the policy.
    fn routes(&self, auto_approved: impl Fn(&IpNet) -> bool) -> Vec<IpNet> {
        let approved = self.approved_routes.as_deref().unwrap_or_default();
        let is_approved = |route: &&IpNet| approved.contains(route) || auto_approved(route);
        let advertised = self.advertised_routes.iter().flatten().filter(is_approved);
        let mut routes: Vec<IpNet> = advertised.map(IpNet::trunc).collect();
        routes.sort();
        routes.dedup();
        routes
    }
}

fn told(scenario: &Scenario, meaning: &Meaning, ids: &BTreeMap<String, u64>, id: u64) -> Value {
    let node = &meaning.tailnet().nodes[&id];
    let attributes = meaning.attributes(id);
    let filters = parsed(&filter::page(&meaning.filter(id)));
    let shells = parsed(&ssh::page(&meaning.ssh(id)));
    let mut capabilities = capability::default_set(scenario.tailnet.settings.devices_auto_updates_on, true);
    view::add_attributes(&mut capabilities, &attributes);
    let only_ipv6 = view::hides_ipv4(node.ipv6.is_some(), &attributes);
    let own = View::of_self(&view::addresses(node, only_ipv6), &node.routes, view::primaries_of(meaning, node));
    let peers = ids.iter().filter(|(_, peer)| meaning.sees(id, **peer)).map(|(name, peer)| {
        let row = &meaning.tailnet().nodes[peer];
        // Who has no IPv4 address has no use for those of others.
        let only_ipv6 = only_ipv6 || view::hides_ipv4(row.ipv6.is_some(), &meaning.attributes(*peer));
        let view = View::of_peer(&view::addresses(row, only_ipv6), &meaning.routes(id, *peer));
        let peer = json!({
            "allowed_ips": view.allowed_ips, "primary_routes": view.primary_routes, "cap_map": view.peer_capabilities(),
        });
        (name.clone(), peer)
    });
    json!({
        "packet_filter": filters["base"],
        "peers": peers.collect::<Map<_, _>>(),
        "allowed_ips": own.allowed_ips,
        "primary_routes": own.primary_routes,
        "ssh_rules": shells["rules"],
        "cap_map": capabilities,
    })
}

fn parsed(page: &[u8]) -> Value {
    serde_json::from_slice(page).expect("what this crate has written")
}
