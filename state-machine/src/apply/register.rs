//! Nodes coming in with a key, and what every way in has in common.
//!
//! Clients repeat a registration whenever they start or reconnect. A node that is in therefore stays in without its
//! key being looked at, which is what makes one-use keys usable in containers.

use std::{sync::Arc, time::Duration};

use crate::{
    allocate::Chosen,
    command::Registration,
    model::*,
    mutants, names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{check_text, features::BEYOND, invalid};

/// `Hostinfo` as JSON; clients send about 1 KiB.
const HOSTINFO_BYTES_MAX: usize = 64 * 1024;
const ROUTES_MAX: usize = 1_024;

impl State {
    pub(super) fn register_with_key(&mut self, client: Registration, prefix: &str, secret_sha256: [u8; 32]) -> Answer {
        check_client(&client)?;
        let known = self.node_of_client(&client)?;
        if let Some(node) = &known
            && !self.is_expired(node.id)
        {
            let id = node.id;
            self.refresh(node, &client);
            return Ok(Outcome::Registered(id));
        }

        let key = self.valid_pre_auth_key(prefix, &secret_sha256)?;
        let id = match self.node_this_key_renews(&client, known, &key)? {
            Some(node) => {
                let converted = !key.tags.is_empty() && !node.is_tagged();
                let tags = if converted { key.tags.clone() } else { node.tags.clone() };
                let user = if key.tags.is_empty() { key.user } else { None };
                let user = if tags.is_empty() { user } else { node.user.filter(|_| !converted) };
                self.renew(
                    &node,
                    &client,
                    Ownership {
                        user,
                        tags,
                        method: RegisterMethod::AuthKey,
                        pre_auth_key: Some(key.id),
                        ephemeral: key.ephemeral || client.ephemeral,
                        granted: None,
                        wish: client.expiry,
                    },
                )
            }
            None => {
                if !client.hostinfo.request_tags.is_empty() {
                    let tags = client.hostinfo.request_tags.into_iter().collect();
                    return Err(Refusal::TagsNotPermitted { tags });
                }
                self.enter(
                    &client,
                    Ownership {
                        user: key.user.filter(|_| key.tags.is_empty()),
                        tags: key.tags.clone(),
                        method: RegisterMethod::AuthKey,
                        pre_auth_key: Some(key.id),
                        ephemeral: key.ephemeral || client.ephemeral,
                        granted: None,
                        wish: client.expiry,
                    },
                )?
            }
        };
        if !key.used {
            self.put_pre_auth_key(PreAuthKey { used: true, ..key });
        }
        Ok(Outcome::Registered(id))
    }

    /// The node that has the client's node key; refused when that is another machine's.
    pub(super) fn node_of_client(&self, client: &Registration) -> Result<Option<Arc<Node>>, Refusal> {
        match self.node_by_key(&client.node_key) {
            Some(node) if node.machine_key != client.machine_key => Err(Refusal::WrongMachine),
            node => Ok(node.cloned()),
        }
    }

    /// Which node of the machine a key speaks for: the one under this very node key, the one of the same owner, or,
    /// for a key that tags, the machine's only node (which then belongs to the tags).
    fn node_this_key_renews(
        &self,
        client: &Registration,
        known: Option<Arc<Node>>,
        key: &PreAuthKey,
    ) -> Result<Option<Arc<Node>>, Refusal> {
        if known.is_some() {
            return Ok(known);
        }
        let nodes = self.nodes_of_machine(&client.machine_key);
        if key.tags.is_empty() {
            return Ok(self.node_of_user_on(&nodes, key.user));
        }
        if let Some(tagged) = nodes.iter().find(|node| node.is_tagged()) {
            return Ok(Some(tagged.clone()));
        }
        match nodes.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(only.clone())),
            several => {
                let why = format!("{} users own nodes on this machine; delete all but one of them", several.len());
                Err(invalid(What::Node, why))
            }
        }
    }

    /// The user's own node first, then one the user registered and somebody tagged.
    pub(super) fn node_of_user_on(&self, nodes: &[Arc<Node>], user: Option<UserId>) -> Option<Arc<Node>> {
        let user = Some(user?);
        let of_user = |tagged: bool| nodes.iter().find(|node| node.user == user && node.is_tagged() == tagged);
        of_user(false).or_else(|| of_user(true)).cloned()
    }

    /// A new node: id, addresses and name. Refuses before it changes anything.
    pub(super) fn enter(&mut self, client: &Registration, owner: Ownership) -> Result<NodeId, Refusal> {
        let reach = self.reach_of(owner.user, &owner.tags);
        let chosen: Chosen = self.choose_addresses(&reach, client.seed)?;
        let given_name = self.unique_name(&names::label(&client.hostname), None);
        let facts = self.cluster_mut();
        facts.last_node += 1;
        let mut id = NodeId(facts.last_node);
        if mutants::is("node-id-reuse") {
            let highest = self.nodes().keys().next_back().map_or(0, |id| id.0);
            id = NodeId(highest + 1);
        }
        self.addresses_given(chosen, &reach);
        let node = Node {
            id,
            machine_key: client.machine_key,
            node_key: client.node_key,
            nl_key: client.nl_key,
            ipv4: chosen.ipv4,
            ipv6: chosen.ipv6,
            hostname: client.hostname.clone(),
            given_name,
            expiry: self.expiry_for(&owner),
            unapproved: self.must_wait(owner.method),
            user: owner.user,
            tags: owner.tags,
            register_method: owner.method,
            pre_auth_key: owner.pre_auth_key,
            ephemeral: owner.ephemeral,
            created_at: self.now(),
            hostinfo: client.hostinfo.clone(),
            capability_version: client.capability_version,
            ..Node::default()
        };
        self.put_node(self.with_approvals(node));
        Ok(id)
    }

    /// A known node authenticated again: it keeps id, addresses, name and routes.
    pub(super) fn renew(&mut self, node: &Node, client: &Registration, owner: Ownership) -> NodeId {
        let expiry = self.expiry_for(&owner);
        let mut next = Node {
            node_key: client.node_key,
            nl_key: client.nl_key,
            user: owner.user,
            tags: owner.tags,
            register_method: owner.method,
            pre_auth_key: owner.pre_auth_key,
            ephemeral: owner.ephemeral,
            expiry,
            // Whoever let it in this time may have been an administrator.
            unapproved: node.unapproved && owner.method == RegisterMethod::Oidc,
            ..node.clone()
        };
        self.take_facts(&mut next, client);
        self.put_node(self.with_approvals(next));
        node.id
    }

    /// A node that is in said hello again.
    pub(super) fn refresh(&mut self, node: &Node, client: &Registration) {
        let mut next = node.clone();
        self.take_facts(&mut next, client);
        let next = self.with_approvals(next);
        if next != *node {
            self.put_node(next);
        }
    }

    fn take_facts(&self, node: &mut Node, client: &Registration) {
        if !client.hostinfo.raw.is_empty() {
            node.hostinfo = client.hostinfo.clone();
        }
        if !client.hostname.is_empty() {
            self.take_hostname(node, client.hostname.clone());
        }
        if client.capability_version != 0 {
            node.capability_version = client.capability_version;
        }
    }

    /// The label follows the host name unless a person chose it.
    pub(super) fn take_hostname(&self, node: &mut Node, hostname: String) {
        let (old, new) = (names::label(&node.hostname), names::label(&hostname));
        node.hostname = hostname;
        if old != new && !node.renamed {
            node.given_name = self.unique_name(&new, Some(node.id));
        }
    }

    /// Whether a newcomer waits for an administrator. One made the key, or let the node in by hand: only who came by a
    /// login provider was seen by none.
    fn must_wait(&self, method: RegisterMethod) -> bool {
        self.settings().node_approval && self.feature_level() >= BEYOND && method == RegisterMethod::Oidc
    }

    /// Tagged nodes never expire. Others as the provider or else the settings say, or earlier when the client wants so.
    fn expiry_for(&self, owner: &Ownership) -> Option<Timestamp> {
        if !owner.tags.is_empty() {
            return None;
        }
        let now = self.now();
        let secs = self.settings().node_expiry_secs;
        let rule = owner.granted.or_else(|| (secs > 0).then(|| now.after(Duration::from_secs(secs))));
        let wish = owner.wish.filter(|wish| *wish > now);
        [rule, wish].into_iter().flatten().min()
    }
}

/// Whose a node becomes by a registration.
pub(super) struct Ownership {
    pub user: Option<UserId>,
    pub tags: std::collections::BTreeSet<String>,
    pub method: RegisterMethod,
    pub pre_auth_key: Option<PreAuthKeyId>,
    pub ephemeral: bool,
    /// What the login provider grants, in place of what the settings say.
    pub granted: Option<Timestamp>,
    /// The client's own; it only ever shortens.
    pub wish: Option<Timestamp>,
}

pub(super) fn check_client(client: &Registration) -> Result<(), Refusal> {
    if client.machine_key.is_zero() || client.node_key.is_zero() {
        return Err(invalid(What::Node, "a registration needs a machine key and a node key"));
    }
    check_text(What::Node, "host name", &client.hostname, 255)?;
    check_hostinfo(&client.hostinfo)
}

pub(super) fn check_hostinfo(hostinfo: &Hostinfo) -> Result<(), Refusal> {
    if hostinfo.raw.len() > HOSTINFO_BYTES_MAX {
        return Err(invalid(What::Node, format!("Hostinfo is longer than {HOSTINFO_BYTES_MAX} bytes")));
    }
    if hostinfo.routable_ips.len() > ROUTES_MAX {
        return Err(invalid(What::Route, format!("more than {ROUTES_MAX} routes are advertised")));
    }
    if hostinfo.request_tags.len() > 100 {
        return Err(invalid(What::Tag, "more than 100 tags are requested"));
    }
    check_text(What::Node, "operating system", &hostinfo.os, 255)?;
    check_text(What::Node, "client version", &hostinfo.ipn_version, 255)
}
