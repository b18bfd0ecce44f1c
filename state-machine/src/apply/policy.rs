//! The policy's text and its history, and what follows from it for nodes: owners of tags, routes that need nobody's
//! approval.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    model::*,
    outcome::{Answer, Outcome, Refusal, What},
    primaries,
    state::State,
};

use super::{check_text, features};

/// Headscale's and the control plane's own limit is far below.
const POLICY_BYTES_MAX: usize = 1024 * 1024;

/// How many versions are kept.
const HISTORY: usize = 100;

impl State {
    /// Puts a text in force over the version its author has seen.
    pub(super) fn replace_policy(&mut self, over: u64, text: Arc<str>, author: String) -> Answer {
        if self.policy().map_or(0, |policy| policy.number) != over {
            return Err(Refusal::Changed { what: What::Policy });
        }
        self.set_policy(text, author)
    }

    /// A text that means nothing, or whose own tests fail in this tailnet, does not enter force. The edge has looked
    /// before; here it is decided, at one place of the log. Whoever changes what the engine takes gives the change a
    /// feature level: all members must answer this entry alike.
    pub(super) fn set_policy(&mut self, text: Arc<str>, author: String) -> Answer {
        if text.len() > POLICY_BYTES_MAX {
            let why = format!("the text has {} bytes, at most {POLICY_BYTES_MAX} are allowed", text.len());
            return Err(Refusal::PolicyRejected { why });
        }
        check_text(What::Policy, "author", &author, 255)?;
        let rejected = |why: String| Refusal::PolicyRejected { why };
        ::policy::hujson::standardize(&text).map_err(|error| rejected(error.to_string()))?;
        if self.feature_level() >= features::POLICY {
            let parsed = ::policy::Policy::parse(&text).map_err(|error| rejected(error.to_string()))?;
            parsed.policy.check(&self.inventory()).map_err(|error| rejected(error.to_string()))?;
        }
        if self.policy().is_some_and(|policy| policy.text == text) {
            return Ok(Outcome::Unchanged);
        }

        let facts = self.cluster_mut();
        facts.last_policy += 1;
        let number = facts.last_policy;
        self.put_policy(PolicyVersion { number, text, author, set_at: self.now() });
        while self.tables.policies.len() > HISTORY
            && let Some((oldest, _)) = self.tables.policies.get_min().cloned()
        {
            self.tables.policies.remove(&oldest);
        }
        self.forget_ssh_approvals();
        let advertising: Vec<_> =
            self.nodes().values().filter(|node| !node.hostinfo.routable_ips.is_empty()).cloned().collect();
        for node in advertising {
            let approved = self.with_approvals((*node).clone());
            if approved != *node {
                self.put_node(approved);
            }
        }
        Ok(Outcome::Policy(number))
    }

    /// The node with the routes approved that the policy approves by itself. What was approved once stays approved.
    pub(super) fn with_approvals(&self, mut node: Node) -> Node {
        if self.feature_level() < features::POLICY {
            return node;
        }
        let Some(policy) = self.policy_in_force() else { return node };
        let user = node.user.filter(|_| !node.is_tagged()).and_then(|user| self.user(user));
        let user = user.map(|user| self.inventory_user(user));
        let facts = self.inventory_node(&node);
        let mut more: BTreeSet<_> = node.hostinfo.routable_ips.iter().map(ipnet::IpNet::trunc).collect();
        more.retain(|route| {
            !node.approved_routes.contains(route) && policy.auto_approves(&facts, user.as_ref(), route)
        });
        if more.iter().any(primaries::is_exit_route) {
            // An exit node serves both families or neither.
            more.insert("0.0.0.0/0".parse().expect("a prefix"));
            more.insert("::/0".parse().expect("a prefix"));
        }
        node.approved_routes.extend(more);
        node
    }

    /// Whether a user may bring a node in under these tags (`tagOwners`).
    pub(super) fn may_bring_tags(&self, user: &User, tags: &BTreeSet<String>) -> bool {
        let user = self.inventory_user(user);
        self.feature_level() >= features::POLICY
            && self.policy_in_force().is_some_and(|policy| tags.iter().all(|tag| policy.may_own_tag(&user, tag)))
    }

    /// Whether the policy knows these tags. Where none is set, every tag will do.
    pub(super) fn check_tags_exist(&self, tags: &BTreeSet<String>) -> Result<(), Refusal> {
        let Some(policy) = self.policy_in_force().filter(|_| self.feature_level() >= features::POLICY) else {
            return Ok(());
        };
        let unknown: Vec<String> = tags.iter().filter(|tag| !policy.has_tag(tag)).cloned().collect();
        match unknown.is_empty() {
            true => Ok(()),
            false => Err(Refusal::TagsNotPermitted { tags: unknown }),
        }
    }
}
