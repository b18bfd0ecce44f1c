//! What can be derived from the tables: ways to find rows quickly. Never written anywhere.
//!
//! Each function takes a row before and after a change and moves only the entries that differ, so that keeping an
//! index costs O(log n) for what changed and nothing for what did not.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use imbl::OrdMap;
use ipnet::IpNet;
use tailcfg::{MachineKey, NodeKey};

use crate::{
    allocate,
    deadlines::{self, Due},
    free_ranges::FreeRanges,
    model::*,
    primaries,
    state::{Remembered, Tables},
};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Indexes {
    pub users_by_name: OrdMap<String, UserId>,
    /// Where the provider's id is not empty.
    pub users_by_provider_id: OrdMap<(String, UserId), ()>,
    /// Users whose addresses come from ranges of their own.
    pub users_with_ranges: OrdMap<UserId, ()>,
    pub nodes_by_key: OrdMap<NodeKey, NodeId>,
    pub nodes_by_machine: OrdMap<(MachineKey, NodeId), ()>,
    pub nodes_by_user: OrdMap<(UserId, NodeId), ()>,
    pub nodes_by_name: OrdMap<String, NodeId>,
    pub nodes_by_ipv4: OrdMap<Ipv4Addr, NodeId>,
    pub nodes_by_ipv6: OrdMap<Ipv6Addr, NodeId>,
    /// Nodes made with a key, so that a key's removal finds them.
    pub nodes_by_pre_auth_key: OrdMap<(PreAuthKeyId, NodeId), ()>,
    pub free_ipv4: FreeRanges,
    pub free_ipv6: FreeRanges,
    /// Nodes whose subnet route is advertised and approved: who could serve it.
    pub routes: OrdMap<(IpNet, NodeId), ()>,
    pub sessions: OrdMap<(MemberId, NodeId), ()>,
    pub pre_auth_keys_by_prefix: OrdMap<String, PreAuthKeyId>,
    pub pre_auth_keys_by_user: OrdMap<(UserId, PreAuthKeyId), ()>,
    pub api_keys_by_prefix: OrdMap<String, ApiKeyId>,
    /// Logins that still wait.
    pub logins_by_keys: OrdMap<(MachineKey, NodeKey), LoginId>,
    pub logins_by_age: OrdMap<(Timestamp, LoginId), ()>,
    pub requests_by_revision: OrdMap<Revision, RequestId>,
    pub ssh_checks_by_pair: OrdMap<(NodeId, NodeId, String), ()>,
    /// With the keys they stand under.
    pub text_records_by_node: OrdMap<(NodeId, String), ()>,
    pub sign_ins_by_age: OrdMap<(Timestamp, String), ()>,
    pub sign_ins_by_subject: OrdMap<(SignInSubject, Timestamp, String), ()>,
    pub policy: InForce,
    /// What [`Command::Elapse`](crate::Command::Elapse) has to do, in order.
    pub deadlines: OrdMap<(Timestamp, Due), ()>,
    /// Node keys that have not expired yet, in order of expiry.
    pub expiries: OrdMap<(Timestamp, NodeId), ()>,
    /// Node keys that have expired.
    pub expired: OrdMap<NodeId, Timestamp>,
}

impl Indexes {
    /// All indexes of these tables, from nothing.
    pub fn build(tables: &Tables) -> Indexes {
        let mut indexes = Indexes::default();
        indexes.prefixes(&Settings { prefix_v4: None, prefix_v6: None, ..Settings::default() }, tables);
        for user in tables.users.values() {
            indexes.user(None, Some(user));
        }
        for node in tables.nodes.values() {
            indexes.node(None, Some(node), tables.clock.now);
        }
        for (id, presence) in &tables.presences {
            indexes.presence(*id, None, Some(presence));
        }
        for key in tables.pre_auth_keys.values() {
            indexes.pre_auth_key(None, Some(key));
        }
        for key in tables.api_keys.values() {
            indexes.api_key(None, Some(key));
        }
        for login in tables.logins.values() {
            indexes.login(None, Some(login));
        }
        for check in tables.ssh_checks.values() {
            indexes.ssh_check(None, Some(check));
        }
        for sign_in in tables.sign_ins.values() {
            indexes.sign_in(None, Some(sign_in));
        }
        for record in tables.text_records.values() {
            indexes.text_record(None, Some(record));
        }
        indexes.policy = InForce::read(tables);
        for token in tables.join_tokens.values() {
            indexes.join_token(None, Some(token));
        }
        for (id, remembered) in &tables.requests {
            indexes.request(*id, remembered);
        }
        for id in tables.nodes.keys() {
            indexes.node_deadlines([None, None], deadlines::of_node(tables, *id));
        }
        indexes
    }

    /// New prefixes: which addresses are free is counted anew. A prefix changes once in a tailnet's life.
    pub fn prefixes(&mut self, old: &Settings, tables: &Tables) {
        let new = &tables.settings;
        if old.prefix_v4 != new.prefix_v4 {
            self.free_ipv4 = new.prefix_v4.map(allocate::free_in_v4).unwrap_or_default();
            for node in tables.nodes.values() {
                node.ipv4.into_iter().for_each(|address| self.free_ipv4.take(address.to_bits().into()));
            }
        }
        if old.prefix_v6 != new.prefix_v6 {
            self.free_ipv6 = new.prefix_v6.map(allocate::free_in_v6).unwrap_or_default();
            for node in tables.nodes.values() {
                node.ipv6.into_iter().for_each(|address| self.free_ipv6.take(address.to_bits()));
            }
        }
    }

    pub fn user(&mut self, old: Option<&User>, new: Option<&User>) {
        let name = |user: &User| (user.name.clone(), user.id);
        replace(&mut self.users_by_name, old.map(name), new.map(name));
        let person = |user: &User| (!user.provider_id.is_empty()).then(|| ((user.provider_id.clone(), user.id), ()));
        replace(&mut self.users_by_provider_id, old.and_then(person), new.and_then(person));
        let ranges = |user: &User| (!user.ranges.is_empty()).then_some((user.id, ()));
        replace(&mut self.users_with_ranges, old.and_then(ranges), new.and_then(ranges));
    }

    pub fn node(&mut self, old: Option<&Node>, new: Option<&Node>, now: Timestamp) {
        let key = |node: &Node| (node.node_key, node.id);
        replace(&mut self.nodes_by_key, old.map(key), new.map(key));
        let machine = |node: &Node| ((node.machine_key, node.id), ());
        replace(&mut self.nodes_by_machine, old.map(machine), new.map(machine));
        let user = |node: &Node| node.user.map(|user| ((user, node.id), ()));
        replace(&mut self.nodes_by_user, old.and_then(user), new.and_then(user));
        let made_with = |node: &Node| node.pre_auth_key.map(|key| ((key, node.id), ()));
        replace(&mut self.nodes_by_pre_auth_key, old.and_then(made_with), new.and_then(made_with));

        if old.map(|node| &node.given_name) != new.map(|node| &node.given_name) {
            let name = |node: &Node| (node.given_name.clone(), node.id);
            replace(&mut self.nodes_by_name, old.map(name), new.map(name));
        }

        let ipv4 = |node: &Node| node.ipv4.map(|address| (address, node.id));
        if old.and_then(ipv4) != new.and_then(ipv4) {
            replace(&mut self.nodes_by_ipv4, old.and_then(ipv4), new.and_then(ipv4));
            old.and_then(ipv4).into_iter().for_each(|(address, _)| self.free_ipv4.give_back(address.to_bits().into()));
            new.and_then(ipv4).into_iter().for_each(|(address, _)| self.free_ipv4.take(address.to_bits().into()));
        }
        let ipv6 = |node: &Node| node.ipv6.map(|address| (address, node.id));
        if old.and_then(ipv6) != new.and_then(ipv6) {
            replace(&mut self.nodes_by_ipv6, old.and_then(ipv6), new.and_then(ipv6));
            old.and_then(ipv6).into_iter().for_each(|(address, _)| self.free_ipv6.give_back(address.to_bits()));
            new.and_then(ipv6).into_iter().for_each(|(address, _)| self.free_ipv6.take(address.to_bits()));
        }

        let none = BTreeSet::new();
        let before = old.map_or_else(|| none.clone(), primaries::subnet_routes);
        let after = new.map_or_else(|| none.clone(), primaries::subnet_routes);
        if before != after {
            let id = old.or(new).expect("a change has a before or an after").id;
            before.difference(&after).for_each(|route| _ = self.routes.remove(&(*route, id)));
            after.difference(&before).for_each(|route| _ = self.routes.insert((*route, id), ()));
        }

        let expiry = |node: &Node| node.expiry.map(|expiry| (expiry, node.id));
        if old.and_then(expiry) != new.and_then(expiry) {
            if let Some((at, id)) = old.and_then(expiry) {
                self.expiries.remove(&(at, id));
                self.expired.remove(&id);
            }
            match new.and_then(expiry) {
                Some((at, id)) if at <= now => _ = self.expired.insert(id, at),
                Some((at, id)) => _ = self.expiries.insert((at, id), ()),
                None => {}
            }
        }
    }

    pub fn presence(&mut self, id: NodeId, old: Option<&Presence>, new: Option<&Presence>) {
        let session = |presence: &Presence| presence.session.map(|session| ((session.member, id), ()));
        replace(&mut self.sessions, old.and_then(session), new.and_then(session));
    }

    pub fn node_deadlines(&mut self, old: [Option<(Timestamp, Due)>; 2], new: [Option<(Timestamp, Due)>; 2]) {
        for (old, new) in old.into_iter().zip(new) {
            replace(&mut self.deadlines, old.map(|due| (due, ())), new.map(|due| (due, ())));
        }
    }

    pub fn pre_auth_key(&mut self, old: Option<&PreAuthKey>, new: Option<&PreAuthKey>) {
        let prefix = |key: &PreAuthKey| (key.prefix.clone(), key.id);
        replace(&mut self.pre_auth_keys_by_prefix, old.map(prefix), new.map(prefix));
        let user = |key: &PreAuthKey| key.user.map(|user| ((user, key.id), ()));
        replace(&mut self.pre_auth_keys_by_user, old.and_then(user), new.and_then(user));
    }

    pub fn api_key(&mut self, old: Option<&ApiKey>, new: Option<&ApiKey>) {
        let prefix = |key: &ApiKey| (key.prefix.clone(), key.id);
        replace(&mut self.api_keys_by_prefix, old.map(prefix), new.map(prefix));
    }

    pub fn login(&mut self, old: Option<&Login>, new: Option<&Login>) {
        let keys = |login: &Login| match login.result {
            LoginResult::Waiting => Some(((login.machine_key, login.node_key), login.id.clone())),
            _ => None,
        };
        replace(&mut self.logins_by_keys, old.and_then(keys), new.and_then(keys));
        let age = |login: &Login| ((login.created_at, login.id.clone()), ());
        replace(&mut self.logins_by_age, old.map(age), new.map(age));
        let due = |login: &Login| ((login.expires_at, Due::Login(login.id.clone())), ());
        replace(&mut self.deadlines, old.map(due), new.map(due));
    }

    pub fn ssh_check(&mut self, old: Option<&SshCheck>, new: Option<&SshCheck>) {
        let pair = |check: &SshCheck| ((check.source, check.target, check.id.clone()), ());
        replace(&mut self.ssh_checks_by_pair, old.map(pair), new.map(pair));
        let due = |check: &SshCheck| ((check.expires_at, Due::SshCheck(check.id.clone())), ());
        replace(&mut self.deadlines, old.map(due), new.map(due));
    }

    pub fn sign_in(&mut self, old: Option<&SignIn>, new: Option<&SignIn>) {
        let age = |row: &SignIn| ((row.created_at, row.id.clone()), ());
        replace(&mut self.sign_ins_by_age, old.map(age), new.map(age));
        let subject = |row: &SignIn| ((row.subject.clone(), row.created_at, row.id.clone()), ());
        replace(&mut self.sign_ins_by_subject, old.map(subject), new.map(subject));
        let due = |row: &SignIn| ((row.expires_at, Due::SignIn(row.id.clone())), ());
        replace(&mut self.deadlines, old.map(due), new.map(due));
    }

    pub fn text_record(&mut self, old: Option<&TextRecord>, new: Option<&TextRecord>) {
        let node = |record: &TextRecord| ((record.node, TextRecord::key(&record.name, &record.value)), ());
        replace(&mut self.text_records_by_node, old.map(node), new.map(node));
        let due = |record: &TextRecord| (deadlines::of_text_record(record), ());
        replace(&mut self.deadlines, old.map(due), new.map(due));
    }

    pub fn join_token(&mut self, old: Option<&JoinToken>, new: Option<&JoinToken>) {
        let due = |token: &JoinToken| (deadlines::of_join_token(token), ());
        replace(&mut self.deadlines, old.map(due), new.map(due));
    }

    pub fn request(&mut self, id: RequestId, remembered: &Remembered) {
        self.requests_by_revision.insert(remembered.revision, id);
    }
}

/// The newest policy, read. Two are equal when their texts are.
#[derive(Clone, Debug, Default)]
pub(crate) struct InForce(Option<policy::Policy>);

impl InForce {
    pub fn read(tables: &Tables) -> InForce {
        let newest = tables.policies.get_max().map(|(_, version)| version);
        InForce(newest.and_then(|version| policy::Policy::parse(&version.text).ok()).map(|parsed| parsed.policy))
    }

    pub fn get(&self) -> Option<&policy::Policy> {
        self.0.as_ref()
    }
}

impl PartialEq for InForce {
    fn eq(&self, other: &InForce) -> bool {
        self.0.as_ref().map(policy::Policy::text) == other.0.as_ref().map(policy::Policy::text)
    }
}

/// Moves one entry; nothing happens when it stays.
fn replace<K: Ord + Clone, V: Clone + PartialEq>(map: &mut OrdMap<K, V>, old: Option<(K, V)>, new: Option<(K, V)>) {
    if old == new {
        return;
    }
    if let Some((key, value)) = old
        && map.get(&key) == Some(&value)
    {
        map.remove(&key);
    }
    if let Some((key, value)) = new {
        map.insert(key, value);
    }
}
