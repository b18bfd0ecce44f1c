//! The oracle: what a policy means, node by node and pair by pair, straight from its JSON. No classes, nothing shared
//! with the compiler but the facts. Slow on purpose.
//!
//! Reads the policies that `dice.rs` writes: valid ones, in modern spelling, with one address or prefix a host.
#![allow(dead_code, reason = "each test uses its own part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use policy::{Node, Tailnet, User};
use serde_json::{Value, json};

pub struct Naive<'a> {
    /// `None`: no policy is set.
    pub policy: Option<&'a Value>,
    pub tailnet: &'a Tailnet,
}

/// A grant or an ACL in one form.
struct Rule<'a> {
    src: Vec<&'a str>,
    /// Word, and ports of an ACL.
    dst: Vec<(&'a str, Option<&'a str>)>,
    /// Protocol and ports.
    ip: Vec<(Option<u8>, Vec<&'a str>)>,
    app: BTreeMap<String, Value>,
    via: Vec<&'a str>,
}

fn words<'a>(value: &'a Value, field: &str) -> Vec<&'a str> {
    value[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn protocol(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" => Some(1),
        _ => None,
    }
}

fn touches(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn is_exit(route: &IpNet) -> bool {
    route.prefix_len() == 0
}

/// Only the parts of the internet that the dice know.
fn is_public(net: &IpNet) -> bool {
    ["8.0.0.0/8", "2001:db8::/32"].iter().any(|known| touches(&known.parse().unwrap(), net))
}

impl<'a> Naive<'a> {
    fn rules(&self) -> Vec<Rule<'a>> {
        let all = |ports| Rule {
            src: vec![if self.policy.is_some() { "*" } else { "autogroup:danger-all" }],
            dst: vec![("*", None)],
            ip: vec![(None, vec![ports])],
            app: BTreeMap::new(),
            via: vec![],
        };
        let Some(policy) = self.policy else { return vec![all("*")] };
        if policy.get("acls").is_none() && policy.get("grants").is_none() {
            return vec![all("*")];
        }
        let mut rules = Vec::new();
        for grant in policy["grants"].as_array().into_iter().flatten() {
            let mut ip: Vec<(Option<u8>, Vec<&str>)> = Vec::new();
            for word in words(grant, "ip") {
                let (name, ports) = word.rsplit_once(':').unwrap_or(("", word));
                match ip.iter_mut().find(|(known, _)| *known == protocol(name)) {
                    Some((_, known)) => known.push(ports),
                    None => ip.push((protocol(name), vec![ports])),
                }
            }
            let app = grant["app"].as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone()));
            let dst = words(grant, "dst").into_iter().map(|word| (word, None)).collect();
            rules.push(Rule { src: words(grant, "src"), dst, ip, app: app.collect(), via: words(grant, "via") });
        }
        for acl in policy["acls"].as_array().into_iter().flatten() {
            let dst = words(acl, "dst").into_iter().map(|word| word.rsplit_once(':').unwrap());
            let dst = dst.map(|(word, ports)| (word, Some(ports))).collect();
            let ip = vec![(acl["proto"].as_str().and_then(protocol), vec![])];
            rules.push(Rule { src: words(acl, "src"), dst, ip, app: BTreeMap::new(), via: vec![] });
        }
        rules
    }

    fn literal(&self, word: &str) -> Option<IpNet> {
        let host = self.policy.and_then(|policy| policy["hosts"][word].as_str());
        let text = host.unwrap_or(word);
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    }

    fn user(&self, node: &Node) -> Option<&'a User> {
        node.user.filter(|_| node.tags.is_empty()).and_then(|user| self.tailnet.users.get(&user)).map(|user| &**user)
    }

    fn is_user(&self, word: &str, user: &User) -> bool {
        match word.strip_suffix('@') {
            Some(name) => user.name == name,
            None => user.email == word || user.name == word,
        }
    }

    /// Whether a word means the node by who owns it or by an address.
    fn means(&self, word: &str, node: &Node) -> bool {
        if word == "*" || word == "autogroup:danger-all" {
            return true;
        }
        if let Some(net) = self.literal(word) {
            return node.addresses().any(|address| net.contains(&address));
        }
        let user = self.user(node);
        match word {
            "autogroup:member" => node.tags.is_empty(),
            "autogroup:tagged" => !node.tags.is_empty(),
            "autogroup:internet" | "autogroup:self" => false,
            _ if word.starts_with("tag:") => node.tags.iter().any(|tag| tag == word),
            _ if word.starts_with("group:") => {
                let members = self.policy.map(|policy| words(&policy["groups"], word)).unwrap_or_default();
                user.is_some_and(|user| members.iter().any(|member| self.is_user(member, user)))
            }
            _ => user.is_some_and(|user| self.is_user(word, user)),
        }
    }

    fn is_source(&self, rule: &Rule, node: &Node) -> bool {
        rule.src.iter().any(|word| self.means(word, node))
    }

    /// Whether a rule's sources hold a part of a subnet.
    fn holds(&self, rule: &Rule, subnet: &IpNet) -> bool {
        !is_exit(subnet)
            && rule.src.iter().any(|word| match self.literal(word) {
                Some(net) => touches(&net, subnet),
                None => *word == "*" || *word == "autogroup:danger-all",
            })
    }

    /// Whether a rule leads to a part of a route.
    fn leads(&self, rule: &Rule, route: &IpNet) -> bool {
        rule.dst.iter().any(|(word, _)| match (self.literal(word), *word) {
            (Some(net), _) => !is_exit(route) && touches(&net, route),
            (None, "*") => true,
            (None, "autogroup:internet") => is_exit(route),
            _ => false,
        })
    }

    fn comes_in(&self, rule: &Rule, node: &Node) -> bool {
        self.is_source(rule, node) || node.routes.iter().any(|route| self.holds(rule, route))
    }

    fn goes_out(&self, rule: &Rule, node: &Node) -> bool {
        if !rule.via.is_empty() {
            let tagged = node.tags.iter().any(|tag| rule.via.contains(&tag.as_str()));
            return tagged && node.routes.iter().any(|route| self.leads(rule, route));
        }
        rule.dst.iter().any(|(word, _)| match (self.literal(word), *word) {
            (_, "autogroup:internet") => node.routes.iter().any(is_exit),
            (Some(net), _) => {
                self.means(word, node)
                    || node
                        .routes
                        .iter()
                        .any(|route| if is_exit(route) { is_public(&net) } else { touches(&net, route) })
            }
            _ => self.means(word, node),
        })
    }

    fn same_user(&self, a: &Node, b: &Node) -> bool {
        a.tags.is_empty() && b.tags.is_empty() && a.user.is_some() && a.user == b.user
    }

    pub fn sees(&self, viewer: &Node, peer: &Node) -> bool {
        let reaches = |from: &Node, to: &Node| {
            self.rules().iter().any(|rule| {
                let own = rule.dst.iter().any(|(word, _)| *word == "autogroup:self");
                (self.comes_in(rule, from) && self.goes_out(rule, to))
                    || (own && self.same_user(from, to) && self.is_source(rule, from))
            })
        };
        viewer.id != peer.id && (reaches(viewer, peer) || reaches(peer, viewer))
    }

    pub fn routes(&self, viewer: &Node, router: &Node) -> Vec<IpNet> {
        let rules = self.rules();
        let offered = router.routes.iter().filter(|route| {
            let plain = rules.iter().filter(|rule| rule.via.is_empty()).any(|rule| {
                (self.comes_in(rule, viewer) && self.leads(rule, route))
                    || (self.holds(rule, route) && self.goes_out(rule, viewer))
            });
            let plain = plain || (!is_exit(route) && viewer.routes.contains(route));
            let steering = rules
                .iter()
                .filter(|rule| !rule.via.is_empty() && self.comes_in(rule, viewer) && self.leads(rule, route));
            let tags: BTreeSet<&str> = steering.flat_map(|rule| rule.via.iter().copied()).collect();
            let steered =
                |node: &Node| node.routes.contains(route) && node.tags.iter().any(|tag| tags.contains(tag.as_str()));
            if is_exit(route) {
                return plain || steered(router);
            }
            let primary = self.tailnet.primaries.get(*route).copied();
            if plain {
                return primary == Some(router.id);
            }
            let candidates: Vec<&Node> =
                self.tailnet.nodes.values().map(|node| &**node).filter(|node| steered(node)).collect();
            let lasting = candidates.iter().find(|node| Some(node.id) == primary);
            let online = candidates.iter().find(|node| node.online);
            lasting.or(online).or(candidates.first()).is_some_and(|node| node.id == router.id)
        });
        offered.copied().collect()
    }

    /// A source list as nodes are told.
    fn listed(&self, words: &[&str], keep: impl Fn(&Node) -> bool) -> BTreeSet<String> {
        let mut list = BTreeSet::new();
        for word in words {
            if *word == "autogroup:danger-all" {
                return BTreeSet::from(["*".to_owned()]);
            }
            if *word == "*" {
                let tailnet = ["100.64.0.0-100.115.91.255", "100.115.94.0-100.127.255.255", "fd7a:115c:a1e0::/48"];
                list.extend(tailnet.map(str::to_owned));
                let routes = self.tailnet.nodes.values().flat_map(|node| &node.routes);
                list.extend(routes.filter(|route| !is_exit(route)).map(spell));
            } else if let Some(net) = self.literal(word) {
                list.insert(spell(&net));
            } else {
                for node in self.tailnet.nodes.values().filter(|node| self.means(word, node) && keep(node)) {
                    list.extend(node.addresses().map(|address| address.to_string()));
                }
            }
        }
        list
    }

    fn own_list(&self, rule: &Rule, user: u64) -> BTreeSet<String> {
        let own = self.tailnet.nodes.values().filter(|node| node.tags.is_empty() && node.user == Some(user));
        let sources = own.filter(|node| self.is_source(rule, node));
        sources.flat_map(|node| node.addresses()).map(|address| address.to_string()).collect()
    }

    /// Rules as `{"src", "dst", "proto"}` or `{"src", "dsts", "caps"}`, with sorted lists.
    pub fn filter(&self, node: &Node) -> Vec<Value> {
        let own: Vec<String> = node.addresses().map(|address| address.to_string()).collect();
        let mut list: Vec<Told> = Vec::new();
        for rule in self.rules() {
            let sources = self.listed(&rule.src, |_| true);
            let routed = |net: &IpNet| {
                node.routes.iter().any(|route| if is_exit(route) { is_public(net) } else { touches(net, route) })
            };
            let through = rule.via.is_empty() || node.tags.iter().any(|tag| rule.via.contains(&tag.as_str()));
            for (protocol, ports) in &rule.ip {
                let mut targets = Vec::new();
                for (word, own_ports) in rule.dst.iter().filter(|_| through) {
                    let ports: Vec<&str> = own_ports.map_or(ports.clone(), |ports| ports.split(',').collect());
                    let ips: Vec<String> = match (self.literal(word), *word) {
                        (Some(net), _) => {
                            let mine = rule.via.is_empty() && self.means(word, node);
                            (mine || routed(&net)).then(|| spell(&net)).into_iter().collect()
                        }
                        (None, "*") => vec!["*".into()],
                        (None, "autogroup:internet") if node.routes.iter().any(is_exit) => vec!["internet".into()],
                        _ if rule.via.is_empty() && self.means(word, node) => own.clone(),
                        _ => vec![],
                    };
                    targets.extend(ips.iter().flat_map(|ip| ports.iter().map(move |ports| format!("{ip}:{ports}"))));
                }
                join(&mut list, &sources, *protocol, targets);
            }
            if !rule.app.is_empty() {
                let inside = |net: &IpNet| node.addresses().filter(|ip| net.contains(ip)).map(IpNet::from).collect();
                let nets = |words: &[&str], routes: bool| -> Vec<IpNet> {
                    let of = |word: &&str| match self.literal(word) {
                        Some(net) => {
                            let mut nets: Vec<IpNet> = inside(&net);
                            let subnet = node.routes.iter().any(|route| !is_exit(route) && touches(route, &net));
                            nets.extend(Some(net).filter(|_| routes && subnet));
                            nets
                        }
                        None if self.means(word, node) => node.addresses().map(IpNet::from).collect(),
                        None => vec![],
                    };
                    words.iter().flat_map(of).collect()
                };
                let targets: Vec<&str> = rule.dst.iter().map(|(word, _)| *word).collect();
                grant(&mut list, &sources, nets(&targets, true), rule.app.clone());
                let back = self.listed(&targets, |_| true);
                counterparts(&mut list, &rule, &back, &nets(&rule.src, false));
            }
            if let Some(user) = node.user.filter(|_| node.tags.is_empty()) {
                let own_targets = rule.dst.iter().filter(|(word, _)| *word == "autogroup:self");
                let is_self = own_targets.clone().next().is_some();
                let sources = self.own_list(&rule, user);
                for (protocol, ports) in rule.ip.iter().filter(|_| is_self) {
                    let ports = own_targets
                        .clone()
                        .flat_map(|(_, own)| own.map_or(ports.clone(), |own| own.split(',').collect()));
                    let targets: Vec<String> =
                        ports.flat_map(|ports| own.iter().map(move |ip| format!("{ip}:{ports}"))).collect();
                    let targets = if self.is_source(&rule, node) { targets } else { vec![] };
                    join(&mut list, &sources, *protocol, targets);
                }
                if is_self && !rule.app.is_empty() && self.is_source(&rule, node) {
                    let mine: Vec<IpNet> = node.addresses().map(IpNet::from).collect();
                    grant(&mut list, &sources, mine.clone(), rule.app.clone());
                    counterparts(&mut list, &rule, &sources, &mine);
                }
            }
        }
        list.into_iter().filter_map(Told::finish).collect()
    }

    pub fn attributes(&self, node: &Node) -> BTreeSet<String> {
        let entries = self.policy.and_then(|policy| policy["nodeAttrs"].as_array()).into_iter().flatten();
        let given = entries.filter(|entry| words(entry, "target").iter().any(|word| self.means(word, node)));
        given.flat_map(|entry| words(entry, "attr")).map(str::to_owned).collect()
    }

    /// Rules as `{"from", "users", "check"}`.
    pub fn ssh(&self, node: &Node) -> Vec<Value> {
        let mut rules = Vec::new();
        for rule in self.policy.and_then(|policy| policy["ssh"].as_array()).into_iter().flatten() {
            let sources: Vec<&Node> = self
                .tailnet
                .nodes
                .values()
                .map(|node| &**node)
                .filter(|source| words(rule, "src").iter().any(|word| self.means(word, source)))
                .collect();
            let names = words(rule, "users");
            let local: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("localpart:*@")).collect();
            let targets = words(rule, "dst");
            let others: Vec<&&str> = targets.iter().filter(|word| **word != "autogroup:self").collect();
            let mut users = BTreeMap::from([("root", "")]);
            for name in names.iter().filter(|name| !name.starts_with("localpart:")) {
                if *name == "autogroup:nonroot" {
                    users.insert("*", "=")
                } else {
                    users.insert(name, name)
                };
            }
            let mut add = |from: Vec<&Node>, user: Option<&User>| {
                if from.is_empty() {
                    return;
                }
                let from: BTreeSet<String> =
                    from.iter().flat_map(|node| node.addresses()).map(|ip| ip.to_string()).collect();
                let check = rule["action"] == "check";
                rules.push(json!({"from": from, "users": users, "check": check}));
                let mail = user.and_then(|user| user.email.split_once('@'));
                if let Some((name, _)) = mail.filter(|(_, domain)| local.contains(domain)) {
                    rules.push(json!({"from": from, "users": {name: name}, "check": check}));
                }
            };
            let of_user = |user: u64| -> Vec<&Node> {
                sources.iter().copied().filter(|source| source.tags.is_empty() && source.user == Some(user)).collect()
            };
            let tagged =
                || -> Vec<&Node> { sources.iter().copied().filter(|source| !source.tags.is_empty()).collect() };
            let own_user = node.user.filter(|_| node.tags.is_empty());
            if let Some(user) = own_user.filter(|_| targets.contains(&"autogroup:self")) {
                add(of_user(user), self.user(node));
            }
            if others.iter().any(|word| self.means(word, node)) {
                if local.is_empty() {
                    add(sources.clone(), None);
                } else {
                    for (id, user) in &self.tailnet.users {
                        add(of_user(*id), Some(user));
                    }
                    add(tagged(), None);
                }
            } else if !local.is_empty() && !others.is_empty() && sources.iter().any(|source| source.id == node.id) {
                match own_user {
                    Some(user) => add(of_user(user), self.user(node)),
                    None => add(tagged(), None),
                }
            }
        }
        rules.sort_by_key(|rule| rule["check"] != true);
        rules
    }
}

/// A rule that grows while others join it.
enum Told {
    Network(BTreeSet<String>, Option<u8>, Vec<String>),
    Grant(BTreeSet<String>, BTreeSet<String>, BTreeMap<String, Value>),
}

impl Told {
    fn finish(self) -> Option<Value> {
        match self {
            Told::Network(src, proto, mut dst) => {
                dst.sort();
                (!dst.is_empty()).then(|| json!({"src": src, "dst": dst, "proto": proto}))
            }
            Told::Grant(src, dsts, caps) => Some(json!({"src": src, "dsts": dsts, "caps": caps})),
        }
    }
}

/// Rules of equal sources and protocol are one, where the first stands, also where that one leads elsewhere.
fn join(list: &mut Vec<Told>, sources: &BTreeSet<String>, protocol: Option<u8>, targets: Vec<String>) {
    if sources.is_empty() {
        return;
    }
    let known = list.iter_mut().find_map(|told| match told {
        Told::Network(known, proto, dst) if known == sources && *proto == protocol => Some(dst),
        _ => None,
    });
    match known {
        Some(known) => known.extend(targets),
        None => list.push(Told::Network(sources.clone(), protocol, targets)),
    }
}

fn grant(list: &mut Vec<Told>, sources: &BTreeSet<String>, targets: Vec<IpNet>, caps: BTreeMap<String, Value>) {
    if !sources.is_empty() && !targets.is_empty() {
        list.push(Told::Grant(sources.clone(), targets.iter().map(ToString::to_string).collect(), caps));
    }
}

fn counterparts(list: &mut Vec<Told>, rule: &Rule, back: &BTreeSet<String>, mine: &[IpNet]) {
    for (name, other) in [("drive", "drive-sharer"), ("relay", "relay-target")] {
        if rule.app.contains_key(&format!("tailscale.com/cap/{name}")) {
            grant(list, back, mine.to_vec(), BTreeMap::from([(format!("tailscale.com/cap/{other}"), json!([]))]));
        }
    }
}

fn spell(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}
