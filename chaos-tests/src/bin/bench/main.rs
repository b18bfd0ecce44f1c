//! Measures, does not judge: commands, proposals per second, memory, first maps, registrations, fail-over.
//!
//! `make bench` runs all of them. `bench state`, `bench proposals` and `bench audit` need nothing else; the others
//! start real members and want the `hsraft` program (beside this one, or named by HSRAFT_BIN).

mod audit;
mod handover;
mod lists;
mod product;
mod proposals;
mod state;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures hsraft on this machine.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// All of them, one after the other, as they are by default.
    All,
    /// What one command and one snapshot cost; no disk, no network.
    State(state::Arguments),
    /// Proposals per second and their latency: three processes, real disks, mutual TLS over loopback.
    Proposals(proposals::Arguments),
    /// One of the three processes.
    #[command(hide = true)]
    Member(proposals::MemberArguments),
    /// Memory of an idle member, registrations per second, the first map among many peers.
    Product(product::Arguments),
    /// The first byte of a list of ten thousand nodes, and the last: REST and command line.
    Lists(lists::Arguments),
    /// What writing down who changed what costs: the same changes with the audit log and without.
    Audit(audit::Arguments),
    /// The gap in which nothing can be written when the leader is killed.
    Kills(product::KillArguments),
    /// What writers and clients notice when members are stopped, drained, or hand their lead over.
    Handover(handover::Arguments),
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match Arguments::parse().what {
        What::All => all(&runtime),
        What::State(arguments) => state::run(&arguments),
        What::Proposals(arguments) => runtime.block_on(proposals::run(arguments)),
        What::Member(arguments) => runtime.block_on(proposals::member(arguments)),
        What::Product(arguments) => runtime.block_on(product::run(arguments)),
        What::Lists(arguments) => runtime.block_on(lists::run(arguments)),
        What::Audit(arguments) => runtime.block_on(audit::run(arguments)),
        What::Kills(arguments) => runtime.block_on(product::kills(arguments)),
        What::Handover(arguments) => runtime.block_on(handover::run(arguments)),
    }
}

fn all(runtime: &tokio::runtime::Runtime) -> Result<()> {
    for what in ["state", "proposals", "product", "lists", "audit", "kills", "handover"] {
        println!("\n== {what}");
        match Arguments::parse_from(["bench", what]).what {
            What::State(arguments) => state::run(&arguments)?,
            What::Proposals(arguments) => runtime.block_on(proposals::run(arguments))?,
            What::Product(arguments) => runtime.block_on(product::run(arguments))?,
            What::Lists(arguments) => runtime.block_on(lists::run(arguments))?,
            What::Audit(arguments) => runtime.block_on(audit::run(arguments))?,
            What::Kills(arguments) => runtime.block_on(product::kills(arguments))?,
            What::Handover(arguments) => runtime.block_on(handover::run(arguments))?,
            What::All | What::Member(_) => {}
        }
    }
    Ok(())
}
