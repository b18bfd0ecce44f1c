//! Whether a drill may begin, must be broken off, and how it ended. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use state_machine::Timestamp;

use super::ops::percentile;
use crate::cluster::{
    drills::Look,
    view::{Status, Verdict as Health},
};

/// How a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Pass,
    Fail,
    /// Broken off for safety; says nothing about the goals.
    Aborted,
    /// The canaries did too little for the figures to mean anything.
    Void,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Aborted => "ABORTED",
            Verdict::Void => "VOID",
        })
    }
}

/// Values of one kind over all repeats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// `ms` or `count`.
    pub unit: String,
    pub values: Vec<u64>,
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

impl Figure {
    /// None of no values: what was not measured has no figure.
    pub fn of(unit: &str, values: Vec<u64>) -> Option<Figure> {
        let at = |percent| percentile(&values, percent);
        Some(Figure { unit: unit.into(), p50: at(50)?, p99: at(99)?, max: at(100)?, values: values.clone() })
    }
}

/// Which value of a figure a goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stat {
    P50,
    P99,
    Max,
}

/// At most `limit`, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    pub figure: &'static str,
    pub stat: Stat,
    pub limit: u64,
    pub source: &'static str,
}

/// A goal and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub figure: String,
    pub stat: Stat,
    pub unit: String,
    pub goal: u64,
    pub source: String,
    /// Absent: not measured, which meets nothing.
    pub value: Option<u64>,
    pub met: bool,
}

/// Every goal against the figures.
pub fn check(goals: &[Goal], figures: &BTreeMap<String, Figure>) -> Vec<Check> {
    let one = |goal: &Goal| {
        let figure = figures.get(goal.figure);
        let value = figure.map(|figure| match goal.stat {
            Stat::P50 => figure.p50,
            Stat::P99 => figure.p99,
            Stat::Max => figure.max,
        });
        Check {
            figure: goal.figure.into(),
            stat: goal.stat,
            unit: figure.map_or("", |figure| &figure.unit).into(),
            goal: goal.limit,
            source: goal.source.into(),
            value,
            met: value.is_some_and(|value| value <= goal.limit),
        }
    };
    goals.iter().map(one).collect()
}

/// What came of a drill.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Acknowledged writes that a member does not have.
    pub lost: u64,
    /// Linearizable reads that did not see what was acknowledged before.
    pub stale: u64,
    /// The members came to different states.
    pub differ: bool,
    pub aborted: bool,
    /// The canaries reached their floor.
    pub floor: bool,
    pub goals_met: bool,
}

/// What was lost counts whatever else happened; then safety, then meaning, then the goals.
pub fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome { lost: 1.., .. } | Outcome { stale: 1.., .. } | Outcome { differ: true, .. } => Verdict::Fail,
        Outcome { aborted: true, .. } => Verdict::Aborted,
        Outcome { floor: false, .. } => Verdict::Void,
        Outcome { goals_met: false, .. } => Verdict::Fail,
        _ => Verdict::Pass,
    }
}

/// Write errors beyond this share, over [`ERRORS_OVER_US`], break a drill off.
pub const ERROR_SHARE: f64 = 0.05;
pub const ERRORS_OVER_US: u64 = 30_000_000;
/// A member that does not answer for so long is not well.
pub const UNWELL_US: u64 = 3_000_000;
/// A recovery may take so many times its goal.
pub const RTO_TIMES: u64 = 3;

/// How things stand in the middle of a drill. Times in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Members other than the broken one, and since when each does not answer; none: it does.
    pub silent_for: Vec<(String, Option<u64>)>,
    /// Failed and all writes of the last [`ERRORS_OVER_US`], the broken member's left out.
    pub writes: (u64, u64),
    /// How long they were watched.
    pub watched: u64,
    /// Since the fault, while writes are not back; none: they are.
    pub outage: Option<u64>,
    /// What the outage may take; none: no goal.
    pub goal: Option<u64>,
}

/// Why to break off now, if at all.
pub fn abort(facts: &Facts) -> Option<String> {
    let unwell = facts.silent_for.iter().find(|(_, silence)| silence.is_some_and(|silence| silence > UNWELL_US));
    if let Some((name, silence)) = unwell {
        let secs = silence.unwrap_or_default() / 1_000_000;
        return Some(format!("{name} is not the one that was broken, and does not answer for {secs} s"));
    }
    let (failed, all) = facts.writes;
    if facts.watched >= ERRORS_OVER_US && all > 0 && failed as f64 > all as f64 * ERROR_SHARE {
        return Some(format!("{failed} of {all} writes of the last 30 s failed, more than 5 %"));
    }
    match (facts.outage, facts.goal) {
        (Some(outage), Some(goal)) if outage > goal * RTO_TIMES => {
            Some(format!("writes are not back after {} ms, three times the goal of {} ms", outage / 1000, goal / 1000))
        }
        _ => None,
    }
}

/// A backup older than this is no net to fall into.
const BACKUP_AGE_MS: u64 = 15 * 60 * 1000;

/// One condition and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    pub name: String,
    pub holds: bool,
    pub text: String,
}

/// What is looked at before anything is broken.
#[derive(Debug, Default)]
pub struct Before<'a> {
    pub status: Option<&'a Status>,
    /// What each member says, by name; none: it does not answer.
    pub looks: Vec<(String, Option<Look>)>,
    /// A member is broken, rather than asked for something ordinary.
    pub breaks: bool,
    pub check_backup: bool,
    pub despite_freeze: bool,
    pub now: Timestamp,
}

/// Every condition of a beginning.
pub fn preflight(before: &Before<'_>) -> Vec<Condition> {
    let mut all = Vec::new();
    let mut add = |name: &str, bad: Option<String>, good: &str| {
        all.push(Condition { name: name.into(), holds: bad.is_none(), text: bad.unwrap_or_else(|| good.into()) });
    };
    let Some(status) = before.status else {
        add("healthy", Some("no member answers".into()), "");
        return all;
    };
    let reasons = (status.verdict != Health::Healthy).then(|| status.reasons.join("; "));
    add("healthy", reasons, "all members are well");
    let spare = status.summary.can_lose;
    let thin = spare.is_none_or(|spare| spare < 1).then(|| "one more loss would stop the cluster".to_owned());
    add("failure tolerance", thin, &format!("{} more may fail", spare.unwrap_or_default()));

    let silent: Vec<&str> = names(&before.looks, |look| look.is_none());
    add("reachable", said("does not answer here", &silent), "every member answers at its client_url");
    let shut = names(&before.looks, |look| look.as_ref().is_some_and(|look| !look.allowed));
    let shut = said("takes no part in drills (cluster.drills: true, then restart)", &shut).filter(|_| before.breaks);
    add("door", shut, "every member takes part in drills");
    let busy = names(&before.looks, |look| look.as_ref().is_some_and(|look| look.drill.is_some()));
    add("no other drill", said("is in a drill already", &busy), "no drill is under way");
    let frozen = names(&before.looks, |look| look.as_ref().is_some_and(|look| look.frozen_until.is_some()));
    let frozen = said("is in a freeze window (cluster.drills_freeze)", &frozen).filter(|_| !before.despite_freeze);
    add("no freeze window", frozen, "nobody asked for calm");

    let age = status.summary.backup_at.map(|at| before.now.0.saturating_sub(at.0));
    let old = match age {
        Some(age) if age <= BACKUP_AGE_MS => None,
        Some(age) => Some(format!("the newest backup is {} minutes old", age / 60_000)),
        None => Some("no member keeps a backup".into()),
    };
    match before.check_backup {
        true => add("backup", old, "the newest backup is younger than 15 minutes"),
        false => add("backup", None, "not looked at (--no-backup-check)"),
    }
    all
}

fn names(looks: &[(String, Option<Look>)], is: impl Fn(&Option<Look>) -> bool) -> Vec<&str> {
    looks.iter().filter(|(_, look)| is(look)).map(|(name, _)| name.as_str()).collect()
}

fn said(what: &str, names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("{} {what}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::view::Summary;

    #[test]
    fn verdicts() {
        let fine = Outcome { floor: true, goals_met: true, ..Outcome::default() };
        for (outcome, expected) in [
            (fine, Verdict::Pass),
            (Outcome { goals_met: false, ..fine }, Verdict::Fail),
            (Outcome { floor: false, ..fine }, Verdict::Void),
            (Outcome { floor: false, goals_met: false, ..fine }, Verdict::Void),
            (Outcome { aborted: true, floor: false, ..fine }, Verdict::Aborted),
            (Outcome { lost: 1, aborted: true, floor: false, ..fine }, Verdict::Fail),
            (Outcome { stale: 1, ..fine }, Verdict::Fail),
            (Outcome { differ: true, floor: false, ..fine }, Verdict::Fail),
        ] {
            assert_eq!(verdict(outcome), expected, "{outcome:?}");
        }
    }

    #[test]
    fn goals_are_met_by_what_was_measured_only() {
        let goal = |figure, stat, limit| Goal { figure, stat, limit, source: "R1" };
        let figures = BTreeMap::from([("write_rto".to_owned(), Figure::of("ms", vec![500, 900, 700]).unwrap())]);
        let goals = [
            goal("write_rto", Stat::P50, 700),
            goal("write_rto", Stat::P99, 899),
            goal("read_rto", Stat::Max, 1_000_000),
        ];
        let checks = check(&goals, &figures);
        assert_eq!(checks.iter().map(|check| check.met).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(checks.iter().map(|check| check.value).collect::<Vec<_>>(), [Some(700), Some(900), None]);
        assert_eq!(Figure::of("ms", Vec::new()), None);
    }

    #[test]
    fn broken_off_when_it_goes_too_far() {
        let calm = Facts {
            silent_for: vec![("hs2".into(), None), ("hs3".into(), Some(UNWELL_US))],
            writes: (5, 100),
            watched: ERRORS_OVER_US,
            outage: Some(3_000_000),
            goal: Some(1_000_000),
        };
        assert_eq!(abort(&calm), None);
        assert_eq!(abort(&Facts { watched: 1, writes: (90, 100), ..calm.clone() }), None, "30 s are not over");
        assert_eq!(abort(&Facts { goal: None, outage: Some(u64::MAX), ..calm.clone() }), None);
        for (facts, word) in [
            (Facts { silent_for: vec![("hs3".into(), Some(UNWELL_US + 1))], ..calm.clone() }, "hs3"),
            (Facts { writes: (6, 100), ..calm.clone() }, "5 %"),
            (Facts { outage: Some(3_000_001), ..calm.clone() }, "three times"),
        ] {
            let why = abort(&facts).unwrap();
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn nothing_begins_unless_all_is_well() {
        let now = Timestamp(10_000_000);
        let well = |backup: u64| Status {
            verdict: Health::Healthy,
            summary: Summary { can_lose: Some(1), backup_at: Some(Timestamp(backup)), ..Summary::default() },
            ..Status::default()
        };
        let look = |change: fn(&mut Look)| {
            let mut look = Look { allowed: true, ..Look::default() };
            change(&mut look);
            vec![("hs1".to_owned(), Some(look))]
        };
        let judged = |status: Option<&Status>, looks, check_backup| {
            let before = Before { status, looks, breaks: true, check_backup, despite_freeze: false, now };
            let bad = preflight(&before).into_iter().filter(|condition| !condition.holds);
            bad.map(|condition| condition.name).collect::<Vec<_>>().join(" ")
        };
        let fine = well(now.0 - 1000);
        assert_eq!(judged(Some(&fine), look(|_| ()), true), "");
        assert_eq!(judged(None, Vec::new(), true), "healthy");
        let old = well(now.0 - BACKUP_AGE_MS.min(now.0));
        assert_eq!(judged(Some(&old), look(|_| ()), true), "");
        let late = Timestamp(BACKUP_AGE_MS + 61_000);
        let before = Before {
            status: Some(&well(1)),
            looks: look(|_| ()),
            breaks: true,
            check_backup: true,
            despite_freeze: false,
            now: late,
        };
        assert!(preflight(&before).iter().any(|c| c.name == "backup" && !c.holds && c.text.contains("16 minutes")));
        assert_eq!(judged(Some(&fine), look(|look| look.allowed = false), true), "door");
        assert_eq!(judged(Some(&fine), look(|look| look.drill = Some("x".into())), true), "no other drill");
        assert_eq!(judged(Some(&fine), look(|look| look.frozen_until = Some("t".into())), true), "no freeze window");
        assert_eq!(judged(Some(&fine), vec![("hs2".into(), None)], true), "reachable");
        let alone = Status { summary: Summary { can_lose: Some(0), ..Summary::default() }, ..fine.clone() };
        assert_eq!(judged(Some(&alone), look(|_| ()), true), "failure tolerance backup");
        assert_eq!(judged(Some(&alone), look(|_| ()), false), "failure tolerance");
        let ill = Status { verdict: Health::Degraded, reasons: vec!["hs3 is silent".into()], ..fine };
        assert_eq!(judged(Some(&ill), look(|_| ()), true), "healthy");
    }
}
