//! Who may open a shell on a node.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    bits::Bits,
    classes::Classes,
    program::{Program, SshCode},
};
use crate::{
    language::document::{self, CheckPeriod, SshUser},
    tailnet::Tailnet,
};

/// Session recorders listen here (`ssh/tailssh`, `dialTo recorder`).
const RECORDER_PORT: u16 = 80;

/// One rule of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshRule {
    /// The addresses that connect; sorted.
    pub principals: Vec<IpAddr>,
    /// The user that is asked for, or `*` → the local user; `=` is the same name, empty is no match.
    pub users: BTreeMap<String, String>,
    /// Whether the node must ask for each connection.
    pub check: bool,
    pub accept_env: Vec<String>,
    pub recorders: Vec<SocketAddr>,
    /// Whether a session ends when no recorder takes it.
    pub enforce_recorder: bool,
}

/// What rules are written from.
pub(crate) struct Shells<'a> {
    pub program: &'a Program,
    pub classes: &'a Classes,
    pub of_user: &'a BTreeMap<u64, Bits>,
    pub tailnet: &'a Tailnet,
}

impl Shells<'_> {
    /// The rules of all nodes of a class; checks come first, because the first match decides.
    pub fn of_class(&self, class: usize) -> Vec<SshRule> {
        let mut rules = Vec::new();
        for (code, rule) in self.program.ssh.iter().zip(&self.program.document.ssh) {
            self.rule(class, code, rule, &mut rules);
        }
        rules.sort_by_key(|rule: &SshRule| !rule.check);
        rules
    }

    /// Classes that have one of the words.
    fn meant(&self, words: &Bits) -> Bits {
        let meant = self.classes.list.iter().enumerate().filter(|(_, class)| class.role.words.meets(words));
        meant.map(|(number, _)| number).collect()
    }

    fn rule(&self, class: usize, code: &SshCode, rule: &document::SshRule, rules: &mut Vec<SshRule>) {
        let role = &self.classes.list[class].role;
        let is_target = role.words.meets(&code.targets);
        if !is_target && !code.own && !code.local_parts {
            return;
        }
        let sources = self.meant(&code.sources);
        let user = Some(role.user).filter(|_| !role.tagged);
        let own = user.and_then(|user| self.of_user.get(&user)).map(|own| own.both(&sources)).unwrap_or_default();
        if code.own && !role.tagged {
            self.rules_of(&own, user, code, rule, rules);
        }
        if is_target {
            match code.local_parts {
                true => self.user_by_user(&sources, code, rule, rules),
                false => self.rules_of(&sources, None, code, rule, rules),
            }
        } else if code.local_parts && !code.targets.is_empty() && sources.contains(class) {
            // A source is told how it would be let in elsewhere, as far as its own user is concerned.
            match role.tagged {
                true => self.rules_of(&self.tagged(&sources), None, code, rule, rules),
                false => self.rules_of(&own, user, code, rule, rules),
            }
        }
    }

    fn tagged(&self, sources: &Bits) -> Bits {
        sources.iter().filter(|class| self.classes.list[*class].role.tagged).collect()
    }

    /// Users are told apart where they enter as themselves.
    fn user_by_user(&self, sources: &Bits, code: &SshCode, rule: &document::SshRule, rules: &mut Vec<SshRule>) {
        for (user, own) in self.of_user {
            self.rules_of(&own.both(sources), Some(*user), code, rule, rules);
        }
        self.rules_of(&self.tagged(sources), None, code, rule, rules);
    }

    /// The rule for these sources, and one more where their user enters under the mail address's name.
    fn rules_of(
        &self,
        sources: &Bits,
        user: Option<u64>,
        code: &SshCode,
        rule: &document::SshRule,
        rules: &mut Vec<SshRule>,
    ) {
        let principals = self.addresses(sources);
        if principals.is_empty() {
            return;
        }
        let of = |users| SshRule {
            principals: principals.clone(),
            users,
            check: rule.check,
            accept_env: rule.accept_env.clone(),
            recorders: self
                .addresses(&self.meant(&code.recorders))
                .into_iter()
                .map(|ip| SocketAddr::new(ip, RECORDER_PORT))
                .collect(),
            enforce_recorder: rule.enforce_recorder,
        };
        rules.push(of(shared_users(rule)));
        if let Some(name) = user.and_then(|user| self.local_part(rule, user)) {
            rules.push(of(BTreeMap::from([(name.clone(), name)])));
        }
    }

    fn local_part(&self, rule: &document::SshRule, user: u64) -> Option<String> {
        local_part(rule, &self.tailnet.users.get(&user)?.email)
    }

    fn addresses(&self, classes: &Bits) -> Vec<IpAddr> {
        let members = classes.iter().flat_map(|class| self.classes.list[class].members.iter());
        let nodes = members.filter_map(|member| self.tailnet.nodes.get(member));
        let mut addresses: Vec<IpAddr> = nodes.flat_map(|node| node.addresses()).collect();
        addresses.sort_unstable();
        addresses
    }
}

/// Users as whom every source of a rule may enter.
pub(crate) fn shared_users(rule: &document::SshRule) -> BTreeMap<String, String> {
    let mut users = BTreeMap::from([("root".to_owned(), String::new())]);
    for user in &rule.users {
        match user {
            SshUser::Name(name) => _ = users.insert(name.clone(), name.clone()),
            SshUser::NonRoot => _ = users.insert("*".to_owned(), "=".to_owned()),
            SshUser::LocalPart(_) => {}
        }
    }
    users
}

/// The name under which the owner of a mail address may enter.
pub(crate) fn local_part(rule: &document::SshRule, email: &str) -> Option<String> {
    let (name, domain) = email.split_once('@').filter(|(name, _)| !name.is_empty())?;
    let is_meant = |user: &SshUser| matches!(user, SshUser::LocalPart(meant) if meant.eq_ignore_ascii_case(domain));
    rule.users.iter().any(is_meant).then(|| name.to_owned())
}

/// Whether a set of users lets somebody in as `user`.
pub(crate) fn lets_in(users: &BTreeMap<String, String>, user: &str) -> bool {
    match users.get(user).or_else(|| users.get("*")) {
        Some(local) => !local.is_empty(),
        None => false,
    }
}

/// The strictest period of the checks that let `source` into `target` as `user`; `None` when no check does.
pub(crate) fn check_period(shells: &Shells, source: u64, target: u64, user: &str) -> Option<CheckPeriod> {
    let source_class = shells.classes.of(source)? as usize;
    let target_class = shells.classes.of(target)? as usize;
    let (from, to) = (&shells.classes.list[source_class].role, &shells.classes.list[target_class].role);
    let email = shells.tailnet.nodes.get(&source)?.user.and_then(|user| shells.tailnet.users.get(&user));
    for (code, rule) in shells.program.ssh.iter().zip(&shells.program.document.ssh).filter(|(_, rule)| rule.check) {
        let same_user = !from.tagged && !to.tagged && from.user == to.user;
        let applies = from.words.meets(&code.sources) && (to.words.meets(&code.targets) || (code.own && same_user));
        let as_self = email.filter(|_| !from.tagged).and_then(|user| local_part(rule, &user.email));
        if applies && (as_self.as_deref() == Some(user) || lets_in(&shared_users(rule), user)) {
            return Some(rule.check_period);
        }
    }
    None
}
