//! What the audit log costs: renamed nodes in two clusters, of which one is still at the level before there was one.
//!
//! The clusters take turns, a short run each, because this machine has moods of its own; what is compared are medians of
//! the runs. Besides writes per second, processor time per write of all three members: that is what others on the
//! machine notice.

use anyhow::Result;
use state_machine::OPERATION;

use crate::{
    product::percentile,
    proposals::{Figures, Member, Writes, three},
};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Runs of each cluster.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each lasts.
    #[arg(long, default_value_t = 3)]
    secs: u64,
    /// How many write at once, spread over the members.
    #[arg(long, default_value_t = 63)]
    clients: usize,
    /// How many nodes are renamed.
    #[arg(long, default_value_t = 1000)]
    nodes: u64,
}

/// One run of one cluster.
struct Run {
    per_second: f64,
    cpu_micros: f64,
}

/// Both clusters in turn.
pub async fn run(arguments: Arguments) -> Result<()> {
    let (plain_folder, audited_folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut plain = three(plain_folder.path(), OPERATION - 1, arguments.nodes).await?;
    let mut audited = three(audited_folder.path(), state_machine::FEATURE_LEVEL, arguments.nodes).await?;
    println!("three processes each, {} nodes, {} writers, a rename per proposal", arguments.nodes, arguments.clients);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        // Who goes first changes, so that neither has the warmer machine.
        if round % 2 == 0 {
            without.push(once(&mut plain, &arguments).await?);
            with.push(once(&mut audited, &arguments).await?);
        } else {
            with.push(once(&mut audited, &arguments).await?);
            without.push(once(&mut plain, &arguments).await?);
        }
    }
    let (without, with) = (tell("without", &without), tell("with", &with));
    println!(
        "the audit log costs {:+.1} % of throughput and {:+.1} % of processor time per write",
        (1.0 - with.0 / without.0) * 100.0,
        (with.1 / without.1 - 1.0) * 100.0
    );
    Ok(())
}

async fn once(members: &mut [Member], arguments: &Arguments) -> Result<Run> {
    let each = arguments.clients.div_ceil(members.len());
    let loads = members.iter_mut().map(|member| member.load(each, arguments.secs, Writes::Names));
    let all: Vec<Figures> = futures::future::try_join_all(loads).await?;
    let per_second: f64 = all.iter().map(|figures| figures.per_second).sum();
    let cpu: f64 = all.iter().map(|figures| figures.cpu_secs).sum();
    let writes = per_second * arguments.secs as f64;
    Ok(Run { per_second, cpu_micros: cpu * 1e6 / writes.max(1.0) })
}

fn tell(what: &str, runs: &[Run]) -> (f64, f64) {
    let (mut rates, mut cpu): (Vec<f64>, Vec<f64>) = runs.iter().map(|run| (run.per_second, run.cpu_micros)).unzip();
    let median = (percentile(&mut rates, 0.5), percentile(&mut cpu, 0.5));
    println!(
        "{what:>8}: {:.0} writes/s ({:.0} to {:.0}), {:.0} µs of processor a write ({:.0} to {:.0})",
        median.0,
        percentile(&mut rates, 0.0),
        percentile(&mut rates, 1.0),
        median.1,
        percentile(&mut cpu, 0.0),
        percentile(&mut cpu, 1.0)
    );
    median
}
