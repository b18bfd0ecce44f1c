//! What canaries did, and what follows from it: outages, rates, percentiles. Pure.

use serde::{Deserialize, Serialize};

/// A success is sustained when so many follow each other (design, section 6.2).
pub const SUSTAINED: usize = 10;
/// Successes further apart than this are not "in a row": a write stall beyond it is a failure of its own (R6).
pub const GAP_US: u64 = 250_000;

/// What a canary does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Writes a serial number nobody else has.
    Write,
    /// Reads the newest acknowledged serial, linearizable.
    Read,
    /// Registers a node.
    Register,
}

/// One thing a canary did. Times in microseconds since the run began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    pub kind: Kind,
    /// Index of the member that was asked.
    pub via: usize,
    pub begun: u64,
    pub answered: u64,
    pub ok: bool,
    /// A read that did not see what had been acknowledged before it began.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Of a write: its serial.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Of a failure: what was answered, for whoever reads the history.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// When success was back for good: the first answer, after `since`, of a row of [`SUSTAINED`] successes that nothing
/// interrupts: no failure, no gap. Only what began after `since`, and not through `except`, counts.
pub fn sustained(ops: &[Op], kind: Kind, since: u64, except: Option<usize>, gap: u64) -> Option<u64> {
    let mut after: Vec<&Op> =
        ops.iter().filter(|op| op.kind == kind && op.begun >= since && Some(op.via) != except).collect();
    after.sort_by_key(|op| op.answered);
    let mut row: Option<(u64, usize, u64)> = None;
    for op in after {
        row = match (op.ok, row) {
            (false, _) => None,
            (true, Some((first, count, last))) if op.answered - last <= gap => Some((first, count + 1, op.answered)),
            (true, _) => Some((op.answered, 1, op.answered)),
        };
        if let Some((first, count, _)) = row
            && count >= SUSTAINED
        {
            return Some(first);
        }
    }
    None
}

/// The longest time between `from` and `to` in which nothing of this kind succeeded anywhere.
pub fn longest_gap(ops: &[Op], kind: Kind, from: u64, to: u64) -> u64 {
    let within = |op: &&Op| op.kind == kind && op.ok && (from..=to).contains(&op.answered);
    let mut moments: Vec<u64> = ops.iter().filter(within).map(|op| op.answered).chain([from, to]).collect();
    moments.sort_unstable();
    moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// How long successes took, of those that began between `from` and `to` and not through `except`.
pub fn latencies(ops: &[Op], kind: Kind, from: u64, to: u64, except: Option<usize>) -> Vec<u64> {
    let fits = |op: &&Op| op.kind == kind && op.ok && (from..to).contains(&op.begun) && Some(op.via) != except;
    ops.iter().filter(fits).map(|op| op.answered - op.begun).collect()
}

/// Failures and all attempts answered between `from` and `to`, not through `except`.
pub fn failures(ops: &[Op], kind: Kind, from: u64, to: u64, except: Option<usize>) -> (u64, u64) {
    let fits = |op: &&Op| op.kind == kind && (from..to).contains(&op.answered) && Some(op.via) != except;
    let all: Vec<bool> = ops.iter().filter(fits).map(|op| op.ok).collect();
    (all.iter().filter(|ok| !**ok).count() as u64, all.len() as u64)
}

/// Successes a second between `from` and `to`.
pub fn rate(ops: &[Op], kind: Kind, from: u64, to: u64) -> f64 {
    let done = ops.iter().filter(|op| op.kind == kind && op.ok && (from..to).contains(&op.answered)).count();
    done as f64 * 1e6 / to.saturating_sub(from).max(1) as f64
}

/// The smallest value that `percent` of all do not exceed (nearest rank); none of none.
pub fn percentile(values: &[u64], percent: u64) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() as u64 * percent).div_ceil(100).max(1) as usize;
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `w1@100+5` is a write through member 1 that began at 100 ms and took 5 ms; `!` at its end: it failed.
    fn script(text: &str) -> Vec<Op> {
        let parse = |word: &str| {
            let (ok, word) = (!word.ends_with('!'), word.trim_end_matches('!'));
            let (head, took) = word.split_once('+').unwrap();
            let (who, begun) = head.split_once('@').unwrap();
            let begun = begun.parse::<u64>().unwrap() * 1000;
            Op {
                kind: if who.starts_with('w') { Kind::Write } else { Kind::Read },
                via: who[1..].parse().unwrap(),
                begun,
                answered: begun + took.parse::<u64>().unwrap() * 1000,
                ok,
                stale: false,
                serial: String::new(),
                why: String::new(),
            }
        };
        text.split_whitespace().map(parse).collect()
    }

    /// Ten writes, 20 ms apart.
    fn row(via: usize, from: u64) -> String {
        (0..10).map(|i| format!("w{via}@{}+5 ", from + 20 * i)).collect()
    }

    fn back(text: &str, since: u64, except: Option<usize>) -> Option<u64> {
        sustained(&script(text), Kind::Write, since * 1000, except, GAP_US).map(|at| at / 1000)
    }

    #[test]
    fn success_is_sustained_after_ten_in_a_row() {
        for (why, text, since, except, expected) in [
            (
                "a write that stood in the outage and then a row",
                format!("w1@10+600 {}", row(1, 700)),
                0,
                None,
                Some(610),
            ),
            ("nothing happened at all", row(1, 10), 0, None, Some(15)),
            ("nine are not ten", row(1, 10).split(' ').take(9).collect::<Vec<_>>().join(" "), 0, None, None),
            ("a failure begins the row anew", format!("{} w2@100+2! {}", row(1, 10), row(1, 300)), 0, None, Some(115)),
            (
                "failures through the broken member do not count",
                format!("w0@50+1! {}", row(1, 10)),
                0,
                Some(0),
                Some(15),
            ),
            ("what began before does not count", format!("w1@0+90 {}", row(1, 100)), 50, None, Some(105)),
            ("an early answer and then a stall", format!("w1@1+1 {}", row(1, 600)), 0, None, Some(605)),
            ("reads do not count", row(1, 10).replace('w', "r"), 0, None, None),
        ] {
            assert_eq!(back(&text, since, except), expected, "{why}");
        }
    }

    #[test]
    fn gaps_rates_and_failures() {
        let ops = script("w0@0+10 w1@20+5! w0@500+20 w1@600+5 r0@30+1");
        assert_eq!(longest_gap(&ops, Kind::Write, 0, 700_000), 510_000);
        assert_eq!(longest_gap(&ops, Kind::Write, 0, 2_000_000), 1_395_000, "also when it never came back");
        assert_eq!(failures(&ops, Kind::Write, 0, 700_000, None), (1, 4));
        assert_eq!(failures(&ops, Kind::Write, 0, 700_000, Some(1)), (0, 2));
        assert_eq!(latencies(&ops, Kind::Write, 0, 550_000, None), [10_000, 20_000]);
        assert!((rate(&ops, Kind::Write, 0, 1_000_000) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        for (percent, value) in [(0, 1), (1, 1), (50, 50), (99, 99), (100, 100)] {
            assert_eq!(percentile(&hundred, percent), Some(value));
        }
        assert_eq!(percentile(&[7], 99), Some(7));
        assert_eq!(percentile(&[3, 1, 2], 99), Some(3), "few values: the worst");
        assert_eq!(percentile(&[], 50), None);
    }
}
