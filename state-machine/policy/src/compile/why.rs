//! Which rule lets a connection through, or what comes nearest.

use std::net::IpAddr;

use super::program::Program;
use crate::{
    language::document::Rule,
    parties::{Connection, Fit, Party, fit},
    tailnet::Tailnet,
};

/// What the rules say of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// The rules that let it through, in order; where there are none, up to three that nearly do.
    pub rules: Vec<Reason>,
}

/// One rule and how it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// `acls[3]`.
    pub rule: String,
    /// Where it begins, in bytes; 0 of the rule that a policy without rules has.
    pub at: u32,
    /// The rule in short: `src … → dst …`.
    pub shown: String,
    /// What does not fit: `source`, `destination`, `port`, `protocol`. Empty where it lets the connection through.
    pub misses: Vec<&'static str>,
}

pub(crate) struct Case<'a> {
    pub program: &'a Program,
    pub tailnet: &'a Tailnet,
    pub source: IpAddr,
    pub target: IpAddr,
    pub port: Option<u16>,
    /// `None`: TCP or UDP.
    pub protocol: Option<u8>,
}

pub(crate) fn ask(case: &Case) -> Verdict {
    let document = &case.program.document;
    if !document.restricts {
        let shown = "the policy has neither acls nor grants: everything may reach everything".to_owned();
        let rule = Reason { rule: "no rules".to_owned(), at: 0, shown, misses: Vec::new() };
        return Verdict { allowed: true, rules: vec![rule] };
    }
    let (source, target) = (Party::at(case.tailnet, case.source), Party::at(case.tailnet, case.target));
    let protocols = case.protocol.map_or(vec![6, 17], |protocol| vec![protocol]);
    let connection = Connection { source: &source, target: &target, port: case.port, protocols: &protocols };
    let mut fits: Vec<(Fit, &Rule)> =
        document.rules.iter().map(|rule| (fit(document, case.tailnet, rule, &connection), rule)).collect();
    let allowed = fits.iter().any(|(fit, _)| fit.all());
    match allowed {
        true => fits.retain(|(fit, _)| fit.all()),
        false => {
            // A rule that knows neither end is not near.
            fits.retain(|(fit, _)| fit.source || fit.target);
            fits.sort_by_key(|(fit, _)| std::cmp::Reverse(fit.count()));
            fits.truncate(3);
        }
    }
    Verdict { allowed, rules: fits.into_iter().map(|(fit, rule)| reason(fit, rule)).collect() }
}

fn reason(fit: Fit, rule: &Rule) -> Reason {
    let parts = [(fit.source, "source"), (fit.target, "destination"), (fit.port, "port"), (fit.protocol, "protocol")];
    let misses = parts.into_iter().filter(|(fits, _)| !fits).map(|(_, name)| name).collect();
    Reason { rule: format!("{}[{}]", rule.section.name(), rule.index), at: rule.at, shown: shown(rule), misses }
}

fn shown(rule: &Rule) -> String {
    let list = |words: Vec<String>| words.join(", ");
    let ports = |ports: &[crate::language::ports::Ports]| list(ports.iter().map(ToString::to_string).collect());
    let sources = rule.sources.iter().map(ToString::to_string).collect();
    let targets = rule.targets.iter().map(|target| match target.ports.is_empty() {
        true => target.alias.to_string(),
        false => format!("{}:{}", target.alias, ports(&target.ports).replace(", ", ",")),
    });
    let mut shown = format!("{} → {}", list(sources), list(targets.collect()));
    for traffic in &rule.traffic {
        match (traffic.protocol, traffic.ports.is_empty()) {
            (None, true) => {}
            (Some(protocol), true) => shown += &format!(" ({})", crate::protocol_name(protocol)),
            (None, false) => shown += &format!(" (ports {})", ports(&traffic.ports)),
            (Some(protocol), false) => {
                shown += &format!(" ({} {})", crate::protocol_name(protocol), ports(&traffic.ports));
            }
        }
    }
    if !rule.via.is_empty() {
        shown += &format!(" via {}", rule.via.join(", "));
    }
    shown
}
