//! Finds every error that is put in on purpose (state-machine/src/mutants.rs).

use std::{fmt::Write, path::PathBuf};

use anyhow::{Result, bail};
use clap::Parser;
use futures::StreamExt;
use state_machine::mutants::ALL;

use crate::{
    Run,
    many::{Ended, run_seeds},
    minimise::law_of,
};

/// Finds every error that is put in on purpose.
#[derive(Clone, Parser)]
pub struct Mutants {
    /// Seeds each mutant may take.
    #[arg(long, default_value_t = 500)]
    within: u64,
    /// Only this one.
    #[arg(long)]
    name: Option<String>,
    /// Writes the table into this file.
    #[arg(long)]
    table: Option<PathBuf>,
}

#[cfg(feature = "mutants")]
pub fn choose(name: &str) -> Result<()> {
    match state_machine::mutants::choose(name) {
        true => Ok(()),
        false => bail!("no mutant is called {name:?}"),
    }
}

#[cfg(not(feature = "mutants"))]
pub fn choose(name: &str) -> Result<()> {
    bail!("this build knows no mutants, and so not {name:?}; try: cargo sim-with-mutants")
}

struct Found {
    seed: u64,
    how: String,
    simulated_secs: f64,
}

impl Mutants {
    /// Whether all were found.
    pub async fn find_all(&self, run: &Run) -> Result<bool> {
        if cfg!(not(feature = "mutants")) {
            bail!("this build knows no mutants; try: cargo sim-mutants");
        }
        let mut table = String::from(HEAD);
        let mut missed = 0;
        for (name, what) in ALL.iter().filter(|(name, _)| self.name.as_ref().is_none_or(|wanted| wanted == name)) {
            match self.find(run, name).await {
                Some(Found { seed, how, simulated_secs }) => {
                    println!("{name}: seed {seed} ({simulated_secs:.0} simulated s): {how}");
                    let law = law_of(&how);
                    _ = writeln!(table, "| `{name}` | {what} | {law} | {seed} | {seed} | {simulated_secs:.0} |");
                }
                None => {
                    missed += 1;
                    println!("{name}: NOT FOUND within {} seeds", self.within);
                    _ = writeln!(table, "| `{name}` | {what} | **not found** | | > {} | |", self.within);
                }
            }
            // After each, for whoever cannot wait for the last.
            if let Some(path) = &self.table {
                world::real::world().disk.write(path, table.as_bytes())?;
            }
        }
        Ok(missed == 0)
    }

    async fn find(&self, run: &Run, name: &str) -> Option<Found> {
        let run = Run { mutant: Some(name.into()), ..run.clone() };
        let mut runs = std::pin::pin!(run_seeds(&run, 1..=self.within, false));
        let mut simulated_secs = 0.0;
        while let Some((seed, ended)) = runs.next().await {
            let how = match ended {
                Ended::Broken(verdict, how) => {
                    simulated_secs += verdict.simulated_secs;
                    how
                }
                Ended::Died(why) => format!("the process ends: {why}"),
                Ended::Kept(verdict) | Ended::Void(verdict, _) => {
                    simulated_secs += verdict.simulated_secs;
                    continue;
                }
            };
            return Some(Found { seed, how, simulated_secs });
        }
        None
    }
}

const HEAD: &str = "\
# Errors put in on purpose, and what finds them

Written by `cargo sim-mutants --table chaos-tests/MUTANTS.md`. Each error (state-machine/src/mutants.rs) lies where a real
one would; no build but this one's has any. Seeds are tried from 1 upwards; a seed that breaks a law, or ends the process,
has found it.

| mutant | what is wrong | found by | seed | seeds needed | simulated seconds until then |
|---|---|---|---|---|---|
";
