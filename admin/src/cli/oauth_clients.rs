//! `oauth-clients`: programs that fetch tokens for Tailscale's API.

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{desk::Desk, problem::Problem, table::Table};
use crate::client::escape;

/// What can be done with OAuth clients.
#[derive(Debug, Subcommand)]
pub enum OauthClients {
    /// Make a client; its secret is shown this once
    #[command(aliases = ["c", "new"], after_help = "Example:\n  hsraft oauth-clients create --scope auth_keys --scope devices:core:read --tag tag:k8s")]
    Create {
        /// What it may do: all, auth_keys, devices:core, devices:routes, dns, feature_settings, oauth_keys, policy_file, users; with :read it may only look
        #[arg(short, long = "scope", required = true, value_delimiter = ',')]
        scopes: Vec<String>,
        /// What keys made by it carry
        #[arg(short, long = "tag", value_delimiter = ',')]
        tags: Vec<String>,
        #[arg(short, long, default_value = "")]
        description: String,
    },
    /// Show clients
    #[command(aliases = ["ls", "show"], after_help = "Example:\n  hsraft oauth-clients list")]
    List,
    /// Delete a client; its tokens end with it
    #[command(aliases = ["remove", "del"], after_help = "Example:\n  hsraft oauth-clients delete --id abcdefghijkl")]
    Delete {
        #[arg(short, long)]
        id: String,
    },
}

/// One of them, as `/api/v2` tells it.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Client {
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    key_type: String,
    description: String,
    scopes: Vec<String>,
    tags: Vec<String>,
    created: String,
}

/// Several.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Clients {
    keys: Vec<Client>,
}

const PATH: &str = "/api/v2/tailnet/-/keys";

/// Does it.
pub async fn run(word: OauthClients, desk: &Desk) -> Result<(), Problem> {
    match word {
        OauthClients::Create { scopes, tags, description } => {
            let wish = json!({ "keyType": "client", "scopes": scopes, "tags": tags, "description": description });
            let made: Client = desk.client.post(PATH, wish).await?;
            desk.output.show_ours(&made, || format!("client id: {}\nclient secret: {}\n", made.id, made.key))
        }
        OauthClients::List => {
            let mut clients = desk.client.get::<Clients>(&format!("{PATH}?all=true")).await?.keys;
            clients.retain(|client| client.key_type == "client");
            desk.output.show_ours(&clients, || {
                let mut table = Table::new(["ID", "Description", "Scopes", "Tags", "Created"]);
                for client in &clients {
                    let created = client.created.get(..19).unwrap_or(&client.created).replace('T', " ");
                    let (scopes, tags) = (client.scopes.join(" "), client.tags.join(" "));
                    table.row([client.id.clone(), client.description.clone(), scopes, tags, created]);
                }
                table.render()
            })
        }
        OauthClients::Delete { id } => {
            desk.client.delete::<Value>(&format!("{PATH}/{}", escape(&id))).await?;
            desk.output.done("OAuth client deleted")
        }
    }
}
