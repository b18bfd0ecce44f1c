//! Headscale's rows as ours. Databases that have lived through many releases hold dirt; each thing that had to be
//! mended or left behind is said in a sentence.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use state_machine::{
    ApiKey, ApiKeyId, Endpoint, Hostinfo, Import, Node, NodeId, PreAuthKey, PreAuthKeyId, RegisterMethod, Timestamp,
    User, UserId,
};
use tailcfg::{DiscoKey, MachineKey, NodeKey, from_client_json};

use super::read::{self, Database};
use crate::secret_text;

/// What a database becomes.
#[derive(Debug, Default, PartialEq)]
pub struct Repaired {
    pub rows: Import,
    pub policy: Option<String>,
    /// A sentence for everything that is not as it was.
    pub repairs: Vec<String>,
}

/// Makes rows of ours.
pub fn repaired(database: Database) -> Repaired {
    let mut made = Repaired { policy: database.policy.filter(|text| !text.trim().is_empty()), ..Repaired::default() };
    users(&mut made, database.users);
    pre_auth_keys(&mut made, database.pre_auth_keys, &database.nodes);
    api_keys(&mut made, database.api_keys);
    let mut enabled: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    for (node, prefix) in database.routes {
        enabled.entry(node).or_default().insert(prefix);
    }
    nodes(&mut made, database.nodes, &enabled);
    made
}

impl Repaired {
    fn say(&mut self, repair: String) {
        self.repairs.push(repair);
    }

    fn has_user(&self, id: UserId) -> bool {
        self.rows.users.iter().any(|user| user.id == id)
    }
}

fn users(made: &mut Repaired, users: Vec<read::User>) {
    let mut names = BTreeSet::new();
    for user in users {
        let id = user.id;
        if !user.deleted_at.is_empty() {
            made.say(format!("user {id} ({}) was deleted and is left behind", user.name));
            continue;
        }
        let Ok(number) = u64::try_from(id) else { continue };
        let fallbacks = [&user.name, &user.email, &user.display_name].map(|text| plain(text, 240));
        let wanted = fallbacks.into_iter().find(|text| !text.is_empty()).unwrap_or_else(|| format!("user-{id}"));
        if user.name != wanted {
            made.say(format!("user {id} has no usable name and is called {wanted:?}"));
        }
        let name = free(&wanted, |name| !names.contains(name));
        if name != wanted {
            made.say(format!("user {id} has the name of another user ({wanted:?}) and is called {name:?}"));
        }
        names.insert(name.clone());
        let is_url = user.profile_pic_url.starts_with("https://") || user.profile_pic_url.starts_with("http://");
        if !user.profile_pic_url.is_empty() && !is_url {
            made.say(format!("the picture of user {id} is not a URL and is left behind"));
        }
        made.rows.users.push(User {
            id: UserId(number),
            name,
            display_name: plain(&user.display_name, 255),
            email: plain(&user.email, 255),
            provider: if user.provider_identifier.is_empty() { "cli".into() } else { "oidc".into() },
            // Releases before 0.24 wrote the slash twice.
            provider_id: single_slashes(&user.provider_identifier),
            profile_pic_url: if is_url { plain(&user.profile_pic_url, 2_048) } else { String::new() },
            created_at: moment(&user.created_at).unwrap_or_default(),
            ..User::default()
        });
    }
}

fn pre_auth_keys(made: &mut Repaired, keys: Vec<read::PreAuthKey>, nodes: &[read::Node]) {
    let mut prefixes = BTreeSet::new();
    for key in keys {
        let id = key.id;
        let Ok(number) = u64::try_from(id) else { continue };
        let user = key.user_id.and_then(|id| u64::try_from(id).ok()).map(UserId).filter(|id| made.has_user(*id));
        let Some((tags, wrong)) = tags(&key.tags) else {
            // Without its tags it would let nodes in as somebody's own.
            made.say(format!(
                "pre-auth key {id} has tags that cannot be read ({}) and is left behind",
                shown(&key.tags)
            ));
            continue;
        };
        if !wrong.is_empty() && tags.is_empty() {
            made.say(format!("pre-auth key {id} has no good tag ({}) and is left behind", wrong.join(", ")));
            continue;
        }
        if !wrong.is_empty() {
            made.say(format!("pre-auth key {id} loses what is not a tag: {}", wrong.join(", ")));
        }
        if user.is_none() && tags.is_empty() {
            made.say(format!("pre-auth key {id} belongs to nobody and is left behind"));
            continue;
        }
        let bcrypt = Some(key.hash.clone()).filter(|hash| is_bcrypt(hash));
        let old = secret_text::split(secret_text::AUTH, &key.key);
        let (prefix, secret_sha256, bcrypt) = match (old, bcrypt) {
            (_, Some(hash)) if !key.prefix.is_empty() => (key.prefix.clone(), [0; 32], Some(hash)),
            (Some((prefix, secret)), _) => (prefix.to_owned(), secret_text::hash(secret), None),
            _ => {
                made.say(format!("pre-auth key {id} has neither a text nor a hash and is left behind"));
                continue;
            }
        };
        if !prefixes.insert(prefix.clone()) {
            made.say(format!("pre-auth key {id} begins like another and is left behind"));
            continue;
        }
        let let_in = nodes.iter().any(|node| node.auth_key_id == Some(id) && node.deleted_at.is_empty());
        if let_in && !key.used {
            made.say(format!("pre-auth key {id} let a node in and is marked used"));
        }
        made.rows.pre_auth_keys.push(PreAuthKey {
            id: PreAuthKeyId(number),
            prefix,
            secret_sha256,
            bcrypt,
            user,
            reusable: key.reusable,
            ephemeral: key.ephemeral,
            used: key.used || let_in,
            tags,
            expiration: moment(&key.expiration),
            created_at: moment(&key.created_at).unwrap_or_default(),
            ..PreAuthKey::default()
        });
    }
}

fn api_keys(made: &mut Repaired, keys: Vec<read::ApiKey>) {
    for key in keys {
        let id = key.id;
        let Ok(number) = u64::try_from(id) else { continue };
        if !is_bcrypt(&key.hash) || key.prefix.is_empty() {
            made.say(format!("API key {id} has no usable hash and is left behind"));
            continue;
        }
        made.rows.api_keys.push(ApiKey {
            id: ApiKeyId(number),
            prefix: key.prefix,
            bcrypt: Some(key.hash),
            expiration: moment(&key.expiration),
            created_at: moment(&key.created_at).unwrap_or_default(),
            last_seen: moment(&key.last_seen),
            ..ApiKey::default()
        });
    }
}

fn nodes(made: &mut Repaired, nodes: Vec<read::Node>, enabled: &BTreeMap<i64, BTreeSet<String>>) {
    let (mut names, mut keys, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut spent: BTreeSet<PreAuthKeyId> = BTreeSet::new();
    for node in nodes {
        let called = if node.given_name.is_empty() { node.hostname.clone() } else { node.given_name.clone() };
        let label = format!("node {} ({called})", node.id);
        if !node.deleted_at.is_empty() {
            made.say(format!("{label} was deleted and is left behind"));
            continue;
        }
        let Ok(number) = u64::try_from(node.id) else { continue };
        let (Ok(machine_key), Ok(node_key)) =
            (node.machine_key.parse::<MachineKey>(), node.node_key.parse::<NodeKey>())
        else {
            made.say(format!("{label} has no usable keys and is left behind; it will register anew"));
            continue;
        };
        if !keys.insert(node_key) {
            made.say(format!("{label} has the key of another node and is left behind"));
            continue;
        }
        let Some((tags, wrong)) = tags(&node.tags) else {
            // Without its tags it would be its user's, with other rights.
            let tags = shown(&node.tags);
            made.say(format!("{label} has tags that cannot be read ({tags}) and is left behind; let it in anew"));
            continue;
        };
        if !wrong.is_empty() && tags.is_empty() {
            made.say(format!("{label} has no good tag ({}) and is left behind; let it in anew", wrong.join(", ")));
            continue;
        }
        if !wrong.is_empty() {
            made.say(format!("{label} loses what is not a tag: {}", wrong.join(", ")));
        }
        let user = node.user_id.and_then(|id| u64::try_from(id).ok()).map(UserId);
        let known = user.filter(|id| made.has_user(*id));
        if known.is_none() && tags.is_empty() {
            made.say(format!("{label} belongs to nobody and is left behind"));
            continue;
        }
        if user.is_some() && known.is_none() {
            made.say(format!("{label} forgets its user, who does not exist"));
        }
        let mut ipv4 = address::<Ipv4Addr>(&node.ipv4);
        let mut ipv6 = address::<Ipv6Addr>(&node.ipv6);
        if ipv4.is_some_and(|address| !addresses.insert(std::net::IpAddr::from(address))) {
            made.say(format!("{label} has the address of another node and loses it: {}", node.ipv4));
            ipv4 = None;
        }
        if ipv6.is_some_and(|address| !addresses.insert(std::net::IpAddr::from(address))) {
            made.say(format!("{label} has the address of another node and loses it: {}", node.ipv6));
            ipv6 = None;
        }
        if ipv4.is_none() && ipv6.is_none() {
            made.say(format!("{label} has no address and is left behind; it will register anew"));
            continue;
        }
        let wanted = dns_label(&called);
        if node.given_name != wanted {
            made.say(format!("{label} has no usable name and is called {wanted:?}"));
        }
        let given_name = free(&wanted, |name| !names.contains(name));
        if given_name != wanted {
            made.say(format!("{label} has the name of another node and is called {given_name:?}"));
        }
        names.insert(given_name.clone());
        let (pre_auth_key, ephemeral) = key_of(made, &label, &node, &mut spent);
        let hostinfo = hostinfo(&node.host_info);
        if hostinfo.is_err() {
            made.say(format!("{label}: what it said of itself cannot be read; it will say it again"));
        }
        let hostinfo = hostinfo.unwrap_or_default();
        let (mut routes, unread) = routes(&node.approved_routes);
        if !unread.is_empty() {
            let unread = unread.join(", ");
            made.say(format!("{label} loses approved routes that cannot be read ({unread}); approve them again"));
        }
        routes.extend(enabled.get(&node.id).into_iter().flatten().filter_map(|text| text.parse::<IpNet>().ok()));
        if let Some(seen) = moment(&node.last_seen) {
            made.rows.last_seen.insert(NodeId(number), seen);
        }
        made.rows.nodes.push(Node {
            id: NodeId(number),
            machine_key,
            node_key,
            disco_key: node.disco_key.parse::<DiscoKey>().unwrap_or_default(),
            ipv4,
            ipv6,
            renamed: dns_label(&node.hostname) != given_name,
            hostname: plain(&node.hostname, 255),
            given_name,
            user: known,
            // A node that belongs to its tags never expires.
            expiry: if tags.is_empty() { moment(&node.expiry) } else { None },
            tags,
            register_method: match node.register_method.as_str() {
                "authkey" => RegisterMethod::AuthKey,
                "oidc" => RegisterMethod::Oidc,
                _ => RegisterMethod::Cli,
            },
            pre_auth_key,
            ephemeral,
            created_at: moment(&node.created_at).unwrap_or_default(),
            endpoints: endpoints(&node.endpoints),
            home_derp: hostinfo.preferred_derp.unwrap_or(0),
            hostinfo: Hostinfo {
                raw: hostinfo.raw.as_str().into(),
                routable_ips: hostinfo.routable_ips,
                request_tags: hostinfo.request_tags,
                os: plain(&hostinfo.os, 255),
                ipn_version: plain(&hostinfo.ipn_version, 255),
                ssh_server: hostinfo.ssh_server,
            },
            approved_routes: both_exits(routes),
            ..Node::default()
        });
    }
}

/// What a client said of itself, read as if it said it now.
fn hostinfo(json: &str) -> Result<tailcfg::Hostinfo, tailcfg::DecodeError> {
    let said = format!("{{\"Hostinfo\":{}}}", if json.is_empty() { "null" } else { json });
    let request: tailcfg::RegisterRequest = from_client_json(said.as_bytes())?;
    Ok(request.hostinfo.unwrap_or_default())
}

/// The key that let a node in, when it is known and can have let it in, and whether it made the node ephemeral.
fn key_of(
    made: &mut Repaired,
    label: &str,
    node: &read::Node,
    spent: &mut BTreeSet<PreAuthKeyId>,
) -> (Option<PreAuthKeyId>, bool) {
    let Some(number) = node.auth_key_id.and_then(|id| u64::try_from(id).ok()) else { return (None, false) };
    let id = PreAuthKeyId(number);
    let Some(key) = made.rows.pre_auth_keys.iter().find(|key| key.id == id) else {
        made.say(format!("{label} came by pre-auth key {number}, which is gone: it forgets that"));
        return (None, false);
    };
    let (ephemeral, reusable) = (key.ephemeral, key.reusable);
    if !spent.insert(id) && !reusable {
        made.say(format!("{label} came by pre-auth key {number}, which let another node in: it forgets that"));
        return (None, ephemeral);
    }
    (Some(id), ephemeral)
}

/// A moment as Go's database layer writes it. What lies before 1970 (the year 1, mostly) is none.
pub fn moment(text: &str) -> Option<Timestamp> {
    let text = text.split(" m=").next().unwrap_or_default().trim().trim_end_matches(" UTC");
    let text = text.replacen(' ', "T", 1).replace(' ', "");
    // Postgres leaves the minutes out.
    let text = text.strip_suffix("+00").map(|text| format!("{text}Z")).unwrap_or(text);
    let read = |text: &str| Timestamp::parse(text).filter(|moment| moment.0 > 0);
    // SQLite takes a date alone for its midnight, and keeps it as it was written.
    read(&text).or_else(|| read(&format!("{text}Z"))).or_else(|| read(&format!("{text}T00:00:00Z")))
}

fn address<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.trim().parse().ok()
}

fn is_bcrypt(hash: &str) -> bool {
    hash.len() == 60 && hash.starts_with("$2")
}

/// Free text without control characters, cut to a length.
fn plain(text: &str, bytes_max: usize) -> String {
    let mut text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    while text.len() > bytes_max {
        text.pop();
    }
    text
}

fn single_slashes(identity: &str) -> String {
    let (scheme, rest) = identity.split_once("://").unwrap_or(("", identity));
    let rest = rest.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    if scheme.is_empty() { rest } else { format!("{}://{rest}", scheme.to_ascii_lowercase()) }
}

/// A list in a column: `null`, `[]` and nothing are empty; `None`: it cannot be read.
fn list(json: &str) -> Option<Vec<String>> {
    match json.trim() {
        "" => Some(Vec::new()),
        json => serde_json::from_str::<Option<Vec<String>>>(json).ok().map(Option::unwrap_or_default),
    }
}

/// The beginning of what cannot be read.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(60).collect::<String>())
}

/// Tags, and what stood among them without being one; `None`: unreadable.
fn tags(json: &str) -> Option<(BTreeSet<String>, Vec<String>)> {
    let all = list(json)?;
    let is_tag = |text: &String| {
        text.strip_prefix("tag:").is_some_and(|name| {
            name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.len() <= 50
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
    };
    let (tags, wrong): (Vec<_>, Vec<_>) = all.into_iter().partition(is_tag);
    Some((tags.into_iter().collect(), wrong))
}

/// Routes, and what cannot be read.
fn routes(json: &str) -> (BTreeSet<IpNet>, Vec<String>) {
    let Some(all) = list(json) else { return (BTreeSet::new(), vec![shown(json)]) };
    let (mut routes, mut unread) = (BTreeSet::new(), Vec::new());
    for text in all {
        match text.trim().parse::<IpNet>() {
            Ok(route) => _ = routes.insert(route.trunc()),
            Err(_) => unread.push(shown(&text)),
        }
    }
    (routes, unread)
}

fn both_exits(mut routes: BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    routes = routes.into_iter().map(|route| route.trunc()).collect();
    if routes.iter().any(|route| route.prefix_len() == 0) {
        routes.extend(["0.0.0.0/0", "::/0"].map(|text| text.parse::<IpNet>().expect("a prefix")));
    }
    routes
}

fn endpoints(json: &str) -> Vec<Endpoint> {
    let all: Option<Vec<String>> = serde_json::from_str(json).unwrap_or_default();
    let addresses = all.unwrap_or_default().into_iter().filter_map(|text| text.parse::<SocketAddr>().ok());
    addresses.map(|addr| Endpoint { addr, kind: 0 }).take(64).collect()
}

/// A DNS label made of whatever stands there.
fn dns_label(text: &str) -> String {
    let dashed: String =
        text.trim().to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let dashed = dashed.trim_matches('-');
    let cut = dashed[..dashed.len().min(63)].trim_end_matches('-');
    if cut.is_empty() { "node".into() } else { cut.into() }
}

/// The name itself, or the first free one with a number.
fn free(wanted: &str, is_free: impl Fn(&str) -> bool) -> String {
    if is_free(wanted) {
        return wanted.to_owned();
    }
    let numbered = |number: u32| {
        let suffix = format!("-{number}");
        let kept: String = wanted.chars().take(63 - suffix.len()).collect();
        format!("{}{suffix}", kept.trim_end_matches('-'))
    };
    (1..).map(numbered).find(|name| is_free(name)).expect("numbers do not run out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_and_never_taken_for_empty() {
        for empty in ["", " ", "null", "[]"] {
            assert_eq!(tags(empty), Some((BTreeSet::new(), vec![])), "{empty:?}");
            assert_eq!(routes(empty), (BTreeSet::new(), vec![]), "{empty:?}");
        }
        for broken in ["[", "tag:web", "{}", "[1]", "[\"tag:web\""] {
            assert_eq!(tags(broken), None, "{broken:?}");
            assert_eq!(routes(broken), (BTreeSet::new(), vec![shown(broken)]), "{broken:?}");
        }
        assert_eq!(tags(r#"["tag:web","web"]"#), Some((["tag:web".into()].into(), vec!["web".into()])));
        let (good, unread) = routes(r#"["10.0.0.1/8","x"]"#);
        assert_eq!((good.len(), unread), (1, vec!["\"x\"".to_owned()]));
    }
}
