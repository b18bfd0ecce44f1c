//! openraft's log on the [`Store`].
//!
//! Newest entries are kept in memory as well: what was appended can be read at once, before the writer has come to
//! it, and replication and apply seldom have to ask the database. The facts (first, last, vote) are kept here too and
//! the database only remembers them.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard},
};

use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};

use state_machine::mutants;

use crate::{
    encode::{Ballot, Position, encode, entry_from_row, entry_to_row},
    store::{Change, Recovered, Store, Table, WeakStore, key},
    types::{Entry, LogId, Types, Vote},
};

/// Bytes of one AppendEntries message. openraft counts entries only, gRPC counts bytes.
const MESSAGE_BYTES: usize = 1 << 20;

/// Bytes of written entries that are kept in memory.
const TAIL_BYTES: usize = 8 << 20;

/// One entry of a member's log, for comparing logs of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFact {
    pub index: u64,
    pub term: u64,
    /// Of the row on disk, which holds the entry whole.
    pub checksum: u32,
}

/// What one entry costs beside its command.
const ENTRY_BYTES: usize = 96;

#[derive(Clone)]
pub struct Log {
    store: Store,
    facts: Arc<Mutex<Facts>>,
}

/// A [`Log`] that does not keep the database open.
pub struct WeakLog {
    store: WeakStore,
    facts: Arc<Mutex<Facts>>,
}

impl WeakLog {
    /// Nothing once the database is closed, or is about to be.
    pub fn upgrade(&self) -> Option<Log> {
        Some(Log { store: self.store.upgrade()?, facts: self.facts.clone() })
    }
}

#[derive(Debug, Default)]
struct Facts {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The newest entries without a gap, by index, with the number of the job that writes them.
    tail: BTreeMap<u64, (Entry, u64)>,
    tail_bytes: usize,
    /// Number of the last job.
    jobs: u64,
}

fn size(entry: &Entry) -> usize {
    ENTRY_BYTES
        + match &entry.payload {
            EntryPayload::Normal(payload) => payload.0.len(),
            _ => 0,
        }
}

impl Facts {
    fn push(&mut self, entry: Entry) {
        self.tail_bytes += size(&entry);
        self.tail.insert(entry.log_id.index, (entry, self.jobs));
    }

    /// Forgets the oldest entries that can be read from the database.
    fn trim(&mut self, written: u64) {
        while self.tail_bytes > TAIL_BYTES
            && let Some(first) = self.tail.first_entry()
            && first.get().1 <= written
        {
            self.tail_bytes -= size(&first.remove().0);
        }
    }

    fn drop_where(&mut self, keep: impl Fn(u64) -> bool) {
        self.tail.retain(|index, _| keep(*index));
        self.tail_bytes = self.tail.values().map(|(entry, _)| size(entry)).sum();
    }
}

impl Log {
    pub fn new(store: Store, recovered: &Recovered) -> Log {
        let facts = Facts {
            vote: recovered.vote,
            committed: recovered.committed,
            purged: recovered.purged,
            last: recovered.last,
            ..Facts::default()
        };
        Log { store, facts: Arc::new(Mutex::new(facts)) }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("nobody panics while holding the facts")
    }

    /// For whoever outlives the engine.
    pub fn weak(&self) -> WeakLog {
        WeakLog { store: self.store.weak(), facts: self.facts.clone() }
    }

    /// The newest entries, oldest first, at most `count` of them.
    pub fn newest(&self, count: u64) -> io::Result<Vec<LogFact>> {
        let end = self.facts().last.map_or(0, |last| last.index + 1);
        let fact = |entry: &Entry| LogFact {
            index: entry.log_id.index,
            term: entry.log_id.leader_id.term,
            checksum: crc32c::crc32c(&entry_to_row(entry)),
        };
        Ok(self.read(end.saturating_sub(count), end, usize::MAX)?.iter().map(fact).collect())
    }

    /// Entries from `from` up to and without `to`, at most `bytes` of them but at least one.
    fn read(&self, from: u64, to: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        // The database may still hold what was truncated or purged a moment ago; the facts do not.
        let (from, to, tail) = {
            let facts = self.facts();
            let first = facts.purged.map_or(0, |purged| purged.index + 1);
            let from = from.max(first);
            let to = to.min(facts.last.map_or(0, |last| last.index + 1));
            let tail: Vec<Entry> = if from < to {
                facts.tail.range(from..to).map(|(_, (entry, _))| entry.clone()).collect()
            } else {
                Vec::new()
            };
            (from, to, tail)
        };
        if from >= to {
            return Ok(Vec::new());
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut left = bytes;
        let until = tail.first().map_or(to, |entry| entry.log_id.index);
        self.store.read_log(from, until, |row| {
            let entry = entry_from_row(row)?;
            left = left.saturating_sub(size(&entry));
            entries.push(entry);
            Ok(left > 0)
        })?;
        for entry in tail {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(size(&entry));
            entries.push(entry);
        }
        let gap = entries.windows(2).any(|pair| pair[0].log_id.index + 1 != pair[1].log_id.index);
        if gap {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the log has a hole"));
        }
        Ok(entries)
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.facts().vote)
    }

    /// Never starts later than asked: entries purged under a slow replication must not become a hole in a follower's
    /// log. Nothing at all is taken for a heartbeat and asked again.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read(start, end, MESSAGE_BYTES)?;
        if entries.first().is_some_and(|entry| entry.log_id.index != start) {
            tracing::debug!(start, "the log was purged under a reader");
            return Ok(Vec::new());
        }
        Ok(entries)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let facts = self.facts();
        Ok(LogState { last_purged_log_id: facts.purged, last_log_id: facts.last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        world::failpoint!("vote.save.before", Err);
        if mutants::is("vote-not-persisted") {
            self.facts().vote = Some(*vote);
            return Ok(());
        }
        let row = encode(&Ballot::from(*vote));
        self.store.write_vote(*vote, Change::Put(Table::Meta, key::VOTE.into(), row)).await?;
        world::failpoint!("vote.save.after", Err);
        self.facts().vote = Some(*vote);
        Ok(())
    }

    /// Only a hint that lets a start apply again before it hears from a leader; not synced.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        world::failpoint!("committed.save", Err);
        let row = encode(&committed.map(Position::from));
        self.store.write(vec![Change::Put(Table::Meta, key::COMMITTED.into(), row)]).await?;
        self.facts().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.facts().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        world::failpoint!("log.append.before", Err);
        let mut changes = Vec::new();
        let (number, last) = {
            let mut facts = self.facts();
            facts.jobs += 1;
            for entry in entries {
                changes.push(Change::Put(Table::Log, entry.log_id.index.to_be_bytes().into(), entry_to_row(&entry)));
                facts.last = Some(entry.log_id);
                facts.push(entry);
            }
            facts.trim(self.store.written());
            (facts.jobs, facts.last)
        };
        match last.filter(|_| !changes.is_empty()) {
            Some(last) => {
                self.store.append(changes, last, number, flushed).await?;
                world::failpoint!("log.append.after", Err);
                Ok(())
            }
            None => {
                flushed.io_completed(Ok(()));
                Ok(())
            }
        }
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        world::failpoint!("log.truncate.before", Err);
        let from = last.map_or(0, |last| last.index + 1);
        let (number, last) = {
            let mut facts = self.facts();
            facts.jobs += 1;
            facts.drop_where(|index| index < from);
            if facts.last.is_some_and(|known| known.index >= from) {
                facts.last = last.max(facts.purged);
            }
            (facts.jobs, facts.last)
        };
        let change = Change::DeleteRange(Table::Log, from.to_be_bytes().into(), u64::MAX.to_be_bytes().into());
        self.store.truncate(change, last, number).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        world::failpoint!("log.purge.before", Err);
        {
            let mut facts = self.facts();
            facts.drop_where(|index| index > upto.index);
            facts.purged = facts.purged.max(Some(upto));
            facts.last = facts.last.max(Some(upto));
        }
        let row = encode(&Position::from(upto));
        let (from, to) = (0u64.to_be_bytes().into(), (upto.index + 1).to_be_bytes().into());
        let mut changes =
            vec![Change::Put(Table::Meta, key::PURGED.into(), row), Change::DeleteRange(Table::Log, from, to)];
        if mutants::is("purged-not-persisted") {
            changes.remove(0);
        }
        self.store.write(changes).await?;
        world::failpoint!("log.purge.after", Err);
        Ok(())
    }
}
