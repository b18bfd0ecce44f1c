//! The sections that define names: groups, hosts, ipsets and tagOwners.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    alias::{self, Alias, Names},
    fields::{entries, text, texts},
    read::Reader,
    tree::Located,
};
use crate::{ranges::Ranges, rejection::Fault};

/// Users in `user:NAME` spelling or without an `@`: taken, because a group can hold nothing else.
fn member(reader: &mut Reader, word: &str, at: u32) -> Alias {
    let word = word.trim();
    let bare = word.strip_prefix("user:").unwrap_or(word);
    if bare != word || !bare.contains('@') {
        let modern = alias::modern_user(word);
        reader.warn(at, format!("{word:?} is an older spelling of a user: write {modern:?}"));
    }
    alias::user(bare)
}

pub(crate) fn groups(reader: &mut Reader, value: Option<&Located>) -> Result<BTreeMap<String, Vec<Alias>>, Fault> {
    let mut groups = BTreeMap::new();
    for (key, value) in value.map_or(Ok(&[][..]), |value| entries(value, "groups"))? {
        let group = key.name.as_str();
        if group.strip_prefix("group:").is_none_or(str::is_empty) {
            return Err(Fault::new(key.at, format!("groups[{group:?}]: group names must start with \"group:\""))
                .hint(format!("write \"group:{group}\"")));
        }
        let mut members = Vec::new();
        for (word, at) in texts(value, group)? {
            let wrong = |what: String| Fault::new(at, format!("groups[{group:?}]: {word:?}: {what}"));
            if word.starts_with("group:") {
                return Err(wrong("group members cannot be recursive".into()).hint("list the users themselves"));
            }
            if let Some(group) = word.strip_prefix("oidc:") {
                if group.trim().is_empty() {
                    let text = "oidc: names no group of the login provider: write for example oidc:engineering";
                    reader.warn(at, text.into());
                }
                members.push(Alias::Directory(group.to_owned()));
                continue;
            }
            if word.starts_with("tag:") || word.starts_with("autogroup:") || word.trim().is_empty() || word == "*" {
                return Err(wrong("group members must be users".into()).hint("write alice@example.com or alice@"));
            }
            members.push(match word.strip_prefix("user:*@") {
                Some(domain) => Alias::Domain(domain.to_ascii_lowercase()),
                None => member(reader, word, at),
            });
        }
        groups.insert(group.to_owned(), members);
    }
    Ok(groups)
}

pub(crate) fn hosts(value: Option<&Located>) -> Result<BTreeMap<String, IpNet>, Fault> {
    let mut hosts = BTreeMap::new();
    for (key, value) in value.map_or(Ok(&[][..]), |value| entries(value, "hosts"))? {
        let name = key.name.as_str();
        if name.is_empty() || name.contains(['@', ':']) || name == "*" {
            let message = format!("hosts[{name:?}]: host names must not be empty, nor contain '@' or ':'");
            return Err(Fault::new(key.at, message));
        }
        let word = text(value, name)?;
        let Some(net) = alias::net(word.trim()) else {
            return Err(Fault::new(value.at, format!("hosts[{name:?}]: {word:?}: invalid address"))
                .hint("write an address or a prefix, such as 100.64.0.10 or 10.0.0.0/8; names are not looked up"));
        };
        hosts.insert(name.to_owned(), net);
    }
    Ok(hosts)
}

/// `"ipset:name": ["add 10.0.0.0/8", "remove host:x", "100.64.0.1"]`.
pub(crate) fn ip_sets(names: &Names, value: Option<&Located>) -> Result<BTreeMap<String, Vec<IpNet>>, Fault> {
    let mut sets = BTreeMap::new();
    for (key, value) in value.map_or(Ok(&[][..]), |value| entries(value, "ipsets"))? {
        let set = key.name.as_str();
        if set.strip_prefix("ipset:").is_none_or(str::is_empty) {
            return Err(Fault::new(key.at, format!("ipsets[{set:?}]: names must start with \"ipset:\"")));
        }
        let mut ranges = Ranges::default();
        for (entry, at) in texts(value, set)? {
            let (remove, word) = match entry.trim().split_once(' ') {
                Some(("add", word)) => (false, word.trim()),
                Some(("remove", word)) => (true, word.trim()),
                _ => (false, entry.trim()),
            };
            let wrong = |what: &str| Fault::new(at, format!("ipsets[{set:?}]: {entry:?}: {what}"));
            let operand = match (word.split_once('-'), names.alias(word)) {
                (_, Ok((Alias::Nets(nets), _))) => Ranges::of(&nets.nets),
                (Some((first, last)), _) => {
                    let ends = (first.trim().parse::<IpAddr>(), last.trim().parse::<IpAddr>());
                    let (Ok(first), Ok(last)) = ends else { return Err(wrong("invalid address")) };
                    Ranges::between(first, last).ok_or_else(|| wrong("the range ends before it begins"))?
                }
                _ => {
                    return Err(
                        wrong("invalid address").hint("write add or remove, then an address, a prefix or host:name")
                    );
                }
            };
            ranges = if remove { ranges.without(&operand) } else { ranges.with(&operand) };
        }
        sets.insert(set.to_owned(), ranges.prefixes());
    }
    Ok(sets)
}

/// What is wrong with a tag's name (`tailcfg.CheckTag`).
pub(crate) fn check_tag(tag: &str) -> Result<(), &'static str> {
    let name = tag.strip_prefix("tag:").ok_or("tags must start with 'tag:'")?;
    match name.bytes().next() {
        None => Err("tag names must not be empty"),
        Some(first) if !first.is_ascii_alphabetic() => Err("tag names must start with a letter, after 'tag:'"),
        _ if name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)) => Ok(()),
        _ => Err("tag names can only contain numbers, letters, or dashes"),
    }
}

/// Two passes: an owner may be a tag that is defined further down.
pub(crate) fn tag_owners(
    reader: &mut Reader,
    groups: &BTreeMap<String, Vec<Alias>>,
    value: Option<&Located>,
) -> Result<BTreeMap<String, Vec<Alias>>, Fault> {
    let given = value.map_or(Ok(&[][..]), |value| entries(value, "tagOwners"))?;
    let mut names = Names { groups: groups.clone(), ..Names::default() };
    for (key, _) in given {
        let tag = key.name.as_str();
        check_tag(tag).map_err(|what| Fault::new(key.at, format!("tagOwners[{tag:?}]: {what}")))?;
        if tag.contains(['_', '.']) {
            reader.warn(key.at, format!("{tag:?}: the hosted control plane takes only letters, numbers and dashes"));
        }
        names.tag_owners.insert(tag.to_owned(), Vec::new());
    }
    let mut owners_of = BTreeMap::new();
    for (key, value) in given {
        let tag = key.name.as_str();
        let mut owners = Vec::new();
        for (word, at) in texts(value, tag)? {
            owners.push(owner(reader, &names, word, at, &format!("tagOwners[{tag:?}]"))?);
        }
        owners_of.insert(tag.to_owned(), owners);
    }
    Ok(owners_of)
}

/// Who may give a tag or have routes approved: users, groups, tags and the autogroups of nodes.
pub(crate) fn owner(reader: &mut Reader, names: &Names, word: &str, at: u32, what: &str) -> Result<Alias, Fault> {
    let wrong = |message: String| Fault::new(at, format!("{what}: {message}"));
    let fits = |alias: &Alias| {
        !matches!(alias, Alias::Nets(_) | Alias::Everything | Alias::Danger | Alias::Internet | Alias::Own)
    };
    match names.alias(word) {
        Ok((alias, old)) if fits(&alias) => {
            old.into_iter().for_each(|warning| reader.warn(at, warning));
            Ok(alias)
        }
        // Nothing else can be meant where only users, groups and tags may stand.
        Err(_) if !word.trim().is_empty() && !word.contains([':', '/', '%', ' ']) => Ok(member(reader, word, at)),
        Err(error) => Err(Fault { hint: error.hint, ..wrong(error.message) }),
        Ok(_) => Err(wrong(format!("{word:?} cannot stand here")).hint("name users, groups or tags")),
    }
}
