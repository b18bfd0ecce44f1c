//! The only places that change a row: the table, its indexes and what follows from it, together.

use std::sync::Arc;

use crate::{deadlines, indexes::InForce, model::*, primaries, state::*};

impl State {
    /// Facts about the cluster are few and small: changed in place.
    pub(crate) fn cluster_mut(&mut self) -> &mut ClusterFacts {
        Arc::make_mut(&mut self.tables.cluster)
    }

    /// Time moves, and with it the nodes whose keys have expired.
    pub(crate) fn pass_time(&mut self, at: Timestamp) {
        let at = at.after(std::time::Duration::ZERO); // not past the end of time
        if at <= self.tables.clock.now {
            return;
        }
        self.tables.clock.now = at;
        while let Some(((expiry, id), ())) = self.indexes.expiries.get_min().cloned()
            && expiry <= at
        {
            self.indexes.expiries.remove(&(expiry, id));
            self.indexes.expired.insert(id, expiry);
            let node = self.tables.nodes.get(&id).cloned();
            self.elect(node.iter().flat_map(|node| primaries::subnet_routes(node)));
        }
    }

    pub(crate) fn put_settings(&mut self, settings: Settings) {
        let old = std::mem::replace(&mut self.tables.settings, Arc::new(settings));
        self.indexes.prefixes(&old, &self.tables);
        if old.prefix_v4 != self.tables.settings.prefix_v4 {
            self.cluster_mut().last_ipv4 = None;
        }
        if old.prefix_v6 != self.tables.settings.prefix_v6 {
            self.cluster_mut().last_ipv6 = None;
        }
        if old.ephemeral_inactivity_secs != self.tables.settings.ephemeral_inactivity_secs {
            // The one deadline that depends on settings. They change rarely, so all nodes are looked at.
            let before = Tables { settings: old, ..self.tables.clone() };
            for (id, node) in &self.tables.nodes {
                if node.ephemeral {
                    let new = deadlines::of_node(&self.tables, *id);
                    self.indexes.node_deadlines(deadlines::of_node(&before, *id), new);
                }
            }
        }
    }

    pub(crate) fn put_user(&mut self, user: User) {
        let old = self.tables.users.get(&user.id).cloned();
        self.indexes.user(old.as_deref(), Some(&user));
        self.tables.users.insert(user.id, Arc::new(user));
    }

    pub(crate) fn drop_user(&mut self, id: UserId) {
        if let Some(old) = self.tables.users.remove(&id) {
            self.indexes.user(Some(&old), None);
        }
    }

    pub(crate) fn put_node(&mut self, node: Node) {
        let id = node.id;
        let due = deadlines::of_node(&self.tables, id);
        let node = Arc::new(node);
        let old = self.tables.nodes.insert(id, node.clone());
        self.reindex_node(id, old.as_deref(), Some(&node));
        self.indexes.node_deadlines(due, deadlines::of_node(&self.tables, id));
    }

    /// The node and everything that is only about it.
    pub(crate) fn drop_node(&mut self, id: NodeId) {
        let due = deadlines::of_node(&self.tables, id);
        if let Some(presence) = self.tables.presences.remove(&id) {
            self.indexes.presence(id, Some(&presence), None);
        }
        let checks = self.ssh_checks().values().filter(|check| check.source == id || check.target == id);
        let checks: Vec<String> = checks.map(|check| check.id.clone()).collect();
        checks.iter().for_each(|check| self.drop_ssh_check(check));
        self.end_text_records(id);
        if let Some(old) = self.tables.nodes.remove(&id) {
            self.reindex_node(id, Some(&old), None);
        }
        self.indexes.node_deadlines(due, [None, None]);
    }

    fn reindex_node(&mut self, id: NodeId, old: Option<&Node>, new: Option<&Node>) {
        let was_expired = self.is_expired(id);
        self.indexes.node(old, new, self.tables.clock.now);
        let before = old.map(primaries::subnet_routes).unwrap_or_default();
        let after = new.map(primaries::subnet_routes).unwrap_or_default();
        if was_expired != self.is_expired(id) || before != after {
            self.elect(before.union(&after).copied());
        }
    }

    pub(crate) fn put_presence(&mut self, id: NodeId, presence: Presence) {
        let due = deadlines::of_node(&self.tables, id);
        let presence = Arc::new(presence);
        let old = self.tables.presences.insert(id, presence.clone());
        self.indexes.presence(id, old.as_deref(), Some(&presence));
        self.indexes.node_deadlines(due, deadlines::of_node(&self.tables, id));
        if old.is_some_and(|old| old.online) != presence.online
            && let Some(node) = self.tables.nodes.get(&id).cloned()
        {
            self.elect(primaries::subnet_routes(&node));
        }
    }

    pub(crate) fn put_pre_auth_key(&mut self, key: PreAuthKey) {
        let old = self.tables.pre_auth_keys.get(&key.id).cloned();
        self.indexes.pre_auth_key(old.as_deref(), Some(&key));
        self.tables.pre_auth_keys.insert(key.id, Arc::new(key));
    }

    pub(crate) fn drop_pre_auth_key(&mut self, id: PreAuthKeyId) {
        if let Some(old) = self.tables.pre_auth_keys.remove(&id) {
            self.indexes.pre_auth_key(Some(&old), None);
        }
    }

    pub(crate) fn put_api_key(&mut self, key: ApiKey) {
        let old = self.tables.api_keys.get(&key.id).cloned();
        self.indexes.api_key(old.as_deref(), Some(&key));
        self.tables.api_keys.insert(key.id, Arc::new(key));
    }

    pub(crate) fn drop_api_key(&mut self, id: ApiKeyId) {
        if let Some(old) = self.tables.api_keys.remove(&id) {
            self.indexes.api_key(Some(&old), None);
        }
    }

    pub(crate) fn put_login(&mut self, login: Login) {
        let old = self.tables.logins.get(&login.id).cloned();
        self.indexes.login(old.as_deref(), Some(&login));
        self.tables.logins.insert(login.id.clone(), Arc::new(login));
    }

    pub(crate) fn drop_login(&mut self, id: &LoginId) {
        if let Some(old) = self.tables.logins.remove(id) {
            self.indexes.login(Some(&old), None);
        }
    }

    pub(crate) fn put_join_token(&mut self, token: JoinToken) {
        let old = self.tables.join_tokens.get(&token.id).cloned();
        self.indexes.join_token(old.as_deref(), Some(&token));
        self.tables.join_tokens.insert(token.id.clone(), Arc::new(token));
    }

    pub(crate) fn drop_join_token(&mut self, id: &str) {
        if let Some(old) = self.tables.join_tokens.remove(id) {
            self.indexes.join_token(Some(&old), None);
        }
    }

    pub(crate) fn put_member(&mut self, member: Member) {
        self.tables.members.insert(member.id, Arc::new(member));
    }

    pub(crate) fn put_secret(&mut self, name: String, secret: SealedSecret) {
        self.tables.secrets.insert(name, Arc::new(secret));
    }

    pub(crate) fn drop_secret(&mut self, name: &str) {
        self.tables.secrets.remove(name);
    }

    pub(crate) fn put_webhook(&mut self, webhook: Webhook) {
        self.tables.webhooks.insert(webhook.id.clone(), Arc::new(webhook));
    }

    pub(crate) fn drop_webhook(&mut self, id: &str) {
        self.tables.webhooks.remove(id);
    }

    pub(crate) fn put_authority(&mut self, authority: Authority) {
        self.tables.authorities.insert(authority.generation, Arc::new(authority));
    }

    pub(crate) fn put_certificate(&mut self, certificate: ManagedCertificate) {
        self.tables.certificates.insert(certificate.wish.name.clone(), Arc::new(certificate));
    }

    pub(crate) fn drop_certificate(&mut self, name: &str) {
        self.tables.certificates.remove(name);
    }

    pub(crate) fn put_policy(&mut self, version: PolicyVersion) {
        self.tables.policies.insert(version.number, Arc::new(version));
        self.indexes.policy = InForce::read(&self.tables);
    }

    pub(crate) fn put_ssh_check(&mut self, check: SshCheck) {
        let old = self.tables.ssh_checks.get(&check.id).cloned();
        self.indexes.ssh_check(old.as_deref(), Some(&check));
        self.tables.ssh_checks.insert(check.id.clone(), Arc::new(check));
    }

    pub(crate) fn drop_ssh_check(&mut self, id: &str) {
        if let Some(old) = self.tables.ssh_checks.remove(id) {
            self.indexes.ssh_check(Some(&old), None);
        }
    }

    pub(crate) fn put_sign_in(&mut self, sign_in: SignIn) {
        let old = self.tables.sign_ins.get(&sign_in.id).cloned();
        self.indexes.sign_in(old.as_deref(), Some(&sign_in));
        self.tables.sign_ins.insert(sign_in.id.clone(), Arc::new(sign_in));
    }

    pub(crate) fn drop_sign_in(&mut self, id: &str) {
        if let Some(old) = self.tables.sign_ins.remove(id) {
            self.indexes.sign_in(Some(&old), None);
        }
    }

    pub(crate) fn put_text_record(&mut self, record: TextRecord) {
        let key = TextRecord::key(&record.name, &record.value);
        let old = self.tables.text_records.get(&key).cloned();
        self.indexes.text_record(old.as_deref(), Some(&record));
        self.tables.text_records.insert(key, Arc::new(record));
    }

    pub(crate) fn drop_text_record(&mut self, key: &str) {
        if let Some(old) = self.tables.text_records.remove(key) {
            self.indexes.text_record(Some(&old), None);
        }
    }

    /// A known id is never remembered twice: `apply_entry` answers it instead.
    pub(crate) fn put_request(&mut self, id: RequestId, remembered: Remembered) {
        self.indexes.request(id, &remembered);
        self.tables.requests.insert(id, Arc::new(remembered));
    }

    pub(crate) fn drop_request(&mut self, revision: Revision, id: RequestId) {
        self.indexes.requests_by_revision.remove(&revision);
        self.tables.requests.remove(&id);
    }
}
