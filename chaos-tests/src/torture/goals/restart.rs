//! R6: a leader is restarted on purpose.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::Wish;
use crate::torture::{
    canaries::Canaries,
    crew::{Crew, PATIENCE, Plan},
    ground::Ground,
    guests::Guests,
    report::{Figure, Goal},
    verdict,
};

/// Devices that hold streams meanwhile.
const GUESTS: usize = 30;
/// Between two restarts.
const CALM: Duration = Duration::from_millis(500);

/// SIGTERM to the leader under load, then a start.
pub async fn r6(wish: Wish<'_>) -> Result<Vec<Figure>> {
    let mut stall = Figure::new("R6", "leader restarted on purpose: longest time without a write", Goal::p99(250.0));
    let mut moved =
        Figure::new("R6b", "leader restarted on purpose: its devices have a map elsewhere", Goal::worst(10_000.0));
    let mut ended = Figure::new("R6c", "leader told to stop: until its process has ended", Goal::default());
    let mut crew = Crew::up(Plan { program: Some(wish.program.to_owned()), ..Plan::three() }, Ground::Loopback).await?;
    let mut guests = Guests::invite(&crew, GUESTS).await?;
    let canaries = Canaries::fly(&crew, "r6");
    let (mut failed, mut turned_away) = (0, 0);
    for round in 0..wish.repeats {
        sleep(CALM).await;
        guests.catch_up();
        let leader = crew.leader().await?;
        let address = crew.seats[leader].address();
        let whom = guests.at(&address);
        let since = Instant::now();
        crew.signal(leader, "-TERM").await?;
        let times = guests.moved(&whom, &address, since, Duration::from_secs(60)).await;
        let status = crew.exit(leader, PATIENCE).await?;
        ended.took(since.elapsed());
        if !status.success() {
            ended.fail(format!("round {round}: it ended with {status}"));
        }
        match times {
            Ok(times) => times.into_iter().for_each(|time| moved.took(time)),
            Err(missing) => {
                moved.fail(format!("round {round}: {missing} of {} devices have no map after 60 s", whom.len()))
            }
        }
        canaries.diary.until_written(Instant::now()).await?;
        stall.took(canaries.diary.stall(since));
        let others: Vec<usize> = (0..crew.plan.members).filter(|member| *member != leader).collect();
        failed += canaries.diary.failed(&others, since, Instant::now()).len();
        // Whoever speaks to a member that goes is refused once it has gone; before that, nobody is.
        let there = canaries.diary.failed(&[leader], since, Instant::now());
        let refused = |why: &str| why.contains("refused") || why.contains("reset") || why.contains("closed");
        turned_away += there.iter().filter(|failure| !refused(&failure.why)).count();
        for failure in there.iter().filter(|failure| !refused(&failure.why)).take(1) {
            stall.because.push(format!("at the member that went: {}", failure.why));
        }
        crew.start(leader)?;
        crew.whole().await?;
    }
    stall.note("failed_writes_elsewhere", failed);
    stall.note("failed_writes_there_but_refused_connections", turned_away);
    if failed > 0 {
        stall.fail(format!("{failed} writes through the other members failed"));
    }
    let diary = canaries.land().await;
    let diary = std::mem::take(&mut *diary.open());
    for what in verdict::broken(&crew, &diary).await? {
        stall.fail(what);
    }
    stall.note("acknowledged", diary.writes.len());
    Ok(vec![stall.judged(wish.repeats), moved.judged(wish.repeats), ended.judged(wish.repeats)])
}
