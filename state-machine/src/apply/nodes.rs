//! Nodes in the hands of people, and leaving by themselves.

use std::collections::BTreeSet;

use tailcfg::{MachineKey, NodeKey};

use crate::{
    model::*,
    names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{changed, invalid, not_found};

impl State {
    /// Ephemeral nodes are gone, others keep their place and need a new login.
    pub(super) fn log_out(&mut self, machine_key: &MachineKey, node_key: &NodeKey) -> Answer {
        let node = self.node_with_keys(machine_key, node_key)?;
        let id = node.id;
        if node.ephemeral {
            self.drop_node(id);
            return Ok(Outcome::LoggedOut { node: id, deleted: true });
        }
        if !self.is_expired(id) {
            let expiry = Some(self.now());
            self.put_node(Node { expiry, ..node });
        }
        Ok(Outcome::LoggedOut { node: id, deleted: false })
    }

    pub(super) fn expire_sooner(&mut self, machine_key: &MachineKey, node_key: &NodeKey, expiry: Timestamp) -> Answer {
        let node = self.node_with_keys(machine_key, node_key)?;
        if node.expiry.is_some_and(|stored| stored <= expiry) || self.is_expired(node.id) {
            return Ok(Outcome::Unchanged);
        }
        let (id, expiry) = (node.id, Some(expiry.max(self.now())));
        self.put_node(Node { expiry, ..node });
        Ok(Outcome::Node(id))
    }

    pub(super) fn rename_node(&mut self, id: NodeId, name: String) -> Answer {
        let node = self.known_node(id)?;
        names::check_label(&name).map_err(|why| invalid(What::Name, why))?;
        if self.node_by_name(&name).is_some_and(|other| other.id != id) {
            return Err(Refusal::Taken { what: What::Name, name });
        }
        self.replace_node(&node.clone(), Node { given_name: name, renamed: true, ..node })
    }

    /// A moment that is past means now: nobody needs to know of an earlier one.
    pub(super) fn set_node_expiry(&mut self, id: NodeId, expiry: Option<Timestamp>) -> Answer {
        let node = self.known_node(id)?;
        if self.is_expired(id) && expiry.is_some_and(|expiry| expiry <= self.now()) {
            return Ok(Outcome::Unchanged);
        }
        let expiry = expiry.map(|expiry| expiry.max(self.now()));
        self.replace_node(&node.clone(), Node { expiry, ..node })
    }

    pub(super) fn set_node_approval(&mut self, id: NodeId, approved: bool) -> Answer {
        let node = self.known_node(id)?;
        self.replace_node(&node.clone(), Node { unapproved: !approved, ..node })
    }

    pub(super) fn delete_node(&mut self, id: NodeId) -> Answer {
        self.known_node(id)?;
        self.drop_node(id);
        Ok(Outcome::Done)
    }

    /// The whole set. An owner is remembered while a node is tagged, so that removing the tags gives it back.
    pub(super) fn set_node_tags(&mut self, id: NodeId, tags: BTreeSet<String>) -> Answer {
        let node = self.known_node(id)?;
        names::check_tags(&tags).map_err(|why| invalid(What::Tag, why))?;
        self.check_tags_exist(&tags)?;
        if tags.is_empty() && node.user.is_none() {
            return Err(invalid(What::Tag, format!("node {id} has no owner and must keep at least one tag")));
        }
        let tagged = self.with_approvals(Node { tags, ..node.clone() });
        self.replace_node(&node, tagged)
    }

    pub(super) fn move_node(&mut self, id: NodeId, user: UserId) -> Answer {
        let node = self.known_node(id)?;
        self.user(user).ok_or_else(|| not_found(What::User, user))?;
        if node.is_tagged() {
            return Err(invalid(What::Node, format!("node {id} belongs to its tags, not to a user")));
        }
        self.replace_node(&node.clone(), Node { user: Some(user), ..node })
    }

    /// Gives every node the addresses the prefixes promise, and takes those away whose family the tailnet has not.
    pub(super) fn backfill_addresses(&mut self, seed: u64) -> Answer {
        // On a draft: the prefix may turn out too small in the middle.
        let mut draft = self.clone();
        let (wants_v4, wants_v6) = (self.settings().prefix_v4.is_some(), self.settings().prefix_v6.is_some());
        let mut count = 0;
        for node in self.nodes().values() {
            if node.ipv4.is_some() == wants_v4 && node.ipv6.is_some() == wants_v6 {
                continue;
            }
            let seed = seed.wrapping_add(node.id.0);
            let reach = draft.reach_of(node.user, &node.tags);
            let mut next = (**node).clone();
            let mut chosen = crate::allocate::Chosen::default();
            if !wants_v4 {
                next.ipv4 = None;
            } else if next.ipv4.is_none() {
                chosen.ipv4 = draft.choose_ipv4(&reach, seed)?;
                next.ipv4 = chosen.ipv4;
            }
            if !wants_v6 {
                next.ipv6 = None;
            } else if next.ipv6.is_none() {
                chosen.ipv6 = draft.choose_ipv6(&reach, seed)?;
                next.ipv6 = chosen.ipv6;
            }
            draft.addresses_given(chosen, &reach);
            draft.put_node(next);
            count += 1;
        }
        *self = draft;
        changed(count)
    }

    pub(super) fn known_node(&self, id: NodeId) -> Result<Node, Refusal> {
        self.node(id).map(|node| (**node).clone()).ok_or_else(|| not_found(What::Node, id))
    }

    pub(super) fn replace_node(&mut self, old: &Node, new: Node) -> Answer {
        if *old == new {
            return Ok(Outcome::Unchanged);
        }
        let id = new.id;
        self.put_node(new);
        Ok(Outcome::Node(id))
    }

    pub(super) fn node_with_keys(&self, machine_key: &MachineKey, node_key: &NodeKey) -> Result<Node, Refusal> {
        let node = self.node_by_key(node_key).ok_or_else(|| not_found(What::Node, node_key))?;
        match node.machine_key == *machine_key {
            true => Ok((**node).clone()),
            false => Err(Refusal::WrongMachine),
        }
    }
}
