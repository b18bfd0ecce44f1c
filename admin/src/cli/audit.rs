//! `audit`: who changed what, when and from where; and whether nobody changed the log itself.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use serde_json::Value;
use state_machine::codes;

use super::{Output, desk::Desk, problem::Problem, table::Table};
use crate::{
    client::escape,
    cluster::{Line, Lines, START},
    files,
};

/// Between two looks of `tail --follow`.
const EVERY: Duration = Duration::from_secs(1);

/// What can be done with the audit log.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Show the latest changes
    #[command(
        after_help = "Example:\n  hsraft audit tail --lines 50 --object node\n  hsraft audit tail --by 'api key' --follow"
    )]
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: u64,
        /// Only of whom: cli, api key abc, oidc ann@example.com, the name of a member
        #[arg(long)]
        by: Option<String>,
        /// Only about what: user, node, policy, …, or its id
        #[arg(long)]
        object: Option<String>,
        /// Go on as changes happen
        #[arg(short, long)]
        follow: bool,
    },
    /// Write all rows there are as JSON, one a line; appending a later export to an earlier one keeps them for ever
    #[command(after_help = "Example:\n  hsraft audit export --after 8120 >> audit.jsonl")]
    Export {
        /// What follows this number
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Whether every row follows from the one before it: of the cluster, or of an exported file
    #[command(after_help = "Example:\n  hsraft audit verify\n  hsraft audit verify audit.jsonl")]
    Verify { file: Option<PathBuf> },
}

/// Does it.
pub async fn run(word: Audit, desk: &Desk) -> Result<(), Problem> {
    match word {
        Audit::Tail { lines, by, object, follow } => tail(desk, lines, by, object, follow).await,
        Audit::Export { after } => {
            let mut after = after;
            loop {
                let reply = page(desk, after).await?;
                let Some(last) = reply.rows.last() else { return Ok(()) };
                after = number(last);
                for line in &reply.rows {
                    desk.output.line(&text(line)?)?;
                }
            }
        }
        Audit::Verify { file: Some(file) } => verify_file(&file, &desk.output),
        Audit::Verify { file: None } => {
            let (mut chain, mut after) = (Chain::default(), 0);
            loop {
                let reply = page(desk, after).await?;
                let Some(last) = reply.rows.last() else { break };
                after = number(last);
                reply.rows.iter().try_for_each(|line| chain.add(line))?;
            }
            chain.tell(&desk.output)
        }
    }
}

/// An exported file, without a member.
pub fn verify_file(file: &Path, output: &Output) -> Result<(), Problem> {
    let cannot = |why: String| Problem::of(&codes::FILE_UNREADABLE, format!("cannot read {}: {why}", file.display()));
    let all = files::read(file).map_err(|error| cannot(error.to_string()))?;
    let missing = || Problem::of(&codes::FILE_MISSING, format!("there is no file {}", file.display()));
    let all = all.ok_or_else(missing)?;
    let mut chain = Chain::default();
    for (nth, text) in all.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let line: Line = serde_json::from_str(text)
            .map_err(|error| cannot(format!("line {} is no row of the audit log: {error}", nth + 1)))?;
        chain.add(&line)?;
    }
    chain.tell(output)
}

/// Rows that were looked at so far.
#[derive(Default)]
struct Chain {
    first: u64,
    last: u64,
    hash: String,
}

impl Chain {
    fn add(&mut self, line: &Line) -> Result<(), Problem> {
        let number = number(line);
        let broken = |why: &str| {
            Problem::of(&codes::AUDIT_BROKEN, format!("row {number} of the audit log {why}: somebody changed the log"))
        };
        if self.last == 0 {
            self.first = number;
            if number == 1 && line.before != START {
                return Err(broken("does not stand at the beginning it claims"));
            }
        } else {
            if number != self.last + 1 {
                return Err(broken(&format!("follows row {}; what lies between is missing", self.last)));
            }
            if line.before != self.hash {
                return Err(broken("does not follow from the row before it"));
            }
        }
        // Of the oldest row that is left the predecessor may be gone; then the next row vouches for it.
        if !line.before.is_empty() && !line.holds() {
            return Err(broken("is not what its hash says"));
        }
        (self.last, self.hash) = (number, line.hash.clone());
        Ok(())
    }

    fn tell(&self, output: &Output) -> Result<(), Problem> {
        let facts = serde_json::json!({ "first": self.first, "last": self.last, "head": self.hash });
        output.show_ours(&facts, || match self.last {
            0 => "the audit log is empty\n".to_owned(),
            last => format!("rows {} to {last} follow from each other; the last hash is {}\n", self.first, self.hash),
        })
    }
}

async fn tail(
    desk: &Desk,
    lines: u64,
    by: Option<String>,
    object: Option<String>,
    follow: bool,
) -> Result<(), Problem> {
    let filter: String = [("by", by), ("object", object)]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("&{name}={}", escape(&value?))))
        .collect();
    let reply: Lines = desk.client.get(&format!("/api/v1/cluster/audit?limit={lines}{filter}")).await?;
    let mut last = reply.last;
    let records: Vec<Value> = reply.rows.iter().map(record).collect();
    desk.output.show_ours(&records, || {
        let mut table = Table::new(["Number", "At", "By", "From", "What", "Changes"]);
        records.iter().for_each(|record| table.row(cells(record)));
        table.render()
    })?;
    if !follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(EVERY).await;
        let reply: Lines = desk.client.get(&format!("/api/v1/cluster/audit?after={last}{filter}")).await?;
        for line in &reply.rows {
            desk.output.line(&cells(&record(line)).join("  "))?;
        }
        last = reply.rows.last().map_or(reply.last.max(last), number).max(last);
    }
}

async fn page(desk: &Desk, after: u64) -> Result<Lines, Problem> {
    desk.client.get(&format!("/api/v1/cluster/audit?after={after}")).await
}

fn record(line: &Line) -> Value {
    serde_json::from_str(line.record.get()).unwrap_or_default()
}

fn number(line: &Line) -> u64 {
    record(line)["number"].as_u64().unwrap_or_default()
}

fn text(line: &Line) -> Result<String, Problem> {
    serde_json::to_string(line).map_err(|error| Problem::of(&codes::ANSWER_UNREADABLE, error.to_string()))
}

/// One row for people: what changed, as `node 7 name laptop→desk`.
fn cells(record: &Value) -> [String; 6] {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let changes: Vec<String> = record["changes"].as_array().into_iter().flatten().map(change).collect();
    let more = record["left_out"].as_u64().map(|more| format!("; and {more} more")).unwrap_or_default();
    [
        record["number"].to_string(),
        text(&record["at"]),
        text(&record["by"]),
        text(&record["from"]),
        text(&record["what"]),
        changes.join("; ") + &more,
    ]
}

fn change(change: &Value) -> String {
    let object =
        format!("{} {}", change["object"].as_str().unwrap_or_default(), change["id"].as_str().unwrap_or_default());
    let object = object.trim_end();
    let plain = |value: &Value| match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    match (change["before"].as_object(), change["after"].as_object()) {
        (Some(before), Some(after)) => {
            let fields = after.iter().map(|(name, new)| {
                format!("{name} {}→{}", plain(before.get(name).unwrap_or(&Value::Null)), plain(new))
            });
            format!("{object} {}", fields.collect::<Vec<_>>().join(", "))
        }
        (None, Some(after)) => {
            let name = after.get("name").or_else(|| after.get("prefix")).map(plain).unwrap_or_default();
            format!("+{object} {name}").trim_end().to_owned()
        }
        (Some(before), None) => {
            let name = before.get("name").or_else(|| before.get("prefix")).map(plain).unwrap_or_default();
            format!("-{object} {name}").trim_end().to_owned()
        }
        (None, None) => object.to_owned(),
    }
}
