//! Rows that lived in another server's database: taken over with their ids, or not at all.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    command::Import,
    model::*,
    names,
    outcome::{Answer, Refusal, What},
    state::State,
};

use super::{changed, check_text, features, invalid, not_found, register::check_hostinfo, users::TAGGED_DEVICES};

/// Ids are kept by JSON readers whose numbers have 53 bits.
const ID_MAX: u64 = 1 << 53;

impl State {
    /// Takes a batch over. A row that is here already, exactly so, is passed over, so that an import that broke off can
    /// be repeated; one that is here otherwise refuses the whole batch.
    pub(super) fn import(&mut self, batch: Import) -> Answer {
        let mut next = self.clone();
        let mut count = 0;
        for user in batch.users {
            count += u64::from(next.import_user(user)?);
        }
        for key in batch.pre_auth_keys {
            count += u64::from(next.import_pre_auth_key(key)?);
        }
        for key in batch.api_keys {
            count += u64::from(next.import_api_key(key)?);
        }
        for node in batch.nodes {
            let (id, seen) = (node.id, batch.last_seen.get(&node.id).copied());
            if next.import_node(node)? {
                count += 1;
                next.put_presence(id, Presence { last_seen: seen, ..Presence::default() });
            }
        }
        *self = next;
        changed(count)
    }

    fn import_user(&mut self, user: User) -> Result<bool, Refusal> {
        if let Some(known) = self.user(user.id) {
            return same(**known == user, What::User, user.id);
        }
        check_id(What::User, user.id.0)?;
        if user.id.0 == TAGGED_DEVICES {
            return Err(invalid(What::User, format!("{TAGGED_DEVICES} is what clients call tagged devices")));
        }
        if user.name.is_empty() {
            return Err(invalid(What::User, format!("user {} has no name", user.id)));
        }
        check_text(What::User, "name", &user.name, 255)?;
        check_text(What::User, "display name", &user.display_name, 255)?;
        check_text(What::User, "email", &user.email, 255)?;
        check_text(What::User, "identity", &user.provider_id, 1_024)?;
        check_text(What::User, "picture", &user.profile_pic_url, 2_048)?;
        if self.user_by_name(&user.name).is_some() {
            return Err(Refusal::Taken { what: What::User, name: user.name });
        }
        let facts = self.cluster_mut();
        facts.last_user = facts.last_user.max(user.id.0);
        self.put_user(user);
        Ok(true)
    }

    /// What a key's row held before the key was first used here: whoever says an import again must not be refused because
    /// somebody used a key in between. Level 4.
    fn unproved(&self, hash: [u8; 32], (known, given): (&Option<String>, &Option<String>)) -> [u8; 32] {
        let same_key = self.feature_level() >= features::BEYOND && known.is_some() && known == given;
        if same_key { [0; 32] } else { hash }
    }

    fn import_pre_auth_key(&mut self, key: PreAuthKey) -> Result<bool, Refusal> {
        if let Some(known) = self.pre_auth_key(key.id) {
            let secret_sha256 = self.unproved(known.secret_sha256, (&known.bcrypt, &key.bcrypt));
            let unproved = PreAuthKey { secret_sha256, ..(**known).clone() };
            return same(unproved == key, What::PreAuthKey, key.id);
        }
        check_id(What::PreAuthKey, key.id.0)?;
        names::check_key_prefix(&key.prefix).map_err(|why| invalid(What::PreAuthKey, why))?;
        names::check_tags(&key.tags).map_err(|why| invalid(What::Tag, why))?;
        check_bcrypt(What::PreAuthKey, &key.bcrypt)?;
        match key.user {
            Some(user) => drop(self.user(user).ok_or_else(|| not_found(What::User, user))?),
            None if key.tags.is_empty() => {
                return Err(invalid(What::PreAuthKey, format!("key {} has neither user nor tags", key.id)));
            }
            None => {}
        }
        if self.pre_auth_key_by_prefix(&key.prefix).is_some() {
            return Err(Refusal::Taken { what: What::PreAuthKey, name: key.prefix });
        }
        let facts = self.cluster_mut();
        facts.last_pre_auth_key = facts.last_pre_auth_key.max(key.id.0);
        self.put_pre_auth_key(key);
        Ok(true)
    }

    fn import_api_key(&mut self, key: ApiKey) -> Result<bool, Refusal> {
        if let Some(known) = self.api_keys().get(&key.id) {
            // When it was last used may have been written down since.
            let secret_sha256 = self.unproved(known.secret_sha256, (&known.bcrypt, &key.bcrypt));
            let unused = ApiKey { last_seen: key.last_seen, secret_sha256, ..(**known).clone() };
            return same(unused == key, What::ApiKey, key.id);
        }
        check_id(What::ApiKey, key.id.0)?;
        names::check_key_prefix(&key.prefix).map_err(|why| invalid(What::ApiKey, why))?;
        check_bcrypt(What::ApiKey, &key.bcrypt)?;
        if self.api_key_by_prefix(&key.prefix).is_some() {
            return Err(Refusal::Taken { what: What::ApiKey, name: key.prefix });
        }
        let facts = self.cluster_mut();
        facts.last_api_key = facts.last_api_key.max(key.id.0);
        self.put_api_key(key);
        Ok(true)
    }

    fn import_node(&mut self, node: Node) -> Result<bool, Refusal> {
        if let Some(known) = self.node(node.id) {
            return same(**known == node, What::Node, node.id);
        }
        self.check_import_of_node(&node)?;
        let facts = self.cluster_mut();
        facts.last_node = facts.last_node.max(node.id.0);
        // The search for addresses goes on behind those that were given.
        facts.last_ipv4 = facts.last_ipv4.max(node.ipv4);
        facts.last_ipv6 = facts.last_ipv6.max(node.ipv6);
        self.put_node(node);
        Ok(true)
    }

    fn check_import_of_node(&self, node: &Node) -> Result<(), Refusal> {
        let wrong = |why: String| invalid(What::Node, format!("node {}: {why}", node.id));
        check_id(What::Node, node.id.0)?;
        if node.machine_key.is_zero() || node.node_key.is_zero() {
            return Err(wrong("a machine key and a node key are needed".into()));
        }
        if node.ipv4.is_none() && node.ipv6.is_none() {
            return Err(wrong("it has no address".into()));
        }
        names::check_label(&node.given_name).map_err(&wrong)?;
        names::check_tags(&node.tags).map_err(|why| invalid(What::Tag, why))?;
        check_text(What::Node, "host name", &node.hostname, 255)?;
        check_hostinfo(&node.hostinfo)?;
        let user = node.user;
        if user.is_some_and(|user| self.user(user).is_none()) || (user.is_none() && !node.is_tagged()) {
            return Err(wrong("it has no owner".into()));
        }
        if let Some(id) = node.pre_auth_key {
            let key = self.pre_auth_key(id).ok_or_else(|| not_found(What::PreAuthKey, id))?;
            let others = self.nodes().values().filter(|other| other.pre_auth_key == Some(id)).count();
            if !key.used || (!key.reusable && others > 0) {
                return Err(wrong(format!("pre-auth key {id} cannot have let it in")));
            }
        }
        let exits: BTreeSet<_> = node.approved_routes.iter().filter(|route| route.prefix_len() == 0).collect();
        if exits.len() == 1 || node.approved_routes.iter().any(|route| *route != route.trunc()) {
            return Err(wrong("its approved routes are not masked, or hold half an exit node".into()));
        }
        let taken = |other: Option<&Arc<Node>>| match other {
            Some(other) => Err(Refusal::Taken { what: What::Node, name: other.given_name.clone() }),
            None => Ok(()),
        };
        taken(self.node_by_key(&node.node_key))?;
        taken(self.node_by_name(&node.given_name))?;
        let other = node.ipv4.and_then(|address| self.node_by_ipv4(address));
        match other.or_else(|| node.ipv6.and_then(|address| self.node_by_ipv6(address))) {
            Some(other) => Err(wrong(format!("its address is that of node {}", other.id))),
            None => Ok(()),
        }
    }

    /// Remembers the quick proof of a key whose slow one was just given.
    pub(super) fn learn_api_key(&mut self, prefix: &str, secret_sha256: [u8; 32]) -> Answer {
        let key = self.api_key_by_prefix(prefix).cloned().ok_or_else(|| not_found(What::ApiKey, prefix))?;
        let learned = learn(key.bcrypt.is_some(), key.secret_sha256, secret_sha256)?;
        if learned {
            self.put_api_key(ApiKey { secret_sha256, ..(*key).clone() });
        }
        changed(u64::from(learned))
    }

    /// The same for a pre-auth key.
    pub(super) fn learn_pre_auth_key(&mut self, prefix: &str, secret_sha256: [u8; 32]) -> Answer {
        let key = self.pre_auth_key_by_prefix(prefix).cloned().ok_or(Refusal::KeyUnknown)?;
        let learned = learn(key.bcrypt.is_some(), key.secret_sha256, secret_sha256)?;
        if learned {
            self.put_pre_auth_key(PreAuthKey { secret_sha256, ..(*key).clone() });
        }
        changed(u64::from(learned))
    }
}

/// Whether something is to be written: a proof that is known is never replaced by another.
fn learn(has_slow_proof: bool, known: [u8; 32], new: [u8; 32]) -> Result<bool, Refusal> {
    match known {
        known if known == new => Ok(false),
        known if has_slow_proof && known == [0; 32] => Ok(true),
        _ => Err(Refusal::KeyUnknown),
    }
}

fn same(is_same: bool, what: What, id: impl ToString) -> Result<bool, Refusal> {
    match is_same {
        true => Ok(false),
        false => Err(Refusal::Taken { what, name: id.to_string() }),
    }
}

fn check_id(what: What, id: u64) -> Result<(), Refusal> {
    match (1..ID_MAX).contains(&id) {
        true => Ok(()),
        false => Err(invalid(what, format!("the id {id} is not between 1 and 2^53"))),
    }
}

/// `$2b$10$…`, 60 characters.
fn check_bcrypt(what: What, hash: &Option<String>) -> Result<(), Refusal> {
    // Above cost 14 a proof would take seconds.
    let cost = |hash: &str| hash.get(4..6).and_then(|cost| cost.parse::<u32>().ok());
    let fits = |hash: &String| {
        hash.len() == 60 && hash.starts_with("$2") && hash.is_ascii() && cost(hash).is_some_and(|cost| cost <= 14)
    };
    match hash.as_ref().is_none_or(fits) {
        true => Ok(()),
        false => Err(invalid(what, "its hash is not one of bcrypt")),
    }
}
