//! Members in temporary folders, over the loopback.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod clocks;

use std::{future::Future, path::Path, time::Duration};

use raft::{Applied, Cluster, Options, StartAs, StartError, Status, Timing};
use state_machine::{Command, JoinRole, Outcome, Settings};
use world::World;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen in {PATIENCE:?}"),
    }
}

/// One member's folder, which outlives the member.
pub struct Place {
    pub name: String,
    pub folder: tempfile::TempDir,
    pub world: World,
    pub snapshot_every: u64,
    pub space: raft::Space,
    /// What its program can apply.
    pub feature_level: u32,
    pub auto_remove_after: Option<Duration>,
    /// Where it is at every start; none: at another port each time, as if it had moved.
    pub port: Option<HeldPort>,
}

/// A port of the loopback nobody else is given. It is bound and not listened at, so that a member can.
pub struct HeldPort(tokio::net::TcpSocket);

impl HeldPort {
    pub fn taken() -> HeldPort {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        HeldPort(socket)
    }

    fn number(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }
}

impl Place {
    pub fn new(name: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        Place {
            name: name.into(),
            folder,
            world: world::real::world(),
            snapshot_every: 1000,
            space: raft::Space::default(),
            feature_level: state_machine::FEATURE_LEVEL,
            auto_remove_after: None,
            port: None,
        }
    }

    /// A machine that keeps its address, as machines do.
    pub fn settled(name: &str) -> Place {
        Place { port: Some(HeldPort::taken()), ..Place::new(name) }
    }

    pub fn data_dir(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    pub fn options(&self, start: StartAs) -> Options {
        Options {
            data_dir: self.data_dir(),
            sealing_key: None,
            name: self.name.clone(),
            peer_listen: ([127, 0, 0, 1], self.port.as_ref().map_or(0, HeldPort::number)).into(),
            peer_advertise: "127.0.0.1:0".into(),
            timing: Timing::cautious(),
            version: "0.0.0-test".into(),
            client_url: String::new(),
            relay: None,
            start,
            snapshot_every: self.snapshot_every,
            space: self.space,
            feature_level: self.feature_level,
            auto_remove_after: self.auto_remove_after,
            join_within: raft::JOIN_WITHIN,
            arrival: None,
            backup: None,
            drills: false,
            runtime: None,
        }
    }

    pub async fn found(&self) -> Cluster {
        self.try_found().await.unwrap()
    }

    pub async fn try_found(&self) -> Result<Cluster, StartError> {
        let secrets = vec![("noise".to_string(), vec![7; 32])];
        let start = StartAs::FoundIfEmpty { settings: Settings::default(), secrets };
        soon("founding", Cluster::start(self.options(start), &self.world)).await
    }

    pub async fn try_join(&self, at: &Cluster, token: &str) -> Result<Cluster, StartError> {
        let address = vec![peer_address(at)];
        let start = StartAs::Join { address, token: token.into(), replaces: String::new() };
        soon("joining", Cluster::start(self.options(start), &self.world)).await
    }

    /// A new machine for a member that is gone.
    pub async fn try_replace(&self, at: &Cluster, token: &str) -> Result<Cluster, StartError> {
        self.try_replace_as(at, token, |options| options).await
    }

    pub async fn try_replace_as(
        &self,
        at: &Cluster,
        token: &str,
        as_told: impl FnOnce(Options) -> Options,
    ) -> Result<Cluster, StartError> {
        let start = StartAs::Join { address: vec![peer_address(at)], token: token.into(), replaces: self.name.clone() };
        soon("joining", Cluster::start(as_told(self.options(start)), &self.world)).await
    }

    pub async fn join(&self, at: &Cluster) -> Cluster {
        let token = token(at).await;
        self.try_join(at, &token).await.unwrap()
    }

    pub async fn try_again(&self) -> Result<Cluster, StartError> {
        soon("starting", Cluster::start(self.options(StartAs::Continue), &self.world)).await
    }

    /// A dropped member ends in the background; its folder is free a moment later.
    pub async fn again_if_let(&self) -> Result<Cluster, StartError> {
        loop {
            match self.try_again().await {
                Err(StartError::Disk { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => return other,
            }
        }
    }

    pub async fn again(&self) -> Cluster {
        self.again_if_let().await.unwrap()
    }

    /// Files of the database that end like this, oldest first.
    pub fn database_files(&self, ending: &str) -> Vec<std::path::PathBuf> {
        let folder = self.data_dir().join("db");
        let names = self.world.disk.list(&folder).unwrap();
        names.into_iter().filter(|name| name.ends_with(ending)).map(|name| folder.join(name)).collect()
    }

    pub fn change_file(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.world.disk.read(path).unwrap().unwrap();
        change(&mut bytes);
        self.world.disk.write(path, &bytes).unwrap();
    }
}

pub fn peer_address(member: &Cluster) -> String {
    member.latest().member(member.me()).unwrap().peer_address.clone()
}

pub async fn token(at: &Cluster) -> String {
    at.create_join_token(Duration::from_secs(600), "", JoinRole::Voter, "test").await.unwrap()
}

pub fn create_user(name: &str) -> Command {
    Command::CreateUser {
        name: name.into(),
        display_name: String::new(),
        email: String::new(),
        profile_pic_url: String::new(),
    }
}

pub async fn write(member: &Cluster, name: &str) -> Applied {
    let applied = member.propose("test", create_user(name)).await.unwrap();
    assert!(matches!(applied.answer, Ok(Outcome::User(_))), "{applied:?}");
    assert!(member.latest().user_by_name(name).is_some(), "a proposer reads its own write");
    applied
}

pub async fn status_where(member: &Cluster, what: &str, fits: impl FnMut(&Status) -> bool) -> Status {
    let mut statuses = member.watch_status();
    soon(what, statuses.wait_for(fits)).await.unwrap().clone()
}

pub async fn voters(member: &Cluster, count: usize) {
    status_where(member, "all vote", |status| status.voters.len() == count && !status.joint).await;
}

/// Waits until a member has everything another has, and compares.
pub async fn same(one: &Cluster, other: &Cluster) {
    let want = one.confirm().await.unwrap();
    let mut latest = other.watch();
    let got = soon("catching up", latest.wait_for(|state| state.revision() >= want.revision())).await.unwrap().clone();
    if got.revision() == want.revision() {
        assert_eq!(got.hash(), want.hash(), "two members at one revision differ");
    }
}

/// Three voters, the founder first.
pub async fn three(places: &[Place; 3]) -> [Cluster; 3] {
    let one = places[0].found().await;
    let two = places[1].join(&one).await;
    let three = places[2].join(&two).await;
    voters(&one, 3).await;
    [one, two, three]
}

pub fn places() -> [Place; 3] {
    ["hs1", "hs2", "hs3"].map(Place::new)
}

/// A disk that takes its time over every append while told to.
pub struct SlowDisk {
    inner: std::sync::Arc<dyn world::Disk>,
    slow: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

/// Longer than half of any election timeout a test runs with.
const SLOW_APPEND: Duration = Duration::from_millis(400);

impl SlowDisk {
    /// The world of a machine with such a disk, and the switch.
    pub fn world() -> (World, std::sync::Arc<std::sync::atomic::AtomicBool>) {
        let world = world::real::world();
        let slow = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
        let disk = SlowDisk { inner: world.disk.clone(), slow: slow.clone() };
        (World { disk: std::sync::Arc::new(disk), ..world }, slow)
    }
}

impl world::Disk for SlowDisk {
    fn read(&self, path: &Path) -> std::io::Result<Option<Vec<u8>>> {
        self.inner.read(path)
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        self.inner.write(path, bytes)
    }
    /// The writer notes every append it has synced, on its own thread and before it answers.
    #[expect(clippy::disallowed_methods, reason = "the writer has a thread of its own, and a slow disk holds it up")]
    fn note(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        if self.slow.load(std::sync::atomic::Ordering::Relaxed) {
            std::thread::sleep(SLOW_APPEND);
        }
        self.inner.note(path, bytes)
    }
    fn size(&self, path: &Path) -> std::io::Result<Option<u64>> {
        self.inner.size(path)
    }
    fn allocate(&self, path: &Path, bytes: u64) -> std::io::Result<()> {
        self.inner.allocate(path, bytes)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.inner.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.inner.rename(from, to)
    }
    fn list(&self, folder: &Path) -> std::io::Result<Vec<String>> {
        self.inner.list(folder)
    }
    fn create_dir_all(&self, folder: &Path) -> std::io::Result<()> {
        self.inner.create_dir_all(folder)
    }
    fn lock(&self, folder: &Path) -> std::io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(folder)
    }
    fn free_bytes(&self, folder: &Path) -> std::io::Result<Option<u64>> {
        self.inner.free_bytes(folder)
    }
    fn database_env(&self) -> Option<rocksdb::Env> {
        self.inner.database_env()
    }
    fn syncing(&self) -> world::Syncing {
        self.inner.syncing()
    }
}
