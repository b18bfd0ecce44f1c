//! Runs simulations. Each seed is a process of its own; this one starts them and reads what they print last.
//!
//! ```text
//! cargo sim --seeds 200                 many seeds, as many at a time as there are processors
//! cargo sim --seeds 20 --twice          every seed twice; the traces must be equal
//! cargo sim --reproduce 17              one seed, here, with the log (RUST_LOG) on standard error
//! cargo sim --reproduce 17 --trace run  the same, and everything that happened into a file
//! cargo sim --minimise 17               the shortest storm that still breaks the same law
//! cargo sim replay run --only row       walks through a recorded run
//! cargo sim night                       thousands of seeds and a report of one page
//! cargo sim-mutants                     finds every error that is put in on purpose
//! ```

mod many;
mod minimise;
mod mutants;
mod night;
mod replay;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use chaos_tests::sim::{self, Class, Plan};
use clap::{Parser, Subcommand};

/// Simulates whole clusters from seeds.
#[derive(Clone, Parser)]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    run: Run,
    /// How many seeds.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Runs this one seed here, with the log (RUST_LOG) on standard error.
    #[arg(long)]
    reproduce: Option<u64>,
    /// Writes every event of a reproduced run to this file.
    #[arg(long, visible_alias = "record")]
    trace: Option<PathBuf>,
    /// Leaves strikes out of this seed's storm as long as the same law stays broken.
    #[arg(long, visible_alias = "minimize")]
    minimise: Option<u64>,
    /// Runs every seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Says only what failed, and the sum.
    #[arg(long)]
    quiet: bool,
}

/// How each seed is run.
#[derive(Clone, Parser)]
pub struct Run {
    /// Processes at a time; 0: as many as there are processors.
    #[arg(long, default_value_t = 0, global = true)]
    jobs: usize,
    #[arg(long, default_value_t = 4, global = true)]
    devices: u64,
    /// Simulated seconds in which things go wrong.
    #[arg(long, default_value_t = 20, global = true)]
    storm: u64,
    /// Of the storm's strikes only these: `--only 3,4`; `--only none`: a storm without any.
    #[arg(long, global = true)]
    only: Option<String>,
    /// All seeds of this class, instead of what their number says: trio, churn, rough or patient.
    #[arg(long, global = true)]
    class: Option<String>,
    /// Disks that answer syncs without doing them: the laws must notice, so these seeds must fail.
    #[arg(long, global = true)]
    lying_disks: bool,
    /// An error put in on purpose (only in a build with the feature `mutants`).
    #[arg(long, global = true)]
    mutant: Option<String>,
}

#[derive(Clone, Subcommand)]
enum What {
    /// Walks through a recorded run.
    Replay(replay::Replay),
    /// Finds every error that is put in on purpose.
    Mutants(mutants::Mutants),
    /// Thousands of seeds and a report of one page.
    Night(night::Night),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.reproduce {
        return reproduce(&arguments, seed);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kept = match (&arguments.what, arguments.minimise) {
        (Some(What::Replay(replay)), _) => replay.walk().map(|()| true),
        (Some(What::Mutants(mutants)), _) => runtime.block_on(mutants.find_all(&arguments.run)),
        (Some(What::Night(night)), _) => runtime.block_on(night.watch(&arguments.run)),
        (None, Some(seed)) => runtime.block_on(minimise::minimise(&arguments.run, seed)),
        (None, None) => runtime.block_on(many::run_all(&arguments)),
    }?;
    std::process::exit(if kept { 0 } else { 1 });
}

/// Runs one seed in this process; the last line of standard output is the verdict.
fn reproduce(arguments: &Arguments, seed: u64) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into()))
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    if let Some(name) = &arguments.run.mutant {
        mutants::choose(name)?;
    }
    let plan = arguments.run.plan(seed, arguments.trace.is_some())?;
    let begun = tokio::time::Instant::now();
    let mut verdict = sim::run(&plan);
    verdict.wall_secs = begun.elapsed().as_secs_f64();
    verdict.cpu_secs = many::cpu_secs().unwrap_or(0.0);
    if let Some(path) = &arguments.trace {
        let world = world::real::world();
        world.disk.write(path, verdict.trace.join("\n").as_bytes()).context("could not write the trace")?;
    }
    println!("{}", serde_json::to_string(&verdict)?);
    // The members of a run that failed half-way need not be torn down in order.
    std::process::exit(match (verdict.broken.is_empty(), verdict.void.is_empty()) {
        (false, _) => 1,
        (true, false) => 3,
        (true, true) => 0,
    });
}

impl Run {
    fn plan(&self, seed: u64, keep_trace: bool) -> Result<Plan> {
        let only = match self.only.as_deref() {
            None => None,
            Some("none") => Some(BTreeSet::new()),
            Some(numbers) => {
                let numbers = numbers.split(',').map(|number| number.trim().parse());
                Some(numbers.collect::<Result<_, _>>().context("--only wants numbers: --only 3,4")?)
            }
        };
        let class = match &self.class {
            None => Class::of(seed),
            Some(name) => Class::ALL
                .into_iter()
                .find(|class| class.name() == name)
                .with_context(|| format!("no class is called {name:?}; there are trio, churn, rough and patient"))?,
        };
        let storm = Duration::from_secs(self.storm);
        Ok(Plan { seed, class, devices: self.devices, storm, only, lying_disks: self.lying_disks, keep_trace })
    }

    fn jobs(&self) -> usize {
        match self.jobs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs,
        }
    }

    /// What a child is told to run this seed.
    fn words(&self, seed: u64) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        for (name, number) in [("--reproduce", seed), ("--devices", self.devices), ("--storm", self.storm)] {
            words.extend([name.to_string(), number.to_string()]);
        }
        for (name, value) in [("--only", &self.only), ("--class", &self.class), ("--mutant", &self.mutant)] {
            words.extend(value.iter().flat_map(|value| [name.to_string(), value.clone()]));
        }
        if self.lying_disks {
            words.push("--lying-disks".into());
        }
        words
    }

    /// What a person types to see this seed again.
    fn command_line(&self, seed: u64) -> String {
        let alias = if self.mutant.is_some() { "cargo sim-with-mutants" } else { "cargo sim" };
        format!("RUST_LOG=info {alias} {}", self.words(seed).join(" "))
    }
}
