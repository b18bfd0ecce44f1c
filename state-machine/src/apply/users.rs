//! Users: made, renamed, deleted.

use crate::{
    model::*,
    names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{check_text, invalid, not_found};

/// Clients know this id as "tagged-devices"; nobody may have it.
pub(super) const TAGGED_DEVICES: u64 = 2_147_455_555;

impl State {
    pub(super) fn create_user(
        &mut self,
        name: String,
        display_name: String,
        email: String,
        profile_pic_url: String,
    ) -> Answer {
        self.check_user_name(&name)?;
        check_text(What::User, "display name", &display_name, 255)?;
        check_text(What::User, "email", &email, 255)?;
        check_picture(&profile_pic_url)?;

        let id = self.next_user_id();
        self.put_user(User {
            id,
            name,
            display_name,
            email,
            provider: "cli".into(),
            provider_id: String::new(),
            profile_pic_url,
            groups: std::collections::BTreeSet::new(),
            created_at: self.now(),
            ranges: std::collections::BTreeSet::new(),
        });
        Ok(Outcome::User(id))
    }

    pub(super) fn rename_user(&mut self, id: UserId, name: String) -> Answer {
        let user = self.user(id).cloned().ok_or_else(|| not_found(What::User, id))?;
        if user.name == name {
            return Ok(Outcome::Unchanged);
        }
        self.check_user_name(&name)?;
        self.put_user(User { name, ..(*user).clone() });
        Ok(Outcome::User(id))
    }

    /// The user's keys go too; nodes that belong to their tags stay and forget who registered them.
    pub(super) fn delete_user(&mut self, id: UserId) -> Answer {
        self.user(id).ok_or_else(|| not_found(What::User, id))?;
        let owned = self.nodes_of_user(id).filter(|node| !node.is_tagged()).count() as u64;
        if owned > 0 {
            return Err(Refusal::UserHasNodes { nodes: owned });
        }

        let tagged: Vec<Node> = self.nodes_of_user(id).map(|node| (**node).clone()).collect();
        for node in tagged {
            self.put_node(Node { user: None, ..node });
        }
        let range = (id, PreAuthKeyId(0))..=(id, PreAuthKeyId(u64::MAX));
        let keys: Vec<_> = self.indexes.pre_auth_keys_by_user.range(range).map(|((_, key), ())| *key).collect();
        for key in keys {
            self.forget_pre_auth_key(key);
        }
        let keys: Vec<_> = self.api_keys().values().filter(|key| key.user == Some(id)).map(|key| key.id).collect();
        for key in keys {
            self.drop_api_key(key);
        }
        self.drop_user(id);
        Ok(Outcome::Done)
    }

    pub(super) fn next_user_id(&mut self) -> UserId {
        let facts = self.cluster_mut();
        facts.last_user += 1;
        if facts.last_user == TAGGED_DEVICES {
            facts.last_user += 1;
        }
        UserId(facts.last_user)
    }

    fn check_user_name(&self, name: &str) -> Result<(), Refusal> {
        names::check_user_name(name).map_err(|why| invalid(What::User, why))?;
        match self.user_by_name(name) {
            Some(_) => Err(Refusal::Taken { what: What::User, name: name.to_owned() }),
            None => Ok(()),
        }
    }
}

/// One kind of client drops its whole map over a picture that is not a URL.
pub(super) fn check_picture(url: &str) -> Result<(), Refusal> {
    check_text(What::User, "picture URL", url, 2_048)?;
    let host = url.strip_prefix("https://").or(url.strip_prefix("http://"));
    let fits = match host {
        Some(host) => {
            host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
                && !host.contains(|c: char| c.is_whitespace() || "\"\\<>^`{|}".contains(c))
        }
        None => url.is_empty(),
    };
    match fits {
        true => Ok(()),
        false => Err(invalid(What::User, format!("the picture {url:?} is not an http or https URL"))),
    }
}
