//! `apikeys`: keys for programs.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    desk::Desk,
    problem::Problem,
    spans,
    table::{Table, moment},
};
use crate::{
    client::escape,
    v1::types::{ApiKey, ApiKeys as KeyList, OneApiKey},
};

/// What can be done with API keys.
#[derive(Debug, Subcommand)]
pub enum ApiKeys {
    /// Make a key; it is shown this once
    #[command(aliases = ["c", "new"], after_help = "Example:\n  hsraft apikeys create --expiration 30d --read-only")]
    Create {
        /// Good for so long
        #[arg(short, long, default_value = "90d", value_parser = spans::parse)]
        expiration: Duration,
        /// May look but not change
        #[arg(long)]
        read_only: bool,
        /// May see and change only what is this user's: nodes and pre-auth keys; a name or an id
        #[arg(long, conflicts_with = "read_only")]
        user: Option<String>,
    },
    /// Show keys
    #[command(aliases = ["ls", "show"], after_help = "Example:\n  hsraft apikeys list")]
    List,
    /// End a key now
    #[command(aliases = ["revoke", "exp", "e"], after_help = "Example:\n  hsraft apikeys expire --prefix abcdefghijkl")]
    Expire(Which),
    /// Delete a key
    #[command(aliases = ["remove", "del"], after_help = "Example:\n  hsraft apikeys delete --id 2")]
    Delete(Which),
}

/// Which key: one of the two.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// Its public part
    #[arg(short, long)]
    prefix: Option<String>,
    #[arg(short, long)]
    id: Option<u64>,
}

/// Does it.
pub async fn run(word: ApiKeys, desk: &Desk) -> Result<(), Problem> {
    match word {
        ApiKeys::Create { expiration, read_only, user } => {
            let role = match (&user, read_only) {
                (Some(_), _) => "user",
                (None, true) => "read_only",
                (None, false) => "admin",
            };
            let user = user.unwrap_or_default();
            let wish = json!({ "expiration": desk.after(expiration).to_string(), "role": role, "user": user });
            let reply: OneApiKey = desk.client.post("/api/v1/apikey", wish).await?;
            desk.output.text(&reply.api_key)
        }
        ApiKeys::List => {
            let reply: KeyList = desk.client.get("/api/v1/apikey").await?;
            desk.output.show(&reply.api_keys, || table(&reply.api_keys).render())
        }
        ApiKeys::Expire(which) => {
            let wish = match (which.id, which.prefix) {
                (Some(id), _) => json!({ "id": id.to_string() }),
                (None, prefix) => json!({ "prefix": prefix.unwrap_or_default() }),
            };
            desk.client.post::<Value>("/api/v1/apikey/expire", wish).await?;
            desk.output.done("Key expired")
        }
        ApiKeys::Delete(which) => {
            let path = match (which.id, which.prefix) {
                (Some(id), _) => format!("/api/v1/apikey/-?id={id}"),
                (None, prefix) => format!("/api/v1/apikey/{}", escape(&prefix.unwrap_or_default())),
            };
            desk.client.delete::<Value>(&path).await?;
            desk.output.done("Key deleted")
        }
    }
}

fn table(keys: &[ApiKey]) -> Table {
    let mut table = Table::new(["ID", "Prefix", "Expiration", "Created"]);
    for key in keys {
        let expiration = moment(key.expiration).unwrap_or_else(|| "-".into());
        table.row([
            key.id.to_string(),
            format!("{}-***", key.prefix),
            expiration,
            moment(key.created_at).unwrap_or_default(),
        ]);
    }
    table
}
