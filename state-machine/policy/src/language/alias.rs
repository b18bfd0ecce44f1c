//! Who or what is meant: the words that stand in `src` and `dst`.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

/// A word of the language that stands for nodes or addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alias {
    /// `*`: the tailnet as a source, anything as a destination.
    Everything,
    /// `autogroup:danger-all`: every address there is.
    Danger,
    /// `autogroup:internet`: what exit nodes lead to.
    Internet,
    /// `autogroup:member`: nodes of users.
    Member,
    /// `autogroup:tagged`: nodes of tags.
    Tagged,
    /// `autogroup:self`: other nodes of the same user.
    Own,
    /// `autogroup:admin`, `autogroup:owner`: nodes of users in a role.
    Role(Role),
    /// A user by name or mail address, without an `@` at its end.
    User(String),
    /// `user:*@domain`: the users of a mail domain.
    Domain(String),
    /// `oidc:…`: whom the login provider counts among a group of its own. Only as a member of a group.
    Directory(String),
    /// A group, with its name's `group:`.
    Group(String),
    /// A tag, with its name's `tag:`.
    Tag(String),
    /// Addresses: a host, an address, a prefix or an ipset. They never grow to a node's other address.
    Nets(Nets),
}

/// Literal addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nets {
    /// As it was written: a host's name, or the address itself.
    pub name: String,
    /// Without host bits, sorted.
    pub nets: Vec<IpNet>,
}

/// What a user may do in the tailnet, as far as policies ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    #[default]
    Member,
    Admin,
    Owner,
}

/// The names a policy defines, against which aliases are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// `group:…` → users as in [`Alias::User`].
    pub groups: BTreeMap<String, Vec<Alias>>,
    /// Host → its addresses.
    pub hosts: BTreeMap<String, IpNet>,
    /// `ipset:…` → its addresses.
    pub ip_sets: BTreeMap<String, Vec<IpNet>>,
    /// `tag:…` → who may give it.
    pub tag_owners: BTreeMap<String, Vec<Alias>>,
}

/// Why a word is no alias.
#[derive(Clone, Debug)]
pub(crate) struct NotAnAlias {
    pub message: String,
    pub hint: Option<String>,
}

impl NotAnAlias {
    fn new(message: String) -> NotAnAlias {
        NotAnAlias { message, hint: None }
    }
}

impl Names {
    /// Reads a word. The flag tells that it is an older spelling.
    pub fn alias(&self, word: &str) -> Result<(Alias, Option<String>), NotAnAlias> {
        let word = word.trim();
        let plain = |alias| Ok((alias, None));
        if let Some(name) = word.strip_prefix("autogroup:") {
            return auto_group(name).map(|alias| (alias, None)).ok_or_else(|| NotAnAlias {
                message: format!("unknown autogroup {word:?}"),
                hint: Some("there are autogroup:member, tagged, self, internet, danger-all, admin and owner".into()),
            });
        }
        if word == "*" {
            return plain(Alias::Everything);
        }
        if word.starts_with("group:") {
            return match self.groups.contains_key(word) {
                true => plain(Alias::Group(word.to_owned())),
                false => Err(NotAnAlias {
                    message: format!("group not found: {word:?}"),
                    hint: Some(format!("define it: \"groups\": {{ {word:?}: [\"alice@example.com\"] }}")),
                }),
            };
        }
        if word.starts_with("tag:") {
            return match self.tag_owners.contains_key(word) {
                true => plain(Alias::Tag(word.to_owned())),
                false => Err(NotAnAlias {
                    message: format!("tag not found: {word:?}"),
                    hint: Some(format!("define it: \"tagOwners\": {{ {word:?}: [] }}")),
                }),
            };
        }
        if let Some(domain) = word.strip_prefix("user:*@") {
            return plain(Alias::Domain(domain.to_ascii_lowercase()));
        }
        if let Some(name) = word.strip_prefix("user:").filter(|name| !name.is_empty()) {
            let modern = modern_user(name);
            return Ok((user(name), Some(format!("{word:?} is an older spelling: write {modern:?}"))));
        }
        if word.starts_with("ipset:") {
            return match self.ip_sets.get(word) {
                Some(nets) => plain(Alias::Nets(Nets { name: word.to_owned(), nets: nets.clone() })),
                None => Err(NotAnAlias::new(format!("ipset not found: {word:?}"))),
            };
        }
        if word.starts_with("svc:") || word.starts_with("posture:") {
            let kind = if word.starts_with("svc:") { "services" } else { "device postures" };
            return Err(NotAnAlias::new(format!("{word:?}: {kind} are not supported")));
        }
        if word.contains('@') {
            return plain(user(word));
        }
        let host = word.strip_prefix("host:").unwrap_or(word);
        if let Some(net) = self.hosts.get(host).copied().or_else(|| net(word)) {
            return plain(Alias::Nets(Nets { name: word.to_owned(), nets: vec![net] }));
        }
        let name = !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        let hint = format!("for a user write {:?}; a host must be defined in \"hosts\"", modern_user(word));
        Err(NotAnAlias { message: format!("{word:?}: invalid address"), hint: name.then_some(hint) })
    }
}

/// A user as a policy names one.
pub(crate) fn user(word: &str) -> Alias {
    let name = word.trim();
    Alias::User(name.strip_suffix('@').unwrap_or(name).to_owned())
}

/// How a user is written today.
pub(crate) fn modern_user(name: &str) -> String {
    let name = name.strip_prefix("user:").unwrap_or(name);
    if name.contains('@') { name.to_owned() } else { format!("{name}@") }
}

fn auto_group(name: &str) -> Option<Alias> {
    Some(match name {
        "danger-all" => Alias::Danger,
        "internet" => Alias::Internet,
        // The plural is how the first policies of the language wrote it.
        "member" | "members" => Alias::Member,
        "tagged" => Alias::Tagged,
        "self" => Alias::Own,
        "admin" => Alias::Role(Role::Admin),
        "owner" => Alias::Role(Role::Owner),
        _ => return None,
    })
}

/// An address or a prefix. Host bits are dropped, as the hosted control plane does.
pub(crate) fn net(word: &str) -> Option<IpNet> {
    let net = word.parse::<IpNet>().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))?;
    Some(net.trunc())
}

impl std::fmt::Display for Alias {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Alias::Everything => f.write_str("*"),
            Alias::Danger => f.write_str("autogroup:danger-all"),
            Alias::Internet => f.write_str("autogroup:internet"),
            Alias::Member => f.write_str("autogroup:member"),
            Alias::Tagged => f.write_str("autogroup:tagged"),
            Alias::Own => f.write_str("autogroup:self"),
            Alias::Role(Role::Owner) => f.write_str("autogroup:owner"),
            Alias::Role(_) => f.write_str("autogroup:admin"),
            Alias::User(name) if name.contains('@') => f.write_str(name),
            Alias::User(name) => write!(f, "{name}@"),
            Alias::Domain(domain) => write!(f, "user:*@{domain}"),
            Alias::Directory(group) => write!(f, "oidc:{group}"),
            Alias::Group(name) | Alias::Tag(name) | Alias::Nets(Nets { name, .. }) => f.write_str(name),
        }
    }
}
