//! `drill`: break something on purpose, under watch, and say what came of it.
//!
//! | file | holds |
//! |---|---|
//! | `catalogue.rs` | the drills: what each breaks and should prove |
//! | `judge.rs`, `ops.rs` | preflight, when to break off, verdicts, what canaries' figures mean: pure |
//! | `stage.rs`, `watch.rs`, `canary.rs` | the members and their doors; who answers and leads; clients outside |
//! | `run.rs` | one run: break, watch, heal, count |
//! | `restore.rs`, `dead_record.rs`, `replace.rs`, `own_lab.rs`, `words.rs` | drills with steps of their own |
//! | `report.rs`, `html.rs`, `records.rs` | `hsraft.drill/v1`, for people and programs; where records are kept |

mod canary;
mod catalogue;
mod certificates;
mod dead_record;
mod html;
mod judge;
mod ops;
mod own_lab;
mod records;
mod replace;
mod report;
mod restore;
mod run;
mod stage;
mod watch;
mod words;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use serde_json::json;

use catalogue::{Act, DRILLS, Drill, Risk};
use judge::{Before, Condition, Outcome, Verdict};
use ops::Kind;
use records::Records;
use report::Report;
use run::{Measured, Settings};
use stage::{Lab, Stage};

use state_machine::codes;

use super::{
    Format, Global, Output,
    desk::Desk,
    problem::{Problem, exit},
    spans,
    table::Table,
};
use crate::{cluster::view::Status, files, lab};

/// What can be done with drills.
#[derive(Debug, Subcommand)]
pub enum DrillWord {
    /// Which drills there are
    #[command(alias = "ls", after_help = "Example:\n  hsraft drill list")]
    List,
    /// Say what a drill would do, to whom, and whether it may begin; touches nothing
    #[command(after_help = "Example:\n  hsraft drill plan leader-kill --lab lab")]
    Plan(RunArgs),
    /// Break something under watch, and say what came of it; exits 0 on PASS, 1 on FAIL, 16 when it may not begin, 20 on ABORTED or VOID
    #[command(
        after_help = "Examples:\n  hsraft drill run leader-kill --lab lab --repeats 20\n  hsraft drill run leader-transfer --yes\n  hsraft drill run full-disaster --yes"
    )]
    Run(RunArgs),
    /// Show the report of a run; without an id of the last
    #[command(after_help = "Example:\n  hsraft drill report --lab lab -o html > report.html")]
    Report(ReportArgs),
    /// End whatever drill is under way, at every member that answers
    #[command(after_help = "Example:\n  hsraft drill stop")]
    Stop(Place),
}

/// On what, and where records are kept.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Folder of the laboratory to drill (hsraft lab up); without it the cluster of the member that answers
    #[arg(long, value_name = "DIR")]
    lab: Option<PathBuf>,
    /// Folder for records [default: drills, in the laboratory or here]
    #[arg(long, value_name = "DIR")]
    records: Option<PathBuf>,
}

/// `drill plan` and `drill run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// See: hsraft drill list
    name: String,
    #[command(flatten)]
    place: Place,
    /// How often
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// How long something stays broken [default: as the drill needs]
    #[arg(long, value_parser = spans::parse, value_name = "SPAN")]
    hold: Option<Duration>,
    /// How long to watch what is normal, before
    #[arg(long, default_value = "10s", value_parser = spans::parse, value_name = "SPAN")]
    steady: Duration,
    /// Pause between repeats
    #[arg(long, default_value = "2s", value_parser = spans::parse, value_name = "SPAN")]
    calm: Duration,
    /// Canary writes a second; a run with fewer than 50 is VOID
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u64).range(1..=2000), value_name = "RATE")]
    writes: u64,
    /// How much longer a sync takes; slow-disk only
    #[arg(long, default_value = "200ms", value_parser = spans::parse, value_name = "SPAN")]
    slow_by: Duration,
    /// Do not ask for a backup younger than 15 minutes; always so in a laboratory
    #[arg(long)]
    no_backup_check: bool,
    /// Also within a freeze window (cluster.drills_freeze)
    #[arg(long)]
    despite_freeze: bool,
    /// Opens the backup; backup-restore only
    #[arg(long, value_name = "FILE")]
    recovery_key_file: Option<PathBuf>,
    /// For the report: prod, staging, …
    #[arg(long, default_value = "prod")]
    env: String,
    /// For the report: who agreed
    #[arg(long, value_name = "NAME")]
    approved_by: Option<String>,
    /// The first port of a laboratory the drill makes itself
    #[arg(long, default_value_t = 28080)]
    base_port: u16,
}

/// `drill report`.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// As `drill run` printed it
    id: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// Below so many acknowledged writes a second a run says nothing (design, section 6.5).
const FLOOR: f64 = 50.0;
/// After healing, the cluster has so long to be well.
const PATIENCE: Duration = Duration::from_secs(90);
/// The verdict says nothing about the goals.
const SAYS_NOTHING: i32 = exit::STILL_STARTING;

/// Does it; the result is the exit code.
pub async fn run(word: DrillWord, global: &Global, output: Output) -> Result<i32, Problem> {
    match word {
        DrillWord::List => list(&output).map(|()| exit::OK),
        DrillWord::Plan(args) => plan(args, global, output).await,
        DrillWord::Run(args) => go(args, global, output).await,
        DrillWord::Report(args) => show(&args, &output).map(|()| exit::OK),
        DrillWord::Stop(place) => stop(&place, global, output).await.map(|()| exit::OK),
    }
}

fn list(output: &Output) -> Result<(), Problem> {
    let rows: Vec<serde_json::Value> = DRILLS
        .iter()
        .map(|drill| {
            json!({
                "name": drill.name, "risk": drill.risk, "stage": drill.stage, "hypothesis": drill.hypothesis,
                "does": drill.does, "heals": drill.heals, "blast_radius": drill.blast_radius, "cadence": drill.cadence,
            })
        })
        .collect();
    output.show_ours(&rows, || {
        let mut table = Table::new(["Drill", "Risk", "Where", "How often", "What it does"]);
        for drill in DRILLS {
            let place = match drill.stage {
                catalogue::Stage::Cluster => "any cluster",
                catalogue::Stage::Laboratory => "--lab DIR",
                catalogue::Stage::OwnLaboratory => "its own lab",
            };
            let risk = format!("{:?}", drill.risk).to_lowercase();
            table.row([drill.name.into(), risk, place.into(), drill.cadence.into(), drill.does.into()]);
        }
        table.render() + "\nMore about one, and whether it may begin: hsraft drill plan NAME\n"
    })
}

fn find(name: &str) -> Result<&'static Drill, Problem> {
    catalogue::find(name).ok_or_else(|| {
        let names: Vec<&str> = DRILLS.iter().map(|drill| drill.name).collect();
        Problem::of(&codes::DRILL_UNKNOWN, format!("there is no drill {name:?}; there are {}", names.join(", ")))
    })
}

impl Place {
    fn records(&self) -> Records {
        let beside = || self.lab.clone().unwrap_or_default().join("drills");
        Records(self.records.clone().unwrap_or_else(beside))
    }

    /// The laboratory, and a way to its first member that runs.
    fn open(&self, global: &Global) -> Result<(Option<Lab>, Global), Problem> {
        let Some(dir) = &self.lab else { return Ok((None, global.clone())) };
        let (layout, memory) = lab::open(dir)?;
        let places = (0..memory.members.len()).map(|index| layout.place(index));
        let runs = places.into_iter().find(|place| lab::process::running(place).is_some());
        let socket = runs
            .ok_or_else(|| {
                Problem::of(&codes::LAB_STOPPED, "no member of the laboratory runs; start it: hsraft lab up")
            })?
            .socket;
        Ok((Some(Lab { layout, memory }), Global { socket: Some(socket), address: None, ..global.clone() }))
    }
}

fn settings(args: &RunArgs, drill: &Drill, stage: Option<&Stage>) -> Settings {
    let calm = match drill.act {
        // Nobody gives its lead away for a disk twice within a minute (raft/src/slow_disk.rs).
        Act::SlowDisk => args.calm.max(Duration::from_secs(40)),
        _ => args.calm,
    };
    let hold = match drill.act {
        Act::SlowDisk => Duration::from_secs(25),
        Act::CutLeader | Act::FullDisk | Act::KillFollower => Duration::from_secs(10),
        _ => Duration::from_secs(1),
    };
    let in_lab = stage.is_some_and(|stage| stage.lab.is_some());
    let key = match (&args.recovery_key_file, stage.and_then(Stage::lab_key)) {
        (Some(file), _) => restore::Key::Recovery(file.clone()),
        (None, Some(file)) => restore::Key::Sealing(file),
        (None, None) => restore::Key::None,
    };
    Settings {
        repeats: args.repeats,
        hold: args.hold.unwrap_or(hold),
        steady: args.steady,
        calm,
        load: canary::Load { writes: args.writes, reads: 10, registers: if in_lab { 2 } else { 0 } },
        slow_by: args.slow_by,
        patience: PATIENCE,
        key,
    }
}

const ABORT_IF: [&str; 3] = [
    "another member does not answer for 3 s",
    "more than 5 % of the writes of the last 30 s fail",
    "writes are not back within three times their goal",
];

async fn conditions(stage: &Stage, drill: &Drill, args: &RunArgs) -> (Option<Status>, Vec<Condition>) {
    let status = stage.status().await;
    let before = Before {
        status: status.as_ref(),
        looks: stage.looks().await,
        breaks: drill.breaks(),
        check_backup: !args.no_backup_check && stage.lab.is_none(),
        despite_freeze: args.despite_freeze,
        now: files::now(),
    };
    let conditions = judge::preflight(&before);
    (status, conditions)
}

fn plan_page(drill: &Drill, settings: &Settings, leader: Option<&str>, conditions: &[Condition]) -> String {
    let mut page = format!(
        "{} ({:?} risk)\n\n{}\n\nWhat happens   {}\nTo whom        {}\nHow often      {}, broken for {} s each, {} canary writes a second\n\
         Blast radius   {}\nHealed by      {}\nBroken off if  {}\n",
        drill.name,
        drill.risk,
        drill.hypothesis,
        drill.does,
        match leader {
            Some(leader) => format!("{leader} leads now; who it is is decided at each repeat"),
            None => "members of a laboratory the drill makes and removes".into(),
        },
        match settings.repeats {
            1 => "once".to_owned(),
            many => format!("{many} times"),
        },
        settings.hold.as_secs_f64(),
        settings.load.writes,
        drill.blast_radius,
        drill.heals,
        ABORT_IF.join("; "),
    )
    .replace("Medium risk", "medium risk")
    .replace("Low risk", "low risk")
    .replace("High risk", "high risk")
    .replace("Lab risk", "for a laboratory only");
    if !conditions.is_empty() {
        page.push('\n');
    }
    for Condition { name, holds, text } in conditions {
        page += &format!("{} {name}: {text}\n", if *holds { "[+]" } else { "[-]" });
    }
    page
}

async fn plan(args: RunArgs, global: &Global, output: Output) -> Result<i32, Problem> {
    let drill = find(&args.name)?;
    if drill.stage == catalogue::Stage::OwnLaboratory {
        let page = plan_page(drill, &settings(&args, drill, None), None, &[]);
        return output.show_ours(&json!({ "name": drill.name, "may_begin": true }), || page).map(|()| exit::OK);
    }
    let (lab, global) = args.place.open(global)?;
    let desk = Desk::open(&global, output)?;
    let mut stage = Stage::open(&new_id(drill), &desk, &global, lab).await?;
    let (status, conditions) = conditions(&stage, drill, &args).await;
    let leader = status.and_then(|status| status.leader);
    let may_begin = conditions.iter().all(|condition| condition.holds);
    let settings = settings(&args, drill, Some(&stage));
    stage.end().await;
    let facts = json!({ "name": drill.name, "leader": leader, "may_begin": may_begin, "conditions": conditions });
    desk.output.show_ours(&facts, || plan_page(drill, &settings, leader.as_deref(), &conditions))?;
    Ok(if may_begin { exit::OK } else { exit::PREFLIGHT })
}

/// `20260901T100000Z-leader-kill`: sorts by time, says what.
fn new_id(drill: &Drill) -> String {
    let now = files::now().to_string();
    let time: String =
        now.split('.').next().unwrap_or(&now).chars().filter(|c| !matches!(c, '-' | ':' | 'Z')).collect();
    format!("{time}Z-{}", drill.name)
}

async fn go(args: RunArgs, global: &Global, output: Output) -> Result<i32, Problem> {
    let drill = find(&args.name)?;
    let id = new_id(drill);
    let records = args.place.records();
    let started = files::now();
    let (settings, preflight, status, measured) = match drill.stage {
        catalogue::Stage::OwnLaboratory => {
            let settings = settings(&args, drill, None);
            output.talk(&plan_page(drill, &settings, None, &[]));
            if !(global.force || output.ask("Begin?")) {
                return super::users::declined_by(&output, "Nothing was done").map(|()| exit::OK);
            }
            (settings, Vec::new(), None, own_lab::run(&id, drill, args.base_port, &output).await?)
        }
        _ => {
            let (lab, global) = args.place.open(global)?;
            let desk = Desk::open(&global, output.clone())?;
            let mut stage = Stage::open(&id, &desk, &global, lab).await?;
            let went = on_stage(&args, drill, &mut stage, &desk).await;
            stage.end().await;
            match went? {
                Some(done) => done,
                None => return Ok(exit::OK),
            }
        }
    };
    let mut report = make_report(&args, drill, &id, started, &settings, preflight, status, &measured);
    report.comparison = records.latest(drill.name).map(|before| report::compare(&report.measured.figures, &before));
    records.keep_history(&mut report, &measured.ops)?;
    let page = records.keep(&report)?;
    tracing::info!(drill = id, verdict = %report.verdict, "a drill was run");
    output.show_ours(&report, || {
        format!(
            "{}{}\nThe page: {}\nAgain: hsraft drill report {id} --records {}\n",
            summary(&report),
            report.findings.iter().map(|one| format!("! {}\n", one.text)).collect::<String>(),
            page.display(),
            records.0.display(),
        )
    })?;
    Ok(match report.verdict {
        Verdict::Pass => exit::OK,
        Verdict::Fail => exit::FAILED,
        Verdict::Aborted | Verdict::Void => SAYS_NOTHING,
    })
}

type Done = (Settings, Vec<Condition>, Option<Status>, Measured);

/// None: somebody said no.
async fn on_stage(args: &RunArgs, drill: &Drill, stage: &mut Stage, desk: &Desk) -> Result<Option<Done>, Problem> {
    if drill.stage == catalogue::Stage::Laboratory && stage.lab.is_none() {
        return Err(Problem::of(
            &codes::DRILL_LAB_ONLY,
            format!("{} works on folders of members: only in a laboratory, --lab DIR", drill.name),
        ));
    }
    let settings = settings(args, drill, Some(stage));
    if drill.act == Act::RestoreBackup && matches!(settings.key, restore::Key::None) {
        return Err(Problem::of(&codes::FLAG_MISSING, "name the key that opens backups: --recovery-key-file FILE"));
    }
    let (status, conditions) = conditions(stage, drill, args).await;
    let leader = status.as_ref().and_then(|status| status.leader.clone());
    desk.output.talk(&plan_page(drill, &settings, leader.as_deref(), &conditions));
    if let Some(bad) = conditions.iter().find(|condition| !condition.holds) {
        let why = format!("the drill does not begin: {}: {}", bad.name, bad.text);
        return Err(Problem::of(&codes::DRILL_REFUSED, why).exiting(exit::PREFLIGHT));
    }
    if !desk.agreed("Begin?") {
        super::users::declined(desk, "Nothing was done")?;
        return Ok(None);
    }
    stage.begin(args.despite_freeze).await?;
    let measured = run::run(stage, drill, &settings, &desk.output).await?;
    Ok(Some((settings, conditions, status, measured)))
}

/// Writes acknowledged in each half second.
fn half_seconds(ops: &[ops::Op]) -> Vec<u64> {
    let done = || ops.iter().filter(|op| op.kind == Kind::Write && op.ok);
    let last = done().map(|op| op.answered / 500_000).max();
    let mut counts = vec![0; last.map_or(0, |last| last as usize + 1)];
    done().for_each(|op| counts[(op.answered / 500_000) as usize] += 1);
    counts
}

#[expect(clippy::too_many_arguments, reason = "everything that is known of a run comes together here, once")]
fn make_report(
    args: &RunArgs,
    drill: &Drill,
    id: &str,
    started: state_machine::Timestamp,
    settings: &Settings,
    preflight: Vec<Condition>,
    status: Option<Status>,
    measured: &Measured,
) -> Report {
    let goals = judge::check(drill.goals, &measured.figures);
    let own_lab = drill.stage == catalogue::Stage::OwnLaboratory;
    let (states, at_revision) = match measured.hashes.first() {
        Some((_, revision, hash))
            if measured.hashes.len() == measured.members
                && measured.hashes.iter().all(|(_, other, _)| other == revision) =>
        {
            (Some(measured.hashes.iter().all(|(_, _, other)| other == hash)), *revision)
        }
        _ => (None, 0),
    };
    let floor = own_lab || measured.rate >= FLOOR;
    let outcome = Outcome {
        lost: if measured.loss_allowed { 0 } else { measured.found.missing.len() as u64 },
        stale: measured.stale,
        differ: states == Some(false),
        aborted: measured.aborted.is_some(),
        floor,
        goals_met: goals.iter().all(|check| check.met),
    };
    let measures = report::Measures {
        figures: measured.figures.clone(),
        goals,
        rpo: report::Rpo {
            acked: measured.found.acknowledged,
            missing: measured.found.missing.len() as u64,
            allowed: measured.loss_allowed,
            missing_examples: measured.found.missing.iter().take(10).cloned().collect(),
            ambiguous: measured.found.ambiguous,
            ambiguous_applied: measured.found.ambiguous_done,
            stale_reads: measured.stale,
        },
        errors: measured.errors.clone(),
        elections: measured.elections,
        terms: measured.terms,
        integrity: report::Integrity {
            state_hash_equal: states,
            at_revision,
            canaries_left_behind: measured.left_behind,
        },
        canary: report::Canary { writes_per_s: measured.rate, floor_per_s: if own_lab { 0.0 } else { FLOOR } },
        writes_each_half_second: half_seconds(&measured.ops),
    };
    let findings = report::findings(&measures, measured.aborted.as_deref(), floor);
    let who = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let ms = |us: u64| us as f64 / 1000.0;
    Report {
        schema: report::SCHEMA.into(),
        id: id.into(),
        name: drill.name.into(),
        risk: format!("{:?}", drill.risk).to_lowercase(),
        env: if args.place.lab.is_some() || drill.risk == Risk::Lab { "lab".into() } else { args.env.clone() },
        operator: who("SUDO_USER").or_else(|| who("USER")).unwrap_or_else(|| "unknown".into()),
        approved_by: args.approved_by.clone(),
        started: started.to_string(),
        ended: files::now().to_string(),
        versions: versions(status.as_ref()),
        topology: topology(status.as_ref()),
        hypothesis: drill.hypothesis.into(),
        preflight,
        steady_state: report::Steady {
            window_s: settings.steady.as_secs_f64(),
            writes_per_s: measured.steady_rate,
            write_p50_ms: ms(measured.steady_p50_us),
            write_p99_ms: ms(measured.steady_p99_us),
        },
        blast_radius: drill.blast_radius.into(),
        abort_if: ABORT_IF.map(str::to_owned).to_vec(),
        injection: report::Injection {
            kind: drill.name.into(),
            what: drill.does.into(),
            targets: measured.targets.clone(),
            healed_by: drill.heals.into(),
            repeats: settings.repeats,
            hold_s: settings.hold.as_secs_f64(),
        },
        timeline: measured.events.clone(),
        measured: measures,
        evidence: Vec::new(),
        comparison: None,
        verdict: judge::verdict(outcome),
        aborted: measured.aborted.clone(),
        findings,
    }
}

fn versions(status: Option<&Status>) -> BTreeMap<String, String> {
    let this = crate::version::this();
    let mut versions = BTreeMap::from([
        ("driver".to_owned(), this.hsraft),
        ("commit".to_owned(), this.commit),
        ("build".to_owned(), if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned()),
    ]);
    for member in status.map(|status| status.members.as_slice()).unwrap_or_default() {
        versions.insert(member.name.clone(), member.version.clone());
    }
    if let Some(kernel) = files::read(std::path::Path::new("/proc/sys/kernel/osrelease")).ok().flatten() {
        versions.insert("kernel".into(), kernel.trim().into());
    }
    versions
}

fn topology(status: Option<&Status>) -> Vec<report::Member> {
    let one = |member: &crate::cluster::view::Member| report::Member {
        id: member.id,
        name: member.name.clone(),
        role: if member.state == "leader" { "leader".into() } else { member.role.clone() },
        addr: member.peer_address.clone(),
        clients: member.nodes,
    };
    status.map(|status| status.members.iter().map(one).collect()).unwrap_or_default()
}

/// The verdict and what it rests on, in some lines.
fn summary(report: &Report) -> String {
    let mut text = format!("\n{}: {}\n\n", report.verdict, report::headline(report));
    let mut table = Table::new(["Goal", "At most", "Measured", ""]);
    for check in &report.measured.goals {
        let value = check.value.map_or_else(|| "not measured".into(), |value| format!("{value} {}", check.unit));
        table.row([
            format!("{} {} ({})", report::words(&check.figure), report::stat(check), check.source),
            format!("{} {}", check.goal, check.unit),
            value,
            if check.met { "met" } else { "MISSED" }.into(),
        ]);
    }
    let rpo = &report.measured.rpo;
    table.row([
        "acknowledged writes lost".into(),
        "0".into(),
        report::lost(rpo),
        if rpo.kept() { "met" } else { "MISSED" }.into(),
    ]);
    text += &table.render();
    text += &format!("{}\n\n", report::states(report));
    text
}

fn show(args: &ReportArgs, output: &Output) -> Result<(), Problem> {
    let report = args.place.records().find(args.id.as_deref())?;
    match output.format {
        Format::Human | Format::Markdown => output.write(&report::markdown(&report)),
        Format::Html => output.write(&html::page(&report)),
        Format::Json | Format::JsonLine | Format::Yaml => output.as_is(&report),
    }
}

async fn stop(place: &Place, global: &Global, output: Output) -> Result<(), Problem> {
    let (lab, global) = place.open(global)?;
    let desk = Desk::open(&global, output)?;
    let mut stage = Stage::open("stop", &desk, &global, lab).await?;
    let mut ended = 0;
    for seat in stage.seats.iter() {
        ended += usize::from(seat.door.delete::<serde_json::Value>("/api/v1/cluster/drill").await.is_ok());
    }
    let said = format!("{ended} of {} members are in no drill now", stage.seats.len());
    stage.end().await;
    desk.output.done(&said)
}
