//! Keys that let nodes in without a person.

use crate::{
    model::*,
    mutants, names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{api_keys::DESCRIPTION_BYTES_MAX, check_text, invalid, not_found};

impl State {
    pub(super) fn create_pre_auth_key(&mut self, key: PreAuthKey) -> Answer {
        names::check_key_prefix(&key.prefix).map_err(|why| invalid(What::PreAuthKey, why))?;
        names::check_tags(&key.tags).map_err(|why| invalid(What::Tag, why))?;
        check_text(What::PreAuthKey, "description", &key.description, DESCRIPTION_BYTES_MAX)?;
        if let Some(user) = key.user {
            self.user(user).ok_or_else(|| not_found(What::User, user))?;
        } else if key.tags.is_empty() {
            return Err(invalid(What::PreAuthKey, "a key needs a user, tags, or both"));
        }
        if self.pre_auth_key_by_prefix(&key.prefix).is_some() {
            return Err(Refusal::Taken { what: What::PreAuthKey, name: key.prefix });
        }

        let facts = self.cluster_mut();
        facts.last_pre_auth_key += 1;
        let id = PreAuthKeyId(facts.last_pre_auth_key);
        self.put_pre_auth_key(PreAuthKey { id, used: false, created_at: self.now(), ..key });
        Ok(Outcome::PreAuthKey(id))
    }

    pub(super) fn expire_pre_auth_key(&mut self, id: PreAuthKeyId) -> Answer {
        let key = self.pre_auth_key(id).cloned().ok_or_else(|| not_found(What::PreAuthKey, id))?;
        let now = self.now();
        if key.expiration.is_some_and(|expiration| expiration <= now) {
            return Ok(Outcome::Unchanged);
        }
        self.put_pre_auth_key(PreAuthKey { expiration: Some(now), ..(*key).clone() });
        Ok(Outcome::PreAuthKey(id))
    }

    pub(super) fn delete_pre_auth_key(&mut self, id: PreAuthKeyId) -> Answer {
        self.pre_auth_key(id).ok_or_else(|| not_found(What::PreAuthKey, id))?;
        self.forget_pre_auth_key(id);
        Ok(Outcome::Done)
    }

    /// The key goes; the nodes it let in stay.
    pub(super) fn forget_pre_auth_key(&mut self, id: PreAuthKeyId) {
        let range = (id, NodeId(0))..=(id, NodeId(u64::MAX));
        let nodes: Vec<_> = self.indexes.nodes_by_pre_auth_key.range(range).map(|((_, node), ())| *node).collect();
        for node in nodes {
            if let Some(node) = self.node(node).cloned() {
                self.put_node(Node { pre_auth_key: None, ..(*node).clone() });
            }
        }
        self.drop_pre_auth_key(id);
    }

    /// The key, when it opens the door now.
    pub(super) fn valid_pre_auth_key(&self, prefix: &str, secret_sha256: &[u8; 32]) -> Result<PreAuthKey, Refusal> {
        let key = self.pre_auth_key_by_prefix(prefix).ok_or(Refusal::KeyUnknown)?;
        if key.secret_sha256 != *secret_sha256 {
            return Err(Refusal::KeyUnknown);
        }
        if key.expiration.is_some_and(|expiration| expiration <= self.now()) {
            return Err(Refusal::KeyExpired);
        }
        if key.used && !key.reusable && !mutants::is("key-used-twice") {
            return Err(Refusal::KeyUsed);
        }
        Ok((**key).clone())
    }
}
