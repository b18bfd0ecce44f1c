//! Members at the same revision hold the same state, byte for byte.

use std::collections::BTreeMap;

use state_machine::Revision;

use super::{Law, Sight};
use crate::sim::trace;

/// How many revisions are remembered: more than any member lags behind.
const REMEMBERED: usize = 20_000;

/// Remembers the first hash seen of every revision.
#[derive(Default)]
pub struct MembersAgree {
    seen: BTreeMap<Revision, (u64, [u8; 32])>,
    last: BTreeMap<u64, Revision>,
}

impl Law for MembersAgree {
    fn name(&self) -> &'static str {
        "members agree"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (member, state) in sight.states {
            let revision = state.revision();
            if self.last.insert(*member, revision) == Some(revision) {
                continue;
            }
            let hash = state.hash();
            trace::event("state", *member, &hash);
            let (other, first) = self.seen.entry(revision).or_insert((*member, hash));
            if *first != hash {
                return Err(format!("members {other} and {member} differ at revision {revision}"));
            }
            while self.seen.len() > REMEMBERED {
                self.seen.pop_first();
            }
        }
        Ok(())
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        self.last.clear();
        self.watch(sight)?;
        let revisions: BTreeMap<u64, u64> =
            sight.states.iter().map(|(member, state)| (*member, state.revision().0)).collect();
        let first = revisions.values().next();
        match revisions.values().all(|revision| Some(revision) == first) {
            true => Ok(()),
            false => Err(format!("members rest at different revisions: {revisions:?}")),
        }
    }
}
