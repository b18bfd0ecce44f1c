//! Reads everything a database holds from the disk itself and compares every checksum on the way.
//!
//! A second, read-only opening of the same files is used: it has caches of its own, so that nothing is taken for good
//! because it was read long ago, and it asks the disk and not the page cache where the file system allows that.
//! Opening replays the write-ahead logs and so checks their records; iterating checks every block; log entries and
//! rows of the State are decoded besides.

use std::{path::Path, sync::Arc};

use rocksdb::{DB, Direction, IteratorMode, ReadOptions};
use state_machine::State;
use world::Disk;

use super::{OpenError, Table, key, other, recover::damaged};
use crate::encode::{self, Position};

/// What was read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub entries: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// Name and value, as stored.
type Row = (Box<[u8]>, Box<[u8]>);

/// A database on its way past the reader's eyes.
pub struct Scrubber {
    db: DB,
    /// Tables still to read; the last one is being read.
    tables: Vec<Table>,
    from: Vec<u8>,
    next_entry: u64,
    tally: Tally,
    rows: Vec<Row>,
}

/// A compaction may take a file away between the listing and the opening.
const TRIES: usize = 5;

impl Scrubber {
    /// Opens the database of the member's folder once more.
    pub fn open(folder: &Path, disk: &Arc<dyn Disk>) -> Result<Scrubber, OpenError> {
        let path = disk.database_path(&folder.join("db"));
        let env = disk.database_env();
        let open = |direct: bool| {
            let mut options = rocksdb::Options::default();
            options.set_paranoid_checks(true);
            options.set_use_direct_reads(direct);
            if let Some(env) = &env {
                options.set_env(env);
            }
            DB::open_cf_for_read_only(&options, &path, Table::ALL.map(Table::name), false)
        };
        // File systems in memory know no direct reads.
        let mut opened = open(env.is_none()).or_else(|_| open(false));
        for _ in 0..TRIES {
            if opened.is_ok() {
                break;
            }
            opened = open(false);
        }
        let db = opened.map_err(damaged)?;
        let mut scrubber = Scrubber {
            db,
            tables: vec![Table::State, Table::Meta, Table::Log],
            from: Vec::new(),
            next_entry: 0,
            tally: Tally::default(),
            rows: Vec::new(),
        };
        if let Some(purged) = scrubber.meta::<Position>(key::PURGED)? {
            scrubber.next_entry = purged.index + 1;
        }
        Ok(scrubber)
    }

    fn meta<T: serde::de::DeserializeOwned>(&self, name: &[u8]) -> Result<Option<T>, OpenError> {
        let table = self.db.cf_handle(Table::Meta.name()).ok_or_else(|| gone(Table::Meta))?;
        let row = self.db.get_pinned_cf(table, name).map_err(damaged)?;
        let row = row.map(|row| encode::decode(&row)).transpose();
        row.map_err(|error| OpenError::Integrity(format!("{} is damaged: {error}", String::from_utf8_lossy(name))))
    }

    /// Reads on for about so many bytes; how many it was, nothing at the end.
    pub fn read(&mut self, about: usize) -> Result<Option<usize>, OpenError> {
        let Some(table) = self.tables.last().copied() else { return Ok(None) };
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        options.fill_cache(false);
        let family = self.db.cf_handle(table.name()).ok_or_else(|| gone(table))?;
        let mode = IteratorMode::From(&self.from, Direction::Forward);
        let mut read = 0;
        let mut end = true;
        let mut from = Vec::new();
        for row in self.db.iterator_cf_opt(family, options, mode) {
            let (name, value) = row.map_err(damaged)?;
            if read >= about {
                from = name.to_vec();
                end = false;
                break;
            }
            read += name.len() + value.len();
            match table {
                Table::Log => {
                    let entry = encode::entry_from_row(&value).map_err(|error| {
                        OpenError::Integrity(format!("log entry {} is damaged: {error}", self.next_entry))
                    })?;
                    if entry.log_id.index != self.next_entry || name[..] != self.next_entry.to_be_bytes() {
                        return Err(OpenError::Integrity(format!("log entry {} is missing", self.next_entry)));
                    }
                    self.next_entry += 1;
                    self.tally.entries += 1;
                }
                Table::Meta => {}
                Table::State => {
                    self.tally.rows += 1;
                    self.rows.push((name, value));
                }
            }
        }
        self.tally.bytes += read as u64;
        self.from = from;
        if end {
            self.tables.pop();
        }
        Ok(Some(read))
    }

    /// The State its rows say, once all was read.
    pub fn state(&mut self) -> Result<State, OpenError> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(State::default());
        }
        State::from_rows(rows).map_err(|error| OpenError::Integrity(format!("a row of the state is damaged: {error}")))
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }
}

fn gone(table: Table) -> OpenError {
    OpenError::Io(std::io::Error::other(format!("the table {} is gone", table.name())))
}

/// Whether a failure to read means that bytes changed.
pub(super) fn is_damage(error: &rocksdb::Error) -> bool {
    error.kind() == rocksdb::ErrorKind::Corruption
}

/// Keeps what kind of failure it was.
pub(super) fn read_error(error: rocksdb::Error) -> std::io::Error {
    match is_damage(&error) {
        true => std::io::Error::new(std::io::ErrorKind::InvalidData, error),
        false => other(error),
    }
}
