//! The policy's text and its history.

use std::sync::Arc;

use crate::{
    model::*,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::check_text;

/// Headscale's and the control plane's own limit is far below.
const POLICY_BYTES_MAX: usize = 1024 * 1024;

/// How many versions are kept.
const HISTORY: usize = 100;

impl State {
    /// Whether the text means something is checked before it is proposed: what a program accepts grows with every
    /// release, and all members must answer this entry alike. That it can be read at all is checked here.
    pub(super) fn set_policy(&mut self, text: Arc<str>, author: String) -> Answer {
        if text.len() > POLICY_BYTES_MAX {
            let why = format!("the text has {} bytes, at most {POLICY_BYTES_MAX} are allowed", text.len());
            return Err(Refusal::PolicyRejected { why });
        }
        check_text(What::Policy, "author", &author, 255)?;
        ::policy::hujson::standardize(&text).map_err(|error| Refusal::PolicyRejected { why: error.to_string() })?;
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
        Ok(Outcome::Policy(number))
    }
}
