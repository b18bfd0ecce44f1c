//! `verify`: are the states of all members one, and does a disk give back what it was given?

use std::{path::PathBuf, time::Duration};

use clap::Args;
use raft::{Scrubbed, World};
use serde_json::{Value, json};
use state_machine::codes;

use super::{
    Output,
    desk::Desk,
    problem::{Problem, exit},
    table::{Table, span},
};
use crate::cluster::verify::Compared;

/// `verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Compare the states of all members at one log index; what is done when nothing else is said
    #[arg(long)]
    cluster: bool,
    /// Read everything on the disk of the member that answers, at 20 MB a second at most, and compare every checksum
    #[arg(long)]
    deep: bool,
    /// Read this folder instead, whose member does not run
    #[arg(long, value_name = "FOLDER", requires = "deep")]
    data_dir: Option<PathBuf>,
}

impl VerifyArgs {
    /// Needs no member.
    pub fn is_offline(&self) -> bool {
        self.data_dir.is_some() && !self.cluster
    }
}

/// Between two looks at a running scrub.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Of a folder whose member does not run; the result is the exit code.
pub async fn offline(args: VerifyArgs, output: &Output, world: &World) -> Result<i32, Problem> {
    let folder = args.data_dir.unwrap_or_default();
    let done = raft::verify_folder(&folder, world).await.map_err(|error| {
        let (exit, code) = (error.exit_code(), error.code());
        Problem::of(code, error.to_string()).exiting(exit)
    })?;
    show(&done, &folder.display().to_string(), output)?;
    Ok(exit::OK)
}

/// At a member; the result is the exit code.
pub async fn run(args: VerifyArgs, desk: &Desk) -> Result<i32, Problem> {
    let mut code = exit::OK;
    if args.cluster || !args.deep {
        code = compare(desk).await?;
    }
    if args.deep {
        deep(desk).await?;
    }
    Ok(code)
}

async fn compare(desk: &Desk) -> Result<i32, Problem> {
    let reply: Compared = desk.client.post("/api/v1/cluster/verify", json!({})).await?;
    desk.output.show_ours(&reply, || {
        let mut table = Table::new(["ID", "Name", "State hash", "Verdict"]);
        for member in &reply.members {
            let hash = member.hash.clone().unwrap_or_else(|| "-".into());
            table.row([member.id.to_string(), member.name.clone(), hash, member.verdict.replace('_', " ")]);
        }
        table.render() + &format!("at log index {}\n", reply.revision)
    })?;
    if reply.same {
        return Ok(exit::OK);
    }
    let with = |verdict: &str| -> Vec<&str> {
        reply.members.iter().filter(|member| member.verdict == verdict).map(|member| member.name.as_str()).collect()
    };
    let (wrong, lost, silent) = (with("differs"), with("no_majority"), with("unknown"));
    if !wrong.is_empty() {
        desk.output.talk(&format!(
            "{} came to another state than the majority and stops by itself (exit code 40); replace it: hsraft token create \
             --name {}, then on an empty folder: hsraft join … --replace {}",
            wrong.join(", "),
            wrong[0],
            wrong[0]
        ));
    }
    if !lost.is_empty() {
        desk.output.talk(&format!("no majority holds one state; hsraft explain {}", codes::STATES_DIFFER));
    }
    if !silent.is_empty() {
        desk.output.talk(&format!(
            "{} did not tell in time: it is down, still catching up, or of an older version",
            silent.join(", ")
        ));
    }
    Ok(if wrong.is_empty() && lost.is_empty() { exit::FAILED } else { exit::INTEGRITY })
}

async fn deep(desk: &Desk) -> Result<(), Problem> {
    let mut now: raft::Scrubbing = desk.client.post("/api/v1/cluster/scrub", json!({})).await?;
    while now.running {
        tokio::time::sleep(LOOK_EVERY).await;
        now = match desk.client.get("/api/v1/cluster/scrub").await {
            Ok(now) => now,
            Err(problem) => {
                desk.output.talk("the member ended while its disk was read: look at its log and for quarantine.txt");
                return Err(problem);
            }
        };
    }
    match (&now.error, &now.last) {
        (Some(error), _) => {
            Err(Problem::of(&codes::START_INTEGRITY, format!("its disk is damaged or cannot be read: {error}")))
        }
        (None, Some(done)) => show(done, "the member that answered", &desk.output),
        (None, None) => Err(Problem::of(&codes::SCRUB_NONE, "nothing was read")),
    }
}

fn show(done: &Scrubbed, whose: &str, output: &Output) -> Result<(), Problem> {
    let facts: Value = serde_json::to_value(done).map_err(|error| Problem::of(&codes::INTERNAL, error.to_string()))?;
    output.show_ours(&facts, || {
        let mut text = format!(
            "{whose}: {} log entries, {} rows, {} bytes read in {}; every checksum is right\nstate {} at log index {}{}\n",
            done.entries,
            done.rows,
            done.bytes,
            span(done.took_ms),
            done.state_hash.get(..16).unwrap_or(&done.state_hash),
            done.revision,
            if done.compared { ", the same in memory" } else { "" },
        );
        for file in &done.bad_snapshots {
            text += &format!("! {file} is damaged; it is built again from the rows\n");
        }
        text
    })
}
