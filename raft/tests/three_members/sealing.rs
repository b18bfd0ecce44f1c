//! Another sealing key for all members.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use raft::{
    Cluster, ProposeError, Rotated,
    archive::{RecoveryKey, SealingKey, read_full, settle},
};
use state_machine::{Refusal, State};
use world::{Disk, Syncing, World};

use super::common::*;

const KEY: &str = "sealing.key";
const NEXT: &str = "sealing.key.next";

fn file(place: &Place, name: &str) -> Option<Vec<u8>> {
    // What the test looks at, not what the member's disk is willing to do.
    world::real::world().disk.read(&place.data_dir().join(name)).unwrap()
}

fn key(place: &Place) -> SealingKey {
    SealingKey::from_bytes(&file(place, KEY).unwrap()).unwrap()
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

fn opens_all(member: &Cluster, state: &State) -> bool {
    state
        .secrets()
        .keys()
        .filter(|name| *name != "recovery" && !name.starts_with("data-key."))
        .all(|name| member.secret(name).is_some_and(|secret| name != "noise" || **secret == [7; 32]))
}

async fn rotate(member: &Cluster) -> Rotated {
    member.rotate_sealing_key("test").await.unwrap().unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// Until these members have the new key and nothing of the old one.
async fn replaced(places: &[&Place], old: &SealingKey) {
    let done = |place: &&Place| file(place, NEXT).is_none() && key(place).bytes() != old.bytes();
    until("every file is replaced", || places.iter().all(done)).await;
    assert!(places.iter().all(|place| key(place).bytes() == key(places[0]).bytes()), "all have the same");
}

/// Why it was refused, under the code for that.
async fn refused(member: &Cluster) -> String {
    match member.rotate_sealing_key("test").await {
        Err(ProposeError::Unready { code: 2023, why }) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sealing_key_while_members_write_and_all_start_again_with_it() {
    let places = ["hs1", "hs2", "hs3"].map(Place::settled);
    let members = three(&places).await;
    let old = key(&places[0]);
    let paper = members[0].create_recovery_key("test").await.unwrap();
    assert!(members[1].confirm_recovery_key(&paper, "test").await.unwrap().unwrap());
    let (_, full) = members[2].full_backup();

    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = members
        .iter()
        .enumerate()
        .map(|(number, member)| {
            let (member, stop) = (member.clone(), stop.clone());
            tokio::spawn(async move {
                let mut count = 0u64;
                while !stop.load(Ordering::SeqCst) {
                    write(&member, &format!("user-{number}-{count}")).await;
                    assert_eq!(&**member.secret("noise").unwrap(), &[7; 32], "at no moment it does not open");
                    count += 1;
                }
                count
            })
        })
        .collect();
    // Secrets that are written in between are not lost either.
    let secrets = {
        let (member, stop) = (members[2].clone(), stop.clone());
        tokio::spawn(async move {
            let mut count = 0u64;
            while !stop.load(Ordering::SeqCst) {
                member.put_secret("counter", &count.to_be_bytes(), "test").await.unwrap().answer.unwrap();
                assert_eq!(&**member.secret("counter").unwrap(), &count.to_be_bytes());
                count += 1;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            count
        })
    };
    let begun = tokio::time::Instant::now();
    let done = soon("the rotation", async {
        loop {
            match members[1].rotate_sealing_key("test").await.unwrap() {
                Ok(done) => return done,
                // Refused when a secret was written at that very moment.
                Err(Refusal::SecretsChanged) => {}
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    let took = begun.elapsed();
    replaced(&places.each_ref(), &old).await;
    stop.store(true, Ordering::SeqCst);
    let mut count = 0;
    for writer in writers {
        count += writer.await.unwrap();
    }
    let counted = secrets.await.unwrap();
    assert!(count > 20 && counted > 0, "{count} writes, {counted} secrets");
    println!("rotation: {took:?}, {count} writes and {counted} secrets meanwhile, 0 failed");

    let state = members[0].confirm().await.unwrap();
    let new = key(&places[0]);
    assert_eq!((old.opens(&state), new.opens(&state)), (Some(false), Some(true)));
    for member in &members {
        same(&members[0], member).await;
        assert!(opens_all(member, &state));
    }
    assert!(done.secrets >= 2 && done.data_key > 3);
    // The paper of before opens backups of before, the new one those of now; it is asked for until it is confirmed.
    assert!(!state.recovery_confirmed() && !members[0].is_recovery_key(&paper));
    assert!(members[2].confirm_recovery_key(&done.recovery_key, "test").await.unwrap().unwrap());
    for (full, paper, not) in
        [(full, &paper, &done.recovery_key), (members[0].full_backup().1, &done.recovery_key, &paper)]
    {
        let full = read_full(&full.into()).unwrap();
        assert!(RecoveryKey::parse(not).unwrap().unwrap(&full.state).is_none());
        let sealing = RecoveryKey::parse(paper).unwrap().unwrap(&full.state).unwrap();
        let home = Place::new("hs1");
        settle(&home.data_dir(), "hs1", full.state, full.head.term, &sealing, &home.world).await.unwrap();
        let restored = home.again().await;
        assert_eq!(&**restored.secret("noise").unwrap(), &[7; 32]);
        assert!(key(&home).bytes() == sealing.bytes());
        write(&restored, "after-the-disaster").await;
        restored.shutdown().await;
    }

    // All of them start with what lies there now, and again in another order; a newcomer is given the same.
    for member in &members {
        member.shutdown().await;
    }
    drop(members);
    let [one, two, three] = &places;
    let (one, two, three) = tokio::join!(one.again(), two.again(), three.again());
    write(&two, "after-all-were-down").await;
    let place = Place::new("hs4");
    let four = place.join(&three).await;
    assert!(opens_all(&four, &four.latest()) && key(&place).bytes() == new.bytes());
    let again = rotate(&four).await;
    replaced(&[&places[0], &places[1], &places[2], &place], &new).await;
    for member in [&one, &two, &three, &four] {
        same(&four, member).await;
        assert!(opens_all(member, &member.latest()) && member.is_recovery_key(&again.recovery_key));
    }
    for member in [one, two, three, four] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_take_the_key_is_named_and_nothing_changes() {
    let places = places();
    let [one, two, three] = three(&places).await;
    let old = key(&places[0]);
    let why = refused(&one).await;
    assert!(why.contains("no recovery key") && why.contains("hsraft recovery-key rotate"), "{why}");
    let paper = one.create_recovery_key("test").await.unwrap();

    // A place nothing can be put to.
    let in_the_way = places[1].data_dir().join(NEXT);
    places[1].world.disk.create_dir_all(&in_the_way).unwrap();
    let why = refused(&one).await;
    assert!(why.starts_with("hs2 cannot put the new key away") && why.contains("sealing_key_path"), "{why}");
    places[1].world.disk.rename(&in_the_way, &places[1].folder.path().join("aside")).unwrap();

    three.shutdown().await;
    drop(three);
    let why = refused(&two).await;
    assert!(why.contains("hs3 does not answer") && why.contains("hsraft member remove hs3"), "{why}");
    // The third may have been stopped before it heard that the first attempt came to nothing.
    until("nothing is left of it", || places[..2].iter().all(|place| file(place, NEXT).is_none())).await;
    assert!(places.iter().all(|place| key(place).bytes() == old.bytes()));
    assert!(one.is_recovery_key(&paper) && opens_all(&one, &one.latest()));

    // It comes back, or is taken out: then it goes.
    let three = places[2].again().await;
    soon("its first word", async { while three.confirm().await.is_err() {} }).await;
    rotate(&three).await;
    replaced(&places.each_ref(), &old).await;
    let gone = three.me();
    let before = key(&places[0]);
    three.shutdown().await;
    drop(three);
    one.remove_member(gone, true, "test").await.unwrap();
    rotate(&one).await;
    replaced(&[&places[0], &places[1]], &before).await;
    assert!(key(&places[2]).bytes() == before.bytes(), "what a removed member kept opens nothing any more");
    assert_eq!(before.opens(&one.latest()), Some(false));
    for member in [one, two] {
        assert!(opens_all(&member, &member.latest()));
        member.shutdown().await;
    }
}

/// A disk that does not let the sealing key be replaced, until the machine starts afresh.
struct Stubborn(Arc<dyn Disk>);

impl Stubborn {
    fn world() -> World {
        let real = world::real::world();
        World { disk: Arc::new(Stubborn(real.disk.clone())), ..real }
    }
}

impl Disk for Stubborn {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.0.read(path)
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match path.ends_with(KEY) && self.0.read(path)?.is_some() {
            true => Err(io::Error::other("not today")),
            false => self.0.write(path, bytes),
        }
    }
    fn note(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.note(path, bytes)
    }
    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        self.0.size(path)
    }
    fn allocate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.0.allocate(path, bytes)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }
    fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
        self.0.create_dir_all(folder)
    }
    fn lock(&self, folder: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock(folder)
    }
    fn free_bytes(&self, folder: &Path) -> io::Result<Option<u64>> {
        self.0.free_bytes(folder)
    }
    fn database_env(&self) -> Option<rocksdb::Env> {
        self.0.database_env()
    }
    fn database_path(&self, path: &Path) -> PathBuf {
        self.0.database_path(path)
    }
    fn syncing(&self) -> Syncing {
        self.0.syncing()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_stopped_between_the_steps_has_both_keys_and_goes_on_with_the_right_one() {
    let mut places = places();
    places[0].world = Stubborn::world();
    let members = three(&places).await;
    let old = key(&places[0]);
    members[1].create_recovery_key("test").await.unwrap();
    rotate(&members[1]).await;
    replaced(&[&places[1], &places[2]], &old).await;
    let new = key(&places[1]);
    // The first one's State is sealed with the new key, and its file still holds the old.
    same(&members[1], &members[0]).await;
    assert!(key(&places[0]).bytes() == old.bytes() && file(&places[0], NEXT).is_some());
    assert!(opens_all(&members[0], &members[0].latest()));
    write(&members[0], "with-two-keys").await;
    // A newcomer gets both from it, and keeps the right one.
    let place = Place::new("hs4");
    let four = place.join(&members[0]).await;
    replaced(&[&places[1], &place], &old).await;
    assert!(opens_all(&four, &four.latest()));
    // Before it has settled nobody begins another.
    let why = refused(&members[1]).await;
    assert!(why.starts_with("hs1 cannot open the secrets"), "{why}");

    // A stop at that moment, and a start on a disk that is well.
    let [first, second, third] = members;
    first.shutdown().await;
    drop(first);
    places[0].world = world::real::world();
    let first = places[0].again().await;
    assert!(opens_all(&first, &first.latest()));
    until("its file is replaced", || file(&places[0], NEXT).is_none()).await;
    assert!(key(&places[0]).bytes() == new.bytes());
    rotate(&first).await;
    replaced(&[&places[0], &places[1], &places[2], &place], &new).await;
    for member in [first, second, third, four] {
        assert!(opens_all(&member, &member.latest()));
        member.shutdown().await;
    }
}
