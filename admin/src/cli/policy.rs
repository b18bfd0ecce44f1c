//! `policy`: who may reach whom.

mod convert;
mod lines;
mod preview;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
pub use preview::preview;
use serde_json::json;

use state_machine::codes;

use super::{
    desk::Desk,
    output::Output,
    problem::{Problem, exit},
    table::{Table, moment},
};
use crate::{
    cluster::policy::{Answer, Checked, Impact, Kind},
    files,
    v1::types::{Policy as PolicyText, PolicyHistory},
};

/// What can be done with the policy.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Print the policy in force, or an older one
    #[command(aliases = ["show", "view", "fetch"], after_help = "Example:\n  hsraft policy get > policy.hujson")]
    Get {
        /// An older one; see: hsraft policy history
        #[arg(long)]
        number: Option<u64>,
        #[command(flatten)]
        bypass: Bypass,
    },
    /// Put a policy in force
    #[command(aliases = ["put", "update"], after_help = "Example:\n  hsraft policy set --file policy.hujson")]
    Set {
        /// HuJSON; - reads standard input
        #[arg(short, long)]
        file: PathBuf,
        #[command(flatten)]
        bypass: Bypass,
    },
    /// Say whether a policy could be put in force
    #[command(after_help = "Example:\n  hsraft policy check --file policy.hujson")]
    Check {
        /// HuJSON; - reads standard input
        #[arg(short, long)]
        file: PathBuf,
        #[command(flatten)]
        bypass: Bypass,
    },
    /// Show the policies that were in force, newest first
    #[command(after_help = "Example:\n  hsraft policy history")]
    History,
    /// Show what changed between two policies, or between the one in force and a file
    #[command(
        after_help = "Examples:\n  hsraft policy diff                    what the newest changed\n  hsraft policy diff 3 5\n  hsraft policy diff --file new.hujson   what a file would change"
    )]
    Diff {
        /// The older one [default: the one before the other]
        from: Option<u64>,
        /// The newer one [default: the one in force]
        to: Option<u64>,
        /// Compare the one in force with this text; - reads standard input
        #[arg(short, long, conflicts_with_all = ["from", "to"])]
        file: Option<PathBuf>,
    },
    /// Put an older policy in force again; the history keeps both
    #[command(after_help = "Examples:\n  hsraft policy rollback      the one before\n  hsraft policy rollback 3")]
    Rollback {
        /// Which one [default: the one before the one in force]; see: hsraft policy history
        number: Option<u64>,
    },
    /// Write an older policy in today's words: YAML, user:NAME, users without @, namespaces; offline
    #[command(
        after_help = "Examples:\n  hsraft policy convert --file acl.yaml > policy.hujson\n  hsraft policy convert --file old.hujson --write new.hujson"
    )]
    Convert {
        /// HuJSON or YAML; - reads standard input
        #[arg(short, long)]
        file: PathBuf,
        /// Where to write it [default: standard output]
        #[arg(short, long)]
        write: Option<PathBuf>,
    },
    /// Say which rule lets a connection through, or what comes nearest; exits 1 when none does
    #[command(
        after_help = "Examples:\n  hsraft policy why laptop web1:443\n  hsraft policy why alice@example.com 10.1.2.3:22 --proto tcp"
    )]
    Why {
        /// A node, an address, or a user or tag (its first node)
        #[arg(value_name = "SRC")]
        source: String,
        /// The same, perhaps with a port
        #[arg(value_name = "DST[:PORT]")]
        destination: String,
        /// tcp, udp, icmp or a number [default: tcp or udp]
        #[arg(long)]
        proto: Option<String>,
    },
    /// Show what each node of a scenario would be told; asks no server
    #[command(
        after_help = "Example:\n  hsraft policy preview --scenario scenario.json -o json\n\nA scenario is a JSON object: \"policy\" (the text), \"users\" (id, name, email), \"nodes\" by name (user or tags, ipv4, ipv6,\nadvertised_routes, approved_routes) and \"creation_order\" (names, oldest first)."
    )]
    Preview {
        /// The scenario; - reads standard input
        #[arg(long, value_name = "FILE")]
        scenario: PathBuf,
    },
    /// Say who would gain and lose what if a policy were set, in the tailnet as it is now
    #[command(after_help = "Example:\n  hsraft policy impact --file new.hujson")]
    Impact {
        /// HuJSON; - reads standard input
        #[arg(short, long)]
        file: PathBuf,
    },
}

/// Flags of Headscale that opened its database behind the server's back.
#[derive(Args, Debug)]
pub struct Bypass {
    #[arg(long, alias = "bypass-server-and-access-database-directly", hide = true)]
    bypass_grpc_and_access_database_directly: bool,
}

impl Bypass {
    fn refuse(&self) -> Result<(), Problem> {
        match self.bypass_grpc_and_access_database_directly {
            true => Err(Problem::of(
                &codes::POLICY_BYPASS,
                "the state cannot be changed behind the members' back: any member takes the policy, also while others are down; leave the flag out",
            )),
            false => Ok(()),
        }
    }
}

/// Does it; the exit code.
pub async fn run(word: Policy, desk: &Desk) -> Result<i32, Problem> {
    match word {
        Policy::Why { source, destination, proto } => why(desk, &source, &destination, proto.as_deref()).await,
        Policy::Preview { scenario } => preview(&read(&scenario)?, &desk.output),
        word => carry_out(word, desk).await.map(|()| exit::OK),
    }
}

async fn why(desk: &Desk, source: &str, destination: &str, proto: Option<&str>) -> Result<i32, Problem> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("src", source).append_pair("dst", destination);
    proto.iter().for_each(|proto| _ = query.append_pair("proto", proto));
    let answer: Answer = desk.client.get(&format!("/api/v1/cluster/policy/why?{}", query.finish())).await?;
    desk.output.show_ours(&answer, || why_text(&answer))?;
    Ok(if answer.allowed { exit::OK } else { exit::FAILED })
}

async fn carry_out(word: Policy, desk: &Desk) -> Result<(), Problem> {
    match word {
        Policy::Get { number, bypass } => {
            bypass.refuse()?;
            let query = number.map(|number| format!("?number={number}")).unwrap_or_default();
            let reply: PolicyText = desk.client.get(&format!("/api/v1/policy{query}")).await?;
            // The text as it was given, in every format: it goes into a file and comes back.
            let line_break = if reply.policy.ends_with('\n') { "" } else { "\n" };
            desk.output.write(&format!("{}{line_break}", reply.policy))
        }
        Policy::Set { file, bypass } => {
            bypass.refuse()?;
            let text = read(&file)?;
            let checked: Checked = desk.client.post("/api/v1/cluster/policy/check", json!({ "policy": text })).await?;
            desk.client.put::<PolicyText>("/api/v1/policy", json!({ "policy": text })).await?;
            warn(desk, &checked);
            desk.output.done("Policy updated.")
        }
        Policy::Check { file, bypass } => {
            bypass.refuse()?;
            let text = read(&file)?;
            let checked: Checked = desk.client.post("/api/v1/cluster/policy/check", json!({ "policy": text })).await?;
            warn(desk, &checked);
            desk.output.done("Policy is valid")
        }
        Policy::History => {
            let reply: PolicyHistory = desk.client.get("/api/v1/policy/history").await?;
            desk.output.show_ours(&reply.history, || {
                let mut table = Table::new(["Number", "Set at", "Author", "Bytes"]);
                for version in &reply.history {
                    let set_at = moment(version.set_at).unwrap_or_default();
                    table.row([version.number.to_string(), set_at, version.author.clone(), version.size.to_string()]);
                }
                table.render()
            })
        }
        Policy::Diff { from, to, file } => diff(desk, from, to, file.as_deref()).await,
        Policy::Rollback { number } => {
            let wish = json!({ "number": number });
            desk.client.post::<PolicyText>("/api/v1/cluster/policy/rollback", wish).await?;
            desk.output.done("Policy updated.")
        }
        Policy::Convert { file, write } => convert(&read(&file)?, write.as_deref(), &desk.output),
        Policy::Why { .. } | Policy::Preview { .. } => unreachable!("have exit codes of their own"),
        Policy::Impact { file } => {
            let text = read(&file)?;
            let impact: Impact = desk.client.post("/api/v1/cluster/policy/impact", json!({ "policy": text })).await?;
            desk.output.show_ours(&impact, || impact_text(&impact))
        }
    }
}

/// Needs no member. What the new text means, and what in it deserves a look, is told at the end.
pub fn convert(text: &str, write: Option<&Path>, output: &Output) -> Result<(), Problem> {
    let converted = convert::convert(text).map_err(|why| Problem::of(&codes::POLICY_CONVERT, why))?;
    converted.notes.iter().for_each(|note| output.talk(note));
    match write {
        Some(file) => {
            let written = files::write(file, &converted.text);
            written.map_err(|error| {
                Problem::of(&codes::FILE_UNWRITABLE, format!("cannot write {}: {error}", file.display()))
            })?;
        }
        None => output.write(&converted.text)?,
    }
    match ::policy::Policy::parse(&converted.text) {
        Ok(parsed) => {
            parsed.warnings.iter().for_each(|warning| output.talk(&format!("warning: {warning}")));
            Ok(())
        }
        Err(rejection) => Err(Problem::of(
            &codes::POLICY_CONVERT,
            format!("it has to be mended by hand before it can be set: {rejection}"),
        )),
    }
}

fn warn(desk: &Desk, checked: &Checked) {
    checked.warnings.iter().for_each(|warning| desk.output.talk(&format!("warning: {warning}")));
}

async fn diff(desk: &Desk, from: Option<u64>, to: Option<u64>, file: Option<&Path>) -> Result<(), Problem> {
    let text = async |number: Option<u64>| -> Result<String, Problem> {
        let query = number.map(|number| format!("?number={number}")).unwrap_or_default();
        let reply: PolicyText = desk.client.get(&format!("/api/v1/policy{query}")).await?;
        Ok(reply.policy)
    };
    let (old, new) = match file {
        Some(file) => (text(None).await?, read(file)?),
        None => {
            let history: PolicyHistory = desk.client.get("/api/v1/policy/history").await?;
            let numbers: Vec<u64> = history.history.iter().map(|version| version.number).collect();
            let newest = numbers.first().copied();
            let to = to.or(newest).ok_or_else(|| Problem::of(&codes::POLICY_NONE, "no policy was ever set"))?;
            let before = numbers.iter().copied().find(|number| *number < to);
            let old = match from.or(before) {
                Some(from) => text(Some(from)).await?,
                None => String::new(),
            };
            (old, text(Some(to)).await?)
        }
    };
    let differences = lines::differences(&old, &new);
    desk.output.show_ours(&json!({ "diff": differences }), || match differences.is_empty() {
        true => "No difference.\n".to_owned(),
        false => differences.clone(),
    })
}

fn why_text(answer: &Answer) -> String {
    let end = |end: &crate::cluster::policy::End| match end.name.is_empty() {
        true => end.address.clone(),
        false => format!("{} ({})", end.name, end.address),
    };
    let port = answer.port.map(|port| format!(" port {port}")).unwrap_or_default();
    let verdict = match (answer.allowed, answer.rules.is_empty()) {
        (true, _) => "is allowed by",
        (false, false) => "is not allowed. Nearest",
        (false, true) => "is not allowed, and no rule comes near",
    };
    let mut text = format!("{} → {}{port} {verdict}\n", end(&answer.source), end(&answer.destination));
    for rule in &answer.rules {
        let line = if rule.line > 0 { format!(", line {}", rule.line) } else { String::new() };
        let misses = match rule.misses.is_empty() {
            true => String::new(),
            false => format!("; does not fit: {}", rule.misses.join(", ")),
        };
        text += &format!("  {}{line}: {}{misses}\n", rule.rule, rule.shown);
    }
    answer.notes.iter().for_each(|note| text += &format!("  note: {note}\n"));
    text
}

fn impact_text(impact: &Impact) -> String {
    if impact.changes.is_empty() {
        return format!("Nobody gains or loses anything ({} kinds of nodes compared).\n", impact.kinds);
    }
    let kind = |kind: &Kind| {
        let more = kind.count.saturating_sub(kind.names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", kind.names.join(", "))
    };
    let mut table = Table::new(["From", "To", "Gains", "Loses"]);
    for change in &impact.changes {
        table.row([
            kind(&change.sources),
            kind(&change.destinations),
            change.gains.join(", "),
            change.loses.join(", "),
        ]);
    }
    table.render()
}

/// A file, or standard input for `-`.
pub fn read(file: &Path) -> Result<String, Problem> {
    if file == Path::new("-") {
        return files::read_stdin()
            .map_err(|error| Problem::of(&codes::FILE_UNREADABLE, format!("cannot read standard input: {error}")));
    }
    match files::read(file) {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(Problem::of(&codes::FILE_MISSING, format!("there is no file {}", file.display()))),
        Err(error) => Err(Problem::of(&codes::FILE_UNREADABLE, format!("cannot read {}: {error}", file.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    #[test]
    fn a_preview_speaks_as_clients_are_spoken_to() {
        let scenario = r#"{"policy": "{\"acls\": [{\"action\": \"accept\", \"src\": [\"*\"], \"dst\": [\"*:22\"]}]}",
            "users": [{"id": 1, "name": "ann"}], "nodes": {"a": {"user": "ann", "ipv4": "100.64.0.1", "ipv6": null}}}"#;
        let (output, text) = Output::captured(Format::Json);
        assert_eq!(preview(scenario, &output).map_err(|problem| problem.to_string()), Ok(exit::OK));
        let told: serde_json::Value = serde_json::from_str(&text.lock().unwrap()).unwrap();
        assert_eq!(told["accepted"], true, "{told}");
        assert_eq!(told["nodes"]["a"]["packet_filter"][0]["DstPorts"][0]["Ports"]["First"], 22, "{told}");
    }
}
