//! openraft's own tests of a store, run on ours; and what a store must still know, or miss, after a restart.

use std::path::Path;

use openraft::{
    EntryPayload, RaftLogReader, StorageError,
    storage::{RaftLogStorage, RaftLogStorageExt},
    testing::log::{StoreBuilder, Suite},
};

use crate::{
    apply::Machine,
    encode::Position,
    log::Log,
    metrics::Metrics,
    snapshot::Snapshots,
    store::{Change, OpenError, Recovered, Store, StoreOptions, Table, key},
    types::{Entry, Types, log_id},
};

fn open(folder: &Path) -> Result<(Store, Recovered), OpenError> {
    let world = world::real::world();
    let lock = loop {
        // The writer's thread lets go of the folder a moment after the store was dropped.
        match world.disk.lock(folder) {
            Ok(lock) => break lock,
            Err(_) => std::thread::yield_now(),
        }
    };
    let options = StoreOptions {
        folder: folder.into(),
        disk: world.disk.clone(),
        entropy: world.entropy.clone(),
        lock,
        metrics: Metrics::default().store,
        drills: crate::Drills::forbidden(),
    };
    Store::open(options).map(|(store, recovered, _)| (store, recovered))
}

struct Builder;

impl StoreBuilder<Types, Log, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError<Types>> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (store, recovered) = open(folder.path()).expect("an empty store opens");
        let world = world::real::world();
        let snapshots = Snapshots::open(folder.path().join("snapshots"), world.disk.clone()).expect("a folder");
        let (machine, _) =
            Machine::new(store.clone(), snapshots, &recovered, state_machine::FEATURE_LEVEL, Metrics::default().apply);
        Ok((folder, Log::new(store, &recovered), machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_openrafts_suite() {
    Suite::test_all(Builder).await.expect("the suite passes");
}

fn blanks(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    indexes.map(|index| Entry { log_id: log_id(term, 1, index), payload: EntryPayload::Blank }).collect()
}

fn reopen(folder: &Path) -> Result<Log, OpenError> {
    open(folder).map(|(store, recovered)| Log::new(store, &recovered))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_and_purged_log_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = reopen(folder.path()).unwrap();
    log.blocking_append(blanks(1, 0..=10)).await.unwrap();
    log.truncate_after(Some(log_id(1, 1, 5))).await.unwrap();
    log.blocking_append(blanks(2, 6..=7)).await.unwrap();
    log.purge(log_id(1, 1, 3)).await.unwrap();
    let expected = [blanks(1, 4..=5), blanks(2, 6..=7)].concat();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);
    log.save_committed(Some(log_id(1, 1, 5))).await.unwrap();
    drop(log);

    let mut log = reopen(folder.path()).unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 1, 3)), Some(log_id(2, 1, 7))));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);
    // Asked for what is gone: nothing, and never something later.
    assert_eq!(log.limited_get_log_entries(2, 8).await.unwrap(), []);
    log.truncate_after(None).await.unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), []);
    drop(log);
    // Truncated, not synced, and then nothing: fewer entries than were synced once, and rightly so.
    reopen(folder.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_and_damaged_entries_are_noticed() {
    let row = |index: u64| index.to_be_bytes().to_vec();
    let cases = [
        ("the last is gone", Change::Delete(Table::Log, row(9))),
        ("one in the middle is gone", Change::Delete(Table::Log, row(4))),
        ("one was changed", Change::Put(Table::Log, row(4), vec![1, 2, 3, 4, 1, 0x80])),
    ];
    for (what, change) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut log = reopen(folder.path()).unwrap();
        log.blocking_append(blanks(1, 0..=9)).await.unwrap();
        drop(log);
        let (store, _) = open(folder.path()).unwrap();
        store.write_durably(vec![change]).await.unwrap();
        drop(store);
        assert!(matches!(reopen(folder.path()), Err(OpenError::Integrity(_))), "{what}");
    }
}

/// Not taken for a disk that fails: this member must not take part again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_file_of_the_database_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = reopen(folder.path()).unwrap();
    log.blocking_append(blanks(1, 0..=9)).await.unwrap();
    drop(log);
    drop(open(folder.path()).unwrap());
    let disk = world::real::world().disk;
    let database = folder.path().join("db");
    let lock = loop {
        if let Ok(lock) = disk.lock(folder.path()) {
            break lock;
        }
        std::thread::yield_now();
    };
    let manifest = disk.list(&database).unwrap().into_iter().find(|name| name.starts_with("MANIFEST-")).unwrap();
    disk.remove(&database.join(manifest)).unwrap();
    drop(lock);
    let opened = open(folder.path());
    assert!(matches!(&opened, Err(OpenError::Integrity(why)) if why.contains("MANIFEST-")), "{:?}", opened.err());
}

/// Power failed after a snapshot was synced and before the log below it was purged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_an_installed_snapshot_is_not_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = reopen(folder.path()).unwrap();
    log.blocking_append(blanks(1, 0..=9)).await.unwrap();
    drop(log);
    let (store, _) = open(folder.path()).unwrap();
    let applied = crate::encode::encode(&Position::from(log_id(2, 1, 14)));
    store.write_durably(vec![Change::Put(Table::Meta, key::APPLIED.into(), applied)]).await.unwrap();
    drop(store);
    let (_store, recovered) = open(folder.path()).unwrap();
    assert_eq!((recovered.last, recovered.end()), (Some(log_id(1, 1, 9)), Some(log_id(2, 1, 14))));
}
