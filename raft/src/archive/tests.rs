//! A cluster's bad day, from the backup's side.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use state_machine::{Command, MemberState, Settings};

use world::BoxFuture;

use super::{shelf::superfluous, *};
use crate::{Cluster, Options, StartAs, Timing};

const NOISE: [u8; 32] = [7; 32];

async fn member(folder: &Path, backup: Option<&Path>, start: StartAs) -> Cluster {
    let world = world::real::world();
    let backup = backup.map(|path| super::folder(path, &world.disk));
    Cluster::start(options(folder, backup, start), &world).await.unwrap()
}

fn options(folder: &Path, backup: Option<Arc<dyn Objects>>, start: StartAs) -> Options {
    Options {
        data_dir: folder.into(),
        sealing_key: None,
        name: "hs1".into(),
        peer_listen: "127.0.0.1:0".parse().unwrap(),
        peer_advertise: "127.0.0.1:0".into(),
        timing: Timing::cautious(),
        version: "0.0.0-test".into(),
        client_url: String::new(),
        relay: None,
        start,
        snapshot_every: 1000,
        feature_level: state_machine::FEATURE_LEVEL,
        space: crate::space::Space::default(),
        auto_remove_after: None,
        join_within: crate::JOIN_WITHIN,
        arrival: None,
        drills: false,
        backup,
        runtime: None,
    }
}

fn founding() -> StartAs {
    StartAs::FoundIfEmpty { settings: Settings::default(), secrets: vec![("noise".into(), NOISE.to_vec())] }
}

async fn write(cluster: &Cluster, name: &str) {
    let command = Command::CreateUser {
        name: name.into(),
        display_name: String::new(),
        email: String::new(),
        profile_pic_url: String::new(),
    };
    cluster.propose("test", command).await.unwrap().answer.unwrap();
}

/// Waits until everything applied now is on the shelf.
async fn archived(cluster: &Cluster) {
    let index = cluster.latest().revision().0;
    let done = async {
        while cluster.core.boards.backup().is_none_or(|backup| backup.index < index) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), done).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_from_the_shelf_under_another_cluster() {
    let (old, target, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let world = world::real::world();
    let data = old.path().join("data");
    let one = member(&data, Some(target.path()), founding()).await;
    let key = one.create_recovery_key("test").await.unwrap();
    assert!(one.is_recovery_key(&key) && !one.is_recovery_key("hsrk1-aaaa"));
    write(&one, "alice").await;
    archived(&one).await;
    let (old_cluster, old_id) = (one.cluster_id().to_owned(), one.me());
    write(&one, "bob").await;
    archived(&one).await;
    let last = one.latest();
    one.shutdown().await;
    drop(one);

    let place = folder(target.path(), &world.disk);
    let shelves = shelves(&place, &world.disk).await.unwrap();
    assert_eq!(shelves.len(), 1);
    let whole = replay(&shelves[0], None, Begin::OLDEST).await.unwrap();
    assert_eq!((whole.stopped.as_deref(), whole.state.hash()), (None, last.hash()));
    let bob = whole.state.user_by_name("bob").unwrap().created_at.0;
    let before = replay(&shelves[0], Some(bob - 1), Begin::Newest).await.unwrap();
    assert!(before.state.user_by_name("alice").is_some() && before.state.user_by_name("bob").is_none());

    // On a new machine, with nothing but the shelf and a piece of paper.
    let wrong = recovery_key::RecoveryKey::new(&world.entropy);
    assert!(wrong.unwrap(&whole.state).is_none());
    let sealing = recovery_key::RecoveryKey::parse(&key).unwrap().unwrap(&whole.state).unwrap();
    let home = new.path().join("data");
    let settled = settle(&home, "hs1", whole.state, whole.term, &sealing, &world).await.unwrap();
    assert!(settled.cluster_id != old_cluster && settled.member > old_id);
    let again = member(&home, None, StartAs::Continue).await;
    write(&again, "carol").await;
    let state = again.confirm().await.unwrap();
    assert!(["alice", "bob", "carol"].iter().all(|name| state.user_by_name(name).is_some()));
    assert_eq!(&**again.secret("noise").unwrap(), &NOISE, "clients find the key they pinned");
    assert_eq!(state.member(old_id).unwrap().state, MemberState::Removed);
    assert!(again.me() == settled.member && again.create_recovery_key("test").await.is_ok());
    again.shutdown().await;
    drop(again);
    let settled_again = settle(&home, "hs1", before.state, before.term, &sealing, &world).await;
    assert_eq!(settled_again.unwrap_err().exit_code(), 14, "a folder with something in it is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_goes_on_alone() {
    let home = tempfile::tempdir().unwrap();
    let (data, world) = (home.path().join("data"), world::real::world());
    let one = member(&data, None, founding()).await;
    write(&one, "alice").await;
    let revision = one.latest().revision().0;
    one.shutdown().await;
    drop(one);
    let left = inspect_folder(&data, None, &world).await.unwrap();
    assert_eq!((left.state.revision().0, left.voters.len(), left.quorum()), (revision, 1, 1));
    assert!(left.who_answers(&world).await.is_empty());
    let (settled, aside) = recover(left, &world).await.unwrap();
    assert!(!world.disk.list(&aside).unwrap().is_empty(), "the old folder is kept");
    let again = member(&data, None, StartAs::Continue).await;
    write(&again, "bob").await;
    assert!(again.latest().user_by_name("alice").is_some());
    assert_eq!(again.cluster_id(), settled.cluster_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_and_gaps_on_a_shelf_are_named() {
    let (home, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let world = world::real::world();
    let one = member(&home.path().join("data"), Some(target.path()), founding()).await;
    write(&one, "alice").await;
    archived(&one).await;
    write(&one, "bob").await;
    archived(&one).await;
    one.shutdown().await;
    drop(one);
    let place = folder(target.path(), &world.disk);
    let shelf = shelves(&place, &world.disk).await.unwrap().remove(0);
    let items = shelf.items().await.unwrap();
    let path = |item: &Item| PathBuf::from(shelf.path(item));
    let segment = items.iter().rfind(|item| matches!(item, Item::Segment { .. })).unwrap();
    let bytes = world.disk.read(&path(segment)).unwrap().unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    world.disk.write(&path(segment), &flipped).unwrap();
    let short = replay(&shelf, None, Begin::Newest).await.unwrap();
    assert!(short.stopped.unwrap().contains("checksum"));
    assert!(short.state.user_by_name("bob").is_none());

    let full = items.iter().find(|item| matches!(item, Item::Full { .. })).unwrap();
    let bytes = world.disk.read(&path(full)).unwrap().unwrap();
    world.disk.write(&path(full), &bytes[..bytes.len() - 9]).unwrap();
    assert_eq!(replay(&shelf, None, Begin::Newest).await.unwrap_err().exit_code(), 41);
}

#[test]
fn hours_days_and_weeks_are_kept() {
    const HOUR: u64 = 3_600_000;
    let now = 1_000 * 24 * HOUR;
    let full = |hours_ago: u64| Item::Full { index: 10_000 - hours_ago, taken_ms: now - hours_ago * HOUR };
    let segment = |hours_ago: u64| {
        let last = 10_000 - hours_ago;
        Item::Segment { first: last - 1, last, taken_ms: now - hours_ago * HOUR }
    };
    let items: Vec<Item> = (0..60 * 24).flat_map(|hours| [full(hours), segment(hours)]).collect();
    let old = superfluous(&items, Kept::default(), now);
    let left: Vec<&Item> = items.iter().filter(|item| !old.contains(item)).collect();
    let fulls = left.iter().filter(|item| matches!(item, Item::Full { .. })).count();
    assert!((24 + 6..=24 + 7 + 4).contains(&fulls), "{fulls}");
    assert!(left.contains(&&full(0)) && left.contains(&&full(23)) && !left.contains(&&full(30)));
    assert!(left.contains(&&segment(7 * 24)) && !left.contains(&&segment(7 * 24 + 1)));
    assert!(superfluous(&[full(900)], Kept { hours: 0, days: 0, weeks: 0 }, now).is_empty(), "the last one stays");
}

/// A place in memory that can be down, full, or change what it is given.
#[derive(Default)]
struct Moody {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    mood: Mutex<Mood>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Fine,
    Down,
    Full,
    Corrupting,
}

impl Moody {
    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn is(&self, mood: Mood) -> std::io::Result<()> {
        match *self.mood.lock().unwrap() == mood {
            true => Err(std::io::Error::other(format!("the place is {mood:?}"))),
            false => Ok(()),
        }
    }
}

impl Objects for Moody {
    fn name(&self) -> &str {
        "moody://place"
    }
    fn list<'a>(&'a self, under: &'a str) -> BoxFuture<'a, std::io::Result<Vec<String>>> {
        Box::pin(async move {
            self.is(Mood::Down)?;
            Ok(self.objects.lock().unwrap().keys().filter(|name| name.starts_with(under)).cloned().collect())
        })
    }
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, std::io::Result<Option<Vec<u8>>>> {
        Box::pin(async move {
            self.is(Mood::Down)?;
            Ok(self.objects.lock().unwrap().get(name).cloned())
        })
    }
    fn put<'a>(&'a self, name: &'a str, mut bytes: Vec<u8>) -> BoxFuture<'a, std::io::Result<()>> {
        Box::pin(async move {
            self.is(Mood::Down)?;
            self.is(Mood::Full)?;
            if self.is(Mood::Corrupting).is_err() {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            self.objects.lock().unwrap().insert(name.into(), bytes);
            Ok(())
        })
    }
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, std::io::Result<()>> {
        Box::pin(async move {
            self.is(Mood::Down)?;
            self.objects.lock().unwrap().remove(name);
            Ok(())
        })
    }
}

async fn report_where(cluster: &Cluster, what: &str, fits: impl Fn(&BackupReport) -> bool) -> BackupReport {
    let told = async {
        loop {
            match cluster.core.boards.backup() {
                Some(report) if fits(&report) => return report,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.unwrap_or_else(|_| panic!("{what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_fails_is_named_and_the_cluster_does_not_care() {
    let home = tempfile::tempdir().unwrap();
    let (place, world) = (Arc::new(Moody::default()), world::real::world());
    place.set(Mood::Down);
    let options = options(&home.path().join("data"), Some(place.clone()), founding());
    let one = Cluster::start(options, &world).await.unwrap();
    write(&one, "alice").await;
    let report = report_where(&one, "it says that the place is down", |report| !report.error.is_empty()).await;
    assert!(report.error.contains("Down") && report.archived_at_ms == 0, "{report:?}");
    for mood in [Mood::Full, Mood::Corrupting] {
        place.set(mood);
        write(&one, &format!("while-{mood:?}").to_lowercase()).await;
        let word = if mood == Mood::Full { "Full" } else { "read back" };
        report_where(&one, "it says what is wrong", |report| report.error.contains(word)).await;
    }
    assert!(place.objects.lock().unwrap().is_empty(), "what was not kept well was removed");
    place.set(Mood::Fine);
    archived(&one).await;
    let report = report_where(&one, "it was tried", |report| report.verified_at_ms > 0).await;
    assert!(report.error.is_empty() && report.acting && report.place == "moody://place", "{report:?}");
    let last = one.latest();
    one.shutdown().await;
    let place: Arc<dyn Objects> = place;
    let shelf = shelves(&place, &world.disk).await.unwrap().remove(0);
    let done = replay(&shelf, None, Begin::OLDEST).await.unwrap();
    assert_eq!((done.stopped, done.state.hash()), (None, last.hash()));
}

#[tokio::test]
async fn a_damaged_piece_is_no_harm_when_it_was_written_again() {
    let world = world::real::world();
    let place = Arc::new(Moody::default());
    let shelf = Shelf::new(place.clone(), "c1", world.disk.clone());
    let state = state_machine::State::default();
    shelf.put_full(FullHead::default(), Arc::new(state)).await.unwrap();
    let entry = |index| crate::types::Entry {
        log_id: crate::types::log_id(1, 1, index),
        payload: openraft::EntryPayload::Blank,
    };
    let head = |taken_ms| SegmentHead { first: 1, last: 2, taken_ms, ..SegmentHead::default() };
    let bad = shelf.put_segment(head(5), vec![entry(1), entry(2)]).await.unwrap();
    for bytes in place.objects.lock().unwrap().iter_mut().filter(|(name, _)| name.ends_with(&bad.file_name())) {
        bytes.1[9] ^= 1;
    }
    let short = replay(&shelf, None, Begin::OLDEST).await.unwrap();
    assert!(short.stopped.is_some_and(|why| why.contains("checksum")) && short.entries == 0);
    shelf.put_segment(head(6), vec![entry(1), entry(2)]).await.unwrap();
    let whole = replay(&shelf, None, Begin::OLDEST).await.unwrap();
    assert_eq!((whole.stopped, whole.state.revision().0), (None, 2));
}

#[tokio::test]
async fn a_full_closes_the_gap_that_a_cut_log_leaves() {
    let world = world::real::world();
    let place = Arc::new(Moody::default());
    let shelf = Shelf::new(place.clone(), "c1", world.disk.clone());
    let entry = |index| crate::types::Entry {
        log_id: crate::types::log_id(1, 1, index),
        payload: openraft::EntryPayload::Blank,
    };
    let segment = |first, last| {
        let head = SegmentHead { first, last, taken_ms: last, ..SegmentHead::default() };
        shelf.put_segment(head, (first..=last).map(entry).collect())
    };
    let at = |index| {
        let mut state = state_machine::State::default();
        for index in 1..=index {
            crate::archive::format::apply(&mut state, &entry(index), None).unwrap();
        }
        let head = FullHead { index, taken_ms: index, ..FullHead::default() };
        shelf.put_full(head, Arc::new(state))
    };
    at(2).await.unwrap();
    segment(3, 4).await.unwrap();
    // 5 to 8 were cut before they were archived.
    at(8).await.unwrap();
    segment(9, 9).await.unwrap();
    at(9).await.unwrap();
    // And nothing but a full after that.
    at(20).await.unwrap();
    let items = shelf.items().await.unwrap();
    let whole = replay(&shelf, None, Begin::OLDEST).await.unwrap();
    assert_eq!((whole.state.revision().0, whole.stopped, whole.compared, whole.entries), (20, None, 1, 3));
    assert_eq!(whole.gaps, ["entries 5 to 8 are not there", "entries 10 to 20 are not there"]);

    // A damaged full is a gap where a later one goes on, and the end where none does.
    let spoil = |index: u64| {
        let mut objects = place.objects.lock().unwrap();
        let item = items.iter().find(|item| matches!(item, Item::Full { index: at, .. } if *at == index)).unwrap();
        let (_, bytes) = objects.iter_mut().find(|(name, _)| name.ends_with(&item.file_name())).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    spoil(8);
    let whole = replay(&shelf, None, Begin::OLDEST).await.unwrap();
    assert_eq!((whole.state.revision().0, whole.stopped, whole.gaps.len()), (20, None, 3));
    spoil(20);
    let short = replay(&shelf, None, Begin::OLDEST).await.unwrap();
    assert_eq!((short.state.revision().0, short.gaps.len()), (9, 2), "{short:?}");
    assert!(short.stopped.unwrap().contains("checksum"));
}
