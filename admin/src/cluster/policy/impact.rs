//! Who would gain and lose what under another policy.
//!
//! Nodes that are of one class under both policies are told the same, so one of them stands for all. What one may send
//! to another is read from the filter the other would be given: the very rules its client would apply.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use policy::{FilterRule, Meaning, Policy, SshRule};
use serde::{Deserialize, Serialize};
use state_machine::{NodeId, State};

/// Pairs of kinds of nodes that are compared at most.
const PAIRS_MAX: usize = 1_000_000;
/// Names that are told of a kind of nodes.
const NAMES_MAX: usize = 20;
/// Protocols of a rule that names none (`tailcfg.go`, FilterRule.IPProto).
const DEFAULTS: [u8; 4] = [1, 6, 17, 58];

/// What a policy would change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Impact {
    /// Empty: everybody reaches what they reached before.
    pub changes: Vec<Change>,
    /// How many kinds of nodes were compared.
    pub kinds: usize,
}

/// Between nodes of two kinds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    pub sources: Kind,
    pub destinations: Kind,
    /// `443`, `tcp:22`, `10.0.0.0/8 *`, `ssh as root`.
    pub gains: Vec<String>,
    pub loses: Vec<String>,
}

/// Nodes that policies do not tell apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Kind {
    pub count: usize,
    /// The first twenty.
    pub names: Vec<String>,
}

/// Compares a policy with the one in force. `Err`: there is too much to compare.
pub(super) fn of(state: &State, new: &Policy) -> Result<Impact, String> {
    let old = super::why::meaning_in_force(state);
    let new = Meaning::compile(new, old.tailnet().clone());
    let mut kinds: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for id in old.tailnet().nodes.keys() {
        kinds.entry((old.class_of(*id), new.class_of(*id))).or_default().push(*id);
    }
    let kinds: Vec<Vec<u64>> = kinds.into_values().collect();
    if kinds.len() * kinds.len() > PAIRS_MAX {
        return Err(format!(
            "the policies tell {} kinds of nodes apart, too many to compare all pairs; ask for single connections: \
             hsraft policy why",
            kinds.len()
        ));
    }
    let mut changes: BTreeMap<(Vec<String>, Vec<String>, usize), Vec<usize>> = BTreeMap::new();
    for (number, targets) in kinds.iter().enumerate() {
        for (among, sources) in kinds.iter().enumerate() {
            // Of one kind, two different nodes are asked about; a lone one reaches itself anyway.
            let target = targets[0];
            let Some(source) = sources.iter().copied().find(|source| *source != target) else { continue };
            let (before, after) = (Reach::of(&old, source, target), Reach::of(&new, source, target));
            let (gains, loses) = (after.beyond(&before), before.beyond(&after));
            if !gains.is_empty() || !loses.is_empty() {
                changes.entry((gains, loses, number)).or_default().push(among);
            }
        }
    }
    let named = |numbers: &[usize]| {
        let nodes = numbers.iter().flat_map(|number| &kinds[*number]);
        let mut names: Vec<String> =
            nodes.filter_map(|id| state.node(NodeId(*id))).map(|node| node.given_name.clone()).collect();
        names.sort();
        let count = names.len();
        names.truncate(NAMES_MAX);
        Kind { count, names }
    };
    let changes = changes.into_iter().map(|((gains, loses, target), sources)| Change {
        sources: named(&sources),
        destinations: named(&[target]),
        gains,
        loses,
    });
    let mut changes: Vec<Change> = changes.collect();
    changes.sort_by(|a, b| (&a.destinations, &a.sources).cmp(&(&b.destinations, &b.sources)));
    Ok(Impact { changes, kinds: kinds.len() })
}

/// What one node may send to another: for each place and protocol, ports.
#[derive(Default)]
struct Reach {
    /// The place is empty for the node itself.
    ports: BTreeMap<(String, u8), Spans>,
    /// Capabilities and shells.
    words: BTreeSet<String>,
}

impl Reach {
    fn of(meaning: &Meaning, source: u64, target: u64) -> Reach {
        let mut reach = Reach::default();
        let nodes = &meaning.tailnet().nodes;
        let (Some(from), Some(to)) = (nodes.get(&source), nodes.get(&target)) else { return reach };
        let (from, to): (Vec<IpAddr>, Vec<IpAddr>) = (from.addresses().collect(), to.addresses().collect());
        for rule in meaning.filter(target) {
            match rule {
                FilterRule::Network { sources, destinations, protocol } => {
                    if !sources.words().iter().any(|word| from.iter().any(|address| covers(word, *address))) {
                        continue;
                    }
                    let protocols = protocol.map_or(DEFAULTS.to_vec(), |protocol| vec![protocol]);
                    for (place, ports) in destinations {
                        let itself = to.iter().any(|address| covers(&place, *address));
                        let place = if itself { String::new() } else { place };
                        for protocol in &protocols {
                            let spans = reach.ports.entry((place.clone(), *protocol)).or_default();
                            spans.add(ports.first.into(), ports.last.into());
                        }
                    }
                }
                FilterRule::Application { sources, capabilities, .. } => {
                    if sources.words().iter().any(|word| from.iter().any(|address| covers(word, *address))) {
                        reach.words.extend(capabilities.keys().map(|name| format!("app {name}")));
                    }
                }
            }
        }
        for rule in &*meaning.ssh(target) {
            if from.iter().any(|address| rule.principals.contains(address)) {
                reach.words.extend(shells(rule));
            }
        }
        reach
    }

    /// What is here and not there, for people.
    fn beyond(&self, other: &Reach) -> Vec<String> {
        let mut by_span: BTreeMap<(String, String), BTreeSet<u8>> = BTreeMap::new();
        for ((place, protocol), spans) in &self.ports {
            let rest = match other.ports.get(&(place.clone(), *protocol)) {
                Some(known) => spans.without(known),
                None => spans.clone(),
            };
            if !rest.0.is_empty() {
                by_span.entry((place.clone(), rest.to_string())).or_default().insert(*protocol);
            }
        }
        let mut told = Vec::new();
        for ((place, ports), protocols) in by_span {
            let place = if place.is_empty() { place } else { format!("{place} ") };
            match protocols.iter().copied().eq(DEFAULTS) {
                true => told.push(format!("{place}{ports}")),
                false => told.extend(
                    protocols.iter().map(|protocol| format!("{place}{}:{ports}", policy::protocol_name(*protocol))),
                ),
            }
        }
        told.extend(self.words.difference(&other.words).cloned());
        told
    }
}

fn shells(rule: &SshRule) -> impl Iterator<Item = String> {
    let how = if rule.check { "ssh after a check" } else { "ssh" };
    let entered = rule.users.iter().filter(|(_, local)| !local.is_empty());
    entered.map(move |(user, _)| match user.as_str() {
        "*" => format!("{how} as any user but root"),
        user => format!("{how} as {user}"),
    })
}

/// Whether a word of a filter (`*`, address, prefix, `first-last`) means the address.
fn covers(word: &str, address: IpAddr) -> bool {
    if word == "*" {
        return true;
    }
    if let Some((first, last)) = word.split_once('-') {
        let ends = (first.parse::<IpAddr>(), last.parse::<IpAddr>());
        return matches!(ends, (Ok(first), Ok(last))
            if first.is_ipv4() == address.is_ipv4() && (first..=last).contains(&address));
    }
    match word.parse::<IpAddr>() {
        Ok(one) => one == address,
        Err(_) => word.parse::<IpNet>().is_ok_and(|net| net.contains(&address)),
    }
}

/// Ports as sorted spans that do not touch.
#[derive(Clone, Debug, Default, PartialEq)]
struct Spans(Vec<(u32, u32)>);

impl Spans {
    fn add(&mut self, first: u32, last: u32) {
        self.0.push((first, last));
        self.0.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::new();
        for (first, last) in self.0.drain(..) {
            match joined.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        self.0 = joined;
    }

    fn without(&self, other: &Spans) -> Spans {
        let mut rest = Vec::new();
        for (first, last) in &self.0 {
            let mut from = *first;
            for (cut_first, cut_last) in &other.0 {
                if *cut_last < from || *cut_first > *last {
                    continue;
                }
                if *cut_first > from {
                    rest.push((from, cut_first - 1));
                }
                from = cut_last + 1;
            }
            if from <= *last {
                rest.push((from, *last));
            }
        }
        Spans(rest)
    }
}

impl std::fmt::Display for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = self.0.iter().map(|span| match span {
            (0 | 1, 65_535) => "*".to_owned(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        });
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_cut() {
        let mut all = Spans::default();
        all.add(0, 65_535);
        let mut some = Spans::default();
        some.add(443, 443);
        some.add(80, 90);
        some.add(91, 95);
        assert_eq!(some.to_string(), "80-95,443");
        assert_eq!(all.without(&some).to_string(), "0-79,96-442,444-65535");
        assert_eq!(some.without(&all), Spans::default());
        assert_eq!(all.without(&Spans::default()).to_string(), "*");
    }

    #[test]
    fn words_of_filters() {
        let address = "100.64.0.9".parse().unwrap();
        for word in ["*", "100.64.0.9", "100.64.0.0/10", "100.64.0.0-100.64.0.9"] {
            assert!(covers(word, address), "{word}");
        }
        for word in ["100.64.0.1", "10.0.0.0/8", "100.64.0.10-100.64.0.11", "fd7a::/16", "fd7a::1-fd7a::9", "x"] {
            assert!(!covers(word, address), "{word}");
        }
    }
}
