//! `routes`, as Headscale had it until 0.25: each prefix of each node as a row of its own. Said today with
//! `nodes list-routes` and `nodes approve-routes`; these still work and say so.

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{desk::Desk, output::Output, problem::Problem, table::Table};
use crate::{client::escape, v1::types};

/// What could be done with routes.
#[derive(Debug, Subcommand)]
pub enum Routes {
    /// Show routes
    #[command(aliases = ["ls", "show"])]
    List {
        /// Of this node only: id or name
        #[arg(short, long)]
        identifier: Option<String>,
    },
    /// Approve a route
    Enable(Which),
    /// Take the approval of a route away
    Disable(Which),
    /// The same: a route its node still offers cannot be deleted
    Delete(Which),
}

/// Which route.
#[derive(clap::Args, Debug)]
pub struct Which {
    /// Its number, from `routes list`
    #[arg(short, long)]
    route: u64,
}

#[derive(Deserialize)]
struct List {
    routes: Vec<Route>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Route {
    #[serde(with = "types::id")]
    id: u64,
    node: types::Node,
    prefix: String,
    advertised: bool,
    enabled: bool,
    is_primary: bool,
}

/// Does it.
pub async fn run(word: Routes, desk: &Desk) -> Result<(), Problem> {
    match word {
        Routes::List { identifier } => {
            hint(&desk.output, "nodes list-routes");
            let path = match identifier {
                Some(node) => format!("/api/v1/node/{}/routes", escape(&node)),
                None => "/api/v1/routes".into(),
            };
            let reply: List = desk.client.get(&path).await?;
            desk.output.show_ours(&reply.routes, || table(&reply.routes).render())
        }
        Routes::Enable(which) => change(desk, &which, "enable", "Route enabled").await,
        Routes::Disable(which) => change(desk, &which, "disable", "Route disabled").await,
        Routes::Delete(which) => change(desk, &which, "disable", "Route deleted").await,
    }
}

async fn change(desk: &Desk, which: &Which, verb: &str, said: &str) -> Result<(), Problem> {
    hint(&desk.output, "nodes approve-routes --identifier NODE --routes 10.0.0.0/24,…");
    let path = format!("/api/v1/routes/{}/{verb}", which.route);
    desk.client.post::<Value>(&path, json!({})).await?;
    desk.output.done(said)
}

fn hint(output: &Output, today: &str) {
    output.talk(&format!("hint: `routes` is gone from Headscale since 0.26; today: hsraft {today}"));
}

fn table(routes: &[Route]) -> Table {
    let mut table = Table::new(["ID", "Node", "Prefix", "Advertised", "Enabled", "Primary"]);
    for route in routes {
        let primary = match route.prefix.as_str() {
            "0.0.0.0/0" | "::/0" => "-".to_owned(),
            _ => route.is_primary.to_string(),
        };
        table.row([
            route.id.to_string(),
            route.node.given_name.clone(),
            route.prefix.clone(),
            route.advertised.to_string(),
            route.enabled.to_string(),
            primary,
        ]);
    }
    table
}
