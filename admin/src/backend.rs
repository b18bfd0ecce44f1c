//! What the handlers ask of the cluster, so that they can be tried on a plain State.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use raft::{DrillRefused, Drills, Fault, TokenWish};
use state_machine::{Answer, Command, MemberId, Refusal, SealedSecret, State, Timestamp};

use crate::cluster::view::Standing;

/// Why the cluster did not do it.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// Nothing changed: no leader, or no majority behind it. Trying again is safe.
    NoQuorum(String),
    /// The answer did not come in time; the change may have happened.
    Unknown(String),
    /// The wish itself does not fit (no such member, the last voter, …).
    Unfit(String),
    /// Apply, or the leader before it, said no.
    Refused(Refusal),
    /// This member is stopping or broken.
    Stopped(String),
    /// Nothing changed: no changes are taken now, under this code and for this reason.
    Closed(u16, String),
    /// Nothing changed: something has to be done first, under this code and for this reason.
    Unready(u16, String),
}

/// What the cluster answered, or refused, or why nobody knows.
pub type Asked<T> = Result<Result<T, Refusal>, Failure>;

/// The cluster as the handlers see it.
pub trait Backend: Send + Sync + 'static {
    /// What this member has applied; may lag.
    fn latest(&self) -> Arc<State>;
    /// The same whenever it changes; slow watchers skip some.
    fn watch(&self) -> tokio::sync::watch::Receiver<Arc<State>>;
    /// Certainly current.
    fn confirm(&self) -> BoxFuture<'_, Result<Arc<State>, Failure>>;
    /// Returns once this member has applied it.
    fn propose<'a>(&'a self, by: &'a str, command: Command) -> BoxFuture<'a, Result<Answer, Failure>>;
    /// Who leads, who votes, who lags.
    fn standing(&self) -> Standing;
    /// A new ticket into the cluster, whole; shown once.
    fn create_join_token<'a>(&'a self, wish: TokenWish, by: &'a str) -> BoxFuture<'a, Result<String, Failure>>;
    /// Hands leadership to a member, or to the best one.
    fn transfer_leader(&self, to: Option<MemberId>) -> BoxFuture<'_, Result<(), Failure>>;
    /// The latest state as a backup file, and what to call it.
    fn full_backup(&self) -> Result<(String, Vec<u8>), Failure>;
    /// Makes the key that opens backups; shown once.
    fn create_recovery_key<'a>(&'a self, by: &'a str) -> BoxFuture<'a, Result<String, Failure>>;
    /// Has all members compare their states at one log index.
    fn compare_states(&self) -> BoxFuture<'_, Result<raft::Comparison, Failure>> {
        Box::pin(async { Err(Failure::Unfit("there are no members to compare".into())) })
    }
    /// Begins to read this member's disk through, unless that goes on already.
    fn begin_scrub(&self) -> Result<raft::Scrubbing, Failure> {
        self.scrubbing()
    }
    /// How that goes.
    fn scrubbing(&self) -> Result<raft::Scrubbing, Failure> {
        Err(Failure::Unfit("there is no disk to read".into()))
    }
    /// The door for drills of this member.
    fn drills(&self) -> Drills;
    /// Breaks something here on purpose for a while, within the session of a drill.
    fn inject(&self, drill: &str, fault: Fault, within: Duration) -> Result<(), DrillRefused>;
    /// A secret of the cluster as it lies in State.
    fn seal(&self, name: &str, secret: &[u8]) -> Result<SealedSecret, Failure>;
    /// Remembers that somebody has that key; false: the text is not the one of now.
    fn confirm_recovery_key<'a>(&'a self, text: &'a str, by: &'a str) -> BoxFuture<'a, Asked<bool>>;
    /// Authorities whose certificates members take.
    fn authorities(&self) -> Vec<raft::AuthorityFacts>;
    /// A new certificate for a member: serial and end.
    fn renew_certificate(&self, member: MemberId) -> BoxFuture<'_, Result<(String, Timestamp), Failure>>;
    /// Another authority; its generation.
    fn rotate_authority<'a>(&'a self, by: &'a str) -> BoxFuture<'a, Asked<u64>>;
    /// All secrets under a new data key; its id, and how many.
    fn rotate_data_key<'a>(&'a self, by: &'a str) -> BoxFuture<'a, Asked<(u32, usize)>>;
    /// The same with another sealing key at every member, and another recovery key.
    fn rotate_sealing_key<'a>(&'a self, by: &'a str) -> BoxFuture<'a, Asked<raft::Rotated>>;
    /// Takes a member out of the cluster, for ever. Refused when the rest could not go on, unless `force`.
    fn remove_member<'a>(&'a self, id: MemberId, force: bool, by: &'a str) -> BoxFuture<'a, Result<(), Failure>>;
}
