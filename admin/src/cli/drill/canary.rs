//! Canaries: clients outside the members that write, read and register while something is broken.
//!
//! Each has a home member and does as real clients do: when it fails there it asks another one, and comes home after a
//! while. Every write has a serial nobody else has; an answer that did not come leaves it open whether it was done.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use state_machine::codes;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    ops::{Kind, Op},
    stage::{Seat, Stage},
};
use crate::{
    cli::problem::Problem,
    v1::types::{OneNode, OneUser, Users},
};

/// An answer later than this is none.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Away from home for so long.
const AWAY: Duration = Duration::from_secs(1);
/// After a failure, before the next member is asked.
const PAUSE: Duration = Duration::from_millis(10);
/// Deletions at once, afterwards.
const CLEANERS: usize = 32;

/// What all canaries write into.
pub struct Diary {
    pub begun: Instant,
    ops: Mutex<Vec<Op>>,
    /// Id of the user that the newest acknowledged write made; 0: none yet.
    newest: AtomicU64,
    registered: Mutex<Vec<String>>,
}

impl Diary {
    /// Microseconds since the run began.
    pub fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    /// Everything so far.
    pub fn ops(&self) -> MutexGuard<'_, Vec<Op>> {
        self.ops.lock().expect("canaries do not panic while writing")
    }
}

/// How much canaries do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Writes a second, through all members together.
    pub writes: u64,
    /// Linearizable reads a second.
    pub reads: u64,
    /// Nodes registered a second; laboratories only.
    pub registers: u64,
}

/// All canaries of a run; they end with it.
pub struct Canaries {
    pub diary: Arc<Diary>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Writers through each member.
const WRITERS: u64 = 2;

impl Canaries {
    pub fn start(stage: &Stage, load: Load) -> Canaries {
        let diary = Arc::new(Diary {
            begun: Instant::now(),
            ops: Mutex::default(),
            newest: AtomicU64::new(0),
            registered: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut canaries = Canaries { diary, stop, tasks: JoinSet::new() };
        let members = stage.seats.len() as u64;
        for number in 0..members * WRITERS {
            canaries.spawn(stage, Kind::Write, number, load.writes, members * WRITERS, &stopped);
        }
        for number in 0..members {
            canaries.spawn(stage, Kind::Read, number, load.reads, members, &stopped);
        }
        if load.registers > 0 {
            canaries.spawn(stage, Kind::Register, 0, load.registers, 1, &stopped);
        }
        canaries
    }

    fn spawn(&mut self, stage: &Stage, kind: Kind, number: u64, rate: u64, share: u64, stop: &watch::Receiver<bool>) {
        if rate == 0 {
            return;
        }
        let every = Duration::from_micros(1_000_000 * share / rate);
        let home = number as usize % stage.seats.len();
        let canary = Canary {
            seats: stage.seats.clone(),
            prefix: prefix(&stage.id),
            diary: self.diary.clone(),
            kind,
            number,
            home,
            at: home,
            left_home: None,
        };
        self.tasks.spawn(canary.live(every, stop.clone()));
    }

    /// Lets each finish what it does.
    pub async fn stop(mut self) -> Arc<Diary> {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        self.diary
    }
}

/// Users that canaries make are called so, with a number behind.
pub fn prefix(drill: &str) -> String {
    format!("drill-{drill}-")
}

struct Canary {
    seats: Arc<Vec<Seat>>,
    prefix: String,
    diary: Arc<Diary>,
    kind: Kind,
    number: u64,
    home: usize,
    at: usize,
    left_home: Option<Instant>,
}

impl Canary {
    async fn live(mut self, every: Duration, mut stop: watch::Receiver<bool>) {
        // Spread over the interval, so that they do not all knock at once.
        tokio::time::sleep(every.mul_f64(self.number as f64 / 16.0 % 1.0)).await;
        let mut pace = tokio::time::interval(every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for serial in 0_u64.. {
            tokio::select! { biased;
                _ = stop.changed() => return,
                _ = pace.tick() => {}
            }
            if self.left_home.is_some_and(|left| left.elapsed() >= AWAY) {
                (self.at, self.left_home) = (self.home, None);
            }
            let Some(op) = self.act(serial).await else { continue };
            let ok = op.ok;
            self.diary.ops().push(op);
            if !ok {
                self.at = (self.at + 1) % self.seats.len();
                self.left_home.get_or_insert_with(Instant::now);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn act(&self, serial: u64) -> Option<Op> {
        let (via, begun) = (self.at, self.diary.now());
        let client = &self.seats[via].canary;
        let mut why = String::new();
        let mut told = |problem: &Problem| why = problem.to_string();
        let (ok, stale, name) = match self.kind {
            Kind::Write => {
                let name = format!("{}{}-{serial}", self.prefix, self.number);
                let made = client.post::<OneUser>("/api/v1/user", json!({ "name": name })).await;
                match &made {
                    Ok(made) => _ = self.diary.newest.fetch_max(made.user.id, Ordering::AcqRel),
                    Err(problem) => told(problem),
                }
                (made.is_ok(), false, name)
            }
            Kind::Read => {
                let id = Some(self.diary.newest.load(Ordering::Acquire)).filter(|id| *id > 0)?;
                let path = format!("/api/v1/user/{id}?consistency=linearizable");
                match client.get::<OneUser>(&path).await {
                    Ok(_) => (true, false, String::new()),
                    Err(problem) => {
                        told(&problem);
                        (false, problem.code() == &codes::NOT_FOUND, String::new())
                    }
                }
            }
            Kind::Register => {
                // A node needs an owner, and somebody else makes it.
                let owner = Some(self.diary.newest.load(Ordering::Acquire)).filter(|id| *id > 0)?;
                let made = self.register(via, owner, serial).await.inspect_err(told);
                let ok = made.is_ok();
                self.diary.registered.lock().expect("canaries do not panic while writing").extend(made.ok());
                (ok, false, String::new())
            }
        };
        Some(Op { kind: self.kind, via, begun, answered: self.diary.now(), ok, stale, serial: name, why })
    }

    /// A login that begins and is let in; the id of the node.
    async fn register(&self, via: usize, owner: u64, serial: u64) -> Result<String, Problem> {
        let (client, owner) = (&self.seats[via].canary, owner.to_string());
        let hash = <sha2::Sha256 as sha2::Digest>::digest(format!("{}{serial}", self.prefix));
        let key = format!("{}{}", crate::secret_text::LOGIN, &hex::encode(hash)[..crate::secret_text::LOGIN_LEN]);
        let wish = json!({ "user": owner, "key": key, "name": format!("drill-{serial}") });
        client.post::<Value>("/api/v1/debug/node", wish).await?;
        let wish = json!({ "user": owner, "key": key });
        client.post::<OneNode>("/api/v1/node/register", wish).await.map(|made| made.node.id.to_string())
    }
}

/// What the members have of what was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub acknowledged: u64,
    /// Serials that were acknowledged and are missing at a member, with the member.
    pub missing: Vec<(String, String)>,
    /// Writes without an answer, and how many of them were done.
    pub ambiguous: u64,
    pub ambiguous_done: u64,
}

/// Compares acknowledged serials with what each member has. Pure.
pub fn compare(ops: &[Op], have: &[(String, std::collections::BTreeSet<String>)]) -> Found {
    let mut found = Found::default();
    for op in ops.iter().filter(|op| op.kind == Kind::Write) {
        if op.ok {
            found.acknowledged += 1;
            let lacking = have.iter().filter(|(_, names)| !names.contains(&op.serial));
            found.missing.extend(lacking.map(|(member, _)| (op.serial.clone(), member.clone())));
        } else {
            found.ambiguous += 1;
            found.ambiguous_done += u64::from(have.iter().any(|(_, names)| names.contains(&op.serial)));
        }
    }
    found
}

/// All canary users at one member, with their ids.
pub async fn users(seat: &Seat, drill: &str) -> Result<Vec<(u64, String)>, Problem> {
    let prefix = prefix(drill);
    let all: Users = seat.canary.get("/api/v1/user?consistency=linearizable").await?;
    Ok(all.users.into_iter().filter(|user| user.name.starts_with(&prefix)).map(|user| (user.id, user.name)).collect())
}

/// Removes what canaries made; how many users are left because nobody could be asked.
pub async fn clean(stage: &Stage, diary: &Diary, users: Vec<(u64, String)>) -> usize {
    let nodes = std::mem::take(&mut *diary.registered.lock().expect("canaries are gone"));
    let paths: Vec<String> = nodes
        .iter()
        .map(|id| format!("/api/v1/node/{id}"))
        .chain(users.iter().map(|(id, _)| format!("/api/v1/user/{id}")))
        .collect();
    // Nodes first: a user goes only when nothing is left behind.
    let (first, rest) = paths.split_at(nodes.len());
    delete(stage, first).await + delete(stage, rest).await
}

async fn delete(stage: &Stage, paths: &[String]) -> usize {
    use futures::StreamExt;
    let one = |(index, path): (usize, &String)| {
        let (client, path) = (stage.seats[index % stage.seats.len()].canary.clone(), path.clone());
        async move { client.delete::<Value>(&path).await.is_err() }
    };
    let left = futures::stream::iter(paths.iter().enumerate().map(one)).buffer_unordered(CLEANERS);
    left.filter(|failed| futures::future::ready(*failed)).count().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_acknowledged_serial_is_looked_for_at_every_member() {
        let op = |serial: &str, ok| Op {
            kind: Kind::Write,
            via: 0,
            begun: 0,
            answered: 1,
            ok,
            stale: false,
            serial: serial.into(),
            why: String::new(),
        };
        let ops = [op("a", true), op("b", true), op("c", false), op("d", false)];
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let have = [("hs1".to_owned(), set(&["a", "b", "c"])), ("hs2".to_owned(), set(&["a", "c"]))];
        let found = compare(&ops, &have);
        assert_eq!(found.missing, [("b".to_owned(), "hs2".to_owned())]);
        assert_eq!((found.acknowledged, found.ambiguous, found.ambiguous_done), (2, 2, 1));
    }
}
