//! `preauthkeys`: keys that let nodes in without a person.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use state_machine::codes;

use super::{
    desk::Desk,
    problem::Problem,
    spans,
    table::{Table, lines, moment},
};
use crate::{
    client::escape,
    v1::types::{OnePreAuthKey, PreAuthKey, PreAuthKeys as KeyList},
};

/// What can be done with pre-auth keys.
#[derive(Debug, Subcommand)]
pub enum PreAuthKeys {
    /// Make a key; it is shown this once
    #[command(aliases = ["c", "new"], after_help = "Example:\n  hsraft preauthkeys create --user alice --reusable --expiration 24h")]
    Create {
        /// Owner of the nodes: id or name
        #[arg(short, long, alias = "namespace", short_alias = 'n', default_value = "", hide_default_value = true)]
        user: String,
        /// Good for more than one node
        #[arg(long)]
        reusable: bool,
        /// Nodes vanish soon after they disconnect
        #[arg(long)]
        ephemeral: bool,
        /// Good for so long, such as 30m, 24h or 90d
        #[arg(short, long, alias = "expiry", default_value = "1h", value_parser = spans::parse)]
        expiration: Duration,
        /// Nodes belong to these tags
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
    },
    /// Show keys
    #[command(aliases = ["ls", "show"], after_help = "Example:\n  hsraft preauthkeys list")]
    List {
        /// Of this user only
        #[arg(short, long, alias = "namespace", short_alias = 'n')]
        user: Option<String>,
    },
    /// End a key now
    #[command(aliases = ["revoke", "exp", "e"], after_help = "Example:\n  hsraft preauthkeys expire --id 3")]
    Expire(Which),
    /// Delete a key
    #[command(aliases = ["del", "rm", "d"], after_help = "Example:\n  hsraft preauthkeys delete --id 3")]
    Delete(Which),
}

/// Which key.
#[derive(Args, Debug)]
pub struct Which {
    /// Id
    #[arg(short, long)]
    id: Option<u64>,
    /// The key itself, as before 0.28
    #[arg(hide = true)]
    key: Option<String>,
    /// Not needed any more
    #[arg(short, long, hide = true)]
    user: Option<String>,
}

/// Does it.
pub async fn run(word: PreAuthKeys, desk: &Desk) -> Result<(), Problem> {
    match word {
        PreAuthKeys::Create { user, reusable, ephemeral, expiration, tags } => {
            let wish = json!({
                "user": user,
                "reusable": reusable,
                "ephemeral": ephemeral,
                "expiration": desk.after(expiration).to_string(),
                "aclTags": tags,
            });
            let reply: OnePreAuthKey = desk.client.post("/api/v1/preauthkey", wish).await?;
            desk.output.show(&reply.pre_auth_key, || format!("{}\n", reply.pre_auth_key.key))
        }
        PreAuthKeys::List { user } => {
            let filter = user.map(|user| format!("?user={}", escape(&user))).unwrap_or_default();
            let reply: KeyList = desk.client.get(&format!("/api/v1/preauthkey{filter}")).await?;
            desk.output.show(&reply.pre_auth_keys, || table(&reply.pre_auth_keys).render())
        }
        PreAuthKeys::Expire(which) => {
            desk.client.post::<Value>("/api/v1/preauthkey/expire", which.body()?).await?;
            desk.output.done("Key expired")
        }
        PreAuthKeys::Delete(which) => {
            let query = match which.body()? {
                Value::Object(body) => body,
                _ => unreachable!("a body is an object"),
            };
            let query: Vec<String> = query
                .iter()
                .map(|(name, value)| format!("{name}={}", escape(value.as_str().unwrap_or_default())))
                .collect();
            desk.client.delete::<Value>(&format!("/api/v1/preauthkey?{}", query.join("&"))).await?;
            desk.output.done("Key deleted")
        }
    }
}

impl Which {
    fn body(&self) -> Result<Value, Problem> {
        match (self.id, &self.key) {
            (Some(id), _) => Ok(json!({ "id": id.to_string() })),
            (None, Some(key)) => Ok(json!({ "key": key })),
            (None, None) => Err(Problem::of(&codes::WHICH, "which key? --id ID; see: hsraft preauthkeys list")),
        }
    }
}

fn table(keys: &[PreAuthKey]) -> Table {
    let header = ["ID", "Key/Prefix", "Reusable", "Ephemeral", "Used", "Expiration", "Created", "Owner"];
    let mut table = Table::new(header);
    for key in keys {
        let owner = match &key.user {
            _ if !key.acl_tags.is_empty() => lines(&key.acl_tags),
            Some(user) => user.name.clone(),
            None => "-".into(),
        };
        table.row([
            key.id.to_string(),
            key.key.clone(),
            key.reusable.to_string(),
            key.ephemeral.to_string(),
            key.used.to_string(),
            moment(key.expiration).unwrap_or_else(|| "-".into()),
            moment(key.created_at).unwrap_or_default(),
            owner,
        ]);
    }
    table
}
