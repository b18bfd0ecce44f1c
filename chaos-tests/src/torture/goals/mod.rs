//! The goals R1 to R12: each with its own members, its own fault, and at least fifty repetitions.
//!
//! What disturbs timings runs alone; what mostly waits (a watchdog of two minutes, a backup's period) runs beside others.

mod clients;
mod disaster;
mod disk;
mod network;
mod restart;

pub use disaster::last_log_in;

use std::path::Path;

use anyhow::{Result, bail};

use super::{
    kills::{self, Fault},
    report::{Figure, Report},
};

/// What can be asked for.
pub const ALL: [&str; 13] = ["R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10", "R11", "R12", "F13"];

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
    let names: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
    if let Some(unknown) = names.iter().find(|name| !ALL.contains(&name.as_str())) {
        bail!("{unknown} is none of {}", ALL.join(" "));
    }
    let asked = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);

    let only: Vec<Fault> = [("R1", Fault::KillLeader), ("R2", Fault::KillFollower), ("R9", Fault::KillAll)]
        .into_iter()
        .filter(|(name, _)| asked(name))
        .map(|(_, fault)| fault)
        .collect();
    if !only.is_empty() {
        let rounds = wish.repeats * only.len();
        let kills =
            kills::Wish { rounds, seed: wish.seed, program: Some(wish.program), only: &only, enough: wish.repeats };
        kills::run(&kills, report).await?;
    }
    // Sensitive to company: one after the other.
    if asked("R6") {
        add(report, "R6", restart::r6(wish).await);
    }
    if asked("R7") {
        add(report, "R7", network::r7(wish).await);
    }
    if asked("R3") {
        add(report, "R3", clients::r3(wish).await);
    }
    if asked("R4") {
        add(report, "R4", clients::r4(wish).await);
    }
    if asked("F13") {
        add(report, "F13", disk::f13(wish).await);
    }
    // They wait more than they work.
    let (r5, r8, r10, r11, r12) = tokio::join!(
        when(asked("R5"), clients::r5(wish)),
        when(asked("R8"), disaster::r8(wish)),
        when(asked("R10"), disaster::r10(wish)),
        when(asked("R11"), disaster::r11(wish)),
        when(asked("R12"), disaster::r12(wish)),
    );
    for (name, figures) in [("R5", r5), ("R8", r8), ("R10", r10), ("R11", r11), ("R12", r12)] {
        if let Some(figures) = figures {
            add(report, name, figures);
        }
    }
    Ok(())
}

async fn when<T>(asked: bool, work: impl Future<Output = T>) -> Option<T> {
    if asked { Some(work.await) } else { None }
}

/// What could not be measured to its end has failed, and the others go on.
fn add(report: &mut Report, name: &str, figures: Result<Vec<Figure>>) {
    match figures {
        Ok(figures) => figures.into_iter().for_each(|figure| report.add(figure)),
        Err(error) => {
            let mut figure = Figure::new(name, "broke off", Default::default());
            figure.fail(format!("{error:#}"));
            report.add(figure.judged(0));
        }
    }
}
