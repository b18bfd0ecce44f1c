//! Measures, does not judge: proposals per second, memory, first maps, registrations, fail-over.
//!
//! `cargo run --release -p chaos-tests --bin bench -- proposals` needs nothing else; `bench product` and `bench kills`
//! start real members and want the `hsraft` program (beside this one, or named by HSRAFT_BIN).

mod product;
mod proposals;

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
    /// Proposals per second and their latency: three processes, real disks, mutual TLS over loopback.
    Proposals(proposals::Arguments),
    /// One of the three processes.
    #[command(hide = true)]
    Member(proposals::MemberArguments),
    /// Memory of an idle member, registrations per second, the first map among many peers.
    Product(product::Arguments),
    /// The gap in which nothing can be written when the leader is killed.
    Kills(product::KillArguments),
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match Arguments::parse().what {
        What::Proposals(arguments) => runtime.block_on(proposals::run(arguments)),
        What::Member(arguments) => runtime.block_on(proposals::member(arguments)),
        What::Product(arguments) => runtime.block_on(product::run(arguments)),
        What::Kills(arguments) => runtime.block_on(product::kills(arguments)),
    }
}
