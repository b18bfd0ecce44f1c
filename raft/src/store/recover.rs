//! What a start finds in the database, and what it refuses.
//!
//! Every entry of the log is read once and its checksum, index and order are compared. A log is short (it is cut after
//! each snapshot), so this takes milliseconds.

use rocksdb::IteratorMode;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use state_machine::State;

use super::{Database, Mark, OpenError, Table, key, other};
use crate::{
    encode::{self, Ballot, Position, StoredSeating},
    types::{LogId, StoredMembership, Vote},
};

/// Whose database this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub cluster_id: String,
    pub member: u64,
}

/// Everything a database holds but the entries themselves.
#[derive(Debug, Default)]
pub struct Recovered {
    pub marker: Option<Marker>,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// The last entry, or what was purged last.
    pub last: Option<LogId>,
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    pub state: StateBox,
}

/// The State as loaded; only there so that [`Recovered`] can be printed.
#[derive(Default)]
pub struct StateBox(pub State);

impl std::fmt::Debug for StateBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State at revision {}", self.0.revision())
    }
}

impl Recovered {
    /// Nobody ever took part in anything with this database.
    pub fn is_empty(&self) -> bool {
        self.vote.is_none() && self.last.is_none() && self.applied.is_none()
    }

    /// The last entry this member holds, be it in the log or only as its effect: a snapshot that was installed is
    /// synced before the log it makes needless is purged, and power may fail in between.
    pub fn end(&self) -> Option<LogId> {
        self.last.max(self.applied)
    }
}

fn integrity(what: impl Into<String>) -> OpenError {
    OpenError::Integrity(what.into())
}

pub(super) fn recover(database: &Database, mark: &Mark) -> Result<Recovered, OpenError> {
    let purged = meta::<Position>(database, key::PURGED)?.map(LogId::from);
    let last = check_log(database, purged, mark)?.or(purged);
    if mark.last.is_some_and(|synced| last.is_none_or(|last| last.index < synced.index)) {
        return Err(integrity(format!(
            "the log ends at {} but was synced up to {}: its tail is lost",
            show(last),
            show(mark.last)
        )));
    }
    let vote = meta::<Ballot>(database, key::VOTE)?.map(Vote::from);
    if mark.vote.is_some_and(|synced| !vote.is_some_and(|vote| vote >= synced)) {
        return Err(integrity("a vote that was synced is lost"));
    }
    let membership = meta::<StoredSeating>(database, key::MEMBERSHIP)?.unwrap_or_default();
    Ok(Recovered {
        marker: meta(database, key::MARKER)?,
        vote,
        committed: meta::<Option<Position>>(database, key::COMMITTED)?.flatten().map(Into::into),
        purged,
        last,
        applied: meta::<Position>(database, key::APPLIED)?.map(Into::into),
        membership: if membership.seating.voters.is_empty() {
            StoredMembership::default()
        } else {
            membership.try_into().map_err(|error| integrity(format!("the membership is damaged: {error}")))?
        },
        state: StateBox(load_state(database)?),
    })
}

fn show(id: Option<LogId>) -> String {
    id.map_or_else(|| "nothing".into(), |id| format!("index {} of term {}", id.index, id.leader_id.term))
}

fn meta<T: DeserializeOwned>(database: &Database, name: &[u8]) -> Result<Option<T>, OpenError> {
    let row = database.db.get_pinned_cf(database.table(Table::Meta), name).map_err(damaged)?;
    row.map(|row| encode::decode(&row))
        .transpose()
        .map_err(|error| integrity(format!("{} is damaged: {error}", String::from_utf8_lossy(name))))
}

pub(super) fn damaged(error: rocksdb::Error) -> OpenError {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => integrity(format!("the database is damaged: {error}")),
        _ => OpenError::Io(other(error)),
    }
}

/// Reads all entries; the last one's id.
fn check_log(database: &Database, purged: Option<LogId>, mark: &Mark) -> Result<Option<LogId>, OpenError> {
    let first = purged.map_or(0, |purged| purged.index + 1);
    let mut last = purged;
    let mut found = false;
    for (expected, row) in (first..).zip(database.db.iterator_cf(database.table(Table::Log), IteratorMode::Start)) {
        let (name, value) = row.map_err(damaged)?;
        let index =
            <[u8; 8]>::try_from(&*name).map(u64::from_be_bytes).map_err(|_| integrity("a log key is damaged"))?;
        let entry = encode::entry_from_row(&value)
            .map_err(|error| integrity(format!("log entry {index} is damaged: {error}")))?;
        if index != expected || entry.log_id.index != index {
            return Err(integrity(format!("log entry {expected} is missing, {index} follows")));
        }
        if last.is_some_and(|last| entry.log_id < last) {
            return Err(integrity(format!("log entry {index} is older than the one before it")));
        }
        if mark.last.is_some_and(|synced| synced.index == index && synced != entry.log_id) {
            return Err(integrity(format!("log entry {index} is not the one that was synced")));
        }
        last = Some(entry.log_id);
        found = true;
    }
    Ok(last.filter(|_| found))
}

fn load_state(database: &Database) -> Result<State, OpenError> {
    let mut rows = Vec::new();
    for row in database.db.iterator_cf(database.table(Table::State), IteratorMode::Start) {
        rows.push(row.map_err(damaged)?);
    }
    if rows.is_empty() {
        return Ok(State::default());
    }
    State::from_rows(rows).map_err(|error| integrity(format!("a row of the state is damaged: {error}")))
}
