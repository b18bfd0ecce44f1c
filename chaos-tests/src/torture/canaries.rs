//! Those who use the cluster while it is tortured, and remember every answer they got.
//!
//! A writer at each member creates users under serials nobody else uses. Readers ask any member, linearizably, for the
//! newest write that was acknowledged to anybody. A registrar makes one-use keys and lets two devices race for each.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use world::World;

use super::crew::{Crew, PATIENCE};
use crate::{
    client::{Connection, Identity, Registered},
    fleet::api::Api,
};

/// A client that hears nothing for so long asks again.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
/// Between two writes of one writer.
const PAUSE: Duration = Duration::from_millis(15);
/// After a write that failed: whoever refuses connections does so at once.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);
const READ_EVERY: Duration = Duration::from_millis(40);
const REGISTER_EVERY: Duration = Duration::from_millis(400);

/// A write that was acknowledged.
#[derive(Clone, Debug)]
pub struct Write {
    pub name: String,
    /// Through which member.
    pub member: usize,
    pub begun: Instant,
    pub answered: Instant,
}

/// A call that got no answer, or an error.
#[derive(Clone, Debug)]
pub struct Failure {
    pub member: usize,
    pub begun: Instant,
    pub ended: Instant,
    pub why: String,
}

/// A one-use key, and what two devices were told that raced for it.
#[derive(Clone, Debug)]
pub struct Race {
    /// Host names.
    pub devices: [String; 2],
    /// Whether they were let in; none: nobody knows.
    pub let_in: [Option<bool>; 2],
}

/// Everything the canaries know.
#[derive(Default)]
pub struct Diary {
    pub writes: Vec<Write>,
    pub failures: Vec<Failure>,
    pub reads: usize,
    /// Linearizable reads that lacked what had been acknowledged before they began.
    pub stale: Vec<String>,
    pub races: Vec<Race>,
}

/// A diary many write in.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Diary>>);

impl Shared {
    pub fn open(&self) -> MutexGuard<'_, Diary> {
        self.0.lock().expect("nobody panics while writing in the diary")
    }

    /// Waits for an answer to a write that began after `since`.
    pub async fn until_written(&self, since: Instant) -> Result<Instant> {
        loop {
            let answered = self
                .open()
                .writes
                .iter()
                .rev()
                .take(2000)
                .filter(|write| write.begun >= since)
                .map(|write| write.answered)
                .min();
            if let Some(answered) = answered {
                return Ok(answered);
            }
            ensure!(Instant::now() < since + PATIENCE, "no write for {PATIENCE:?}");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// The longest time after `since` in which no write was acknowledged to anybody. The first answers after a signal
    /// may still come from the member that is dying; the stall is what follows them.
    pub fn stall(&self, since: Instant) -> Duration {
        let diary = self.open();
        let mut answers: Vec<Instant> =
            diary.writes.iter().map(|write| write.answered).filter(|answered| *answered >= since).collect();
        answers.push(since);
        answers.sort_unstable();
        answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Times of the writes through these members that began in a span.
    pub fn latencies(&self, members: &[usize], from: Instant, to: Instant) -> Vec<Duration> {
        let diary = self.open();
        let within = |write: &&Write| members.contains(&write.member) && write.begun >= from && write.begun < to;
        diary.writes.iter().filter(within).map(|write| write.answered - write.begun).collect()
    }

    /// Calls through these members that began in a span and failed.
    pub fn failed(&self, members: &[usize], from: Instant, to: Instant) -> Vec<Failure> {
        let diary = self.open();
        let within =
            |failure: &&Failure| members.contains(&failure.member) && failure.begun >= from && failure.begun < to;
        diary.failures.iter().filter(within).cloned().collect()
    }
}

/// The canaries of one crew; they end when stopped or dropped.
pub struct Canaries {
    pub diary: Shared,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Canaries {
    /// Writers and readers at each member of the plan, and the registrar.
    pub fn fly(crew: &Crew, prefix: &str) -> Canaries {
        let mut canaries = Canaries::writers(crew, prefix);
        canaries.doubt(crew);
        let (diary, stop) = (&canaries.diary, &canaries.stop);
        let apis = (0..crew.plan.members).map(|member| crew.api(member)).collect();
        let addresses = crew.seats[..crew.plan.members].iter().map(|seat| seat.address()).collect();
        let registrar = Registrar { world: crew.world.clone(), apis, addresses, user: crew.user.clone() };
        canaries.tasks.spawn(registrar.work(prefix.to_owned(), diary.clone(), stop.clone()));
        canaries
    }

    /// Writers alone.
    pub fn writers(crew: &Crew, prefix: &str) -> Canaries {
        Canaries::crowd(crew, prefix, 1, PAUSE)
    }

    /// So many writers at each member, each with a pause between an answer and the next write.
    pub fn crowd(crew: &Crew, prefix: &str, each: usize, pause: Duration) -> Canaries {
        let (diary, stop, mut tasks) = (Shared::default(), Arc::new(AtomicBool::new(false)), JoinSet::new());
        for (member, number) in (0..crew.plan.members).flat_map(|member| (0..each).map(move |number| (member, number)))
        {
            let name = if each == 1 { prefix.to_owned() } else { format!("{prefix}-{number}") };
            tasks.spawn(write(crew.api(member), name, member, pause, diary.clone(), stop.clone()));
        }
        Canaries { diary, stop, tasks }
    }

    /// A reader who asks any member for the newest write that was acknowledged.
    pub fn doubt(&mut self, crew: &Crew) {
        let apis = (0..crew.plan.members).map(|member| crew.api(member)).collect();
        self.tasks.spawn(read(crew.world.clone(), apis, self.diary.clone(), self.stop.clone()));
    }

    /// Lets everybody finish what they are at.
    pub async fn land(mut self) -> Shared {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.diary
    }
}

async fn write(mut api: Api, prefix: String, member: usize, pause: Duration, diary: Shared, stop: Arc<AtomicBool>) {
    for serial in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (name, begun) = (format!("{prefix}-{member}-{serial}"), Instant::now());
        let answer = api.post("/api/v1/user", &json!({ "name": name }), ANSWER_WITHIN).await;
        let now = Instant::now();
        match answer {
            Ok(_) => {
                diary.open().writes.push(Write { name, member, begun, answered: now });
                sleep(pause).await;
            }
            // Nobody knows whether it was done; the next one has another name.
            Err(error) => {
                diary.open().failures.push(Failure { member, begun, ended: now, why: format!("{error:#}") });
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

async fn read(world: World, mut apis: Vec<Api>, diary: Shared, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        sleep(READ_EVERY).await;
        let Some(newest) = diary.open().writes.last().cloned() else { continue };
        let member = world.entropy.below(apis.len() as u64) as usize;
        let path = format!("/api/v1/user?name={}&consistency=linearizable", newest.name);
        let Ok(reply) = apis[member].get(&path, ANSWER_WITHIN).await else { continue };
        let found = reply["users"].as_array().is_some_and(|users| !users.is_empty());
        let mut diary = diary.open();
        diary.reads += 1;
        if !found {
            diary.stale.push(format!("member {member} did not know {} after it was acknowledged", newest.name));
        }
    }
}

struct Registrar {
    world: World,
    apis: Vec<Api>,
    addresses: Vec<String>,
    user: String,
}

impl Registrar {
    async fn work(mut self, prefix: String, diary: Shared, stop: Arc<AtomicBool>) {
        for serial in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            // A member that is down cannot make a key; the next one can.
            if let Ok(race) = self.race(&format!("{prefix}-{serial}")).await {
                diary.open().races.push(race);
            }
            sleep(REGISTER_EVERY).await;
        }
    }

    async fn race(&mut self, name: &str) -> Result<Race> {
        let member = self.world.entropy.below(self.apis.len() as u64) as usize;
        let wish = json!({ "user": self.user, "reusable": false });
        let made = self.apis[member].post("/api/v1/preauthkey", &wish, ANSWER_WITHIN).await?;
        let key = made["preAuthKey"]["key"].as_str().context("a key has a text")?;
        let devices = [format!("{name}-a"), format!("{name}-b")];
        let start = self.world.entropy.below(self.addresses.len() as u64) as usize;
        let other = (start + 1) % self.addresses.len();
        let (first, second) = tokio::join!(
            enter(&self.world, &self.addresses[start], &devices[0], key),
            enter(&self.world, &self.addresses[other], &devices[1], key),
        );
        Ok(Race { devices, let_in: [first, second] })
    }
}

/// Whether a device was let in with this key; none: nobody knows.
async fn enter(world: &World, address: &str, device: &str, key: &str) -> Option<bool> {
    let identity = Identity::new(&world.entropy, device);
    let entered = async {
        let connection = Connection::open(world, address, &identity).await?;
        connection.register(&identity, Some(key)).await
    };
    match timeout(ANSWER_WITHIN, entered).await {
        Ok(Ok(Registered::In)) => Some(true),
        Ok(Ok(_)) => Some(false),
        Ok(Err(_)) | Err(_) => None,
    }
}
