//! One ACL, one grant.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    alias::{Alias, Names, NotAnAlias},
    document::{Rule, Section, Target, Traffic},
    fields::{Fields, entries, list},
    ports::{self, Ports, WITH_PORTS},
    read::Reader,
    tree::{Located, Tree},
};
use crate::rejection::Fault;

/// `{"action": "accept", "proto": "tcp", "src": […], "dst": ["host:ports"]}`.
pub(crate) fn acl(reader: &mut Reader, names: &Names, index: usize, value: &Located) -> Result<Rule, Fault> {
    let mut fields = Fields::of(value, "an ACL")?;
    match fields.text("action")? {
        Some(("accept", _)) => {}
        Some((action, at)) => {
            return Err(Fault::new(at, format!("action={action:?} is not supported"))
                .hint("write \"accept\": what no rule accepts is denied"));
        }
        None => return Err(Fault::new(value.at, "action=\"\" is not supported").hint("write \"action\": \"accept\"")),
    }
    let given = (fields.take("proto")?, fields.take("protocol")?);
    let protocol = protocol(given.0.or(given.1))?;
    let sources = sources(reader, names, &mut fields, ["src", "users"])?;
    let mut targets = Vec::new();
    let mut given = fields.texts("dst")?;
    given.extend(fields.texts("ports")?);
    for (word, at) in given {
        targets.push(target(reader, names, word, at, protocol)?);
    }
    refuse_postures(&mut fields)?;
    fields.finish()?;
    let traffic = vec![Traffic { protocol, ports: Vec::new() }];
    let rule = Rule {
        at: value.at,
        section: Section::Acls,
        index,
        sources,
        targets,
        traffic,
        app: BTreeMap::new(),
        via: Vec::new(),
    };
    // `*` as a source means members here: tagged nodes have no self.
    own_nodes_of(&rule, |alias| *alias == Alias::Everything)?;
    Ok(rule)
}

/// `{"src": […], "dst": […], "ip": ["tcp:443"], "app": {…}, "via": ["tag:router"]}`.
pub(crate) fn grant(reader: &mut Reader, names: &Names, index: usize, value: &Located) -> Result<Rule, Fault> {
    let mut fields = Fields::of(value, "a grant")?;
    let sources = sources(reader, names, &mut fields, ["src", "src"])?;
    let mut targets = Vec::new();
    for (word, at) in fields.texts("dst")? {
        targets.push(Target { alias: destination(reader, names, word, at)?, ports: Vec::new() });
    }
    let mut traffic: Vec<Traffic> = Vec::new();
    for (word, at) in fields.texts("ip")? {
        let (protocol, ports) = traffic_of(word).map_err(|message| Fault::new(at, message))?;
        match traffic.iter_mut().find(|traffic| traffic.protocol == protocol) {
            Some(traffic) => traffic.ports.extend(ports),
            None => traffic.push(Traffic { protocol, ports }),
        }
    }
    let app = app(&mut fields)?;
    if traffic.is_empty() && app.is_empty() {
        return Err(
            Fault::new(value.at, "ip and app can not both be empty").hint("write \"ip\": [\"*\"] to allow everything")
        );
    }
    if !app.is_empty() && targets.iter().any(|target| target.alias == Alias::Internet) {
        return Err(Fault::new(value.at, "cannot use app grants with autogroup:internet"));
    }
    let mut via = Vec::new();
    for (word, at) in fields.texts("via")? {
        match names.tag_owners.contains_key(word) {
            true => via.push(word.to_owned()),
            false if word.starts_with("tag:") => return Err(Fault::new(at, format!("via: tag {word:?} not found"))),
            false => return Err(Fault::new(at, format!("via can only be a tag, not {word:?}"))),
        }
    }
    refuse_postures(&mut fields)?;
    fields.finish()?;
    let rule = Rule { at: value.at, section: Section::Grants, index, sources, targets, traffic, app, via };
    own_nodes_of(&rule, |_| false)?;
    Ok(rule)
}

/// `autogroup:self` needs sources that have a self.
fn own_nodes_of(rule: &Rule, also: impl Fn(&Alias) -> bool) -> Result<(), Fault> {
    let has_self = |alias: &Alias| {
        matches!(
            alias,
            Alias::User(_) | Alias::Domain(_) | Alias::Directory(_) | Alias::Group(_) | Alias::Member | Alias::Role(_)
        )
    };
    let used = rule.targets.iter().any(|target| target.alias == Alias::Own);
    match !used || rule.sources.iter().all(|alias| has_self(alias) || also(alias)) {
        true => Ok(()),
        false => {
            let message = "autogroup:self can only be used with users, groups, or supported autogroups";
            Err(Fault::new(rule.at, message).hint("write \"src\": [\"autogroup:member\"]"))
        }
    }
}

fn sources(
    reader: &mut Reader,
    names: &Names,
    fields: &mut Fields,
    spellings: [&'static str; 2],
) -> Result<Vec<Alias>, Fault> {
    let mut words = fields.texts(spellings[0])?;
    if spellings[0] != spellings[1] {
        words.extend(fields.texts(spellings[1])?);
    }
    let mut sources = Vec::new();
    for (word, at) in words {
        match names.alias(word) {
            Ok((Alias::Own | Alias::Internet, _)) => {
                let message = format!("{word:?} not valid on the src side of a rule");
                return Err(Fault::new(at, message));
            }
            Ok((alias, old)) => {
                old.into_iter().for_each(|warning| reader.warn(at, warning));
                sources.push(alias);
            }
            Err(NotAnAlias { message, hint }) => {
                return Err(Fault { hint, ..Fault::new(at, format!("src={message}")) });
            }
        }
    }
    Ok(sources)
}

/// What may stand on the right side.
fn destination(reader: &mut Reader, names: &Names, word: &str, at: u32) -> Result<Alias, Fault> {
    let (alias, old) = names.alias(word).map_err(|NotAnAlias { message, hint }| {
        let message = format!("dst={word:?}: {message}");
        Fault { hint, ..Fault::new(at, message) }
    })?;
    match &alias {
        Alias::Danger => return Err(Fault::new(at, "cannot use autogroup:danger-all as a dst")),
        Alias::Nets(nets) if nets.nets.iter().any(|net| net.prefix_len() == 0) => {
            let message = format!("dst {word:?}: to allow all IP addresses, use \"*\" or \"autogroup:internet\"");
            return Err(Fault::new(at, message));
        }
        _ => {}
    }
    old.into_iter().for_each(|warning| reader.warn(at, warning));
    Ok(alias)
}

/// `host:ports`; the last colon parts them, because tags and addresses have colons too.
fn target(reader: &mut Reader, names: &Names, word: &str, at: u32, protocol: Option<u8>) -> Result<Target, Fault> {
    let (host, ports) = word.trim().rsplit_once(':').unwrap_or((word, ""));
    // `[fd7a::1]:22` is how addresses and ports are written elsewhere.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let ports = ports::parse_list(ports).map_err(|message| {
        Fault::new(at, format!("dst={word:?}: {message}"))
            .hint("write ports after the last colon: \"tag:server:22,80-90\" or \"tag:server:*\"")
    })?;
    if protocol.is_some_and(|protocol| !WITH_PORTS.contains(&protocol)) && ports != [Ports::ALL] {
        let message = format!("dst={word:?}: protocol {} has no ports", ports::protocol_name(protocol.unwrap_or(0)));
        return Err(Fault::new(at, message).hint("write * for the ports"));
    }
    Ok(Target { alias: destination(reader, names, host, at)?, ports })
}

/// `*`, `443`, `tcp:443`, `udp:53-54`, `icmp:*`.
fn traffic_of(word: &str) -> Result<(Option<u8>, Vec<Ports>), String> {
    let (protocol, ports) = match word.trim().rsplit_once(':') {
        Some((protocol, ports)) => (ports::parse_protocol(protocol)?, ports),
        None => (None, word.trim()),
    };
    let ports = ports::parse_list(ports)?;
    match protocol.is_some_and(|protocol| !WITH_PORTS.contains(&protocol)) && ports != [Ports::ALL] {
        true => Err(format!("ip={word:?}: this protocol has no ports: write * for them")),
        false => Ok((protocol, ports)),
    }
}

fn protocol(value: Option<&Located>) -> Result<Option<u8>, Fault> {
    match value {
        None => Ok(None),
        Some(Located { tree: Tree::Text(word), at }) => {
            let known = "write tcp, udp, icmp, sctp or a number up to 255";
            ports::parse_protocol(word).map_err(|message| Fault::new(*at, message).hint(known))
        }
        Some(Located { tree: Tree::Number(number), at }) => match number.as_u64() {
            Some(number @ 0..=255) => Ok(Some(number as u8)),
            _ => Err(Fault::new(*at, format!("unknown protocol {number}"))),
        },
        Some(value) => Err(Fault::new(value.at, format!("proto must be text in quotes, not {}", value.kind()))),
    }
}

/// Capabilities of this domain that policies may give (`tailcfg.PeerCapability…`).
const TAILSCALE_CAPABILITIES: [&str; 9] = [
    "tailscale.com/cap/drive",
    "tailscale.com/cap/kubernetes",
    "tailscale.com/cap/relay",
    "tailscale.com/cap/tsidp",
    "tailscale.com/cap/webui",
    "tailscale.com/cap/golink",
    "tailscale.com/cap/secrets",
    "tailscale.com/cap/tailsql",
    "tailscale.com/app-connectors",
];

/// `{domain/path: [value, …]}`.
pub(crate) fn app(fields: &mut Fields) -> Result<BTreeMap<String, Vec<Value>>, Fault> {
    let mut app = BTreeMap::new();
    for (key, value) in fields.take("app")?.map_or(Ok(&[][..]), |value| entries(value, "app"))? {
        let name = key.name.as_str();
        let (domain, path) = name.split_once('/').unwrap_or((name, ""));
        let is_domain = domain.contains('.') && domain.bytes().all(|c| c.is_ascii_alphanumeric() || b"-.".contains(&c));
        let is_path = !path.is_empty() && !path.bytes().any(|c| c.is_ascii_whitespace() || b"\"\\".contains(&c));
        if !is_domain || !is_path {
            return Err(Fault::new(
                key.at,
                format!("{name:?}: capability name must have the form {{domain}}/{{path}}"),
            ));
        }
        let ours = domain == "tailscale.com" || domain.ends_with(".tailscale.com");
        if ours && !TAILSCALE_CAPABILITIES.contains(&name) {
            return Err(Fault::new(
                key.at,
                format!("{name:?}: capability name must not be in the tailscale.com domain"),
            ));
        }
        let values = match value.is_null() {
            true => Vec::new(),
            false => list(value, name)?.iter().map(Located::to_json).collect(),
        };
        app.insert(name.to_owned(), values);
    }
    Ok(app)
}

fn refuse_postures(fields: &mut Fields) -> Result<(), Fault> {
    match fields.texts("srcPosture")?.first() {
        None => Ok(()),
        Some((_, at)) => Err(Fault::new(*at, "srcPosture: device postures are not supported")
            .hint("leave it out only if the rule may hold without it")),
    }
}
