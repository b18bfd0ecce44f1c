//! `webhooks`: whoever outside is told what changes.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    desk::Desk,
    problem::Problem,
    table::{Table, moment},
};
use crate::{
    client::escape,
    cluster::webhooks::{NewWebhook, Tried, Webhooks as List},
};

/// What can be done with them.
#[derive(Debug, Subcommand)]
pub enum Webhooks {
    /// Show webhooks, and how far behind each is
    #[command(alias = "ls", after_help = "Example:\n  hsraft webhooks list")]
    List,
    /// Tell a URL what changes; prints the secret that signs, this once
    #[command(
        after_help = "Example:\n  hsraft webhooks create https://hooks.example.com/tailnet --events nodeCreated,nodeNeedsApproval"
    )]
    Create {
        url: String,
        /// Only of these: nodeCreated, nodeNeedsApproval, nodeApproved, nodeDeleted, policyUpdate, userCreated,
        /// userDeleted [default: all]
        #[arg(long, value_delimiter = ',')]
        events: Vec<String>,
    },
    /// Send it a test event from this member now, and show what it answers
    #[command(after_help = "Example:\n  hsraft webhooks test 0a1b2c3d")]
    Test { id: String },
    /// Tell it no more
    #[command(alias = "del", after_help = "Example:\n  hsraft webhooks delete 0a1b2c3d")]
    Delete { id: String },
}

/// Does it.
pub async fn run(word: Webhooks, desk: &Desk) -> Result<(), Problem> {
    match word {
        Webhooks::List => {
            let reply: List = desk.client.get("/api/v1/cluster/webhooks").await?;
            desk.output.show_ours(&reply.webhooks, || {
                let mut table = Table::new(["ID", "URL", "Events", "Behind", "Created"]);
                for row in &reply.webhooks {
                    table.row([
                        row.id.clone(),
                        row.url.clone(),
                        if row.events.is_empty() { "all".into() } else { row.events.join(", ") },
                        row.behind.to_string(),
                        moment(row.created_at).unwrap_or_default(),
                    ]);
                }
                table.render()
            })
        }
        Webhooks::Create { url, events } => {
            let wish = json!({ "url": url, "events": events });
            let new: NewWebhook = desk.client.post("/api/v1/cluster/webhooks", wish).await?;
            desk.output.show_ours(&new, || {
                format!("Webhook {} created. Its secret, shown this once:\n{}\n", new.id, new.secret)
            })
        }
        Webhooks::Test { id } => {
            let path = format!("/api/v1/cluster/webhooks/{}/test", escape(&id));
            let tried: Tried = desk.client.post(&path, json!({})).await?;
            desk.output.show_ours(&tried, || format!("Webhook {id} took the test event: it answers {}\n", tried.status))
        }
        Webhooks::Delete { id } => {
            desk.client.delete::<Value>(&format!("/api/v1/cluster/webhooks/{}", escape(&id))).await?;
            desk.output.done("Webhook deleted")
        }
    }
}
