//! Figures against goals, for people and for programs (`hsraft.torture/v1`).

use std::{fmt::Write, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use world::World;

/// The version of the JSON form.
pub const SCHEMA: &str = "hsraft.torture/v1";
/// A goal is judged by at least so many repetitions.
pub const ENOUGH: usize = 50;

/// What a figure shall be, each in milliseconds; absent: nothing was promised.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Goal {
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
}

impl Goal {
    /// p50 / p99 / max.
    pub const fn all(p50: f64, p99: f64, max: f64) -> Goal {
        Goal { p50_ms: Some(p50), p99_ms: Some(p99), max_ms: Some(max) }
    }

    /// p50 / p99.
    pub const fn two(p50: f64, p99: f64) -> Goal {
        Goal { p50_ms: Some(p50), p99_ms: Some(p99), max_ms: None }
    }

    /// The worst counts.
    pub const fn worst(max: f64) -> Goal {
        Goal { p50_ms: None, p99_ms: None, max_ms: Some(max) }
    }

    /// p99 only.
    pub const fn p99(p99: f64) -> Goal {
        Goal { p50_ms: None, p99_ms: Some(p99), max_ms: None }
    }
}

/// How a figure stands to its goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Pass,
    Miss,
    /// Something was lost, or answered twice.
    Fail,
    /// Too little happened for any judgement.
    Void,
    /// Not possible on this machine.
    Skip,
}

/// One measured thing.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// R1, R2, …; faults without a goal have a name.
    pub id: String,
    pub what: String,
    pub goal: Goal,
    #[serde(skip)]
    samples: Vec<f64>,
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// What the whole measurement took, on the first figure of each.
    pub seconds: Option<u64>,
    pub verdict: Verdict,
    /// Counts and remarks, by name.
    pub notes: serde_json::Map<String, Value>,
    /// Why it failed, was skipped or is void; what was missed.
    pub because: Vec<String>,
}

impl Figure {
    pub fn new(id: &str, what: &str, goal: Goal) -> Figure {
        let (samples, notes, because) = (Vec::new(), serde_json::Map::new(), Vec::new());
        let (id, what, verdict, count, seconds) = (id.into(), what.into(), Verdict::Void, 0, None);
        let (p50_ms, p99_ms, max_ms) = (0.0, 0.0, 0.0);
        Figure { id, what, goal, samples, count, p50_ms, p99_ms, max_ms, seconds, verdict, notes, because }
    }

    /// A figure that cannot be had here.
    pub fn skipped(id: &str, what: &str, why: impl Into<String>) -> Figure {
        let mut figure = Figure::new(id, what, Goal::default());
        figure.verdict = Verdict::Skip;
        figure.because.push(why.into());
        figure
    }

    /// One repetition's time.
    pub fn took(&mut self, time: Duration) {
        self.samples.push(time.as_secs_f64() * 1e3);
    }

    /// A count or a remark.
    pub fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.notes.insert(name.into(), value.into());
    }

    /// Both together, judged: the same was measured in two places. Numbers in notes are counts, and are added.
    pub fn and(mut self, other: Figure, enough: usize) -> Figure {
        self.samples.extend(other.samples);
        for (name, value) in other.notes {
            let sum = self.notes.get(&name).and_then(Value::as_u64).zip(value.as_u64()).map(|(one, other)| one + other);
            self.notes.insert(name, sum.map_or(value, Value::from));
        }
        self.because.extend(other.because);
        if other.verdict == Verdict::Fail {
            self.verdict = Verdict::Fail;
        }
        self.judged(enough)
    }

    /// Something that must never be.
    pub fn fail(&mut self, why: impl Into<String>) {
        self.verdict = Verdict::Fail;
        self.because.push(why.into());
    }

    /// Computes and judges; fewer than `enough` repetitions are VOID.
    pub fn judged(mut self, enough: usize) -> Figure {
        self.samples.sort_by(f64::total_cmp);
        self.count = self.samples.len();
        if let Some(max) = self.samples.last() {
            self.max_ms = *max;
            self.p50_ms = self.samples[(self.count - 1) / 2];
            self.p99_ms = self.samples[(self.count * 99).div_ceil(100) - 1];
        }
        if matches!(self.verdict, Verdict::Skip | Verdict::Fail) {
            return self;
        }
        let rows = [
            ("p50", self.p50_ms, self.goal.p50_ms),
            ("p99", self.p99_ms, self.goal.p99_ms),
            ("max", self.max_ms, self.goal.max_ms),
        ];
        for (name, is, shall) in rows {
            if let Some(shall) = shall.filter(|shall| is > *shall) {
                self.because.push(format!("{name} {is:.0} ms, goal {shall:.0} ms"));
            }
        }
        self.verdict = match () {
            () if self.count < enough => {
                self.because.push(format!("{} repetitions, {enough} are needed", self.count));
                Verdict::Void
            }
            () if self.because.is_empty() => Verdict::Pass,
            () => Verdict::Miss,
        };
        self
    }
}

/// What the figures were measured under.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    pub seed: u64,
    pub program: String,
    pub profile: String,
    pub cores: usize,
    /// Runnable processes over the last minute, when it began; and when it ended.
    pub load_before: String,
    pub load_after: String,
    pub kernel: String,
    pub memory_mb: u64,
    /// Unix time in seconds, when it began.
    pub began: u64,
    pub took_seconds: u64,
}

/// A whole run.
pub struct Report {
    pub conditions: Conditions,
    pub figures: Vec<Figure>,
    world: World,
}

fn file(world: &World, path: &str) -> String {
    let bytes = world.disk.read(Path::new(path)).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn load(world: &World) -> String {
    file(world, "/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

impl Report {
    /// Begins; `program` is what `hsraft version` says, `profile` how it was built.
    pub fn begin(world: &World, seed: u64, program: String, profile: &str) -> Report {
        let memory = file(world, "/proc/meminfo");
        let total = memory.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok());
        let conditions = Conditions {
            seed,
            program,
            profile: profile.into(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load_before: load(world),
            load_after: String::new(),
            kernel: file(world, "/proc/sys/kernel/osrelease"),
            memory_mb: total.unwrap_or_default() / 1024,
            began: world.clock.now_ms() / 1000,
            took_seconds: 0,
        };
        Report { conditions, figures: Vec::new(), world: world.clone() }
    }

    /// Adds a figure and says it, so that a long run can be watched.
    pub fn add(&mut self, figure: Figure) {
        println!("{}", line(&figure));
        self.figures.push(figure);
    }

    /// A report beside this one, for what runs at the same time; its figures come back with [`Report::take`].
    pub fn beside(&self) -> Report {
        Report { conditions: self.conditions.clone(), figures: Vec::new(), world: self.world.clone() }
    }

    /// Takes the figures of another, which were said already.
    pub fn take(&mut self, other: Report) {
        self.figures.extend(other.figures);
    }

    /// Notes what the figures since `first` took together.
    pub fn took(&mut self, first: usize, time: Duration) {
        if let Some(figure) = self.figures.get_mut(first) {
            figure.seconds = Some(time.as_secs());
        }
    }

    /// Nothing failed. A miss is a number that should be better; a failure is a broken promise.
    pub fn holds(&self) -> bool {
        self.figures.iter().all(|figure| !matches!(figure.verdict, Verdict::Fail | Verdict::Void))
    }

    pub fn to_json(&self) -> Value {
        let misses: Vec<String> = self
            .figures
            .iter()
            .filter(|figure| figure.verdict == Verdict::Miss)
            .map(|figure| figure.id.clone())
            .collect();
        json!({ "schema": SCHEMA, "conditions": self.conditions, "figures": self.figures, "misses": misses, "holds": self.holds() })
    }

    pub fn to_text(&self) -> String {
        let Conditions {
            seed, program, profile, cores, load_before, load_after, kernel, memory_mb, took_seconds, ..
        } = &self.conditions;
        let mut text = format!(
            "torture: {program} ({profile}), seed {seed}, {cores} cores, {memory_mb} MB, Linux {kernel}, load {load_before} \
             before and {load_after} after, {took_seconds} s\n\n"
        );
        for figure in &self.figures {
            let _ = writeln!(text, "{}", line(figure));
        }
        text.push_str("\nwhat     repetitions  seconds\n");
        for figure in self.figures.iter().filter(|figure| figure.seconds.is_some()) {
            let Figure { id, count, seconds, .. } = figure;
            let _ = writeln!(text, "{id:<8} {count:>11} {:>8}", seconds.unwrap_or_default());
        }
        text
    }

    /// Writes `<path>` as text and `<path>.json` as JSON.
    pub fn write(&mut self, path: &Path) -> Result<()> {
        self.conditions.load_after = load(&self.world);
        self.conditions.took_seconds = (self.world.clock.now_ms() / 1000).saturating_sub(self.conditions.began);
        let mut json = path.as_os_str().to_owned();
        json.push(".json");
        let bytes = serde_json::to_vec_pretty(&self.to_json())?;
        self.world.disk.write(path, self.to_text().as_bytes()).with_context(|| path.display().to_string())?;
        self.world.disk.write(Path::new(&json), &bytes).with_context(|| format!("{json:?}"))
    }
}

/// One figure on one line, and what is to say below.
fn line(figure: &Figure) -> String {
    let verdict = match figure.verdict {
        Verdict::Pass => "PASS",
        Verdict::Miss => "MISS",
        Verdict::Fail => "FAIL",
        Verdict::Void => "VOID",
        Verdict::Skip => "SKIP",
    };
    let Figure { id, what, count, p50_ms, p99_ms, max_ms, goal, .. } = figure;
    let mut text = format!("{verdict} {id:<4} {what}");
    if *count > 0 {
        let _ = write!(text, ": {count} times, p50 {p50_ms:.0} ms, p99 {p99_ms:.0} ms, max {max_ms:.0} ms");
    }
    let goals: Vec<String> = [("p50", goal.p50_ms), ("p99", goal.p99_ms), ("max", goal.max_ms)]
        .iter()
        .filter_map(|(name, goal)| goal.map(|goal| format!("{name} {goal:.0}")))
        .collect();
    if !goals.is_empty() {
        let _ = write!(text, " (goal {} ms)", goals.join(", "));
    }
    if !figure.notes.is_empty() {
        let notes: Vec<String> = figure.notes.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let _ = write!(text, "; {}", notes.join(", "));
    }
    for why in &figure.because {
        let _ = write!(text, "\n     {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(times: &[u64], goal: Goal) -> Figure {
        let mut figure = Figure::new("R1", "leader killed", goal);
        times.iter().for_each(|millis| figure.took(Duration::from_millis(*millis)));
        figure
    }

    #[test]
    fn judges_by_the_goal_and_by_how_often() {
        let good = figure(&[1, 2, 3, 4, 100], Goal::all(3.0, 100.0, 100.0)).judged(5);
        assert_eq!((good.verdict, good.p50_ms, good.p99_ms), (Verdict::Pass, 3.0, 100.0));
        let miss = figure(&[1, 2, 3], Goal::p99(2.0)).judged(3);
        assert_eq!((miss.verdict, miss.because.as_slice()), (Verdict::Miss, &["p99 3 ms, goal 2 ms".to_owned()][..]));
        assert_eq!(figure(&[1], Goal::p99(2.0)).judged(2).verdict, Verdict::Void);
        let mut lost = figure(&[1], Goal::p99(2.0));
        lost.fail("user 7 was acknowledged and is gone");
        assert_eq!(lost.judged(1).verdict, Verdict::Fail, "what was lost cannot be made good by being fast");
    }

    #[test]
    fn a_skip_is_no_failure_and_a_void_is() {
        let world = world::real::world();
        let mut report = Report::begin(&world, 7, "hsraft".into(), "debug");
        report.add(Figure::skipped("R5", "vanished host", "no right to make namespaces"));
        assert!(report.holds());
        report.add(figure(&[], Goal::default()).judged(1));
        assert!(!report.holds());
        assert_eq!(report.to_json()["schema"], SCHEMA);
    }
}
