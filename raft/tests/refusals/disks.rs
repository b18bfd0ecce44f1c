//! A disk that gives back other bytes, has no room, or fails a sync; and a state that is not the others'.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use raft::{Agreement, Cluster, ProposeError, StartError, World};
use state_machine::codes;
use tokio::time::Instant;
use world::{Disk, Syncing};

use super::common::*;

/// A real disk with a will of its own.
struct Moody {
    disk: Arc<dyn Disk>,
    /// What it says is free; zero: the truth.
    free: AtomicU64,
    fails_syncs: AtomicBool,
    /// So many snapshots find no room.
    refuses_snapshots: AtomicU64,
}

impl Moody {
    fn world() -> (Arc<Moody>, World) {
        let real = world::real::world();
        let disk =
            Moody { disk: real.disk.clone(), free: 0.into(), fails_syncs: false.into(), refuses_snapshots: 0.into() };
        let disk = Arc::new(disk);
        (disk.clone(), World { disk, ..real })
    }
}

impl Disk for Moody {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(path)
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let refused = |left: u64| left.checked_sub(1);
        let is_snapshot = path.extension().is_some_and(|ending| ending == "snapshot");
        let order = Ordering::SeqCst;
        match is_snapshot && self.refuses_snapshots.fetch_update(order, order, refused).is_ok() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.disk.write(path, bytes),
        }
    }
    fn note(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match self.fails_syncs.load(Ordering::SeqCst) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => self.disk.note(path, bytes),
        }
    }
    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        self.disk.size(path)
    }
    fn allocate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.disk.allocate(path, bytes)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }
    fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
        self.disk.create_dir_all(folder)
    }
    fn lock(&self, folder: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(folder)
    }
    fn free_bytes(&self, folder: &Path) -> io::Result<Option<u64>> {
        match self.free.load(Ordering::SeqCst) {
            0 => self.disk.free_bytes(folder),
            free => Ok(Some(free)),
        }
    }
    fn database_env(&self) -> Option<rocksdb::Env> {
        self.disk.database_env()
    }
    fn syncing(&self) -> Syncing {
        self.disk.syncing()
    }
}

/// Looks again and again until it is so.
async fn until(what: &str, fits: impl Fn() -> bool) {
    soon(what, async {
        while !fits() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn reserve(place: &Place) -> Option<u64> {
    place.world.disk.size(&place.data_dir().join("reserve")).unwrap()
}

fn quarantine_report(place: &Place) -> Option<String> {
    let bytes = place.world.disk.read(&place.data_dir().join("quarantine.txt")).unwrap()?;
    Some(String::from_utf8(bytes).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_nothing_is_taken_and_everything_can_be_read() {
    let (disk, world) = Moody::world();
    let place = Place { world, ..Place::new("hs1") };
    let member = place.found().await;
    write(&member, "alice").await;
    until("the reserve is made", || reserve(&place) == Some(place.space.reserve_bytes)).await;

    disk.free.store(place.space.low_bytes - 1, Ordering::SeqCst);
    until("the alarm", || member.room().is_some_and(|room| room.short)).await;
    assert_eq!(reserve(&place), None, "the reserve was freed");
    match member.propose("test", create_user("bob")).await {
        Err(ProposeError::Closed { code, why }) => {
            assert_eq!(code, codes::NO_SPACE.number);
            assert!(why.contains("MiB more are needed"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert!(member.confirm().await.unwrap().user_by_name("alice").is_some(), "reads go on");

    let begin = Instant::now();
    disk.free.store(0, Ordering::SeqCst);
    until("the alarm is over", || member.room().is_some_and(|room| !room.short)).await;
    write(&member, "bob").await;
    assert!(begin.elapsed() < Duration::from_secs(30));
    until("the reserve is back", || reserve(&place) == Some(place.space.reserve_bytes)).await;
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_room_lets_another_lead() {
    let tight = [Moody::world(), Moody::world(), Moody::world()];
    let names = ["hs1", "hs2", "hs3"];
    let places: [Place; 3] = std::array::from_fn(|i| Place { world: tight[i].1.clone(), ..Place::new(names[i]) });
    let members = three(&places).await;
    let leader = members.iter().position(Cluster::is_leader).unwrap();
    tight[leader].0.free.store(1 << 20, Ordering::SeqCst);
    for (number, member) in members.iter().enumerate() {
        write(member, &format!("user-{number}")).await;
    }
    until("another leads", || !members[leader].is_leader()).await;
    let full = members[leader].me();
    until("all see it", || {
        members.iter().all(|member| {
            let board = member.board();
            let report = board.members.get(&full).and_then(|seen| seen.report.clone());
            report.and_then(|report| report.room).is_some_and(|room| room.short)
        })
    })
    .await;
    for member in &members {
        member.shutdown().await;
    }
}

/// Between two looks at the disk a snapshot may find it full; that is no reason to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_waits_for_room() {
    let (disk, world) = Moody::world();
    let place = Place { world, snapshot_every: 30, ..Place::new("hs1") };
    let member = place.found().await;
    disk.refuses_snapshots.store(3, Ordering::SeqCst);
    for number in 0..40 {
        write(&member, &format!("user-{number}")).await;
    }
    status_where(&member, "a snapshot", |status| status.snapshot.is_some_and(|index| index > 20)).await;
    assert_eq!(disk.refuses_snapshots.load(Ordering::SeqCst), 0);
    write(&member, "after-that").await;
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_the_member_and_acknowledges_nothing() {
    let (disk, world) = Moody::world();
    let place = Place { world, ..Place::new("hs1") };
    let member = place.found().await;
    write(&member, "alice").await;
    disk.fails_syncs.store(true, Ordering::SeqCst);
    let (answer, why) = tokio::join!(member.propose("test", create_user("bob")), soon("the end", member.fatal()));
    assert!(answer.is_err(), "{answer:?}");
    assert!(why.contains("the disk failed"), "{why}");
    assert_eq!(raft::fatal_exit_code(&why), 70);
    // The disk says it works again. Nobody believes it: only a new start finds out what is there.
    disk.fails_syncs.store(false, Ordering::SeqCst);
    assert!(member.propose("test", create_user("carol")).await.is_err());
    drop(member);
    let member = place.again().await;
    assert!(member.latest().user_by_name("alice").is_some() && member.latest().user_by_name("carol").is_none());
    member.shutdown().await;
}

/// Flips a byte in the middle of each of these files.
fn flip(place: &Place, files: &[PathBuf]) {
    assert!(!files.is_empty());
    for file in files {
        place.change_file(file, |bytes| {
            let at = bytes.len() / 5;
            bytes[at] ^= 0x40;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_a_damaged_disk_through_quarantines_the_member() {
    let place = Place::new("hs1");
    let member = place.found().await;
    for number in 0..50 {
        write(&member, &format!("user-{number}")).await;
    }
    member.shutdown().await;
    // A start puts what the write-ahead log holds into tables.
    let member = place.again().await;
    let whole = member.scrub().await.unwrap();
    assert!(whole.compared && whole.entries >= 50 && whole.rows >= 50, "{whole:?}");
    assert_eq!(member.scrubbed_ms(), whole.at_ms);

    // The running member has read its rows long ago and would not notice.
    flip(&place, &place.database_files(".sst"));
    let begin = Instant::now();
    let (found, why) = tokio::join!(member.scrub(), soon("the end", member.fatal()));
    println!("scrub to quarantine: {:?}", begin.elapsed());
    assert!(found.is_err());
    assert_eq!(raft::fatal_exit_code(&why), 40, "{why}");
    let report = quarantine_report(&place).unwrap();
    assert!(report.contains("storage integrity") && report.contains("--replace hs1"), "{report}");
    drop(member);
    match place.again_if_let().await {
        Err(StartError::Integrity(why)) => assert!(why.contains("quarantined before"), "{why}"),
        other => panic!("{other:?}"),
    }
    let offline = raft::verify_folder(&place.data_dir(), &place.world).await;
    assert_eq!(offline.unwrap_err().exit_code(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_at_rest_is_verified() {
    let place = Place::new("hs1");
    let member = place.found().await;
    write(&member, "alice").await;
    let hash = member.latest().hash();
    member.shutdown().await;
    let done = raft::verify_folder(&place.data_dir(), &place.world).await.unwrap();
    assert_eq!(done.state_hash, hex::encode(hash));
    assert_eq!(quarantine_report(&place), None);
}

/// Changes one letter of one user in the rows of a member that does not run, with right checksums.
fn forge(place: &Place, from: &[u8], to: &[u8]) {
    let tables = ["log", "meta", "state"];
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), place.data_dir().join("db"), tables).unwrap();
    let state = db.cf_handle("state").unwrap();
    let rows: Vec<_> = db.iterator_cf(state, rocksdb::IteratorMode::Start).map(Result::unwrap).collect();
    let mut forged = 0;
    for (key, value) in rows {
        if let Some(at) = value.windows(from.len()).position(|window| window == from) {
            let mut value = value.to_vec();
            value[at..at + to.len()].copy_from_slice(to);
            db.put_cf(state, key, value).unwrap();
            forged += 1;
        }
    }
    assert!(forged > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_another_state_stops_and_stays_out() {
    let places = places();
    let [one, two, three] = three(&places).await;
    write(&one, "steadfast").await;
    same(&one, &three).await;
    three.shutdown().await;
    drop(three);
    forge(&places[2], b"steadfast", b"steadfist");
    let three = places[2].again().await;
    same_revision(&one, &three).await;
    let begin = Instant::now();
    let found = one.compare_states().await.unwrap();
    let verdicts: Vec<Agreement> = found.members.iter().map(|(_, _, agreement)| *agreement).collect();
    assert_eq!(verdicts, [Agreement::Same, Agreement::Same, Agreement::Differs], "{found:?}");
    let why = soon("the wrong one stops", three.fatal()).await;
    println!("comparison to quarantine: {:?}", begin.elapsed());
    assert_eq!(raft::fatal_exit_code(&why), 40, "{why}");
    assert!(quarantine_report(&places[2]).unwrap().contains("majority of the voters"));
    drop(three);
    // The others go on.
    write(&two, "after").await;
    let begin = Instant::now();
    assert!(matches!(places[2].again_if_let().await, Err(StartError::Integrity(_))));
    println!("refused after open: {:?}", begin.elapsed());
    for member in [&one, &two] {
        member.shutdown().await;
    }
}

/// Where it was before: without a quorum nobody can be told of another address.
async fn again_at(place: &Place, address: &str) -> Cluster {
    let options = raft::Options {
        peer_listen: address.parse().unwrap(),
        peer_advertise: address.into(),
        ..place.options(raft::StartAs::Continue)
    };
    soon("starting", Cluster::start(options, &place.world)).await.unwrap()
}

/// Waits until a member has everything another has, whatever it makes of it.
async fn same_revision(one: &Cluster, other: &Cluster) {
    let want = one.confirm().await.unwrap().revision();
    let mut latest = other.watch();
    soon("catching up", latest.wait_for(|state| state.revision() >= want)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nobody_is_right_nothing_is_taken_until_a_majority_is() {
    let places = places();
    let [one, two, three] = three(&places).await;
    write(&one, "steadfast").await;
    same(&one, &two).await;
    same(&one, &three).await;
    let addresses = [&two, &three].map(peer_address);
    two.shutdown().await;
    three.shutdown().await;
    drop((two, three));
    forge(&places[1], b"steadfast", b"steadfist");
    let two = again_at(&places[1], &addresses[0]).await;
    same_revision(&one, &two).await;
    let found = soon("one leads", async {
        loop {
            if let Ok(found) = one.compare_states().await {
                break found;
            }
        }
    })
    .await;
    assert!(found.members.iter().filter(|(_, _, found)| *found == Agreement::NoMajority).count() == 2, "{found:?}");
    until("both stop", || one.halted().is_some() && two.halted().is_some()).await;
    match two.propose("test", create_user("nobody")).await {
        Err(ProposeError::Closed { code, .. }) => assert_eq!(code, codes::STATES_DIFFER.number),
        other => panic!("{other:?}"),
    }
    assert!(one.confirm().await.unwrap().user_by_name("steadfast").is_some(), "reads go on");

    // The third comes back and has a say: the wrong one goes, and changes are taken again, without anybody's help.
    let three = again_at(&places[2], &addresses[1]).await;
    let why = soon("the wrong one stops", two.fatal()).await;
    assert_eq!(raft::fatal_exit_code(&why), 40);
    drop(two);
    until("the others go on", || one.halted().is_none() && three.halted().is_none()).await;
    write(&three, "after").await;
    for member in [&one, &three] {
        member.shutdown().await;
    }
}
