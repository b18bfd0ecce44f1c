//! Keys for programs.

use crate::{
    model::*,
    names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{check_text, features, invalid, not_found};

/// What somebody calls a key.
pub(super) const DESCRIPTION_BYTES_MAX: usize = 255;

/// More than there are.
const SCOPES_MAX: usize = 64;

fn is_scope(scope: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || b":_".contains(&byte);
    (1..=64).contains(&scope.len()) && scope.bytes().all(fits)
}

impl State {
    pub(super) fn create_api_key(&mut self, key: ApiKey) -> Answer {
        names::check_key_prefix(&key.prefix).map_err(|why| invalid(What::ApiKey, why))?;
        if self.api_key_by_prefix(&key.prefix).is_some() {
            return Err(Refusal::Taken { what: What::ApiKey, name: key.prefix });
        }
        names::check_tags(&key.tags).map_err(|why| invalid(What::Tag, why))?;
        check_text(What::ApiKey, "description", &key.description, DESCRIPTION_BYTES_MAX)?;
        if key.scopes.len() > SCOPES_MAX || key.scopes.iter().any(|scope| !is_scope(scope)) {
            return Err(invalid(What::ApiKey, "a scope is a few words in small letters, such as devices:core:read"));
        }
        if (key.role == Role::User) != key.user.is_some() {
            return Err(invalid(What::ApiKey, "a key of role user names a user, and no other key does"));
        }
        if let Some(user) = key.user {
            self.need_level(features::OPERATION)?;
            self.user(user).ok_or_else(|| not_found(What::User, user))?;
        }
        let facts = self.cluster_mut();
        facts.last_api_key += 1;
        let id = ApiKeyId(facts.last_api_key);
        self.put_api_key(ApiKey { id, created_at: self.now(), last_seen: None, ..key });
        Ok(Outcome::ApiKey(id))
    }

    pub(super) fn expire_api_key(&mut self, prefix: &str) -> Answer {
        let (key, now) = (self.known_api_key(prefix)?, self.now());
        if key.expiration.is_some_and(|expiration| expiration <= now) {
            return Ok(Outcome::Unchanged);
        }
        let id = key.id;
        self.put_api_key(ApiKey { expiration: Some(now), ..key });
        Ok(Outcome::ApiKey(id))
    }

    pub(super) fn delete_api_key(&mut self, prefix: &str) -> Answer {
        let id = self.known_api_key(prefix)?.id;
        self.drop_api_key(id);
        Ok(Outcome::Done)
    }

    pub(super) fn touch_api_key(&mut self, prefix: &str) -> Answer {
        let (key, now) = (self.known_api_key(prefix)?, self.now());
        if key.last_seen == Some(now) {
            return Ok(Outcome::Unchanged);
        }
        self.put_api_key(ApiKey { last_seen: Some(now), ..key });
        Ok(Outcome::Done)
    }

    fn known_api_key(&self, prefix: &str) -> Result<ApiKey, Refusal> {
        let key = self.api_key_by_prefix(prefix).ok_or_else(|| not_found(What::ApiKey, prefix))?;
        Ok((**key).clone())
    }
}
