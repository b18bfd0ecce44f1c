//! Real members are killed, frozen and all cut down at once, in an order a seed decides, while canaries write.
//!
//! Each canary writes under serials nobody else uses and remembers what was acknowledged. Afterwards every acknowledged
//! write must be there, at every member. A round in which too little was written proves nothing: it is VOID and fails.
//!
//! `make test` runs a few rounds; `make torture` many (`TORTURE_ROUNDS`, `TORTURE_SEED`), and writes its figures to
//! `TORTURE_REPORT`.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chaos_tests::fleet::{Fleet, api::Api};
use serde_json::json;
use tokio::{process::Command, time::Instant};

const MEMBERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// Acknowledged writes a round needs to count.
const FLOOR: usize = 20;
/// Between two rounds, so that there is a steady state to disturb.
const CALM: Duration = Duration::from_millis(500);
/// Longer than an election.
const NOTICED: Duration = Duration::from_secs(1);
const FROZEN: Duration = Duration::from_secs(2);

/// A write that was acknowledged.
struct Acknowledged {
    name: String,
    begun: Instant,
    answered: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillLeader,
    KillFollower,
    FreezeLeader,
    KillAll,
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

type Diary = Arc<Mutex<Vec<Acknowledged>>>;

async fn canary(mut api: Api, member: usize, diary: Diary, stop: Arc<AtomicBool>) {
    for serial in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (name, begun) = (format!("canary-{member}-{serial}"), Instant::now());
        match api.post("/api/v1/user", &json!({ "name": name }), Duration::from_secs(12)).await {
            Ok(_) => diary.lock().unwrap().push(Acknowledged { name, begun, answered: Instant::now() }),
            // Nobody knows whether it was done; the next one has another name.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Waits for an answer to a write that began after `since`.
async fn until_written(diary: &Diary, since: Instant) {
    while !diary.lock().unwrap().iter().any(|write| write.begun >= since) {
        assert!(since.elapsed() < PATIENCE, "no write for {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The longest time after `since` in which no write was acknowledged to anybody. The first answers after a signal may
/// still come from the member that is dying; the stall is what follows them.
fn stall(diary: &Diary, since: Instant) -> Duration {
    let mut answers: Vec<Instant> =
        diary.lock().unwrap().iter().map(|write| write.answered).filter(|answered| *answered >= since).collect();
    answers.push(since);
    answers.sort_unstable();
    answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

async fn signal(fleet: &Fleet, member: usize, name: &str) {
    let pid = fleet.report.members[member].pid.expect("the member runs");
    let sent = Command::new("kill").args([name, &pid.to_string()]).status().await.unwrap();
    assert!(sent.success(), "{name} to {pid}");
}

async fn disturb(fleet: &mut Fleet, fault: Fault, dice: &mut Dice, diary: &Diary) -> Duration {
    let leader = fleet.leader().await.unwrap();
    let follower = (leader + 1 + dice.below(MEMBERS as u64 - 1) as usize) % MEMBERS;
    match fault {
        Fault::KillLeader => fleet.kill(leader).await.unwrap(),
        Fault::KillFollower => fleet.kill(follower).await.unwrap(),
        Fault::FreezeLeader => signal(fleet, leader, "-STOP").await,
        Fault::KillAll => {
            for member in 0..MEMBERS {
                fleet.kill(member).await.unwrap();
            }
        }
    }
    let since = Instant::now();
    if fault == Fault::KillAll {
        fleet.raise().await.unwrap();
    }
    // Whoever notices at all notices within this time; then the next answer ends the stall.
    tokio::time::sleep(NOTICED).await;
    until_written(diary, Instant::now()).await;
    if fault == Fault::FreezeLeader {
        tokio::time::sleep(FROZEN.saturating_sub(since.elapsed())).await;
        signal(fleet, leader, "-CONT").await;
    }
    let longest = stall(diary, since);
    fleet.raise().await.unwrap();
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let (rounds, seed) = (setting("TORTURE_ROUNDS", 4), setting("TORTURE_SEED", 7));
    let mut dice = Dice(seed);
    let mut fleet = Fleet::up(MEMBERS).await.unwrap();
    let (diary, stop) = (Diary::default(), Arc::new(AtomicBool::new(false)));
    let canaries: Vec<_> = (0..MEMBERS)
        .map(|member| tokio::spawn(canary(fleet.api(member), member, diary.clone(), stop.clone())))
        .collect();

    let mut figures: Vec<(Fault, Duration)> = Vec::new();
    for round in 0..rounds {
        let faults = [Fault::KillLeader, Fault::KillFollower, Fault::FreezeLeader, Fault::KillAll];
        // Each kind once, then as the dice say.
        let fault = faults[if round < 4 { round as usize } else { dice.below(4) as usize }];
        let before = diary.lock().unwrap().len();
        tokio::time::sleep(CALM).await;
        let took = disturb(&mut fleet, fault, &mut dice, &diary).await;
        let written = diary.lock().unwrap().len() - before;
        println!(
            "round {round} (seed {seed}): {fault:?}, no write for {took:?} at most, {written} writes acknowledged"
        );
        assert!(written >= FLOOR, "VOID: only {written} writes in this round, at least {FLOOR} are needed");
        figures.push((fault, took));
    }
    stop.store(true, Ordering::Relaxed);
    for canary in canaries {
        canary.await.unwrap();
    }

    let acknowledged = std::mem::take(&mut *diary.lock().unwrap());
    let mut lists = Vec::new();
    for member in 0..MEMBERS {
        let path = "/api/v1/user?consistency=linearizable";
        let reply = fleet.api(member).get(path, PATIENCE).await.unwrap();
        let names: std::collections::BTreeSet<String> =
            reply["users"].as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap().to_owned()).collect();
        let lost: Vec<&String> =
            acknowledged.iter().map(|write| &write.name).filter(|name| !names.contains(*name)).collect();
        assert!(lost.is_empty(), "member {member} lost {lost:?} (seed {seed})\n{}", fleet.logs());
        lists.push(names);
    }
    assert!(lists.windows(2).all(|pair| pair[0] == pair[1]), "members differ (seed {seed})");
    report(&fleet, &figures, acknowledged.len(), seed);
}

/// The longest stall of writes by kind of fault, against the goals R1, R2 and R9 for p99.
fn report(fleet: &Fleet, figures: &[(Fault, Duration)], acknowledged: usize, seed: u64) {
    let mut text = format!("seed {seed}, {} faults, {acknowledged} writes acknowledged, 0 lost\n", figures.len());
    for (fault, goal) in [
        (Fault::KillLeader, "R1: 1 s"),
        (Fault::KillFollower, "R2: 50 ms"),
        (Fault::FreezeLeader, "R1: 1 s"),
        (Fault::KillAll, "R9: 15 s"),
    ] {
        let mut times: Vec<u128> =
            figures.iter().filter(|(kind, _)| *kind == fault).map(|(_, took)| took.as_millis()).collect();
        times.sort_unstable();
        let (Some(max), many) = (times.last(), times.len()) else { continue };
        let (p50, p99) = (times[(many - 1) / 2], times[(many * 99).div_ceil(100) - 1]);
        text += &format!("{fault:?}: {many} times, p50 {p50} ms, p99 {p99} ms, max {max} ms, goal for p99 {goal}\n");
    }
    println!("{text}");
    if let Some(path) = std::env::var_os("TORTURE_REPORT") {
        fleet.world.disk.write(Path::new(&path), text.as_bytes()).unwrap();
    }
}
