//! Whoever is woken by a rule finds a page that says what to do, and no rule asks for what no member tells.
#![allow(clippy::disallowed_methods, reason = "a test reads the repository's own files")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

/// Where metrics get their names.
const SOURCES: [&str; 3] = ["raft/src/metrics.rs", "node/src/observe.rs", "derp/src/metrics.rs"];
/// Of Prometheus itself.
const NOT_OURS: [&str; 1] = ["up"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A rule as the files write it: `- alert:`, and the lines below it.
struct Rule {
    name: String,
    expr: String,
    runbook: String,
}

fn rules() -> Vec<Rule> {
    let configuration = text("deploy/prometheus/prometheus.yml");
    let files =
        configuration.lines().filter_map(|line| line.strip_prefix("  - ")).filter(|line| line.ends_with(".yml"));
    let mut rules = Vec::new();
    for file in files {
        let text = text(format!("deploy/prometheus/{file}"));
        for rule in text.split("- alert: ").skip(1) {
            let (name, rest) = rule.split_once('\n').unwrap();
            let expr = rest.lines().find_map(|line| line.trim().strip_prefix("expr: ")).unwrap_or_default();
            let runbook = rest.split_once("runbook: \"").and_then(|(_, rest)| rest.split_once('"'));
            rules.push(Rule {
                name: name.into(),
                expr: expr.into(),
                runbook: runbook.map_or(String::new(), |(link, _)| link.into()),
            });
        }
    }
    rules
}

/// As Markdown makes anchors of headings.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.collect::<String>().replace(' ', "-")
}

fn headings(page: &str) -> BTreeSet<String> {
    let mut in_code = false;
    let mut found = BTreeSet::new();
    for line in page.lines() {
        in_code ^= line.starts_with("```");
        if !in_code && line.starts_with('#') {
            found.insert(anchor(line.trim_start_matches('#')));
        }
    }
    found
}

/// Names in an expression that are neither functions, labels, values nor words of the language.
fn metrics_of(expr: &str) -> BTreeSet<String> {
    const WORDS: [&str; 5] = ["and", "by", "instance", "le", "sum"];
    let mut outside = String::new();
    let mut depth = 0;
    for letter in expr.chars() {
        match letter {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ if depth == 0 => outside.push(letter),
            _ => {}
        }
    }
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut names = BTreeSet::new();
    let mut rest = outside.as_str();
    while let Some(start) = rest.find(|letter: char| letter.is_alphabetic()) {
        let word = &rest[start..];
        let end = word.find(|letter| !is_part(letter)).unwrap_or(word.len());
        let (name, after) = word.split_at(end);
        if !after.trim_start().starts_with('(') && !WORDS.contains(&name) {
            names.insert(name.to_owned());
        }
        rest = after;
    }
    names
}

#[test]
fn every_alert_has_a_page_a_test_and_something_to_measure() {
    let rules = rules();
    assert!(rules.len() >= 20, "an operator needs more than {}", rules.len());
    let sources: String = SOURCES.map(text).concat() + &text("node/src/observe.rs");
    let tests = text("deploy/prometheus/tests.yml");
    let mut pages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for Rule { name, expr, runbook } in &rules {
        let Some((page, section)) = runbook.split_once('#') else {
            wrong.push(format!("{name} has no runbook"));
            continue;
        };
        let known = pages.entry(page.to_owned()).or_insert_with(|| headings(&text(format!("deploy/runbooks/{page}"))));
        if !known.contains(section) {
            wrong.push(format!("{name}: {page} has no section {section}"));
        }
        let measured = metrics_of(expr);
        if measured.is_empty() {
            wrong.push(format!("{name} measures nothing: {expr}"));
        }
        for metric in measured.iter().filter(|metric| !NOT_OURS.contains(&metric.as_str())) {
            let of_histogram = metric.strip_suffix("_bucket").unwrap_or(metric);
            if !sources.contains(&format!("\"{of_histogram}\"")) {
                wrong.push(format!("{name} asks for {metric}, which no member tells"));
            }
        }
        let fires = tests.split("- eval_time: ").skip(1).any(|test| {
            test.lines().nth(1).is_some_and(|line| line.trim() == format!("alertname: {name}"))
                && test.contains("exp_alerts:")
        });
        if !fires {
            wrong.push(format!("{name} never fires in tests.yml"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{} alerts", rules.len());
}

/// Only where Prometheus' tool is installed; the samples are its own language.
#[test]
fn promtool_agrees() {
    let folder = root().join("deploy/prometheus");
    let run = |words: &[&str]| Command::new("promtool").args(words).current_dir(&folder).output();
    match run(&["--version"]) {
        Ok(output) if output.status.success() => {}
        _ => return println!("skipped: promtool is not installed (Debian: prometheus)"),
    }
    for words in [
        &["check", "rules", "backup-and-integrity.yml", "cluster.yml", "clients.yml"][..],
        &["test", "rules", "tests.yml"],
    ] {
        let output = run(words).unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {words:?}: {told}");
    }
}

#[test]
fn names_are_found_in_expressions() {
    let found = metrics_of(
        "histogram_quantile(0.99, sum by (instance, le) (rate(a_bucket{x!=\"ok\"}[5m]))) > 0.05 and max(b) > 0",
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a_bucket", "b"]);
    assert_eq!(anchor(" When the leader's disk is slow"), "when-the-leaders-disk-is-slow");
}
