//! Every named point of the code, one after the other: a member is stopped there, comes back, and nothing is lost.
//!
//! The list is read from the sources, so that a point nobody reaches fails the run. A scene drives what leads to a point:
//! traffic, an election, a start, a joining. The member itself says that it was there, and only then it counts. After
//! that it starts again without the point, the cluster becomes whole, each member takes a write, and the truth is asked
//! of all of them.

mod scenes;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep};

use self::scenes::Scene;
use super::{
    Dice,
    canaries::Canaries,
    crew::{Crew, PATIENCE, Plan},
    ground::Ground,
    report::{Figure, Goal, Report, Verdict},
    verdict,
};

/// The fewest points a run must know of.
pub const FEWEST: usize = 40;
/// A clean restart after a point takes no longer than this (fault 5 of the matrix).
const RESTART: Goal = Goal::worst(15_000.0);
/// Entries between two snapshots where the log shall be archived.
const LONG_LOG: u64 = 10_000;
/// So many visits, then the truth is asked.
const TRUTH_EVERY: usize = 6;

/// A point as the sources have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub name: String,
    /// It can return an error.
    pub returns: bool,
}

/// All points of the workspace this program was built from.
pub fn points() -> Result<Vec<Point>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace is one folder up")?;
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> = ["raft", "node", "admin", "derp"].iter().map(|room| root.join(room)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let bytes = world::real::world().disk.read(&path)?.unwrap_or_default();
                for point in in_source(&String::from_utf8_lossy(&bytes)) {
                    ensure!(found.insert(point.name.clone(), point).is_none(), "a point is named twice in {path:?}");
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

fn in_source(text: &str) -> Vec<Point> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let calls = code.split("failpoint!(").skip(1);
    let point = |call: &str| {
        let (name, rest) = call.trim_start().strip_prefix('"')?.split_once('"')?;
        Some(Point { name: name.to_owned(), returns: rest.trim_start().starts_with(',') })
    };
    calls.filter_map(point).collect()
}

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process ends there, as under `kill -9`.
    Abort,
    /// The step fails.
    Return,
    Panic,
    /// The thread stands still for longer than an election.
    Pause,
}

impl Action {
    pub fn word(self) -> &'static str {
        match self {
            Action::Abort => "abort",
            Action::Return => "return",
            Action::Panic => "panic",
            Action::Pause => "pause",
        }
    }
}

/// What a run is asked to do.
pub struct Wish<'a> {
    pub seed: u64,
    /// A program with points; those of a release have none.
    pub program: &'a Path,
    pub actions: &'a [Action],
    /// Only points whose name has this in it.
    pub filter: &'a str,
    /// Visits at most; the dice choose which.
    pub visits: usize,
}

/// Why this program has no points; nothing when it has.
pub async fn why_no_points(program: &Path) -> Result<Option<String>> {
    let mut command = tokio::process::Command::new(program);
    let output = command.arg("version").env("HSRAFT_FAILPOINTS", "no such words").output().await?;
    let obeys = output.status.code() == Some(2);
    Ok((!obeys).then(|| format!("{} was built without the feature failpoints", program.display())))
}

/// How a process ends that cannot go on.
const FATAL: i32 = 70;

/// All visits; what they found goes to the report.
pub async fn run(wish: &Wish<'_>, report: &mut Report) -> Result<()> {
    if let Some(why) = why_no_points(wish.program).await? {
        report.add(Figure::skipped("F5", "stopped at every failpoint", why));
        return Ok(());
    }
    let all = points()?;
    ensure!(all.len() >= FEWEST, "only {} failpoints in the sources", all.len());
    let mut visits: Vec<(Scene, Point, Action)> = Vec::new();
    for point in all.iter().filter(|point| point.name.contains(wish.filter)) {
        for action in wish.actions.iter().filter(|action| **action != Action::Return || point.returns) {
            visits.push((Scene::of(&point.name), point.clone(), *action));
        }
    }
    if wish.visits < visits.len() {
        // The short form keeps to what comes by quickly.
        visits.retain(|(scene, ..)| *scene <= Scene::Start);
    }
    let mut dice = Dice(wish.seed);
    visits = dice.shuffled(visits);
    visits.truncate(wish.visits);
    // Scenes with a crew of their own last: the one that is up goes on.
    visits.sort_by_key(|(scene, ..)| *scene);

    let mut figure = Figure::new("F5", "stopped at a failpoint: until the cluster is whole again", RESTART);
    let mut stage = Stage::up(wish.program).await?;
    let mut reached = std::collections::BTreeSet::new();
    for (number, (scene, point, action)) in visits.iter().enumerate() {
        if *scene == Scene::Shelf && stage.crew.plan.snapshot_every < LONG_LOG {
            stage.truth(&mut figure).await?;
            stage = Stage::with(wish.program, LONG_LOG).await?;
        }
        let visited = stage.visit(*scene, point, *action).await;
        match visited {
            Ok(took) => {
                println!("{} {}: whole again after {:.1} s", point.name, action.word(), took.as_secs_f64());
                reached.insert(point.name.clone());
                figure.took(took);
            }
            Err(error) => {
                println!("{} {}: {error:#}", point.name, action.word());
                let first = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                figure.fail(format!("{} {}: {first}", point.name, action.word()));
                // Whatever state it is in, the next visit begins with another crew.
                stage = Stage::up(wish.program).await?;
            }
        }
        if number % TRUTH_EVERY == TRUTH_EVERY - 1 {
            stage.truth(&mut figure).await?;
        }
    }
    stage.truth(&mut figure).await?;
    let asked: std::collections::BTreeSet<_> = visits.iter().map(|(_, point, _)| point.name.clone()).collect();
    figure.note("points", all.len());
    figure.note("points_asked", asked.len());
    figure.note("points_reached", reached.len());
    let missed: Vec<_> = asked.difference(&reached).cloned().collect();
    if !missed.is_empty() {
        figure.fail(format!("never reached: {}", missed.join(", ")));
    }
    if figure.verdict != Verdict::Fail {
        figure.note("lost", 0);
    }
    report.add(figure.judged(visits.len().min(1)));
    Ok(())
}

/// A crew with canaries, and what is needed to stop its members somewhere.
pub struct Stage {
    crew: Crew,
    canaries: Canaries,
    program: PathBuf,
}

impl Stage {
    async fn up(program: &Path) -> Result<Stage> {
        // Snapshots and purges come every second or two, and backups are kept.
        Stage::with(program, 100).await
    }

    async fn with(program: &Path, snapshot_every: u64) -> Result<Stage> {
        let plan = Plan { snapshot_every, backups: true, program: Some(program.to_owned()), ..Plan::three() };
        let crew = Crew::up(plan, Ground::Loopback).await?;
        let canaries = Canaries::fly(&crew, "f");
        Ok(Stage { crew, canaries, program: program.to_owned() })
    }

    /// Drives the scene until the point was reached, brings everybody back; how long that took.
    async fn visit(&mut self, scene: Scene, point: &Point, action: Action) -> Result<Duration> {
        if let Some(took) = self.visit_alone(scene, point, action).await? {
            return Ok(took);
        }
        let marks: Vec<usize> = (0..self.crew.seats.len()).map(|member| self.crew.log(member).len()).collect();
        let by = self.play(scene, point, action, &marks).await?;
        let by = by.with_context(|| format!("nobody came there in {scene:?}"))?;
        self.come_back(by, scene, point, action).await
    }

    async fn come_back(&mut self, by: usize, scene: Scene, point: &Point, action: Action) -> Result<Duration> {
        // An error may end the process a moment later; an abort has. Who joins was called in again already.
        if action == Action::Abort && scene != Scene::Churn {
            let status = self.crew.exit(by, Duration::from_secs(5)).await?;
            ensure!(status.code().is_none(), "the abort ended with {status}");
        } else {
            sleep(Duration::from_millis(300)).await;
        }
        let since = Instant::now();
        self.disarm(&point.name).await?;
        self.bury()?;
        if let Err(error) = self.crew.raise().await {
            // On a busy machine an error ends its process later than it was looked for. That may happen once.
            let late = matches!(self.crew.ended(by), Ok(Some(status)) if status.code() == Some(FATAL));
            ensure!(late, "{error:#}");
            self.bury()?;
            self.crew.raise().await?;
        }
        for member in 0..self.crew.plan.members {
            let name = format!(
                "after-{}-{}-{member}-{}",
                point.name.replace('.', "-"),
                action.word(),
                self.crew.world.entropy.u64()
            );
            let body = serde_json::json!({ "name": name.to_lowercase().replace('_', "-") });
            let written = self.crew.api(member).post("/api/v1/user", &body, Duration::from_secs(15)).await;
            written.with_context(|| format!("{} takes no write afterwards", self.crew.seats[member].name))?;
        }
        Ok(since.elapsed())
    }

    /// Forgets processes that have ended; none may have gone into quarantine.
    fn bury(&mut self) -> Result<()> {
        for member in 0..self.crew.plan.members {
            if self.crew.seats[member].process.is_none() {
                continue;
            }
            if let Some(status) = self.crew.ended(member)? {
                let name = &self.crew.seats[member].name;
                let log = self.crew.log_end(member);
                ensure!(status.code() != Some(40), "{name} went into quarantine:\n{log}");
                self.crew.seats[member].process = None;
            }
        }
        Ok(())
    }

    async fn truth(&mut self, figure: &mut Figure) -> Result<()> {
        let next = Canaries::fly(&self.crew, &format!("f{}", self.crew.world.entropy.below(1 << 40)));
        let diary = std::mem::replace(&mut self.canaries, next).land().await;
        let diary = std::mem::take(&mut *diary.open());
        let broken = verdict::broken(&self.crew, &diary).await?;
        // Members are compared while the next canaries fly: only what was lost counts here.
        for what in broken.into_iter().filter(|what| !what.contains(" users and ")) {
            figure.fail(what);
        }
        Ok(())
    }

    /// Arms a point in a running member.
    async fn arm(&mut self, member: usize, text: &str) -> Result<()> {
        let path = self.crew.seats[member].folder.join("failpoints");
        self.crew.world.disk.write(&path, text.as_bytes())?;
        let deadline = Instant::now() + PATIENCE;
        while path.exists() {
            if self.crew.ended(member)?.is_some() {
                std::fs::remove_file(&path)?;
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} takes no notice of {}", self.crew.seats[member].name, path.display());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn disarm(&mut self, name: &str) -> Result<()> {
        for member in self.crew.running() {
            self.arm(member, &format!("{name}=off")).await?;
        }
        Ok(())
    }

    /// Who said that it came to the point, waiting for it.
    async fn who_reached(&mut self, point: &str, action: Action, marks: &[usize], within: Duration) -> Option<usize> {
        let line = format!("failpoint {point} reached: {}", action.word());
        let deadline = Instant::now() + within;
        loop {
            for (member, mark) in marks.iter().enumerate() {
                if self.crew.log(member).get(*mark..).is_some_and(|new| new.contains(&line)) {
                    return Some(member);
                }
            }
            if Instant::now() > deadline {
                return None;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_found_in_code_and_not_in_comments() {
        let text = "/// `failpoint!(\"doc.comment\")`\nworld::failpoint!(\"a.b\");\nworld::failpoint!(\n  \"c.d\",\n  |e| Err(e)\n);";
        let found = in_source(text);
        let names: Vec<_> = found.iter().map(|point| (point.name.as_str(), point.returns)).collect();
        assert_eq!(names, [("a.b", false), ("c.d", true)]);
    }

    #[test]
    fn there_are_enough_of_them() {
        assert!(points().unwrap().len() >= FEWEST);
    }
}
