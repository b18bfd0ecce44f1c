//! The goals R1 to R12: each with its own members, its own fault, and at least fifty repetitions.
//!
//! What disturbs timings runs alone; what mostly waits (a watchdog of two minutes, a backup's period) runs beside others.

mod clients;
mod disaster;
mod disk;
mod network;
mod restart;

pub use disaster::last_log_in;

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use tokio::time::Instant;

use super::{
    kills::{self, Fault},
    report::{Figure, Report},
};

/// What can be asked for.
pub const ALL: [&str; 14] = ["R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10", "R11", "R12", "F13", "N16"];

/// What a run is asked to do.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    pub seed: u64,
    pub repeats: usize,
    pub program: &'a Path,
    /// Emulated devices with a stream, over three members.
    pub clients: usize,
}

/// The goals named, in an order that suits the machine.
pub async fn run(names: &[String], wish: Wish<'_>, report: &mut Report) -> Result<()> {
    let names = checked(names)?;
    alone(&names, wish, report).await?;
    waiting(&names, wish, report).await;
    Ok(())
}

/// In capitals, and all of them known.
fn checked(names: &[String]) -> Result<Vec<String>> {
    let names: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
    match names.iter().find(|name| !ALL.contains(&name.as_str())) {
        Some(unknown) => bail!("{unknown} is none of {}", ALL.join(" ")),
        None => Ok(names),
    }
}

fn asks(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|asked| asked == name)
}

/// Those that company would disturb, one after the other.
pub async fn alone(names: &[String], wish: Wish<'_>, report: &mut Report) -> Result<()> {
    let only: Vec<Fault> = [("R1", Fault::KillLeader), ("R2", Fault::KillFollower), ("R9", Fault::KillAll)]
        .into_iter()
        .filter(|(name, _)| asks(names, name))
        .map(|(_, fault)| fault)
        .collect();
    if !only.is_empty() {
        let (rounds, first, begun) = (wish.repeats * only.len(), report.figures.len(), Instant::now());
        let kills =
            kills::Wish { rounds, seed: wish.seed, program: Some(wish.program), only: &only, enough: wish.repeats };
        kills::run(&kills, report).await?;
        report.took(first, begun.elapsed());
    }
    if asks(names, "R6") {
        add(report, "R6", timed(restart::r6(wish)).await);
    }
    if asks(names, "R7") {
        add(report, "R7", timed(network::r7(wish)).await);
    }
    if asks(names, "R3") {
        add(report, "R3", timed(clients::r3(wish)).await);
    }
    if asks(names, "R4") {
        add(report, "R4", timed(clients::r4(wish)).await);
    }
    if asks(names, "F13") {
        add(report, "F13", timed(disk::f13(wish)).await);
    }
    if asks(names, "N16") {
        add(report, "N16", timed(network::n16(wish)).await);
    }
    Ok(())
}

/// Those that wait more than they work, at the same time.
pub async fn waiting(names: &[String], wish: Wish<'_>, report: &mut Report) {
    let (r5, r8, r10, r11, r12) = tokio::join!(
        when(asks(names, "R5"), clients::r5(wish)),
        when(asks(names, "R8"), disaster::r8(wish)),
        when(asks(names, "R10"), disaster::r10(wish)),
        when(asks(names, "R11"), disaster::r11(wish)),
        when(asks(names, "R12"), disaster::r12(wish)),
    );
    for (name, figures) in [("R5", r5), ("R8", r8), ("R10", r10), ("R11", r11), ("R12", r12)] {
        if let Some(figures) = figures {
            add(report, name, figures);
        }
    }
}

type Timed = (Result<Vec<Figure>>, Duration);

async fn when(asked: bool, work: impl Future<Output = Result<Vec<Figure>>>) -> Option<Timed> {
    if asked { Some(timed(work).await) } else { None }
}

async fn timed(work: impl Future<Output = Result<Vec<Figure>>>) -> Timed {
    let begun = Instant::now();
    (work.await, begun.elapsed())
}

/// What could not be measured to its end has failed, and the others go on.
fn add(report: &mut Report, name: &str, (figures, time): Timed) {
    let first = report.figures.len();
    match figures {
        Ok(figures) => figures.into_iter().for_each(|figure| report.add(figure)),
        Err(error) => {
            let mut figure = Figure::new(name, "broke off", Default::default());
            figure.fail(format!("{error:#}"));
            report.add(figure.judged(0));
        }
    }
    report.took(first, time);
}
