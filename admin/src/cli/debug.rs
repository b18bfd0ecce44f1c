//! `debug`: for trying things out without a client.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::{bundle, desk::Desk, problem::Problem};
use crate::v1::types::OneNode;

/// What can be tried.
#[derive(Debug, Subcommand)]
pub enum Debug {
    /// Begin a login as if a client had; let it in with `nodes register`
    #[command(
        after_help = "Example:\n  hsraft debug create-node --user alice --name desk --key hskey-authreq-aaaaaaaaaaaaaaaaaaaaaaaa"
    )]
    CreateNode {
        /// What the node calls itself
        #[arg(long)]
        name: String,
        /// Id or name
        #[arg(short, long)]
        user: String,
        /// hskey-authreq- and 24 letters
        #[arg(short, long)]
        key: String,
        /// Routes it offers
        #[arg(short, long, value_delimiter = ',')]
        route: Vec<String>,
    },
    /// Collect what somebody who helps wants to see into one file, without secrets
    #[command(after_help = "Example:\n  hsraft debug bundle bundle.txt --with /etc/hsraft/config.yaml")]
    Bundle {
        file: PathBuf,
        /// Files to add, such as the configuration or a log; their secrets are taken out too
        #[arg(long)]
        with: Vec<PathBuf>,
    },
}

/// Does it.
pub async fn run(word: Debug, desk: &Desk) -> Result<(), Problem> {
    let (name, user, key, route) = match word {
        Debug::CreateNode { name, user, key, route } => (name, user, key, route),
        Debug::Bundle { file, with } => return bundle::write(&file, &with, desk).await,
    };
    let wish = json!({ "name": name, "user": user, "key": key, "routes": route });
    let reply: OneNode = desk.client.post("/api/v1/debug/node", wish).await?;
    desk.output.show(&reply.node, || "Node created\n".into())
}
