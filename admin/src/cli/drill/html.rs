//! The report as one page: no script, nothing from elsewhere, light and dark, readable on a phone.

use super::{
    judge::{Figure, Verdict},
    report::{Comparison, Finding, Report, Rpo, headline, stat, states, words},
};

const STYLE: &str = "
:root{--bg:#fbfbfa;--fg:#1d1f21;--soft:#63686e;--line:#dcdee0;--card:#fff;--good:#14713d;--bad:#b3261e;--odd:#8a5a00;--bar:#3b6fb6;--fault:#b3261e;--heal:#14713d;--lead:#8a5a00}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--fg:#e7e9ea;--soft:#9aa1a8;--line:#30353b;--card:#1d2024;--good:#5ecb8b;--bad:#ff8a80;--odd:#f0b84d;--bar:#7aa7e8;--fault:#ff8a80;--heal:#5ecb8b;--lead:#f0b84d}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.15rem;font-weight:600;margin:0;color:var(--soft)}
h2{font-size:1.05rem;margin:2.2rem 0 .6rem}
.verdict{font-size:1.6rem;font-weight:700;line-height:1.25;margin:.3rem 0 .4rem;overflow-wrap:anywhere}
.good{color:var(--good)}.bad{color:var(--bad)}.odd{color:var(--odd)}
.soft{color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem;margin:1.2rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.8rem 1rem}
.card b{display:block;font-size:1.7rem;line-height:1.2;font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:.85rem}
.wide{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:.5rem}
table{border-collapse:collapse;width:100%;font-size:.92rem}
td,th{padding:.45rem .8rem;text-align:left;border-top:1px solid var(--line);vertical-align:top}
tr:first-child>*{border-top:0}
th{color:var(--soft);font-weight:500}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
th.n{text-align:right}
.n{width:1%}
@media(max-width:32rem){td,th{padding:.4rem .5rem}table{font-size:.84rem}}
svg{display:block;width:100%;min-width:30rem;height:auto}
svg text{fill:var(--soft);font-size:11px;font-family:inherit}
blockquote{margin:1rem 0;padding:.2rem 0 .2rem 1rem;border-left:3px solid var(--line);color:var(--soft)}
.key{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;font-size:.85rem;color:var(--soft);margin:.5rem 0 0}
.key i{display:inline-block;width:.75rem;height:.75rem;border-radius:2px;margin-right:.35rem;vertical-align:-1px}
";

/// Makes text safe inside the page.
fn safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The whole page.
pub fn page(report: &Report) -> String {
    let class = match report.verdict {
        Verdict::Pass => "good",
        Verdict::Fail => "bad",
        Verdict::Aborted | Verdict::Void => "odd",
    };
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>Drill {name}: {verdict}</title>\
         <style>{STYLE}</style></head><body><main><h1>Drill {name}</h1>\
         <p class=\"verdict\"><span class=\"{class}\">{verdict}</span>: {headline}</p>\
         <p class=\"soft\">{env}, {started} to {ended}, {repeats}, by {operator}{approved}</p>",
        name = safe(&report.name),
        verdict = report.verdict,
        headline = safe(&headline(report)),
        env = safe(&report.env),
        started = safe(&moment(&report.started)),
        ended = safe(&moment(&report.ended)),
        repeats = match report.injection.repeats {
            1 => "once".to_owned(),
            many => format!("{many} times"),
        },
        operator = safe(&report.operator),
        approved = report.approved_by.as_ref().map(|by| format!(", approved by {}", safe(by))).unwrap_or_default(),
    );
    page += &cards(report);
    page += &format!("<blockquote>{}</blockquote>", safe(&report.hypothesis));
    page += "<h2>Timeline</h2>";
    page += &chart(report);
    page += &goals(report);
    page += &findings(report);
    page += &comparison(report);
    page += &figures(report);
    page += &events(report);
    page += &about(report);
    page + "</main></body></html>\n"
}

/// `2026-09-01T10:00:00.123Z` to the second.
fn moment(text: &str) -> String {
    let seconds = text.split('.').next().unwrap_or(text).trim_end_matches('Z');
    format!("{} UTC", seconds.replace('T', " "))
}

fn cards(report: &Report) -> String {
    let rpo = &report.measured.rpo;
    let (acked, missing) = (rpo.acked, rpo.missing);
    let mut cards = String::from("<div class=\"cards\">");
    let mut card = |value: String, what: String, met: bool| {
        let class = if met { "good" } else { "bad" };
        cards +=
            &format!("<div class=\"card\"><b class=\"{class}\">{}</b><span>{}</span></div>", safe(&value), safe(&what));
    };
    // The most telling goal is the p99 where there is one, else the first; then one more.
    let goals = &report.measured.goals;
    let telling = goals.iter().find(|check| stat(check) == "p99").or(goals.first());
    for check in telling.into_iter().chain(goals.iter().filter(|check| Some(*check) != telling).take(1)) {
        let value = check.value.map_or_else(|| "–".to_owned(), |value| quantity(value, &check.unit));
        let goal = quantity(check.goal, &check.unit);
        card(value, format!("{} {}, goal {goal}", words(&check.figure), stat(check)), check.met);
    }
    card(missing.to_string(), format!("of {acked} acknowledged writes lost, goal 0"), rpo.kept());
    let rate = &report.measured.canary;
    let enough = rate.writes_per_s >= rate.floor_per_s;
    card(format!("{:.0}/s", rate.writes_per_s), format!("canary writes, floor {:.0}/s", rate.floor_per_s), enough);
    cards + "</div>"
}

fn quantity(value: u64, unit: &str) -> String {
    match unit {
        "ms" if value >= 10_000 => format!("{:.1} s", value as f64 / 1000.0),
        "ms" => format!("{value} ms"),
        _ => value.to_string(),
    }
}

const WIDTH: f64 = 720.0;
const LEFT: f64 = 44.0;
const TOP: f64 = 26.0;
const HEIGHT: f64 = 150.0;

/// Acknowledged writes over time, with what was done and what happened.
fn chart(report: &Report) -> String {
    let counts = &report.measured.writes_each_half_second;
    // The last half second is not a whole one.
    let rates: Vec<f64> = counts[..counts.len().saturating_sub(1)].iter().map(|count| *count as f64 * 2.0).collect();
    let last = report.timeline.iter().map(|event| event.t).fold(0.0, f64::max);
    let span = (rates.len() as f64 / 2.0).max(last).max(1.0);
    let top = rates.iter().copied().fold(10.0, f64::max) * 1.1;
    let x = |t: f64| LEFT + t / span * (WIDTH - LEFT - 8.0);
    let y = |rate: f64| TOP + HEIGHT - rate / top * HEIGHT;
    let mut svg = format!(
        "<div class=\"wide\"><svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"Acknowledged writes a second over time\">",
        TOP + HEIGHT + 26.0
    );
    for share in [0.0, 0.5, 1.0] {
        let rate = (top / 1.1 * share).round();
        svg += &format!(
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"var(--line)\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{rate:.0}</text>",
            WIDTH - 8.0,
            LEFT - 6.0,
            y(rate) + 4.0,
            y = y(rate),
        );
    }
    svg += &format!("<text x=\"{LEFT}\" y=\"14\">acknowledged writes per second</text>");
    for (from, to) in broken(report, span) {
        svg += &format!(
            "<rect x=\"{:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"var(--fault)\" opacity=\".12\"/>",
            x(from),
            (x(to) - x(from)).max(1.0)
        );
    }
    let points: String = rates
        .iter()
        .enumerate()
        .map(|(index, rate)| format!("{:.1},{:.1} ", x(index as f64 / 2.0 + 0.25), y(*rate)))
        .collect();
    svg += &format!(
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"var(--bar)\" stroke-width=\"1.6\" stroke-linejoin=\"round\"/>"
    );
    for event in &report.timeline {
        let colour = match event.kind.as_str() {
            "injected" => "fault",
            "leader" => "lead",
            "recovered" => "heal",
            "aborted" => "fault",
            _ => continue,
        };
        svg += &format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.0}\" stroke=\"var(--{colour})\"><title>{:.3} s: {}</title></line>",
            TOP + HEIGHT,
            event.t,
            safe(&event.ev),
            x = x(event.t),
        );
    }
    let step =
        [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0].into_iter().find(|step| span / step <= 10.0).unwrap_or(600.0);
    let mut at = 0.0;
    while at <= span {
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{at:.0} s</text>",
            x(at),
            TOP + HEIGHT + 17.0
        );
        at += step;
    }
    svg + "</svg></div><p class=\"key\"><span><i style=\"background:var(--fault);opacity:.35\"></i>broken</span>\
           <span><i style=\"background:var(--fault)\"></i>fault injected</span><span><i style=\"background:var(--lead)\"></i>new leader</span>\
           <span><i style=\"background:var(--heal)\"></i>writes back</span></p>"
}

/// From each fault to its healing.
fn broken(report: &Report, end: f64) -> Vec<(f64, f64)> {
    let mut spans: Vec<(f64, f64)> = Vec::new();
    let mut open: Option<f64> = None;
    for event in &report.timeline {
        match event.kind.as_str() {
            "injected" => open = open.or(Some(event.t)),
            "healed" | "well" => spans.extend(open.take().map(|from| (from, event.t))),
            _ => {}
        }
    }
    // What has no healing of its own ends with its recovery.
    match report.timeline.iter().any(|event| event.kind == "healed" || event.kind == "well") {
        true => spans.extend(open.map(|from| (from, end))),
        false => spans.clear(),
    }
    spans
}

fn table(title: &str, head: &[(&str, bool)], rows: &[String]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head: String = head
        .iter()
        .map(|(name, number)| format!("<th{}>{name}</th>", if *number { " class=\"n\"" } else { "" }))
        .collect();
    format!("<h2>{title}</h2><div class=\"wide\"><table><tr>{head}</tr>{}</table></div>", rows.concat())
}

fn goals(report: &Report) -> String {
    let mut rows: Vec<String> = report.measured.goals.iter().map(|check| {
        let value = check.value.map_or_else(|| "not measured".to_owned(), |value| quantity(value, &check.unit));
        let (class, word) = if check.met { ("good", "met") } else { ("bad", "missed") };
        format!(
            "<tr><td>{} {}<br><span class=\"soft\">{}</span></td><td class=\"n\">{}</td><td class=\"n\">{value}</td><td class=\"{class}\">{word}</td></tr>",
            words(&check.figure), stat(check), safe(&check.source), quantity(check.goal, &check.unit)
        )
    }).collect();
    let Rpo { ambiguous, ambiguous_applied, stale_reads, .. } = report.measured.rpo;
    let rpo = &report.measured.rpo;
    for (what, good, of) in [
        ("acknowledged writes lost", rpo.kept(), super::report::lost(rpo)),
        ("stale linearizable reads", stale_reads == 0, stale_reads.to_string()),
    ] {
        let (class, word) = if good { ("good", "met") } else { ("bad", "missed") };
        rows.push(format!(
            "<tr><td>{what}</td><td class=\"n\">0</td><td class=\"n\">{of}</td><td class=\"{class}\">{word}</td></tr>"
        ));
    }
    table("Goals", &[("What", false), ("Goal", true), ("Measured", true), ("", false)], &rows)
        + &format!(
            "<p class=\"soft\">{ambiguous} writes had no answer; {ambiguous_applied} of them were done. {}</p>",
            safe(&states(report))
        )
}

fn findings(report: &Report) -> String {
    let row = |Finding { id, severity, text }: &Finding| {
        format!("<tr><td>{}</td><td>{}</td><td>{}</td></tr>", safe(id), safe(severity), safe(text))
    };
    let rows: Vec<String> = report.findings.iter().map(row).collect();
    table("Findings", &[("", false), ("Severity", false), ("What", false)], &rows)
}

fn comparison(report: &Report) -> String {
    let Some(Comparison { previous, previous_verdict, p99_delta }) = &report.comparison else { return String::new() };
    let rows: Vec<String> = p99_delta
        .iter()
        .map(|(name, delta)| format!("<tr><td>{}</td><td class=\"n\">{delta:+}</td></tr>", words(name)))
        .collect();
    let title = format!("Against the run before ({}, {})", safe(previous), safe(previous_verdict));
    table(&title, &[("What", false), ("p99", true)], &rows)
}

fn figures(report: &Report) -> String {
    let row = |(name, figure): (&String, &Figure)| {
        let Figure { unit, values, p50, p99, max } = figure;
        format!(
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            words(name),
            values.len(),
            quantity(*p50, unit),
            quantity(*p99, unit),
            quantity(*max, unit)
        )
    };
    let rows: Vec<String> = report.measured.figures.iter().map(row).collect();
    let head = [("What", false), ("Times", true), ("p50", true), ("p99", true), ("max", true)];
    table("Figures", &head, &rows)
}

fn events(report: &Report) -> String {
    let row = |event: &super::watch::Event| {
        format!("<tr><td class=\"n\">{:.3} s</td><td>{}</td></tr>", event.t, safe(&event.ev))
    };
    let rows: Vec<String> = report.timeline.iter().map(row).collect();
    match rows.len() {
        0..=12 => table("What happened", &[("When", true), ("What", false)], &rows),
        many => format!(
            "<h2>What happened</h2><details><summary>{many} events</summary>{}</details>",
            table("", &[("When", true), ("What", false)], &rows).replace("<h2></h2>", "")
        ),
    }
}

fn about(report: &Report) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, text: String| rows.push(format!("<tr><th>{name}</th><td>{}</td></tr>", safe(&text)));
    row("Id", report.id.clone());
    row("What was done", report.injection.what.clone());
    row("Broken", report.injection.targets.join(", "));
    row("Healed by", report.injection.healed_by.clone());
    row("Blast radius", report.blast_radius.clone());
    row("Broken off if", report.abort_if.join("; "));
    let members: Vec<String> =
        report.topology.iter().map(|one| format!("{} ({}, {})", one.name, one.role, one.addr)).collect();
    row("Members", members.join(", "));
    let normal = &report.steady_state;
    row(
        "Normal",
        format!(
            "{:.0} writes/s, p50 {:.1} ms, p99 {:.1} ms, over {:.0} s",
            normal.writes_per_s, normal.write_p50_ms, normal.write_p99_ms, normal.window_s
        ),
    );
    row(
        "Programs",
        report.versions.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", "),
    );
    row(
        "Evidence",
        report
            .evidence
            .iter()
            .map(|one| format!("{} (SHA-256 {})", one.file, &one.sha256[..one.sha256.len().min(16)]))
            .collect::<Vec<_>>()
            .join(", "),
    );
    table("About this run", &[], &rows).replace("<tr></tr>", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::drill::report::sample;

    #[test]
    fn a_page_stands_alone_and_escapes() {
        let mut report = sample();
        report.operator = "<script>alert(1)</script>".into();
        let page = page(&report);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
        for outside in ["http://", "https://", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("prefers-color-scheme:dark") && page.contains("width=device-width"));
        assert!(page.contains("<svg") && page.contains("PASS") && page.contains("<polyline"));
    }
}
