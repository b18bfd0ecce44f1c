//! Keys for programs.

use crate::{
    model::*,
    names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{features, invalid, not_found};

impl State {
    pub(super) fn create_api_key(&mut self, key: ApiKey) -> Answer {
        names::check_key_prefix(&key.prefix).map_err(|why| invalid(What::ApiKey, why))?;
        if self.api_key_by_prefix(&key.prefix).is_some() {
            return Err(Refusal::Taken { what: What::ApiKey, name: key.prefix });
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
