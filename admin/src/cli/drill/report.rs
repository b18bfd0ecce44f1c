//! What a drill came to, in the form `hsraft.drill/v1`, and the comparison with the one before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    judge::{Check, Condition, Figure, Verdict},
    watch::Event,
};

/// The version of this form. A reader that does not know it must not guess.
pub const SCHEMA: &str = "hsraft.drill/v1";

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: String,
    pub id: String,
    pub name: String,
    /// `low`, `medium`, `high` or `lab`.
    pub risk: String,
    /// `lab` or whatever the operator said.
    pub env: String,
    pub operator: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    pub started: String,
    pub ended: String,
    pub versions: BTreeMap<String, String>,
    pub topology: Vec<Member>,
    pub hypothesis: String,
    pub preflight: Vec<Condition>,
    pub steady_state: Steady,
    pub blast_radius: String,
    pub abort_if: Vec<String>,
    pub injection: Injection,
    pub timeline: Vec<Event>,
    pub measured: Measures,
    pub evidence: Vec<Evidence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    pub verdict: Verdict,
    /// Why, when it was broken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<String>,
    /// What somebody should look at.
    pub findings: Vec<Finding>,
}

/// A member as the drill found it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    pub name: String,
    pub role: String,
    pub addr: String,
    pub clients: u64,
}

/// What was normal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steady {
    pub window_s: f64,
    pub writes_per_s: f64,
    pub write_p50_ms: f64,
    pub write_p99_ms: f64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Injection {
    pub kind: String,
    pub what: String,
    pub targets: Vec<String>,
    pub healed_by: String,
    pub repeats: u32,
    pub hold_s: f64,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    pub figures: BTreeMap<String, Figure>,
    pub goals: Vec<Check>,
    pub rpo: Rpo,
    pub errors: BTreeMap<String, u64>,
    pub elections: usize,
    pub terms: (u64, u64),
    pub integrity: Integrity,
    /// The canaries' acknowledged writes a second, outages left out, and the floor below which a run says nothing.
    pub canary: Canary,
    /// Acknowledged writes a second over the run, a value for each half second; for the chart.
    pub writes_each_half_second: Vec<u64>,
}

/// What became of acknowledged writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rpo {
    pub acked: u64,
    pub missing: u64,
    /// The goal allows it: they are the newest, and within the span that may be lost.
    #[serde(default)]
    pub allowed: bool,
    /// Some of the missing ones and where they are missing.
    pub missing_examples: Vec<(String, String)>,
    pub ambiguous: u64,
    pub ambiguous_applied: u64,
    pub stale_reads: u64,
}

impl Rpo {
    /// Nothing is missing that was promised.
    pub fn kept(&self) -> bool {
        self.missing == 0 || self.allowed
    }
}

/// How many acknowledged writes were lost, and whether they may.
pub fn lost(rpo: &Rpo) -> String {
    let Rpo { acked, missing, allowed, .. } = rpo;
    format!("{missing} of {acked}{}", if *allowed && *missing > 0 { " (the newest; the goal allows it)" } else { "" })
}

/// Whether the members came to the same state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Integrity {
    /// Absent: they never stood at one revision.
    pub state_hash_equal: Option<bool>,
    pub at_revision: u64,
    pub canaries_left_behind: usize,
}

/// How much canaries did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    pub writes_per_s: f64,
    pub floor_per_s: f64,
}

/// A file beside the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub file: String,
    pub sha256: String,
}

/// Against the run before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub previous: String,
    pub previous_verdict: String,
    /// p99 of now less p99 of then, by figure.
    pub p99_delta: BTreeMap<String, i64>,
}

/// What somebody should look at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub id: String,
    /// `minor`, `major` or `critical`.
    pub severity: String,
    pub text: String,
}

/// Against the run before of the same drill.
pub fn compare(now: &BTreeMap<String, Figure>, before: &Report) -> Comparison {
    let delta = |(name, figure): (&String, &Figure)| {
        let then = before.measured.figures.get(name)?;
        Some((name.clone(), figure.p99 as i64 - then.p99 as i64))
    };
    Comparison {
        previous: before.id.clone(),
        previous_verdict: before.verdict.to_string(),
        p99_delta: now.iter().filter_map(delta).collect(),
    }
}

/// What the figures say that somebody should look at. Pure.
pub fn findings(measured: &Measures, aborted: Option<&str>, floor: bool) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut add = |severity: &str, text: String| {
        all.push(Finding { id: format!("F{}", all.len() + 1), severity: severity.into(), text });
    };
    let Rpo { missing, stale_reads, .. } = measured.rpo;
    if !measured.rpo.kept() {
        add("critical", format!("{missing} acknowledged writes are missing: keep all data folders, report it"));
    }
    if stale_reads > 0 {
        add("critical", format!("{stale_reads} linearizable reads did not see what was acknowledged before"));
    }
    match measured.integrity.state_hash_equal {
        Some(false) => add("critical", "the members came to different states: hsraft members names the odd one".into()),
        None => {
            add("minor", "the members' states could not be compared at one revision: something kept writing".into())
        }
        Some(true) => {}
    }
    if let Some(why) = aborted {
        add("major", format!("broken off: {why}"));
    }
    if !floor {
        let Canary { writes_per_s, floor_per_s } = measured.canary;
        add(
            "major",
            format!(
                "canaries wrote {writes_per_s:.0} a second, at least {floor_per_s:.0} are needed: the figures say nothing"
            ),
        );
    }
    for check in measured.goals.iter().filter(|check| !check.met) {
        let Check { figure, goal, unit, source, .. } = check;
        match check.value {
            Some(value) => {
                add("major", format!("{figure} {:?} was {value} {unit}, the goal is {goal} ({source})", check.stat))
            }
            None => add("major", format!("{figure} was not measured; the goal is {goal} ({source})")),
        }
    }
    if measured.integrity.canaries_left_behind > 0 {
        add(
            "minor",
            format!(
                "{} canary users are left: hsraft users list, names begin with drill-",
                measured.integrity.canaries_left_behind
            ),
        );
    }
    all
}

/// What a person reads first.
pub fn headline(report: &Report) -> String {
    let goals = report.measured.goals.iter();
    let missed = goals.filter(|check| !check.met).count();
    match report.verdict {
        Verdict::Pass if report.measured.rpo.missing > 0 => "every goal was met; what was lost, the goals allow".into(),
        Verdict::Pass => "every goal was met, nothing was lost".into(),
        Verdict::Fail if !report.measured.rpo.kept() => "acknowledged writes were lost".into(),
        Verdict::Fail => format!("{missed} of {} goals were missed", report.measured.goals.len()),
        Verdict::Aborted => report.aborted.clone().unwrap_or_else(|| "broken off".into()),
        Verdict::Void => "the canaries did too little for the figures to mean anything".into(),
    }
}

/// The report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut text = format!(
        "# Drill {}: {}\n\n**{}**: {}\n\n| | |\n|---|---|\n| id | {} |\n| environment | {} |\n| operator | {}{} |\n| time | {} to {} |\n| repeats | {} |\n\n> {}\n\n",
        report.name,
        report.verdict,
        report.verdict,
        headline(report),
        report.id,
        report.env,
        report.operator,
        report.approved_by.as_ref().map(|by| format!(", approved by {by}")).unwrap_or_default(),
        report.started,
        report.ended,
        report.injection.repeats,
        report.hypothesis
    );
    text += "## Goals\n\n| what | goal | measured | |\n|---|---|---|---|\n";
    for check in &report.measured.goals {
        let value = check.value.map_or_else(|| "not measured".into(), |value| format!("{value} {}", check.unit));
        let met = if check.met { "met" } else { "**missed**" };
        text += &format!(
            "| {} {} | at most {} ({}) | {value} | {met} |\n",
            words(&check.figure),
            stat(check),
            check.goal,
            check.source
        );
    }
    let Rpo { ambiguous, ambiguous_applied, stale_reads, .. } = report.measured.rpo;
    text += &format!(
        "| acknowledged writes lost | 0 | {} | {} |\n| stale linearizable reads | 0 | {stale_reads} | {} |\n\n\
         {ambiguous} writes had no answer; {ambiguous_applied} of them were done. {}\n\n",
        lost(&report.measured.rpo),
        if report.measured.rpo.kept() { "met" } else { "**missed**" },
        if stale_reads == 0 { "met" } else { "**missed**" },
        states(report),
    );
    text += "## Figures\n\n| what | values | p50 | p99 | max |\n|---|---|---|---|---|\n";
    for (name, figure) in &report.measured.figures {
        let Figure { unit, values, p50, p99, max } = figure;
        text += &format!("| {} ({unit}) | {} | {p50} | {p99} | {max} |\n", words(name), values.len());
    }
    let Steady { window_s, writes_per_s, write_p50_ms, write_p99_ms } = report.steady_state;
    text += &format!(
        "\nNormal over {window_s:.0} s: {writes_per_s:.0} writes/s, p50 {write_p50_ms:.1} ms, p99 {write_p99_ms:.1} ms. \
         Over the run {:.0} writes/s (floor {:.0}).\n",
        report.measured.canary.writes_per_s, report.measured.canary.floor_per_s
    );
    if let Some(Comparison { previous, previous_verdict, p99_delta }) = &report.comparison {
        text += &format!(
            "\n## Against the run before\n\n{previous} was {previous_verdict}.\n\n| what | p99 |\n|---|---|\n"
        );
        for (name, delta) in p99_delta {
            text += &format!("| {} | {delta:+} |\n", words(name));
        }
    }
    if !report.findings.is_empty() {
        text += "\n## Findings\n\n";
        for Finding { id, severity, text: what } in &report.findings {
            text += &format!("* {id} ({severity}): {what}\n");
        }
    }
    text += "\n## Timeline\n\n| s | what |\n|---|---|\n";
    for event in &report.timeline {
        text += &format!("| {:.3} | {} |\n", event.t, event.ev.replace('|', "\\|"));
    }
    text
}

/// Whether the states are one, in a sentence.
pub fn states(report: &Report) -> String {
    let at = report.measured.integrity.at_revision;
    match report.measured.integrity.state_hash_equal {
        Some(true) => format!("All members have the same state at revision {at}."),
        Some(false) => format!("The members DIFFER at revision {at}."),
        None => "The members' states were not compared.".into(),
    }
}

/// `write_rto` as people read it.
pub fn words(figure: &str) -> String {
    match figure {
        "write_rto" => "writes back after".into(),
        "read_rto" => "reads back after".into(),
        "register_rto" => "registrations back after".into(),
        "added_p99" => "writes slower by".into(),
        "left_lead" => "another leads after".into(),
        "lost_span" => "oldest write lost, before the end".into(),
        _ => figure.replace('_', " "),
    }
}

/// `p99` or nothing when there is only one value to speak of.
pub fn stat(check: &Check) -> &'static str {
    match check.stat {
        super::judge::Stat::P50 => "p50",
        super::judge::Stat::P99 => "p99",
        super::judge::Stat::Max => "max",
    }
}

/// A report for tests.
#[cfg(test)]
pub fn sample() -> Report {
    let figure = |values: Vec<u64>| Figure::of("ms", values).expect("values");
    let figures = BTreeMap::from([("write_rto".to_owned(), figure(vec![540, 610, 820]))]);
    let goals = super::catalogue::find("leader-kill").expect("a drill").goals;
    let event = |t, kind: &str, ev: &str| Event { t, kind: kind.into(), ev: ev.into() };
    Report {
        schema: SCHEMA.into(),
        id: "20260901T100000Z-leader-kill".into(),
        name: "leader-kill".into(),
        risk: "medium".into(),
        env: "lab".into(),
        operator: "alice".into(),
        approved_by: None,
        started: "2026-09-01T10:00:00Z".into(),
        ended: "2026-09-01T10:04:12Z".into(),
        versions: BTreeMap::from([("hsraft".to_owned(), "1.4.0".to_owned())]),
        topology: Vec::new(),
        hypothesis: "Writes are back.".into(),
        preflight: Vec::new(),
        steady_state: Steady::default(),
        blast_radius: "one member".into(),
        abort_if: Vec::new(),
        injection: Injection { repeats: 3, ..Injection::default() },
        timeline: vec![
            event(5.0, "injected", "hs1 killed"),
            event(5.6, "recovered", "writes are back"),
            event(9.0, "well", "all are well"),
        ],
        measured: Measures {
            goals: super::judge::check(goals, &figures),
            figures,
            writes_each_half_second: vec![30, 32, 29, 0, 14, 31],
            ..Measures::default()
        },
        evidence: Vec::new(),
        comparison: None,
        verdict: Verdict::Pass,
        aborted: None,
        findings: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_survives_the_way_to_disk_and_back() {
        let report = sample();
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        assert!(text.starts_with("{\"schema\":\"hsraft.drill/v1\""), "{text}");
        assert!(text.contains("\"verdict\":\"PASS\""));
    }

    #[test]
    fn the_page_for_people_names_what_was_missed() {
        let mut report = sample();
        let text = markdown(&report);
        assert!(text.contains("# Drill leader-kill: PASS"), "{text}");
        // 610 ms at p50 is more than 600.
        assert!(text.contains("| writes back after p50 | at most 600 (R1) | 610 ms | **missed** |"), "{text}");
        report.comparison = Some(compare(&report.measured.figures, &sample()));
        assert_eq!(report.comparison.as_ref().unwrap().p99_delta["write_rto"], 0);
        assert!(markdown(&report).contains("## Against the run before"));
    }

    #[test]
    fn what_should_be_looked_at_is_said() {
        let mut measured = sample().measured;
        measured.integrity.state_hash_equal = Some(true);
        let told = |measured: &Measures, floor| {
            findings(measured, None, floor).into_iter().map(|one| one.severity).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(&measured, true), "major", "p50");
        measured.rpo.missing = 2;
        measured.integrity.state_hash_equal = Some(false);
        assert_eq!(told(&measured, false), "critical critical major major");
    }
}
