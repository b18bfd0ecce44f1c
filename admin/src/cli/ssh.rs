//! `ssh`: connections that wait for a person (check mode of the policy's `ssh` section).

use clap::Subcommand;
use serde_json::{Value, json};

use state_machine::codes;

use super::{
    desk::Desk,
    problem::Problem,
    table::{Table, moment},
};
use crate::cluster::ssh_checks::Checks;

/// What can be done about them.
#[derive(Debug, Subcommand)]
pub enum Ssh {
    /// Show connections that wait, and those that were decided lately
    #[command(alias = "ls", after_help = "Example:\n  hsraft ssh list")]
    List,
    /// Let a connection in; others of the same two nodes follow without a question for the rule's checkPeriod
    #[command(after_help = "Example:\n  hsraft ssh approve 4vXk2mJr0bQfZp8sYw1nTq7d")]
    Approve {
        /// As the connecting person sees it, with or without the URL around it
        id: String,
    },
    /// Turn a connection away
    #[command(after_help = "Example:\n  hsraft ssh reject 4vXk2mJr0bQfZp8sYw1nTq7d")]
    Reject {
        /// As the connecting person sees it, with or without the URL around it
        id: String,
    },
}

/// Does it.
pub async fn run(word: Ssh, desk: &Desk) -> Result<(), Problem> {
    match word {
        Ssh::List => {
            let reply: Checks = desk.client.get("/api/v1/cluster/ssh-checks").await?;
            desk.output.show_ours(&reply.checks, || {
                let mut table = Table::new(["ID", "From", "User", "To", "As", "State", "By", "Asked at"]);
                for check in &reply.checks {
                    table.row([
                        check.id.clone(),
                        check.source.clone(),
                        check.source_user.clone(),
                        check.destination.clone(),
                        check.local_user.clone(),
                        check.state.clone(),
                        check.by.clone(),
                        moment(check.created_at).unwrap_or_default(),
                    ]);
                }
                table.render()
            })
        }
        Ssh::Approve { id } => decide(desk, &id, "approve", "The connection may come in.").await,
        Ssh::Reject { id } => decide(desk, &id, "reject", "The connection is turned away.").await,
    }
}

async fn decide(desk: &Desk, id: &str, word: &str, done: &str) -> Result<(), Problem> {
    let id: String = id.trim().rsplit('/').next().unwrap_or_default().to_owned();
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        return Err(Problem::of(
            &codes::NOT_A_CHECK_ID,
            format!("{id:?} is not the id of a connection; see: hsraft ssh list"),
        ));
    }
    desk.client.post::<Value>(&format!("/api/v1/cluster/ssh-checks/{id}/{word}"), json!({})).await?;
    desk.output.done(done)
}
