//! `policy`: who may reach whom.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    desk::Desk,
    problem::Problem,
    table::{Table, moment},
};
use crate::{
    files,
    v1::types::{Policy as PolicyText, PolicyHistory},
};

/// Said with every change, because believing otherwise would be dangerous.
const NOT_ENFORCED: &str = "warning: this version keeps the policy and its history but does not enforce it yet: every node reaches \
                            every other node";

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
            true => Err(Problem::usage(
                "the state cannot be changed behind the members' back: any member takes the policy, also while others are down; leave the flag out",
            )),
            false => Ok(()),
        }
    }
}

/// Does it.
pub async fn run(word: Policy, desk: &Desk) -> Result<(), Problem> {
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
            desk.client.put::<PolicyText>("/api/v1/policy", json!({ "policy": text })).await?;
            desk.output.talk(NOT_ENFORCED);
            desk.output.done("Policy updated.")
        }
        Policy::Check { file, bypass } => {
            bypass.refuse()?;
            let text = read(&file)?;
            desk.client.post::<Value>("/api/v1/policy/check", json!({ "policy": text })).await?;
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
    }
}

fn read(file: &Path) -> Result<String, Problem> {
    if file == Path::new("-") {
        return files::read_stdin().map_err(|error| Problem::new(format!("cannot read standard input: {error}")));
    }
    match files::read(file) {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(Problem::new(format!("there is no file {}", file.display()))),
        Err(error) => Err(Problem::new(format!("cannot read {}: {error}", file.display()))),
    }
}
