//! Nodes coming in with a person's consent. The login is a row, so that it can be finished at any member.

use std::time::Duration;

use crate::{
    command::Registration,
    model::*,
    names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{
    check_text, invalid, not_found,
    register::{Ownership, check_client},
};

/// How long a person may take.
const LOGIN_LASTS: Duration = Duration::from_secs(15 * 60);

/// Anybody can begin a login; the oldest gives way.
const LOGINS_MAX: usize = 4_096;

impl State {
    pub(super) fn begin_login(&mut self, client: Registration, id: LoginId) -> Answer {
        check_client(&client)?;
        if let Some(node) = self.node_of_client(&client)? {
            if self.is_expired(node.id) {
                return Ok(Outcome::KeyExpired(node.id));
            }
            self.refresh(&node, &client);
            return Ok(Outcome::Registered(node.id));
        }
        if let Some(waiting) = self.waiting_login(&client) {
            return Ok(Outcome::Login(waiting));
        }
        if id.0.is_empty() || id.0.len() > 64 {
            return Err(invalid(What::Login, "a login id has 1 to 64 characters"));
        }
        if self.login(&id).is_some() {
            return Err(Refusal::Taken { what: What::Login, name: id.0 });
        }

        // One that ran out but has not been swept yet makes room for its successor.
        if let Some(old) = self.indexes.logins_by_keys.get(&(client.machine_key, client.node_key)).cloned() {
            self.drop_login(&old);
        }
        while self.logins().len() >= LOGINS_MAX
            && let Some(((_, oldest), ())) = self.indexes.logins_by_age.get_min().cloned()
        {
            self.drop_login(&oldest);
        }
        let now = self.now();
        self.put_login(Login {
            id: id.clone(),
            machine_key: client.machine_key,
            node_key: client.node_key,
            old_node_key: client.old_node_key,
            nl_key: client.nl_key,
            hostname: client.hostname,
            hostinfo: client.hostinfo,
            capability_version: client.capability_version,
            ephemeral: client.ephemeral,
            expiry: client.expiry,
            created_at: now,
            expires_at: now.after(LOGIN_LASTS),
            result: LoginResult::Waiting,
        });
        Ok(Outcome::Login(id))
    }

    pub(super) fn finish_login(
        &mut self,
        id: &LoginId,
        user: UserId,
        method: RegisterMethod,
        expiry: Option<Timestamp>,
        seed: u64,
    ) -> Answer {
        let login = self.open_login(id)?;
        let person = self.user(user).ok_or_else(|| not_found(What::User, user))?;
        let tags = login.hostinfo.request_tags.clone();
        if !tags.is_empty() && (names::check_tags(&tags).is_err() || !self.may_bring_tags(person, &tags)) {
            return Err(Refusal::TagsNotPermitted { tags: tags.into_iter().collect() });
        }
        let client = Registration {
            machine_key: login.machine_key,
            node_key: login.node_key,
            old_node_key: login.old_node_key,
            nl_key: login.nl_key,
            hostname: login.hostname.clone(),
            hostinfo: login.hostinfo.clone(),
            capability_version: login.capability_version,
            ephemeral: login.ephemeral,
            expiry: login.expiry,
            seed,
        };
        let owner = Ownership {
            user: Some(user),
            tags,
            method,
            pre_auth_key: None,
            ephemeral: login.ephemeral,
            granted: expiry.filter(|granted| *granted > self.now()),
            wish: login.expiry,
        };
        let node = match self.node_this_login_renews(&client, user)? {
            Some(node) => self.renew(&node, &client, owner),
            None => self.enter(&client, owner)?,
        };
        self.put_login(Login { result: LoginResult::Registered(node), ..login });
        Ok(Outcome::Registered(node))
    }

    pub(super) fn reject_login(&mut self, id: &LoginId, reason: String) -> Answer {
        let login = self.open_login(id)?;
        check_text(What::Login, "reason", &reason, 1_024)?;
        self.put_login(Login { result: LoginResult::Rejected(reason), ..login });
        Ok(Outcome::Done)
    }

    fn waiting_login(&self, client: &Registration) -> Option<LoginId> {
        let id = self.indexes.logins_by_keys.get(&(client.machine_key, client.node_key))?;
        self.login(id).filter(|login| login.expires_at > self.now()).map(|login| login.id.clone())
    }

    /// The login, when it still waits for somebody.
    fn open_login(&self, id: &LoginId) -> Result<Login, Refusal> {
        let login = self.login(id).ok_or_else(|| not_found(What::Login, id))?;
        if login.result != LoginResult::Waiting || login.expires_at <= self.now() {
            return Err(Refusal::LoginOver);
        }
        Ok((**login).clone())
    }

    /// The node that logs in anew: the one under this very key, the one whose key is being replaced (of this user, or
    /// a tagged one, which then is the user's again), or this user's node on the machine.
    fn node_this_login_renews(
        &self,
        client: &Registration,
        user: UserId,
    ) -> Result<Option<std::sync::Arc<Node>>, Refusal> {
        if let Some(node) = self.node_of_client(client)? {
            return Ok(Some(node));
        }
        let replaced = self.node_by_key(&client.old_node_key);
        let replaced = replaced.filter(|node| node.machine_key == client.machine_key);
        if let Some(node) = replaced.filter(|node| node.is_tagged() || node.user == Some(user)) {
            return Ok(Some(node.clone()));
        }
        let nodes = self.nodes_of_machine(&client.machine_key);
        Ok(self.node_of_user_on(&nodes, Some(user)))
    }
}
