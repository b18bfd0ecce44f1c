//! Members on their way in, and on their way out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use raft::{Cluster, StartError, TokenWish};
use state_machine::{Command, JoinRole, MemberState};
use tokio::time::Instant;
use world::{Disk, Syncing, World};

use super::common::{clocks::off_by, *};

/// A disk of a machine that dies at its n-th change.
struct Mortal {
    disk: Arc<dyn Disk>,
    left: AtomicUsize,
}

impl Mortal {
    fn live(&self) -> io::Result<()> {
        let lives = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        lives.map(|_| ()).map_err(|_| io::Error::other("the machine died"))
    }
}

impl Disk for Mortal {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(path)
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.live()?;
        self.disk.write(path, bytes)
    }
    fn note(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.disk.note(path, bytes)
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
        self.disk.free_bytes(folder)
    }
    fn database_env(&self) -> Option<rocksdb::Env> {
        self.disk.database_env()
    }
    fn database_path(&self, path: &Path) -> PathBuf {
        self.disk.database_path(path)
    }
    fn syncing(&self) -> Syncing {
        self.disk.syncing()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_joiners_at_once_queue_and_both_vote() {
    let places = places();
    let one = places[0].found().await;
    let wish = TokenWish { ttl: Duration::from_secs(60), uses: 2, ..TokenWish::default() };
    let ticket = one.create_token(wish, "test").await.unwrap();
    let begun = Instant::now();
    let mut statuses = one.watch_status();
    let sizes = tokio::spawn(async move {
        let mut sizes = vec![statuses.borrow().voters.len()];
        while sizes.last() != Some(&3) && statuses.changed().await.is_ok() {
            let now = statuses.borrow_and_update().voters.len();
            if sizes.last() != Some(&now) {
                sizes.push(now);
            }
        }
        sizes
    });
    let (two, three) = tokio::join!(places[1].try_join(&one, &ticket), places[2].try_join(&one, &ticket));
    let (two, three) = (two.unwrap(), three.unwrap());
    voters(&one, 3).await;
    println!("two joiners voted after {:?}", begun.elapsed());
    let sizes = sizes.await.unwrap();
    assert!(sizes == [1, 2, 3] || sizes == [1, 3], "{sizes:?}");
    let error = Place::new("hs4").try_join(&one, &ticket).await.err().unwrap();
    assert_eq!((error.exit_code(), error.code().number), (10, 1103), "a third finds the token used up: {error}");
    write(&two, "alice").await;
    same(&two, &three).await;
    for member in [one, two, three] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_that_dies_at_any_step_comes_back_as_the_same_member_and_spends_its_token_once() {
    let home = Place::new("hs1");
    let one = home.found().await;
    let mut deaths = 0;
    for lives in 0.. {
        let place = Place::new(&format!("dies-{lives}"));
        let ticket = token(&one).await;
        let disk = Arc::new(Mortal { disk: place.world.disk.clone(), left: AtomicUsize::new(lives) });
        let dying = Place { world: World { disk, ..place.world.clone() }, ..place };
        let admitted = |name: &str| {
            let state = one.latest();
            let members = state.members().values().filter(|member| member.name == name);
            members.filter(|member| member.state == MemberState::Active).map(|member| member.id).collect::<Vec<_>>()
        };
        let outlived = match dying.try_join(&one, &ticket).await {
            Ok(member) => {
                member.shutdown().await;
                true
            }
            Err(_) => {
                assert_eq!(one.status().voters.len(), 1, "nobody is waited for before it can vote");
                false
            }
        };
        deaths += u32::from(!outlived);
        let before = admitted(&dying.name);
        // The machine is back; the same words again.
        let again = Place { world: world::real::world(), ..dying };
        let member = soon("the folder is free", async {
            loop {
                match again.try_join(&one, &ticket).await {
                    Err(StartError::Disk { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                    other => return other,
                }
            }
        })
        .await
        .unwrap_or_else(|error| panic!("after {lives} changes of the disk: {error}"));
        assert!(before.is_empty() || before == [member.me()], "another member after {lives} changes of the disk");
        assert_eq!(admitted(&again.name), [member.me()]);
        let error = Place::new("thief").try_join(&one, &ticket).await.err().unwrap();
        assert_eq!(error.exit_code(), 10, "{error}");
        one.remove_member(member.me(), true, "test").await.unwrap();
        member.shutdown().await;
        status_where(&one, "alone again", |status| status.voters.len() == 1 && status.learners.is_empty()).await;
        if outlived {
            break;
        }
    }
    println!("a joiner died at {deaths} steps");
    assert!(deaths >= 4, "its key, the sealing key and twice its identity are written: {deaths}");
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_keep_their_conditions() {
    let places = places();
    let one = places[0].found().await;
    let wish = |from: &str, name: &str, role| TokenWish {
        ttl: Duration::from_secs(60),
        name: name.into(),
        role,
        from: vec![from.parse().unwrap()],
        ..TokenWish::default()
    };
    let elsewhere = one.create_token(wish("10.0.0.0/8", "", JoinRole::Voter), "test").await.unwrap();
    let error = places[1].try_join(&one, &elsewhere).await.err().unwrap();
    assert_eq!((error.exit_code(), error.code().number), (10, 1107), "{error}");
    let named = one.create_token(wish("127.0.0.0/8", "hs3", JoinRole::Learner), "test").await.unwrap();
    let error = places[1].try_join(&one, &named).await.err().unwrap();
    assert_eq!((error.exit_code(), error.code().number), (2, 1003), "{error}");
    let three = places[2].try_join(&one, &named).await.unwrap();
    status_where(&one, "a learner", |status| status.learners == [three.me()]).await;
    three.shutdown().await;
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_five_seconds_off_keeps_a_joiner_out() {
    let home = Place::new("hs1");
    let one = home.found().await;
    for (name, ms, fits) in [("a", 4_000, true), ("b", -4_000, true), ("c", 6_000, false), ("d", -6_000, false)] {
        let joiner = Place { world: off_by(ms).0, ..Place::new(name) };
        match joiner.try_join(&one, &token(&one).await).await {
            Ok(member) => {
                assert!(fits, "{ms} ms are too much");
                one.remove_member(member.me(), true, "test").await.unwrap();
                member.shutdown().await;
            }
            Err(error) => {
                assert!(!fits, "{ms} ms are fine: {error}");
                assert_eq!((error.exit_code(), error.code().number), (15, 3015), "{error}");
            }
        }
    }
    one.shutdown().await;
}

async fn lead(member: &Cluster) {
    member.transfer_leader(Some(member.me())).await.unwrap();
    status_where(member, "leading", |status| status.leader == Some(member.me())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_most_others_contradict_lets_another_lead() {
    let mut places = places();
    let (world, screw) = off_by(0);
    places[0].world = world;
    let [one, two, three] = three(&places).await;
    lead(&one).await;
    screw.0.store(3_000, Ordering::Relaxed);
    let begun = Instant::now();
    status_where(&two, "another leader", |status| status.leader.is_some_and(|leader| leader != one.me())).await;
    println!("a leader three seconds ahead handed over after {:?}", begun.elapsed());
    assert!(one.clock_behind_ms().is_some_and(|behind| behind < -2_000));
    write(&one, "still-a-member").await;
    for member in [one, two, three] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_silent_for_too_long_gives_its_vote_to_a_standby_and_only_then() {
    let after = Some(Duration::from_secs(3));
    let mut places = places();
    places.iter_mut().for_each(|place| place.auto_remove_after = after);
    let [one, two, three] = three(&places).await;
    lead(&one).await;
    let id = three.me();
    three.shutdown().await;
    drop(three);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(one.latest().member(id).unwrap().state, MemberState::Active, "nobody could take its place");
    let place = Place { auto_remove_after: after, ..Place::new("hs4") };
    let four = place.join(&one).await;
    status_where(&one, "the standby votes", |status| {
        status.voters.len() == 3 && status.voters.contains(&four.me()) && !status.voters.contains(&id)
    })
    .await;
    assert_eq!(one.latest().member(id).unwrap().state, MemberState::Removed);
    for member in [one, two, four] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_is_a_standby_until_somebody_insists() {
    let places = places();
    let [one, two, three] = three(&places).await;
    let place = Place::new("hs4");
    let four = place.join(&one).await;
    status_where(&one, "a standby", |status| status.learners == [four.me()]).await;
    let insist = Command::SetMemberRole { id: four.me(), role: JoinRole::Voter, insist: true };
    one.propose("test", insist).await.unwrap().answer.unwrap();
    voters(&one, 4).await;
    write(&four, "four-vote").await;
    for member in [one, two, three, four] {
        member.shutdown().await;
    }
}
