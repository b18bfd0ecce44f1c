//! Whether all members came to the same State.
//!
//! Each takes a fingerprint of its State at the first entry of every minute of the log's own time: the same entry at every
//! member, however entries were batched, and nothing extra is written. Fingerprints travel with the reports of `board.rs`.
//! A member whose fingerprint differs from the others' has a damaged memory or disk, or another program.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use state_machine::{MemberId, State};
use tokio::sync::watch;

use crate::{cluster::Core, store::Store};

const MINUTE_MS: u64 = 60_000;
/// Fingerprints a member tells of: members come to a new minute within some seconds of each other.
pub const TOLD: usize = 3;

/// The State at one revision, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    pub revision: u64,
    /// The first eight bytes of the State's hash.
    pub hash: u64,
}

/// What comparing came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    /// Nobody else has told of a revision this member told of.
    #[default]
    Unknown,
    Same,
    /// A majority of the voters came to another State: this member is wrong.
    Differs,
    /// There are several States, and no majority of the voters for any: nobody can say who is wrong.
    NoMajority,
}

impl Agreement {
    /// Whether nothing speaks against this member's State.
    pub fn is_good(self) -> bool {
        matches!(self, Agreement::Unknown | Agreement::Same)
    }
}

/// The author of an `Elapse` at which every member takes a fingerprint, whatever the minute.
pub const ASKED_BY: &str = "verify";

/// The minute of the log's own time.
pub fn minute(state: &State) -> u64 {
    state.now().0 / MINUTE_MS
}

/// Compares each member's newest fingerprint that somebody else has too. A majority is one of `voters`; of those who
/// told when the voters are not known.
pub fn compare(told: &BTreeMap<MemberId, Vec<Fingerprint>>, voters: &[MemberId]) -> BTreeMap<MemberId, Agreement> {
    let at = |revision: u64| -> Vec<(MemberId, u64)> {
        let prints = told.iter().flat_map(|(member, prints)| prints.iter().map(|print| (*member, print)));
        prints.filter(|(_, print)| print.revision == revision).map(|(member, print)| (member, print.hash)).collect()
    };
    let judge = |prints: &Vec<Fingerprint>| {
        let mut newest_first = prints.clone();
        newest_first.sort_by_key(|print| std::cmp::Reverse(print.revision));
        for print in newest_first {
            let all = at(print.revision);
            if all.len() > 1 {
                return verdict(print.hash, &all, voters);
            }
        }
        Agreement::Unknown
    };
    told.iter().map(|(member, prints)| (*member, judge(prints))).collect()
}

fn verdict(mine: u64, all: &[(MemberId, u64)], voters: &[MemberId]) -> Agreement {
    if all.iter().all(|(_, hash)| *hash == mine) {
        return Agreement::Same;
    }
    let quorum = if voters.is_empty() { all.len() } else { voters.len() } / 2 + 1;
    let mut votes = BTreeMap::<u64, usize>::new();
    for (_, hash) in all.iter().filter(|(member, _)| voters.is_empty() || voters.contains(member)) {
        *votes.entry(*hash).or_default() += 1;
    }
    match votes.iter().find(|(_, votes)| **votes >= quorum) {
        Some((hash, _)) if *hash == mine => Agreement::Same,
        Some(_) => Agreement::Differs,
        None => Agreement::NoMajority,
    }
}

/// Takes fingerprints as long as the member lives, away from the tasks of Raft.
pub async fn take(core: Arc<Core>, mut samples: watch::Receiver<Option<Arc<State>>>, store: Store) {
    while samples.changed().await.is_ok() {
        let Some(state) = samples.borrow_and_update().clone() else { continue };
        let revision = state.revision().0;
        let Ok(hash) = store.heavy(move || state.hash()).await else { return };
        let hash = u64::from_be_bytes(*hash.first_chunk().expect("32 bytes have a first 8"));
        core.boards.tell_fingerprint(Fingerprint { revision, hash });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(prints: &[(u64, &[(u64, u64)])]) -> BTreeMap<MemberId, Vec<Fingerprint>> {
        let print = |(revision, hash): &(u64, u64)| Fingerprint { revision: *revision, hash: *hash };
        prints.iter().map(|(member, prints)| (MemberId(*member), prints.iter().map(print).collect())).collect()
    }

    #[test]
    fn the_odd_one_out_is_found_at_a_revision_both_have() {
        use Agreement::{Differs, NoMajority, Same, Unknown};
        let judged = |prints| compare(&told(prints), &[]).into_values().collect::<Vec<_>>();
        assert_eq!(judged(&[(1, &[(10, 7)]), (2, &[(10, 7)]), (3, &[(10, 7)])]), [Same, Same, Same]);
        assert_eq!(judged(&[(1, &[(10, 7)]), (2, &[(10, 8)]), (3, &[(10, 7)])]), [Same, Differs, Same]);
        // The second is a minute behind; the third has told nothing yet.
        assert_eq!(judged(&[(1, &[(10, 7), (20, 9)]), (2, &[(10, 7)]), (3, &[])]), [Same, Same, Unknown]);
        assert_eq!(judged(&[(1, &[(10, 7)]), (2, &[(11, 7)])]), [Unknown, Unknown]);
        assert_eq!(judged(&[(1, &[(10, 7)]), (2, &[(10, 8)])]), [NoMajority, NoMajority]);
        assert_eq!(
            judged(&[(1, &[(10, 7), (20, 1)]), (2, &[(10, 7), (20, 2)]), (3, &[(10, 7), (20, 1)])]),
            [Same, Differs, Same]
        );
    }

    #[test]
    fn a_majority_is_one_of_the_voters() {
        use Agreement::{Differs, NoMajority, Same};
        let voters = [1, 2, 3, 4, 5].map(MemberId);
        let judged = |prints, voters| compare(&told(prints), voters).into_values().collect::<Vec<_>>();
        let two_of_five: &[(u64, &[(u64, u64)])] = &[(1, &[(10, 7)]), (2, &[(10, 7)]), (3, &[(10, 8)])];
        assert_eq!(judged(two_of_five, &voters), [NoMajority; 3], "the two silent ones might be of the other mind");
        assert_eq!(judged(two_of_five, &voters[..3]), [Same, Same, Differs]);
        let learner: &[(u64, &[(u64, u64)])] = &[(1, &[(10, 7)]), (9, &[(10, 8)])];
        assert_eq!(judged(learner, &voters[..1]), [Same, Differs], "a learner has no say");
    }
}
