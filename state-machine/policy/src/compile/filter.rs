//! What lets packets in: the rules reduced to what concerns one node.
//!
//! Nodes of a class share a template; it differs between them only in their own addresses.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    classes::Role,
    program::{Destination, Program, RuleCode, TargetCode},
    sources::{Sources, internet_words, word_of},
    table::Table,
};
use crate::{
    language::{document::Rule, ports::Ports},
    ranges::{Ranges, internet, overlap},
    tailnet::Node,
};

/// Capabilities of which the other end is told too (`tailcfg.PeerCapabilityTaildriveSharer`, `…RelayTarget`).
pub(crate) const COUNTERPARTS: [(&str, &str); 2] = [
    ("tailscale.com/cap/drive", "tailscale.com/cap/drive-sharer"),
    ("tailscale.com/cap/relay", "tailscale.com/cap/relay-target"),
];

/// Capability → values.
pub type Capabilities = BTreeMap<String, Vec<Value>>;

/// One rule of a node's filter.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterRule {
    /// Packets of these sources may reach these ports.
    Network {
        sources: Arc<Sources>,
        /// `*`, an address, a prefix or `first-last`, and ports.
        destinations: Vec<(String, Ports)>,
        /// `None`: TCP, UDP and both ICMPs.
        protocol: Option<u8>,
    },
    /// Applications are told that these sources have capabilities towards these addresses.
    Application { sources: Arc<Sources>, destinations: Vec<IpNet>, capabilities: Arc<Capabilities> },
}

/// What all nodes of a class are told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Template {
    pub(crate) rules: Vec<TemplateRule>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TemplateRule {
    Network { sources: Arc<Sources>, entries: Vec<(Entry, Ports)>, protocol: Option<u8> },
    Application { sources: Arc<Sources>, entries: Vec<Entry>, capabilities: Arc<Capabilities> },
}

/// A destination before it is known of which node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    Anything,
    Internet,
    /// The node's own addresses.
    Mine,
    /// A literal that leads there.
    Net(IpNet),
    /// A literal, where it contains an address of the node.
    NetOfMine(IpNet),
    /// The node's own addresses that a literal contains.
    MineIn(IpNet),
}

/// Writes templates.
pub(crate) struct Drafter<'a> {
    pub program: &'a Program,
    pub table: &'a Table,
    /// The list of a source set.
    pub sources: &'a dyn Fn(usize) -> Arc<Sources>,
}

/// Rules by where they stand: the number of the rule, and what of it.
type Draft = BTreeMap<(usize, usize), TemplateRule>;

/// What follows from one rule, in this order; traffic comes first, protocol by protocol.
const APPLICATION: usize = 1 << 20;
const OWN: usize = 2 << 20;

impl Drafter<'_> {
    pub fn template(&self, class: usize, role: &Role) -> Template {
        let mut draft = Draft::new();
        for (number, (rule, standing)) in self.program.rules.iter().zip(&self.table.rules).enumerate() {
            let written = self.program.written(rule);
            if standing.reached.contains(class) {
                self.inbound(&mut draft, number, written, standing.source_set, role);
            }
            if let Some(looking_back) = standing.target_set.filter(|_| standing.sources.contains(class)) {
                let mine = entries_of_source(rule, role);
                self.look_back(&mut draft, (number, APPLICATION + 1), written, looking_back, &mine);
            }
            if let Some(own) = self.table.own_set(standing, class, role) {
                self.of_own_nodes(&mut draft, number, written, own, role);
            }
        }
        Template { rules: draft.into_values().collect() }
    }

    fn inbound(&self, draft: &mut Draft, number: usize, written: Option<&Rule>, set: usize, role: &Role) {
        let rule = &self.program.rules[number];
        if self.table.source_sets[set].is_empty() {
            return;
        }
        for traffic in &rule.traffic {
            let mut entries = Vec::new();
            for target in &rule.targets {
                let ports = if target.ports.is_empty() { &traffic.ports } else { &target.ports };
                for entry in entries_of_target(target, role, rule.via.is_some()) {
                    entries.extend(ports.iter().map(|ports| (entry.clone(), *ports)));
                }
            }
            self.network(draft, role, set, entries, traffic.protocol);
        }
        if let Some(written) = written.filter(|written| !written.app.is_empty()) {
            let entries = rule.targets.iter().flat_map(|target| app_entries(target, role)).collect();
            self.application(draft, (number, APPLICATION), set, entries, Arc::new(written.app.clone()));
        }
    }

    fn of_own_nodes(&self, draft: &mut Draft, number: usize, written: Option<&Rule>, set: usize, role: &Role) {
        let rule = &self.program.rules[number];
        for traffic in &rule.traffic {
            let own = rule.targets.iter().filter(|target| target.what == Destination::Own);
            let ports = own.flat_map(|target| if target.ports.is_empty() { &traffic.ports } else { &target.ports });
            self.network(draft, role, set, ports.map(|ports| (Entry::Mine, *ports)).collect(), traffic.protocol);
        }
        if let Some(written) = written.filter(|written| !written.app.is_empty()) {
            let at = OWN + APPLICATION;
            self.application(draft, (number, at), set, vec![Entry::Mine], Arc::new(written.app.clone()));
            self.look_back(draft, (number, at + 1), Some(written), set, &[Entry::Mine]);
        }
    }

    /// Rules of equal sources and protocol are one. It stands where the first of them stands, also where that one does
    /// not concern the node.
    fn network(&self, draft: &mut Draft, role: &Role, set: usize, entries: Vec<(Entry, Ports)>, protocol: Option<u8>) {
        if entries.is_empty() {
            return;
        }
        let at = self.table.first_of(set, protocol, role);
        match draft.get_mut(&at) {
            Some(TemplateRule::Network { entries: before, .. }) => before.extend(entries),
            _ => _ = draft.insert(at, TemplateRule::Network { sources: (self.sources)(set), entries, protocol }),
        }
    }

    fn application(
        &self,
        draft: &mut Draft,
        at: (usize, usize),
        set: usize,
        entries: Vec<Entry>,
        capabilities: Arc<Capabilities>,
    ) {
        if !entries.is_empty() {
            draft.insert(at, TemplateRule::Application { sources: (self.sources)(set), entries, capabilities });
        }
    }

    fn look_back(&self, draft: &mut Draft, at: (usize, usize), written: Option<&Rule>, set: usize, mine: &[Entry]) {
        if self.table.source_sets[set].is_empty() {
            return;
        }
        for (step, (name, counterpart)) in COUNTERPARTS.into_iter().enumerate() {
            if written.is_some_and(|written| written.app.contains_key(name)) {
                let capabilities = Arc::new(Capabilities::from([(counterpart.to_owned(), Vec::new())]));
                self.application(draft, (at.0, at.1 + step), set, mine.to_vec(), capabilities);
            }
        }
    }
}

/// Where the network rules of one rule stand: for all sources, and for those of a user's own nodes.
pub(crate) fn places(number: usize, rule: &RuleCode, own: bool) -> impl Iterator<Item = (Option<u8>, (usize, usize))> {
    let base = if own { OWN } else { 0 };
    rule.traffic.iter().enumerate().map(move |(step, traffic)| (traffic.protocol, (number, base + step)))
}

fn entries_of_target(target: &TargetCode, role: &Role, via: bool) -> Vec<Entry> {
    match &target.what {
        Destination::Anything => vec![Entry::Anything],
        Destination::Internet if role.routes.iter().any(crate::tailnet::is_exit_route) => vec![Entry::Internet],
        Destination::Owners(word) if role.words.contains(*word) && !via => vec![Entry::Mine],
        Destination::Nets(word, nets) => {
            let mine = role.words.contains(*word) && !via;
            nets.iter().filter_map(|net| literal(net, nets.len(), mine, role)).collect()
        }
        Destination::Internet | Destination::Owners(_) | Destination::Own => Vec::new(),
    }
}

/// A literal concerns a node whose address it contains, or whose route it touches. Where it is one of several that
/// stand together it must be looked at for each node.
fn literal(net: &IpNet, together: usize, mine: bool, role: &Role) -> Option<Entry> {
    let leads_there = role.routes.iter().any(|route| match crate::tailnet::is_exit_route(route) {
        true => {
            let alone = Ranges::of(&[*net]);
            alone.without(&internet()) != alone
        }
        false => overlap(route, net),
    });
    match (leads_there, mine) {
        (true, _) => Some(Entry::Net(*net)),
        (false, true) if together == 1 => Some(Entry::Net(*net)),
        (false, true) => Some(Entry::NetOfMine(*net)),
        (false, false) => None,
    }
}

fn app_entries(target: &TargetCode, role: &Role) -> Vec<Entry> {
    match &target.what {
        Destination::Anything => vec![Entry::Mine],
        Destination::Owners(word) if role.words.contains(*word) => vec![Entry::Mine],
        Destination::Nets(word, nets) => {
            let mine = nets.iter().filter(|_| role.words.contains(*word)).map(|net| Entry::MineIn(*net));
            let subnet = |net: &&IpNet| {
                role.routes.iter().any(|route| !crate::tailnet::is_exit_route(route) && overlap(route, net))
            };
            mine.chain(nets.iter().filter(subnet).map(|net| Entry::Net(*net))).collect()
        }
        _ => Vec::new(),
    }
}

/// The addresses by which a node is a source of the rule.
fn entries_of_source(rule: &RuleCode, role: &Role) -> Vec<Entry> {
    let sources = &rule.sources;
    if sources.tailnet || sources.anything || sources.owners.meets(&role.words) {
        return vec![Entry::Mine];
    }
    sources.nets.iter().filter(|(word, _)| role.words.contains(*word)).map(|(_, net)| Entry::MineIn(*net)).collect()
}

impl Template {
    /// The filter of one node.
    pub fn filter(&self, node: &Node) -> Vec<FilterRule> {
        self.rules.iter().filter_map(|rule| rule.of_node(node)).collect()
    }
}

impl TemplateRule {
    fn of_node(&self, node: &Node) -> Option<FilterRule> {
        let mine: Vec<IpAddr> = node.addresses().collect();
        match self {
            TemplateRule::Network { sources, entries, protocol } => {
                let mut destinations = Vec::with_capacity(entries.len() * 2);
                for (entry, ports) in entries {
                    match entry {
                        Entry::Anything => destinations.push(("*".to_owned(), *ports)),
                        Entry::Internet => destinations.extend(internet_words().into_iter().map(|word| (word, *ports))),
                        Entry::Mine => destinations.extend(mine.iter().map(|address| (address.to_string(), *ports))),
                        Entry::Net(net) => destinations.push((word_of(net), *ports)),
                        Entry::NetOfMine(net) if mine.iter().any(|address| net.contains(address)) => {
                            destinations.push((word_of(net), *ports));
                        }
                        Entry::NetOfMine(_) | Entry::MineIn(_) => {}
                    }
                }
                let rule = FilterRule::Network { sources: sources.clone(), destinations, protocol: *protocol };
                Some(rule)
                    .filter(|rule| matches!(rule, FilterRule::Network { destinations, .. } if !destinations.is_empty()))
            }
            TemplateRule::Application { sources, entries, capabilities } => {
                let mut destinations: Vec<IpNet> = Vec::new();
                for entry in entries {
                    match entry {
                        Entry::Mine => destinations.extend(mine.iter().map(|address| IpNet::from(*address))),
                        Entry::MineIn(net) => {
                            let inside = mine.iter().filter(|address| net.contains(*address));
                            destinations.extend(inside.map(|address| IpNet::from(*address)));
                        }
                        Entry::Net(net) => destinations.push(*net),
                        Entry::Anything | Entry::Internet | Entry::NetOfMine(_) => {}
                    }
                }
                destinations.sort_unstable();
                destinations.dedup();
                let (sources, capabilities) = (sources.clone(), capabilities.clone());
                (!destinations.is_empty()).then_some(FilterRule::Application { sources, destinations, capabilities })
            }
        }
    }
}
