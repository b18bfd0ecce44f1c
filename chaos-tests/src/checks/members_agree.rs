//! Members at the same revision hold the same state, row for row.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use state_machine::{Revision, State};

use super::{Law, Sight};
use crate::sim::trace;

/// How many revisions are remembered: more than any member lags behind.
const REMEMBERED: usize = 20_000;

/// Remembers the first fingerprint seen of every revision.
#[derive(Default)]
pub struct MembersAgree {
    seen: BTreeMap<Revision, (u64, u64)>,
    prints: BTreeMap<u64, Print>,
}

/// The sum of the hashes of all rows: when rows move, only those are hashed anew.
struct Print {
    state: Arc<State>,
    rows: BTreeMap<Vec<u8>, u64>,
    sum: u64,
}

impl Default for Print {
    fn default() -> Print {
        let mut print = Print { state: Arc::default(), rows: BTreeMap::new(), sum: 0 };
        for (name, row) in print.state.rows() {
            print.sum = print.sum.wrapping_add(hash(&name, &row));
            print.rows.insert(name.clone(), hash(&name, &row));
        }
        print
    }
}

impl Print {
    fn follow(&mut self, member: u64, state: &Arc<State>) {
        for (name, row) in state.changed_rows(&self.state) {
            trace::remark(member, &name, row.as_deref());
            let before = match &row {
                Some(row) => {
                    let now = hash(&name, row);
                    self.sum = self.sum.wrapping_add(now);
                    self.rows.insert(name, now)
                }
                None => self.rows.remove(&name),
            };
            self.sum = self.sum.wrapping_sub(before.unwrap_or(0));
        }
        self.state = state.clone();
    }
}

/// The same in every process: the keys of this hasher are fixed.
fn hash(name: &[u8], row: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, row).hash(&mut hasher);
    hasher.finish()
}

impl Law for MembersAgree {
    fn name(&self) -> &'static str {
        "members agree"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (member, state) in sight.states {
            let print = self.prints.entry(*member).or_default();
            if Arc::ptr_eq(&print.state, state) {
                continue;
            }
            print.follow(*member, state);
            let revision = state.revision();
            trace::event("state", *member, &print.sum.to_le_bytes());
            let (other, first) = *self.seen.entry(revision).or_insert((*member, print.sum));
            if first != print.sum {
                return Err(format!("members {other} and {member} differ at revision {revision}"));
            }
            while self.seen.len() > REMEMBERED {
                self.seen.pop_first();
            }
        }
        Ok(())
    }

    /// Once more, and from nothing: what fingerprints of differences say is compared with hashes of everything.
    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        self.watch(sight)?;
        let revisions: BTreeMap<u64, u64> =
            sight.states.iter().map(|(member, state)| (*member, state.revision().0)).collect();
        let first = revisions.values().next();
        if revisions.values().any(|revision| Some(revision) != first) {
            return Err(format!("members rest at different revisions: {revisions:?}"));
        }
        let hashes: BTreeMap<u64, String> =
            sight.states.iter().map(|(member, state)| (*member, hex::encode(&state.hash()[..8]))).collect();
        let first = hashes.values().next();
        match hashes.values().all(|hash| Some(hash) == first) {
            true => Ok(()),
            false => Err(format!("members rest in different states: {hashes:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::staged::{Stage, create_user, founded};

    #[test]
    fn another_row_at_the_same_revision_is_noticed() {
        let (mut law, mut stage) = (MembersAgree::default(), Stage::default());
        let mut one = founded();
        let mut other = one.clone();
        stage.show(1, &one);
        stage.show(2, &other);
        law.watch(&stage.sight()).unwrap();
        create_user(&mut one, "anna");
        stage.show(1, &one);
        law.watch(&stage.sight()).unwrap();
        create_user(&mut other, "berta");
        stage.show(2, &other);
        assert!(law.watch(&stage.sight()).unwrap_err().contains("differ at revision 2"));
    }

    #[test]
    fn rows_that_come_and_go_leave_the_same_fingerprint_as_rows_that_never_were() {
        let mut wandering = Print::default();
        let (first, mut second) = (founded(), founded());
        create_user(&mut second, "anna");
        for state in [&first, &second, &first] {
            wandering.follow(1, &Arc::new(state.clone()));
        }
        let mut straight = Print::default();
        straight.follow(1, &Arc::new(first));
        assert_eq!(wandering.sum, straight.sum);
        assert_eq!(wandering.rows, straight.rows);
    }

    #[test]
    fn members_that_rest_apart_are_noticed() {
        let (mut law, mut stage) = (MembersAgree::default(), Stage::default());
        let mut ahead = founded();
        stage.show(1, &ahead);
        create_user(&mut ahead, "anna");
        stage.show(2, &ahead);
        assert!(law.end(&stage.sight()).unwrap_err().contains("different revisions"));
    }
}
