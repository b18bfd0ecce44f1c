//! The states members show pass their own examination.
//!
//! It looks at every row, so not every state has its turn: one in [`EVERY`] revisions (whichever member comes to it
//! first; all are equal at equal revisions), the first of every life, and the last.

use std::{collections::BTreeMap, panic::AssertUnwindSafe};

use state_machine::{Revision, State};

use super::{Law, Sight};

const EVERY: u64 = 40;

/// Examines some states.
#[derive(Default)]
pub struct InvariantsHold {
    examined: Revision,
    last: BTreeMap<u64, Revision>,
}

impl Law for InvariantsHold {
    fn name(&self) -> &'static str {
        "invariants hold"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        self.last.retain(|member, _| sight.states.contains_key(member));
        for (member, state) in sight.states {
            let revision = state.revision();
            let comes_up = self.last.insert(*member, revision).is_none();
            if comes_up || revision.0 >= self.examined.0 + EVERY {
                self.examined = self.examined.max(revision);
                examine(*member, state)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        sight.states.iter().try_for_each(|(member, state)| examine(*member, state))
    }
}

fn examine(member: u64, state: &State) -> Result<(), String> {
    // `check` asserts; here a broken assertion is a finding with a seed, not the end of the run.
    std::panic::catch_unwind(AssertUnwindSafe(|| state.check())).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("an assertion failed");
        format!("member {member} at revision {}: {text}", state.revision())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::staged::{Stage, create_user, founded};

    #[test]
    fn a_state_that_lost_a_row_is_noticed() {
        let mut state = founded();
        create_user(&mut state, "anna");
        let mut stage = Stage::default();
        stage.show(1, &state);
        InvariantsHold::default().watch(&stage.sight()).unwrap();
        // The counter of users (in the row of the cluster's facts) forgets the user.
        let before = founded();
        let facts = before.rows().find(|(name, _)| name == &[2]).unwrap();
        let rows = state.rows().map(|row| if row.0 == [2] { facts.clone() } else { row });
        stage.show(1, &State::from_rows(rows.collect::<Vec<_>>()).unwrap());
        assert!(InvariantsHold::default().end(&stage.sight()).is_err());
    }
}
