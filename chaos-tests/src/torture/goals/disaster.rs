//! R8, R10, R11, R12: one database, the majority, everything, or the right policy is gone.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Wish;
use crate::{
    client::{self, Connection, Identity, Registered},
    torture::{
        Dice,
        canaries::{Canaries, Diary},
        corruption::{self, Damage},
        crew::{Crew, PATIENCE, Plan, copy},
        ground::Ground,
        report::{Figure, Goal},
        verdict,
    },
};

/// A member that cannot trust its folder ends with this.
const QUARANTINE: i32 = 40;
/// Longer than the period of backups.
const A_BACKUP: Duration = Duration::from_secs(14);
/// Some dozens of writes.
const LOG_GROWS: Duration = Duration::from_millis(500);
/// Disasters of R11; each is restored from several times.
const DISASTERS: usize = 5;
/// Moments before each in which the shelf is kept as it was: whatever else there was, a disaster then would have left
/// just that.
const MOMENTS: usize = 9;
/// Everybody gone, up to a client that polls: the part that needs no person.
const FIVE_MINUTES: f64 = 300_000.0;
const TWO_MINUTES: f64 = 120_000.0;

fn plan(wish: &Wish<'_>, members: usize) -> Plan {
    Plan { members, program: Some(wish.program.to_owned()), ..Plan::three() }
}

/// One follower's folder is damaged: it must end at once, the others go on, and it is replaced. Half of the repetitions in
/// each of two clusters: a round mostly waits until the others take the dead one for dead.
pub async fn r8(wish: Wish<'_>) -> Result<Vec<Figure>> {
    let half = Wish { repeats: wish.repeats.div_ceil(2), ..wish };
    let other = Wish { seed: wish.seed ^ 0x5eed, ..half };
    let (one, other) = tokio::try_join!(damaged(half), damaged(other))?;
    Ok(one.into_iter().zip(other).map(|(one, other)| one.and(other, wish.repeats)).collect())
}

async fn damaged(wish: Wish<'_>) -> Result<Vec<Figure>> {
    let mut noticed = Figure::new("R8", "database damaged: from the start to the quarantine", Goal::worst(1000.0));
    let mut replaced = Figure::new("R8b", "join --replace: until it votes", Goal::worst(TWO_MINUTES));
    let mut others =
        Figure::new("R8c", "database damaged: longest time without a write elsewhere", Goal::worst(1000.0));
    let mut dice = Dice(wish.seed);
    let mut crew = Crew::up(plan(&wish, 3), Ground::Loopback).await?;
    let canaries = Canaries::fly(&crew, "r8");
    let mut later = 0;
    for round in 0..wish.repeats {
        let how = Damage::ALL[round % Damage::ALL.len()];
        let leader = crew.leader().await?;
        let victim = (leader + 1 + dice.below(2)) % 3;
        crew.kill(victim).await?;
        let (data, before) = (crew.seats[victim].data(), crew.root().join("before"));
        copy(&data, &before).await?;
        // Another start and some more traffic: what was in memory is in table files, and the copy is old.
        crew.start(victim)?;
        crew.whole().await?;
        // Its newest log must hold more than what a start writes: were only rows lost that are applied again from
        // entries that are still there, nothing of what it promised would be, and it would be right to go on.
        sleep(LOG_GROWS).await;
        let since = Instant::now();
        crew.kill(victim).await?;
        corruption::damage(&crew.world, &data, &before, how, &mut dice).await.with_context(|| format!("{how:?}"))?;
        std::fs::remove_dir_all(&before)?;

        let started = Instant::now();
        crew.start(victim)?;
        match crew.exit(victim, Duration::from_secs(5)).await {
            Ok(status) if status.code() == Some(QUARANTINE) => noticed.took(started.elapsed()),
            Ok(status) => noticed.fail(format!("{how:?}: ended with {status}\n{}", crew.log_end(victim))),
            // Bytes nobody reads at a start (an index, a filter, rows overwritten since) are found by the scrub.
            Err(_) if how == Damage::FlippedTable => {
                crew.kill(victim).await?;
                noticed.took(at_rest(&crew, victim).await.with_context(|| crew.log_end(victim))?);
                later += 1;
            }
            Err(_) => noticed.fail(format!("{how:?} was not noticed\n{}", crew.log_end(victim))),
        }
        if crew.seats[victim].process.is_some() && crew.ended(victim)?.is_none() {
            crew.kill(victim).await?;
        }
        canaries.diary.until_written(Instant::now()).await?;
        others.took(canaries.diary.stall(since));
        crew.forget(victim)?;
        replaced.took(replace(&mut crew, victim).await?);
    }
    noticed.note("found_by_verify_and_not_by_the_start", later);
    let diary = canaries.land().await;
    crew.whole().await?;
    let diary = std::mem::take(&mut *diary.open());
    for what in verdict::broken(&crew, &diary).await? {
        others.fail(what);
    }
    others.note("acknowledged", diary.writes.len());
    Ok(vec![noticed, replaced, others])
}

/// Reads the folder of a member that does not run; it must be found damaged. What that took.
async fn at_rest(crew: &Crew, member: usize) -> Result<Duration> {
    let since = Instant::now();
    let data = crew.seats[member].data().display().to_string();
    let (status, _, said) = crew.word_with(member, &["verify", "--deep", "--data-dir", &data], &[]).await?;
    ensure!(status.code() == Some(QUARANTINE), "bytes of a table were changed, and verify ended with {status}: {said}");
    Ok(since.elapsed())
}

/// `join --replace` until the new one votes. One that answered a moment ago is not replaced yet; an operator asks again.
async fn replace(crew: &mut Crew, member: usize) -> Result<Duration> {
    let since = Instant::now();
    let name = crew.seats[member].name.clone();
    let by = crew.running().into_iter().next().context("somebody runs")?;
    let (token, address) = crew.token(by, "voter", &name).await?;
    loop {
        crew.join(member, &address, &token, &["--replace", &name], &[])?;
        loop {
            let votes =
                |row: &Value| row["name"] == json!(name) && row["role"] == "voter" && row["state"] == "follower";
            if crew.members().await.is_some_and(|list| list.iter().any(votes)) && crew.status(member).await.is_some() {
                return Ok(since.elapsed());
            }
            if crew.ended(member)?.is_some() {
                break;
            }
            ensure!(since.elapsed() < PATIENCE * 2, "{name} does not vote:\n{}", crew.logs());
            sleep(Duration::from_millis(20)).await;
        }
        ensure!(since.elapsed() < PATIENCE, "{name} cannot be replaced:\n{}", crew.log_end(member));
        sleep(Duration::from_millis(200)).await;
    }
}

/// Two of three are gone for good. The tool works on a copy of the survivor's folder each time.
pub async fn r10(wish: Wish<'_>) -> Result<Vec<Figure>> {
    let mut tool = Figure::new("R10", "quorum lost: plan and recover --force-new-cluster", Goal::worst(30_000.0));
    let mut whole = Figure::new("R10b", "quorum lost: from the plan to the first write", Goal::worst(FIVE_MINUTES));
    let mut crew = Crew::up(plan(&wish, 3), Ground::Loopback).await?;
    let canaries = Canaries::writers(&crew, "r10");
    sleep(Duration::from_secs(5)).await;
    for member in 0..3 {
        crew.kill(member).await?;
    }
    let diary = canaries.land().await;
    let diary = std::mem::take(&mut *diary.open());
    let mut missing = 0;
    for round in 0..wish.repeats {
        let mut lone = Crew::prepared(plan(&wish, 1), Ground::Loopback).await?;
        let data = lone.seats[0].data();
        copy(&crew.seats[round % 3].data(), &data).await?;
        let data = data.display().to_string();
        let since = Instant::now();
        let said = lone.word(0, &["recover", "plan", "--survivor", &data, "-o", "json"]).await?;
        let last = last_log_in(&said)?.to_string();
        let words = [
            "recover",
            "--force-new-cluster",
            "--data-dir",
            &data,
            "--expect-last-log",
            &last,
            "--acknowledge-data-loss",
        ];
        lone.word(0, &words).await?;
        tool.took(since.elapsed());
        lone.start(0)?;
        lone.known().await?;
        lone.ask(0, Method::POST, "/api/v1/user", Some(&json!({ "name": "alone" }))).await?;
        whole.took(since.elapsed());
        let truth = verdict::truth(&lone, 0).await?;
        missing = missing.max(diary.writes.iter().filter(|write| !truth.users.contains(&write.name)).count());
        lone.kill(0).await?;
    }
    tool.note("acknowledged", diary.writes.len());
    tool.note("missing_at_the_worst_survivor", missing);
    Ok(vec![tool.judged(wish.repeats), whole.judged(wish.repeats)])
}

/// The last log index of the folder `recover plan` would go on with.
pub fn last_log_in(plan: &str) -> Result<u64> {
    let facts: Value = serde_json::from_str(plan).with_context(|| format!("the plan is JSON: {plan}"))?;
    let best = facts.as_array().and_then(|rows| rows.iter().find(|row| row["best"] == true));
    best.and_then(|row| row["last_log"].as_u64()).with_context(|| format!("the plan names the last log index: {plan}"))
}

/// Everything is gone but the backups; and the same shelf at an earlier moment.
pub async fn r11(wish: Wish<'_>) -> Result<Vec<Figure>> {
    let mut back = Figure::new("R11", "all gone: restore, start, and a known device polls", Goal::worst(FIVE_MINUTES));
    let mut age =
        Figure::new("R11b", "all gone: age of the oldest acknowledged write that is missing", Goal::worst(15_000.0));
    let mut at = Figure::new("R12b", "mass delete: restore --at, start, and the first write", Goal::worst(TWO_MINUTES));
    let each = wish.repeats.div_ceil(DISASTERS);
    for disaster in 0..DISASTERS.min(wish.repeats) {
        let mut crew = Crew::up(Plan { backups: true, ..plan(&wish, 3) }, Ground::Loopback).await?;
        let identity = Identity::new(&crew.world.entropy, "pinned");
        let address = crew.seats[0].address();
        let pinned = client::fetch_key(&crew.world, &address).await?;
        let connection = Connection::open(&crew.world, &address, &identity).await?;
        ensure!(connection.register(&identity, Some(&crew.auth_key)).await? == Registered::In, "not let in");
        drop(connection);
        let canaries = Canaries::writers(&crew, &format!("r11-{disaster}"));
        // The moment of the disaster lies anywhere within a period.
        sleep(A_BACKUP + Duration::from_millis(2100 * disaster as u64)).await;
        let moment = state_machine::Timestamp(crew.world.clock.now_ms()).to_string();
        let mut left = Vec::new();
        for number in 0..MOMENTS.min(wish.repeats / DISASTERS) {
            sleep(A_BACKUP / MOMENTS as u32).await;
            left.push((Instant::now(), kept_as_it_is(&crew, number).await?));
        }
        let seats: Vec<usize> = crew.running();
        ensure!(seats.len() == 3, "a member ended before the disaster:\n{}", crew.logs());
        for member in &seats {
            crew.signal(*member, "-KILL").await?;
        }
        let died = Instant::now();
        for member in &seats {
            crew.exit(*member, PATIENCE).await?;
        }
        let key = crew.seats[0].data().join("sealing.key");
        let diary = canaries.land().await;
        let diary = std::mem::take(&mut *diary.open());
        for (moment, shelf) in left {
            let mut lone = restored(&wish, &shelf, &key, &[]).await?;
            age.took(oldest_missing(&diary, &lone, moment).await?);
            lone.kill(0).await?;
        }
        let (shelf, mut oldest) = (crew.shelf(), Duration::ZERO);
        for _ in 0..each {
            let since = Instant::now();
            let mut lone = restored(&wish, &shelf, &key, &[]).await?;
            ensure!(client::fetch_key(&lone.world, &lone.seats[0].address()).await? == pinned, "another Noise key");
            let connection = Connection::open(&lone.world, &lone.seats[0].address(), &identity).await?;
            connection.stream(&identity, true).await?.next().await.context("a device known before gets its map")?;
            back.took(since.elapsed());
            oldest = oldest.max(oldest_missing(&diary, &lone, died).await?);
            lone.kill(0).await?;

            let since = Instant::now();
            let mut lone = restored(&wish, &shelf, &key, &["--at", &moment]).await?;
            lone.ask(0, Method::POST, "/api/v1/user", Some(&json!({ "name": "after-the-restore" }))).await?;
            at.took(since.elapsed());
            lone.kill(0).await?;
        }
        age.took(oldest);
        back.note("acknowledged", diary.writes.len());
    }
    age.note("disasters", DISASTERS.min(wish.repeats));
    age.note("the_rest", "the shelf as it was at other moments of the same lives");
    Ok(vec![back.judged(wish.repeats), age.judged(wish.repeats), at.judged(wish.repeats)])
}

/// A copy of the shelf, which is written to meanwhile: a piece may be renamed while it is copied, and then all of it is
/// copied again.
async fn kept_as_it_is(crew: &Crew, number: usize) -> Result<PathBuf> {
    let mut tried = 0;
    loop {
        let place = crew.root().join(format!("shelf-{number}-{tried}"));
        match copy(&crew.shelf(), &place).await {
            Ok(()) => return Ok(place),
            Err(error) if tried == 9 => return Err(error),
            Err(_) => tried += 1,
        }
    }
}

/// How long before `moment` the first write was acknowledged that this member does not know.
async fn oldest_missing(diary: &Diary, restored: &Crew, moment: Instant) -> Result<Duration> {
    let truth = verdict::truth(restored, 0).await?;
    let before = diary.writes.iter().filter(|write| write.answered <= moment);
    let missing = before.filter(|write| !truth.users.contains(&write.name));
    Ok(missing.map(|write| moment.saturating_duration_since(write.answered)).max().unwrap_or_default())
}

/// A new folder from the shelf, and a member that runs in it.
async fn restored(wish: &Wish<'_>, shelf: &Path, key: &Path, more: &[&str]) -> Result<Crew> {
    let mut lone = Crew::prepared(plan(wish, 1), Ground::Loopback).await?;
    let [shelf, data, key] = [shelf, &lone.seats[0].data(), key].map(|path| path.display().to_string());
    let mut words =
        vec!["snapshot", "restore", &shelf, "--data-dir", &data, "--name", "hs1", "--sealing-key-file", &key];
    words.extend(more);
    lone.word(0, &words).await?;
    lone.start(0)?;
    lone.known().await?;
    Ok(lone)
}

/// A bad policy is taken back.
pub async fn r12(wish: Wish<'_>) -> Result<Vec<Figure>> {
    let mut figure = Figure::new("R12", "bad policy: policy rollback", Goal::worst(TWO_MINUTES));
    let crew = Crew::up(plan(&wish, 3), Ground::Loopback).await?;
    let good = json!({ "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }] }).to_string();
    let bad = json!({ "acls": [] }).to_string();
    let mut api = crew.api(0);
    let put = |text: &str| json!({ "policy": text });
    for round in 0..wish.repeats {
        // Through one member set, through another taken back.
        api.call(Method::PUT, "/api/v1/policy", Some(&put(&good)), PATIENCE).await?;
        api.call(Method::PUT, "/api/v1/policy", Some(&put(&bad)), PATIENCE).await?;
        let since = Instant::now();
        crew.api(1 + round % 2).post("/api/v1/cluster/policy/rollback", &json!({}), PATIENCE).await?;
        figure.took(since.elapsed());
        let now = api.get("/api/v1/policy?consistency=linearizable", PATIENCE).await?;
        ensure!(now["policy"] == good.as_str(), "the policy in force is {now}");
    }
    Ok(vec![figure.judged(wish.repeats)])
}
