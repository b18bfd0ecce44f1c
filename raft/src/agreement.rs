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
    /// Most others came to another State; or there is no majority for any.
    Differs,
}

/// The minute of the log's own time.
pub fn minute(state: &State) -> u64 {
    state.now().0 / MINUTE_MS
}

/// Compares each member's newest fingerprint that somebody else has too.
pub fn compare(told: &BTreeMap<MemberId, Vec<Fingerprint>>) -> BTreeMap<MemberId, Agreement> {
    let at = |revision: u64| {
        let all = told.values().flatten().filter(move |print| print.revision == revision);
        all.map(|print| print.hash).collect::<Vec<u64>>()
    };
    let judge = |prints: &Vec<Fingerprint>| {
        let mut newest_first = prints.clone();
        newest_first.sort_by_key(|print| std::cmp::Reverse(print.revision));
        for print in newest_first {
            let all = at(print.revision);
            if all.len() > 1 {
                let like_this = all.iter().filter(|hash| **hash == print.hash).count();
                return if like_this * 2 > all.len() { Agreement::Same } else { Agreement::Differs };
            }
        }
        Agreement::Unknown
    };
    told.iter().map(|(member, prints)| (*member, judge(prints))).collect()
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
        use Agreement::{Differs, Same, Unknown};
        let judged = |prints| compare(&told(prints)).into_values().collect::<Vec<_>>();
        assert_eq!(judged(&[(1, &[(10, 7)]), (2, &[(10, 7)]), (3, &[(10, 7)])]), [Same, Same, Same]);
        assert_eq!(judged(&[(1, &[(10, 7)]), (2, &[(10, 8)]), (3, &[(10, 7)])]), [Same, Differs, Same]);
        // The second is a minute behind; the third has told nothing yet.
        assert_eq!(judged(&[(1, &[(10, 7), (20, 9)]), (2, &[(10, 7)]), (3, &[])]), [Same, Same, Unknown]);
        assert_eq!(judged(&[(1, &[(10, 7)]), (2, &[(11, 7)])]), [Unknown, Unknown]);
        assert_eq!(judged(&[(1, &[(10, 7)]), (2, &[(10, 8)])]), [Differs, Differs], "no majority for either");
        assert_eq!(
            judged(&[(1, &[(10, 7), (20, 1)]), (2, &[(10, 7), (20, 2)]), (3, &[(10, 7), (20, 1)])]),
            [Same, Differs, Same]
        );
    }
}
