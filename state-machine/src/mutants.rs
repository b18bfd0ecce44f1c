//! Errors put in on purpose, one at a time, to see whether the simulation finds them (`cargo sim mutants`).
//!
//! Only a build with the feature `mutants` knows any; in every other build [`is`] is the constant `false` and the
//! compiler throws the errors away. A mutant lies where the real error would lie.

/// Every mutant: its name, and what it gets wrong.
pub const ALL: &[(&str, &str)] = &[
    ("sub-quorum-commit", "the leader counts a follower that did not answer"),
    ("ack-before-fsync", "entries are acknowledged before they are on disk"),
    ("vote-not-persisted", "a vote is answered and not written"),
    ("apply-index-outside-batch", "the applied index is written before the rows that belong to it"),
    ("purged-not-persisted", "the log is cut and nothing says where it begins"),
    ("read-without-quorum", "a leader answers reads without asking whether it still leads"),
    ("leader-restore", "a leader that comes back goes on in its old term"),
    ("answer-before-applied", "a member answers before it has applied what it answers"),
    ("retry-without-request-id", "a forwarder tries again under a new request id"),
    ("snapshot-misses-a-table", "snapshots leave the pre-auth keys out"),
    ("snapshot-keeps-old-rows", "an installed snapshot leaves rows behind that it does not have"),
    ("rollback-not-noticed", "a folder from an earlier day is started"),
    ("wall-clock-on-members", "apply takes the time from its own member's clock"),
    ("node-id-reuse", "the id of a deleted node is given again"),
    ("key-used-twice", "a one-use key is not looked at when the log is applied"),
    ("token-used-twice", "a join token is not looked at when the log is applied"),
    ("hash-order", "an address is chosen in the order of a hash map"),
    ("address-given-twice", "the address of a living node is given again"),
    ("late-goodbye", "the end of an old stream ends a newer one"),
    ("goodbye-lost", "the end of a stream is not told"),
    ("delta-dropped", "a session skips the delta after a jump of its member"),
    ("authority-settles-early", "an authority that was replaced is distrusted before every member has moved"),
    ("backup-skips-an-entry", "a piece of the log is archived without its last entry"),
    ("policy-not-told", "maps are not drawn anew when the policy changes"),
];

#[cfg(feature = "mutants")]
static CHOSEN: std::sync::OnceLock<&'static str> = std::sync::OnceLock::new();

/// Switches one mutant on, for the rest of the process. False: there is none of this name, or one was chosen before.
#[cfg(feature = "mutants")]
pub fn choose(name: &str) -> bool {
    ALL.iter().find(|(known, _)| *known == name).is_some_and(|(known, _)| CHOSEN.set(known).is_ok())
}

/// Whether this mutant is at work.
#[cfg(feature = "mutants")]
pub fn is(name: &str) -> bool {
    CHOSEN.get().is_some_and(|chosen| *chosen == name)
}

/// Whether this mutant is at work: never, in this build.
#[cfg(not(feature = "mutants"))]
pub const fn is(_name: &str) -> bool {
    false
}

/// A number below `bound` that is another each time, as the order of a hash map is: every map has keys of its own.
pub fn hash_order(bound: u128) -> u128 {
    static MAPS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    u128::from(MAPS.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) % bound
}
