//! Thousands of seeds and a report of one page.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::PathBuf,
};

use anyhow::Result;
use chaos_tests::sim::{Class, Verdict};
use clap::Parser;
use futures::StreamExt;

use crate::{
    Run,
    many::{Ended, Sum, run_seeds},
};

/// Operations a class of seeds must have had checked for linearizability; fewer prove little.
const OPERATIONS_FLOOR: u64 = 10_000;

/// Thousands of seeds and a report of one page.
#[derive(Clone, Parser)]
pub struct Night {
    #[arg(long, default_value_t = 5000)]
    count: u64,
    /// The first seed; each night should have its own.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Writes the report into this file.
    #[arg(long)]
    report: Option<PathBuf>,
    /// What was simulated, for the head of the report: a version or a commit.
    #[arg(long, default_value = "")]
    of: String,
}

#[derive(Default)]
struct Book {
    sum: Sum,
    classes: BTreeMap<String, Sum>,
    coverage: BTreeMap<String, u64>,
    recoveries_ms: Vec<u64>,
    slowest: Vec<(f64, u64)>,
    failures: Vec<String>,
}

impl Book {
    fn add(&mut self, seed: u64, ended: &Ended, run: &Run) {
        self.sum.seeds += 1;
        let verdict: &Verdict = match ended {
            Ended::Kept(verdict) => verdict,
            Ended::Void(verdict, why) => {
                self.sum.void += 1;
                self.failures.push(format!("seed {seed} VOID: {why}"));
                verdict
            }
            Ended::Broken(verdict, why) => {
                self.sum.failed += 1;
                self.failures.push(format!("seed {seed}: {why}; `{}`", run.command_line(seed)));
                verdict
            }
            Ended::Died(why) => {
                self.sum.failed += 1;
                return self.failures.push(format!("seed {seed}: {why}; `{}`", run.command_line(seed)));
            }
        };
        self.sum.add(verdict);
        let class = self.classes.entry(verdict.class.clone()).or_default();
        class.seeds += 1;
        class.add(verdict);
        for (cell, count) in &verdict.coverage {
            *self.coverage.entry(cell.clone()).or_default() += count;
        }
        self.recoveries_ms.extend(&verdict.recoveries_ms);
        self.slowest.push((verdict.cpu_secs, seed));
        self.slowest.sort_by(|one, other| other.0.total_cmp(&one.0));
        self.slowest.truncate(5);
    }
}

impl Night {
    /// Whether every law was kept, no run was void, and enough was checked.
    pub async fn watch(&self, run: &Run) -> Result<bool> {
        let begun = tokio::time::Instant::now();
        let mut book = Book::default();
        let mut runs = std::pin::pin!(run_seeds(run, self.first..self.first + self.count, false));
        while let Some((seed, ended)) = runs.next().await {
            book.add(seed, &ended, run);
            if book.sum.seeds.is_multiple_of(100) {
                eprintln!("{} seeds, {} failed, {} void", book.sum.seeds, book.sum.failed, book.sum.void);
            }
        }
        let report = self.page(&book, begun.elapsed().as_secs_f64());
        println!("{report}");
        if let Some(path) = &self.report {
            world::real::world().disk.write(path, report.as_bytes())?;
        }
        let thin = book.classes.values().any(|class| class.operations < OPERATIONS_FLOOR);
        Ok(book.sum.failed == 0 && book.sum.void == 0 && !thin)
    }

    fn page(&self, book: &Book, wall: f64) -> String {
        let (sum, mut page) = (&book.sum, String::new());
        let days = sum.simulated_secs / 86_400.0;
        _ = writeln!(page, "# A night of simulation: {}\n", self.of);
        _ = writeln!(
            page,
            "Seeds {} to {}: **{} run, {} failed, {} void**. {days:.2} simulated days in {:.0} minutes: {:.0} simulated \
             seconds a second, {:.0} a processor second.\n",
            self.first,
            self.first + self.count - 1,
            sum.seeds,
            sum.failed,
            sum.void,
            wall / 60.0,
            sum.simulated_secs / wall.max(0.001),
            sum.simulated_secs / sum.cpu_secs.max(0.001)
        );
        _ = writeln!(
            page,
            "{} acknowledged writes, {} unanswered, {} certain reads, {} registrations, {} map frames, {} crashes, \
             {} partitions, {} snapshots installed.\n",
            sum.acknowledged,
            sum.unanswered,
            sum.reads,
            sum.registrations,
            sum.frames,
            sum.crashes,
            sum.partitions,
            sum.snapshots_installed
        );
        for failure in book.failures.iter().take(20) {
            _ = writeln!(page, "* {failure}");
        }
        _ = writeln!(
            page,
            "\n| class | seeds | simulated s | operations checked for linearizability |\n|---|---|---|---|"
        );
        for class in Class::ALL {
            let Some(one) = book.classes.get(class.name()) else { continue };
            let thin = if one.operations < OPERATIONS_FLOOR { " (VOID: too few)" } else { "" };
            let (name, seeds, secs) = (class.name(), one.seeds, one.simulated_secs);
            _ = writeln!(page, "| {name} | {seeds} | {secs:.0} | {}{thin} |", one.operations);
        }
        self.coverage(book, &mut page);
        histogram(&book.recoveries_ms, &mut page);
        let slowest = book.slowest.iter().map(|(secs, seed)| format!("{seed} ({secs:.1} s)"));
        _ = writeln!(page, "\nSlowest seeds (processor time): {}.", slowest.collect::<Vec<_>>().join(", "));
        page
    }

    fn coverage(&self, book: &Book, page: &mut String) {
        let cells: BTreeMap<(&str, &str), u64> =
            book.coverage.iter().filter_map(|(cell, count)| Some((cell.split_once(" / ")?, *count))).collect();
        let phases: BTreeSet<&str> = cells.keys().map(|(_, phase)| *phase).collect();
        let blows: BTreeSet<&str> = cells.keys().map(|(blow, _)| *blow).collect();
        _ = writeln!(page, "\nBlows by what was going on when they landed:\n");
        _ = writeln!(page, "| blow | {} |", phases.iter().copied().collect::<Vec<_>>().join(" | "));
        _ = writeln!(page, "|---|{}", "---|".repeat(phases.len()));
        for blow in blows {
            let row = phases.iter().map(|phase| cells.get(&(blow, *phase)).copied().unwrap_or(0).to_string());
            _ = writeln!(page, "| {blow} | {} |", row.collect::<Vec<_>>().join(" | "));
        }
    }
}

/// From the loss of a leader to the first write that was asked and answered after it.
fn histogram(recoveries_ms: &[u64], page: &mut String) {
    let mut sorted = recoveries_ms.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1)));
    let (Some(half), Some(most), Some(last)) = (at(0.5), at(0.99), sorted.last()) else { return };
    _ = writeln!(
        page,
        "\nFrom the loss of a leader to the first write asked and answered after it, other trouble included: {} times, \
         p50 {half} ms, p99 {most} ms, longest {last} ms.\n",
        sorted.len()
    );
    let bounds = [250, 500, 750, 1000, 1500, 2000, 3000, 5000, u64::MAX];
    let mut below = 0;
    for bound in bounds {
        let count = sorted.iter().filter(|ms| **ms >= below && **ms < bound).count();
        let bar = "#".repeat(count * 60 / sorted.len().max(1));
        let name = if bound == u64::MAX { format!(">= {below} ms") } else { format!("< {bound} ms") };
        _ = writeln!(page, "    {name:<12} {count:>6} {bar}");
        below = bound;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recoveries_fall_into_their_boxes() {
        let mut page = String::new();
        histogram(&[100, 600, 600, 9000], &mut page);
        assert!(page.contains("p50 600 ms, p99 9000 ms, longest 9000 ms"), "{page}");
        assert!(page.contains("< 750 ms          2"), "{page}");
        assert!(page.contains(">= 5000 ms        1"), "{page}");
    }
}
