//! Two logs that share an entry share everything before it, and what was applied is never another.
//!
//! An entry is known by its checksum, which covers its term, its leader and what it carries.

use std::collections::BTreeMap;

use super::{Law, Sight};

/// How many entries are remembered: more than any member lags behind.
const REMEMBERED: usize = 20_000;

/// Remembers which entry came before every entry, and what was applied at every index.
#[derive(Default)]
pub struct LogMatching {
    before: BTreeMap<(u64, u32), u32>,
    applied: BTreeMap<u64, (u64, u32)>,
}

impl Law for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (member, log) in sight.logs {
            for pair in log.windows(2) {
                let (index, checksum) = (pair[1].index, pair[1].checksum);
                let first = *self.before.entry((index, checksum)).or_insert(pair[0].checksum);
                if first != pair[0].checksum {
                    return Err(format!("hs{member} has entry {index} as others do, but not the one before it"));
                }
            }
            let applied = sight.statuses.get(member).and_then(|status| status.applied).unwrap_or(0);
            for entry in log.iter().filter(|entry| entry.index <= applied) {
                let now = (entry.term, entry.checksum);
                let first = *self.applied.entry(entry.index).or_insert(now);
                if first != now {
                    return Err(format!(
                        "hs{member} applied entry {} of term {}, another member another one of term {}",
                        entry.index, entry.term, first.0
                    ));
                }
            }
        }
        while self.before.len() > REMEMBERED {
            self.before.pop_first();
        }
        while self.applied.len() > REMEMBERED {
            self.applied.pop_first();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raft::{LogFact, Status};

    use super::*;
    use crate::checks::staged::Stage;

    #[test]
    fn logs_that_meet_again_are_noticed() {
        let fact = |index, term, checksum| LogFact { index, term, checksum };
        let (mut law, mut stage) = (LogMatching::default(), Stage::default());
        stage.logs.insert(1, vec![fact(7, 2, 11), fact(8, 2, 12)]);
        stage.logs.insert(2, vec![fact(7, 2, 11), fact(8, 3, 99)]);
        law.watch(&stage.sight()).unwrap();
        stage.logs.insert(2, vec![fact(7, 1, 13), fact(8, 2, 12)]);
        assert!(law.watch(&stage.sight()).unwrap_err().contains("entry 8 as others do"));
    }

    #[test]
    fn an_applied_entry_does_not_change() {
        let fact = |index, term, checksum| LogFact { index, term, checksum };
        let (mut law, mut stage) = (LogMatching::default(), Stage::default());
        for member in [1, 2] {
            stage.statuses.insert(member, Status { applied: Some(8), ..Status::default() });
        }
        stage.logs.insert(1, vec![fact(8, 2, 12)]);
        law.watch(&stage.sight()).unwrap();
        stage.logs.insert(2, vec![fact(8, 3, 99)]);
        assert!(law.watch(&stage.sight()).is_err());
    }
}
