//! `hsraft config migrate`: a file of Headscale 0.22 to 0.28 in today's keys. Lines that need no change stay as they are,
//! with their comments; what was moved, taken out or could not be kept is listed.

use std::ops::Range;

use serde_yaml_ng::Value;

/// A file in today's keys.
#[derive(Debug)]
pub struct Migrated {
    pub text: String,
    /// One line a change, for people.
    pub changes: Vec<String>,
}

/// Old key → new key. A value that stands under the new key already wins.
const MOVED: &[(&str, &str)] = &[
    ("acl_policy_path", "policy.path"),
    ("ephemeral_node_inactivity_timeout", "node.ephemeral.inactivity_timeout"),
    ("oidc.expiry", "node.expiry"),
    ("allocation", "prefixes.allocation"),
    ("log_level", "log.level"),
    ("dns_config.magic_dns", "dns.magic_dns"),
    ("dns_config.base_domain", "dns.base_domain"),
    ("dns_config.override_local_dns", "dns.override_local_dns"),
    ("dns_config.nameservers", "dns.nameservers.global"),
    ("dns_config.restricted_nameservers", "dns.nameservers.split"),
    ("dns_config.domains", "dns.search_domains"),
    ("dns_config.extra_records", "dns.extra_records"),
    ("dns.nameservers.restricted", "dns.nameservers.split"),
    ("db_type", "database.type"),
    ("db_path", "database.sqlite.path"),
    ("db_host", "database.postgres.host"),
    ("db_port", "database.postgres.port"),
    ("db_name", "database.postgres.name"),
    ("db_user", "database.postgres.user"),
    ("db_pass", "database.postgres.pass"),
    ("db_ssl", "database.postgres.ssl"),
];

/// Keys that mean nothing any more, and why.
const TAKEN_OUT: &[(&str, &str)] = &[
    ("private_key_path", "the protocol it was for is gone; noise.private_key_path is the one that counts"),
    ("node_update_check_interval", "nodes are told at once"),
    ("dns.use_username_in_magic_dns", "names never contain the user"),
    ("dns_config.use_username_in_magic_dns", "names never contain the user"),
    ("oidc.strip_email_domain", "a user is named as the provider names them (preferred_username)"),
    ("oidc.map_legacy_users", "users are known by the provider's own id, never by name"),
];

/// The file in today's keys. Refused when it is not YAML, or when a section that must change is written in braces.
pub fn migrate(text: &str) -> Result<Migrated, String> {
    let value = match serde_yaml_ng::from_str::<Value>(text).map_err(|error| format!("not valid YAML: {error}"))? {
        Value::Null => Value::Mapping(Default::default()),
        value @ Value::Mapping(_) => value,
        _ => return Err("the file must hold keys and values; is it YAML?".to_owned()),
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut changes = Vec::new();
    for (key, why) in TAKEN_OUT {
        if at(&value, key).is_some() {
            take(&mut lines, key)?;
            changes.push(format!("{key} was taken out: {why}"));
        }
    }
    let mut wishes: Vec<(String, String, Value)> = Vec::new();
    for (old, new) in MOVED {
        if let Some(found) = at(&value, old) {
            wishes.push(((*old).to_owned(), (*new).to_owned(), found.clone()));
        }
    }
    if let Some(found) = at(&value, "ip_prefixes") {
        let list = super::values::texts(found).unwrap_or_default();
        for (family, is_it) in [("v4", '.'), ("v6", ':')] {
            let mut prefixes =
                list.iter().filter(|prefix| prefix.contains(is_it) && (is_it == ':' || !prefix.contains(':')));
            if let Some(prefix) = prefixes.next() {
                let new = format!("prefixes.{family}");
                wishes.push(("ip_prefixes".to_owned(), new, Value::String(prefix.clone())));
            }
            changes.extend(
                prefixes.map(|more| format!("ip_prefixes: {more} was left out: a tailnet has one of a family")),
            );
        }
    }
    let mut taken: Vec<&str> = Vec::new();
    for (old, new, found) in &wishes {
        let known = at(&value, new).filter(|known| !known.is_null());
        if !taken.contains(&old.as_str()) {
            take(&mut lines, old)?;
            taken.push(old);
        }
        match known {
            Some(_) => changes.push(format!("{old} was taken out: {new} is set already and wins")),
            None if found.is_null() => changes.push(format!("{old} was taken out: it was empty")),
            None => {
                put(&mut lines, new, found)?;
                changes.push(format!("{old} is {new} now"));
            }
        }
    }
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    // Whatever went wrong with the lines must not reach a server.
    serde_yaml_ng::from_str::<Value>(&text).map_err(|error| format!("the file is laid out too freely: {error}"))?;
    Ok(Migrated { text, changes })
}

/// The value under a dotted path, whatever the case of its letters.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, part| {
        let Value::Mapping(mapping) = value else { return None };
        let mut found =
            mapping.iter().filter(|(key, _)| key.as_str().is_some_and(|key| key.eq_ignore_ascii_case(part)));
        found.next().map(|(_, value)| value)
    })
}

/// Where a key stands: its lines and how far it is indented.
struct Place {
    lines: Range<usize>,
    indent: usize,
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn is_text(line: &str) -> bool {
    let trimmed = line.trim_start();
    !trimmed.is_empty() && !trimmed.starts_with('#')
}

/// The lines of a block-style key, from its own to the last that belongs to it.
fn find(lines: &[String], path: &str) -> Option<Place> {
    let mut within = 0..lines.len();
    let mut above: Option<usize> = None;
    let mut place = None;
    for part in path.split('.') {
        let child = within.clone().find(|nth| is_text(&lines[*nth])).map(|nth| indent_of(&lines[nth]))?;
        if above.is_some_and(|above| child <= above) {
            return None;
        }
        let is_it = |nth: &usize| {
            let line = &lines[*nth];
            let name = line.trim_start().split_once(':').map(|(name, _)| name.trim().trim_matches(['"', '\'']));
            is_text(line) && indent_of(line) == child && name.is_some_and(|name| name.eq_ignore_ascii_case(part))
        };
        let start = within.clone().find(is_it)?;
        // A list may stand as far left as its key.
        let belongs =
            |line: &str| indent_of(line) > child || indent_of(line) == child && line.trim_start().starts_with("- ");
        let mut end = start + 1;
        for (nth, line) in lines.iter().enumerate().take(within.end).skip(start + 1) {
            if is_text(line) {
                if !belongs(line) {
                    break;
                }
                end = nth + 1;
            }
        }
        place = Some(Place { lines: start..end, indent: child });
        within = start + 1..end;
        above = Some(child);
    }
    place
}

/// Takes a key out, and what encloses it when nothing else is left there.
fn take(lines: &mut Vec<String>, path: &str) -> Result<(), String> {
    let place =
        find(lines, path).ok_or_else(|| format!("{path} stands within braces; write it over several lines first"))?;
    lines.drain(place.lines);
    if let Some((above, _)) = path.rsplit_once('.')
        && let Some(place) = find(lines, above)
        && place.lines.clone().skip(1).all(|nth| !is_text(&lines[nth]))
        && lines[place.lines.start].trim_end().ends_with(':')
    {
        take(lines, above)?;
    }
    Ok(())
}

/// Puts a value under a new key: into the sections that exist, the rest anew at the end.
fn put(lines: &mut Vec<String>, path: &str, value: &Value) -> Result<(), String> {
    let parts: Vec<&str> = path.split('.').collect();
    let known = (1..parts.len()).rev().find_map(|count| Some((count, find(lines, &parts[..count].join("."))?)));
    let (rest, indent, position) = match known {
        None => (&parts[..], 0, lines.len()),
        Some((count, place)) => {
            let head = lines[place.lines.start].split_once(':').map_or("", |(_, after)| after.trim());
            let after = head.split('#').next().unwrap_or_default().trim();
            if !after.is_empty() {
                let section = parts[..count].join(".");
                return Err(format!(
                    "{section} stands within braces or holds one value; write it over several lines first"
                ));
            }
            let child = place.lines.clone().skip(1).find(|nth| is_text(&lines[*nth])).map(|nth| indent_of(&lines[nth]));
            (&parts[count..], child.filter(|child| *child > place.indent).unwrap_or(place.indent + 2), place.lines.end)
        }
    };
    let mut new = value.clone();
    for part in rest.iter().rev() {
        new = Value::Mapping([(Value::String((*part).to_owned()), new)].into_iter().collect());
    }
    let text = serde_yaml_ng::to_string(&new).map_err(|error| error.to_string())?;
    let new = text.lines().map(|line| format!("{}{line}", " ".repeat(indent)));
    lines.splice(position..position, new.collect::<Vec<_>>());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "\
# ours since 2022
server_url: https://hs.example.com
listen_addr: 0.0.0.0:8080  # behind nginx
private_key_path: /var/lib/headscale/private.key
ip_prefixes:
  - fd7a:115c:a1e0::/48
  - 100.64.0.0/10
ephemeral_node_inactivity_timeout: 30m
db_type: sqlite3
db_path: /var/lib/headscale/db.sqlite
acl_policy_path: \"/etc/headscale/acl.hujson\"
dns_config:
  override_local_dns: true
  # the office
  nameservers:
    - 1.1.1.1
  restricted_nameservers:
    corp.example.com:
      - 10.0.0.53
  magic_dns: true
  base_domain: ts.example.net
oidc:
  issuer: https://idp.example.com
  client_id: hs
  # six months
  expiry: 180d
  strip_email_domain: true
log:
  level: info
";

    #[test]
    fn an_old_file_becomes_a_new_one() {
        let migrated = migrate(OLD).unwrap();
        let text = &migrated.text;
        for kept in ["# ours since 2022", "listen_addr: 0.0.0.0:8080  # behind nginx", "# six months"] {
            assert!(text.contains(kept), "{text}");
        }
        let read = |_: &std::path::Path| Some("{}".to_owned());
        let read = super::super::from_text(text, "c", std::path::Path::new(""), &Default::default(), &read).unwrap();
        let (options, settings) = (&read.options, &read.options.settings);
        assert_eq!(settings.prefix_v4.unwrap().to_string(), "100.64.0.0/10");
        assert_eq!(settings.prefix_v6.unwrap().to_string(), "fd7a:115c:a1e0::/48");
        assert_eq!(settings.base_domain, "ts.example.net");
        assert_eq!(settings.nameservers, ["1.1.1.1"]);
        assert_eq!(settings.split_dns["corp.example.com"], ["10.0.0.53"]);
        assert_eq!(settings.node_expiry_secs, 180 * 86_400);
        assert_eq!(settings.ephemeral_inactivity_secs, 1_800);
        assert!(options.policy.is_some());
        assert_eq!(options.oidc.as_ref().unwrap().client_id, "hs");
        assert!(
            migrated.changes.iter().any(|change| change == "oidc.expiry is node.expiry now"),
            "{:?}",
            migrated.changes
        );
        // Once is enough.
        let again = migrate(text).unwrap();
        assert_eq!((again.text.as_str(), again.changes.len()), (text.as_str(), 0), "{:?}", again.changes);
    }

    #[test]
    fn what_is_new_already_wins() {
        let migrated = migrate("dns_config:\n  magic_dns: false\ndns:\n  magic_dns: true\n  base_domain: x\n").unwrap();
        assert_eq!(migrated.text, "dns:\n  magic_dns: true\n  base_domain: x\n");
        assert!(migrated.changes[0].contains("wins"), "{:?}", migrated.changes);
    }

    #[test]
    fn lists_at_the_left_and_odd_files() {
        let migrated = migrate("ip_prefixes:\n- 100.64.0.0/10\nprefixes:\n    allocation: random\n").unwrap();
        assert_eq!(migrated.text, "prefixes:\n    allocation: random\n    v4: 100.64.0.0/10\n");
        for bad in ["[", "- a\n", "dns_config: {magic_dns: true}\n", "log_level: info\nlog: {format: json}\n"] {
            assert!(migrate(bad).is_err(), "{bad}");
        }
        assert_eq!(migrate("").unwrap().text, "");
        assert_eq!(migrate("server_url: http://x\n").unwrap().changes, Vec::<String>::new());
    }
}
