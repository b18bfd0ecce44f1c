//! Every state any member ever shows passes its own examination.

use std::{collections::BTreeMap, panic::AssertUnwindSafe};

use state_machine::Revision;

use super::{Law, Sight};

/// Examines each state once.
#[derive(Default)]
pub struct InvariantsHold {
    last: BTreeMap<u64, Revision>,
}

impl Law for InvariantsHold {
    fn name(&self) -> &'static str {
        "invariants hold"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (member, state) in sight.states {
            let revision = state.revision();
            if self.last.insert(*member, revision) == Some(revision) {
                continue;
            }
            // `check` asserts; here a broken assertion is a finding with a seed, not the end of the run.
            std::panic::catch_unwind(AssertUnwindSafe(|| state.check())).map_err(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("an assertion failed");
                format!("member {member} at revision {revision}: {text}")
            })?;
        }
        Ok(())
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        self.last.clear();
        self.watch(sight)
    }
}
