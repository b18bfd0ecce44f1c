//! SSH check mode: a node asks whether a connection may come in, a person says yes or no.
//!
//! An approval is remembered for the pair of nodes. How long it counts is the policy's to say, so whoever reads it
//! compares; a new policy makes all of them void.

use std::time::Duration;

use crate::{
    model::*,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{check_text, invalid, not_found};

/// How long the node waits (`ssh/tailssh`: 30 minutes for a delegated answer).
const WAITS: Duration = Duration::from_secs(30 * 60);
/// The longest check period a policy may name is 168 hours.
const APPROVAL_KEPT: Duration = Duration::from_secs(168 * 3_600);
/// So that a node that asks at another member hears it too.
const REJECTION_KEPT: Duration = Duration::from_secs(10 * 60);
/// Nodes that knock without end; the oldest check gives way.
const CHECKS_MAX: usize = 4_096;

impl State {
    /// The open check of the same connection, or a new one.
    pub(super) fn begin_ssh_check(&mut self, id: String, source: NodeId, target: NodeId, local_user: String) -> Answer {
        if self.node(source).is_none() || self.node(target).is_none() {
            let missing = if self.node(source).is_none() { source } else { target };
            return Err(not_found(What::Node, missing));
        }
        check_text(What::SshCheck, "user", &local_user, 255)?;
        if id.is_empty() || id.len() > 64 {
            return Err(invalid(What::SshCheck, "an id has 1 to 64 characters"));
        }
        let now = self.now();
        let open = self.ssh_checks_of(source, target).find(|check| {
            check.result == SshCheckResult::Waiting && check.local_user == local_user && check.expires_at > now
        });
        if let Some(open) = open {
            return Ok(Outcome::SshCheck(open.id.clone()));
        }
        if self.ssh_check(&id).is_some() {
            return Err(Refusal::Taken { what: What::SshCheck, name: id });
        }
        while self.ssh_checks().len() >= CHECKS_MAX
            && let Some(oldest) = self.ssh_checks().values().min_by_key(|check| (check.created_at, &check.id))
        {
            let oldest = oldest.id.clone();
            self.drop_ssh_check(&oldest);
        }
        self.put_ssh_check(SshCheck {
            id: id.clone(),
            source,
            target,
            local_user,
            created_at: now,
            expires_at: now.after(WAITS),
            result: SshCheckResult::Waiting,
        });
        Ok(Outcome::SshCheck(id))
    }

    pub(super) fn approve_ssh_check(&mut self, id: &str, by: String) -> Answer {
        let check = self.open_ssh_check(id, &by)?;
        let at = self.now();
        let expires_at = at.after(APPROVAL_KEPT);
        self.put_ssh_check(SshCheck { result: SshCheckResult::Approved { at, by }, expires_at, ..check });
        Ok(Outcome::Done)
    }

    pub(super) fn reject_ssh_check(&mut self, id: &str, by: String) -> Answer {
        let check = self.open_ssh_check(id, &by)?;
        let at = self.now();
        let expires_at = at.after(REJECTION_KEPT);
        self.put_ssh_check(SshCheck { result: SshCheckResult::Rejected { at, by }, expires_at, ..check });
        Ok(Outcome::Done)
    }

    /// What was approved under another policy has to be asked again.
    pub(super) fn forget_ssh_approvals(&mut self) {
        let approved = self.ssh_checks().values().filter(|check| check.approved_at().is_some());
        let ids: Vec<String> = approved.map(|check| check.id.clone()).collect();
        ids.iter().for_each(|id| self.drop_ssh_check(id));
    }

    fn open_ssh_check(&self, id: &str, by: &str) -> Result<SshCheck, Refusal> {
        check_text(What::SshCheck, "name of who decides", by, 255)?;
        let check = self.ssh_check(id).ok_or_else(|| not_found(What::SshCheck, id))?;
        match check.result == SshCheckResult::Waiting && check.expires_at > self.now() {
            true => Ok((**check).clone()),
            false => Err(invalid(What::SshCheck, "it was decided already or has expired; see: hsraft ssh list")),
        }
    }
}
