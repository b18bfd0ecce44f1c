//! F13: the disk of one member is full, on a small file system of its own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::Wish;
use crate::torture::{
    canaries::Canaries,
    crew::{Crew, PATIENCE, Plan},
    ground::{self, Ground},
    report::{Figure, Goal},
    verdict,
};

const SIZE: &str = "size=160m";
/// Repetitions are slow: a member looks at its disk now and then.
const OFTEN: usize = 50;
/// How long a member may take to notice.
const NOTICED: Duration = Duration::from_secs(30);

/// The leader's disk fills up; there is room again.
pub async fn f13(wish: Wish<'_>) -> Result<Vec<Figure>> {
    const ROOM: &str = "disk full: from room again to a write through that member";
    if std::env::var_os(ground::INSIDE).is_none() {
        return Ok(vec![Figure::skipped("F13", ROOM, "a small file system can only be mounted as root")]);
    }
    let mut room = Figure::new("F13", ROOM, Goal::worst(5000.0));
    let mut noticed = Figure::new("F13c", "disk full: until that member leads no more, or refuses", Goal::default());
    let mut others = Figure::new("F13b", "disk full: longest time without a write elsewhere", Goal::worst(2000.0));
    let plan = Plan { program: Some(wish.program.to_owned()), ..Plan::three() };
    let mut crew = Crew::prepared(plan, Ground::Loopback).await?;
    for seat in &crew.seats {
        crew.world.disk.create_dir_all(&seat.data())?;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(seat.data()).status().await?;
        ensure!(mounted.success(), "no file system for {}", seat.name);
    }
    crew.go().await?;
    let canaries = Canaries::writers(&crew, "f13");
    let times = wish.repeats.min(OFTEN);
    for round in 0..times {
        let leader = crew.leader().await?;
        let (ballast, since) = (crew.seats[leader].data().join("ballast"), Instant::now());
        let into = format!("of={}", ballast.display());
        let filled = Command::new("dd").args(["if=/dev/zero", "bs=64k", &into]).output().await?;
        ensure!(!filled.status.success(), "round {round}: the disk did not fill up");
        // Until it refuses, or leads no more: then what it is asked for is done by another.
        let (mut refused, mut gave_up) = (None, false);
        while refused.is_none() && !gave_up && since.elapsed() < NOTICED {
            let body = json!({ "name": format!("full-{round}-{}", since.elapsed().as_millis()) });
            refused =
                crew.api(leader).post("/api/v1/user", &body, PATIENCE).await.err().map(|error| format!("{error:#}"));
            let status = crew.status(leader).await;
            let leads =
                |status: &Value| status["leader"] == json!(crew.seats[leader].name) || status["leader"].is_null();
            gave_up = status.is_some_and(|status| !leads(&status));
            sleep(Duration::from_millis(50)).await;
        }
        noticed.took(since.elapsed());
        match refused {
            None if gave_up => {}
            Some(why) if why.contains("HSR-2020") => {}
            Some(why) => room.because.push(format!("round {round}: the full member said {why}")),
            None => room.fail(format!("round {round}: a full disk was not noticed within {NOTICED:?}")),
        }
        if let Some(status) = crew.ended(leader)? {
            room.fail(format!("round {round}: the full member ended with {status}\n{}", crew.log_end(leader)));
            break;
        }
        canaries.diary.until_written(Instant::now()).await?;
        others.took(elsewhere(&canaries, leader, since));
        std::fs::remove_file(&ballast)?;
        let free = Instant::now();
        let mut api = crew.api(leader);
        for attempt in 0.. {
            let body = json!({ "name": format!("room-{round}-{attempt}") });
            if api.post("/api/v1/user", &body, PATIENCE).await.is_ok() {
                break;
            }
            ensure!(free.elapsed() < PATIENCE, "{} takes no write:\n{}", crew.seats[leader].name, crew.log_end(leader));
            sleep(Duration::from_millis(20)).await;
        }
        room.took(free.elapsed());
        crew.whole().await?;
    }
    let diary = canaries.land().await;
    let diary = std::mem::take(&mut *diary.open());
    for what in verdict::broken(&crew, &diary).await.context("the truth afterwards")? {
        room.fail(what);
    }
    Ok(vec![room.judged(times), others.judged(times), noticed.judged(times)])
}

fn elsewhere(canaries: &Canaries, full: usize, since: Instant) -> Duration {
    let diary = canaries.diary.open();
    let through = diary.writes.iter().filter(|write| write.member != full && write.answered >= since);
    let mut answers: Vec<Instant> = through.map(|write| write.answered).collect();
    answers.push(since);
    answers.sort_unstable();
    answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
