//! Why a connection is let through, or not.

use std::net::IpAddr;

use policy::{Meaning, Policy, Tailnet};
use serde::{Deserialize, Serialize};
use state_machine::{Node, State};

/// The answer to "may SRC reach DST?".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    pub allowed: bool,
    pub source: End,
    pub destination: End,
    /// Absent: no port was asked for, any will do.
    pub port: Option<u16>,
    /// The rules that let it through; where there are none, the ones that come nearest.
    pub rules: Vec<Rule>,
    /// What the policy does not decide: nodes that are away, keys that have expired, routes nobody serves.
    pub notes: Vec<String>,
}

/// One end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// A node's name, or empty for an address outside.
    pub name: String,
    pub address: String,
}

/// A rule and how it fits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// `acls[3]`.
    pub rule: String,
    /// Where it begins in the policy; 0 where it stands nowhere.
    pub line: usize,
    pub shown: String,
    /// What does not fit; empty where it lets the connection through.
    pub misses: Vec<String>,
}

/// Compiles what is in force, or says that nothing is.
pub(super) fn meaning_in_force(state: &State) -> Meaning {
    match state.policy_in_force() {
        Some(policy) => Meaning::compile(policy, state.inventory()),
        None => Meaning::unset(state.inventory()),
    }
}

/// Asks the policy in force. `Err` says what is wrong with the question.
pub(super) fn answer(state: &State, source: &str, target: &str, protocol: Option<&str>) -> Result<Answer, String> {
    let protocol = protocol.map(read_protocol).transpose()?;
    let (target, port) = split_port(target)?;
    let target = find(state, target)?;
    let source = find(state, source)?;
    let (from, to) = same_family(&source, &target)?;
    let meaning = meaning_in_force(state);
    let verdict = meaning.why(from, to, port, protocol);
    let text = state.policy_in_force().map_or("", Policy::text);
    let rules = verdict.rules.into_iter().map(|reason| Rule {
        line: match reason.rule.contains('[') {
            true => text.as_bytes()[..(reason.at as usize).min(text.len())].iter().filter(|b| **b == b'\n').count() + 1,
            false => 0,
        },
        rule: reason.rule,
        shown: reason.shown,
        misses: reason.misses.into_iter().map(ToOwned::to_owned).collect(),
    });
    Ok(Answer {
        allowed: verdict.allowed,
        source: source.end(from),
        destination: target.end(to),
        port,
        rules: rules.collect(),
        notes: notes(state, meaning.tailnet(), &source, &target, to),
    })
}

/// What somebody named.
enum Found<'a> {
    Node(&'a Node),
    Address(IpAddr),
}

impl Found<'_> {
    fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Found::Node(node) => node.ipv4.map(IpAddr::V4).into_iter().chain(node.ipv6.map(IpAddr::V6)).collect(),
            Found::Address(address) => vec![*address],
        }
    }

    fn end(&self, address: IpAddr) -> End {
        let name = match self {
            Found::Node(node) => node.given_name.clone(),
            Found::Address(_) => String::new(),
        };
        End { name, address: address.to_string() }
    }
}

/// A node by address, id, name or full name; the first node of a user or tag; else an address outside.
fn find<'a>(state: &'a State, word: &str) -> Result<Found<'a>, String> {
    let word = word.trim().trim_matches(['[', ']']);
    if let Ok(address) = word.parse::<IpAddr>() {
        let node = match address {
            IpAddr::V4(v4) => state.node_by_ipv4(v4),
            IpAddr::V6(v6) => state.node_by_ipv6(v6),
        };
        // An address that was asked for stays that address.
        return Ok(node
            .filter(|node| node.ipv4.is_none() || node.ipv6.is_none())
            .map_or(Found::Address(address), |node| Found::Node(node)));
    }
    let name = word.trim_end_matches('.').to_lowercase();
    let label = name.strip_suffix(&format!(".{}", state.settings().base_domain)).unwrap_or(&name);
    if let Some(node) = state.node_by_name(label) {
        return Ok(Found::Node(node));
    }
    if let Some(node) = word.parse().ok().and_then(|id| state.node(state_machine::NodeId(id))) {
        return Ok(Found::Node(node));
    }
    let of_tag = |node: &&std::sync::Arc<Node>| word.starts_with("tag:") && node.tags.contains(word);
    let of_user = |node: &&std::sync::Arc<Node>| {
        let user = node.user.filter(|_| !node.is_tagged()).and_then(|user| state.user(user));
        user.is_some_and(|user| {
            user.name == word.trim_end_matches('@') || (!user.email.is_empty() && user.email == word)
        })
    };
    let first = state.nodes().values().find(|node| of_tag(node) || of_user(node));
    first.map(|node| Found::Node(node)).ok_or_else(|| {
        format!("{word:?} is neither a node, an address, nor a user or tag with a node; see: hsraft nodes list")
    })
}

/// `host`, `host:port`, `[v6]:port`; several colons without brackets are an address.
fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let text = text.trim();
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') && host != "tag" => (host, port),
        _ => return Ok((text, None)),
    };
    if port == "*" {
        return Ok((host, None));
    }
    match port.parse() {
        Ok(0) => Err("ports begin at 1".to_owned()),
        Ok(port) => Ok((host, Some(port))),
        // `tag:web` and the like.
        Err(_) if host == "tag" || host == "autogroup" || host == "group" => Ok((text, None)),
        Err(_) => Err(format!("{port:?} is not a port; write for example {host}:443")),
    }
}

fn read_protocol(word: &str) -> Result<u8, String> {
    match word.to_lowercase().as_str() {
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmp" => Ok(1),
        "icmpv6" | "ipv6-icmp" => Ok(58),
        "sctp" => Ok(132),
        number => number.parse().map_err(|_| format!("{word:?} is not a protocol; write tcp, udp, icmp or a number")),
    }
}

/// Packets do not change their family on the way.
fn same_family(source: &Found, target: &Found) -> Result<(IpAddr, IpAddr), String> {
    for to in target.addresses() {
        if let Some(from) = source.addresses().into_iter().find(|from| from.is_ipv4() == to.is_ipv4()) {
            return Ok((from, to));
        }
    }
    Err("the two have no address of the same family".to_owned())
}

fn notes(state: &State, tailnet: &Tailnet, source: &Found, target: &Found, to: IpAddr) -> Vec<String> {
    let mut notes = Vec::new();
    for found in [source, target] {
        let Found::Node(node) = found else { continue };
        if state.is_expired(node.id) {
            notes.push(format!("the key of {} has expired: it is told nobody", node.given_name));
        } else if !state.is_online(node.id) {
            notes.push(format!("{} is not connected", node.given_name));
        }
    }
    if matches!(target, Found::Address(_)) && tailnet.node_at(to).is_none() {
        let serving = state.primaries().iter().filter(|(route, _)| route.contains(&to));
        match serving
            .max_by_key(|(route, _)| route.prefix_len())
            .and_then(|(route, id)| Some((route, state.node(*id)?)))
        {
            Some((route, node)) => notes.push(format!("{} serves {route}", node.given_name)),
            None => {
                notes.push(format!("no node serves a route to {to}; it could only be reached through an exit node"))
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stand_behind_the_last_colon() {
        for (text, host, port) in [
            ("web1", "web1", None),
            ("web1:443", "web1", Some(443)),
            ("web1:*", "web1", None),
            ("100.64.0.1:22", "100.64.0.1", Some(22)),
            ("fd7a::1", "fd7a::1", None),
            ("[fd7a::1]:22", "[fd7a::1]", Some(22)),
            ("[fd7a::1]", "[fd7a::1]", None),
            ("tag:web", "tag:web", None),
            ("tag:web:443", "tag:web", Some(443)),
        ] {
            assert_eq!(split_port(text).unwrap(), (host, port), "{text}");
        }
        for text in ["web1:ssh", "web1:0", "web1:70000"] {
            assert!(split_port(text).is_err(), "{text}");
        }
    }
}
