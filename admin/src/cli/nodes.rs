//! `nodes` and `auth`: the machines of the tailnet, and those that wait to come in.

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use state_machine::Timestamp;

use super::{
    desk::Desk,
    problem::Problem,
    table::{Table, lines, moment},
    users::declined,
};
use crate::{
    client::escape,
    v1::types::{Changes, Node, Nodes as NodeList, OneNode, parse_moment},
};

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub enum Nodes {
    /// Show nodes
    #[command(aliases = ["ls", "show"], after_help = "Example:\n  hsraft nodes list -o json | jq -r '.[] | select(.online) | .given_name'")]
    List {
        /// Of this user only
        #[arg(short, long, alias = "namespace", short_alias = 'n')]
        user: Option<String>,
        /// Tags are always shown
        #[arg(short, long, hide = true)]
        tags: bool,
    },
    /// Show who offers which routes
    #[command(aliases = ["lsr", "routes"], after_help = "Example:\n  hsraft nodes list-routes --identifier 4")]
    ListRoutes {
        /// Of this node only: id or name
        #[arg(short, long)]
        identifier: Option<String>,
    },
    /// Let in a node that waits; the key is what its login page shows
    #[command(after_help = "Example:\n  hsraft nodes register --user alice --key hskey-authreq-…")]
    Register(Register),
    /// End a node's key: now, at a moment, or never
    #[command(aliases = ["logout", "exp", "e"], after_help = "Example:\n  hsraft nodes expire --identifier 4 --expiry 2030-01-01T00:00:00Z")]
    Expire {
        #[command(flatten)]
        node: Which,
        /// RFC 3339; without it: now
        #[arg(short, long, value_parser = in_future, conflicts_with = "disable")]
        expiry: Option<Timestamp>,
        /// Never
        #[arg(short, long)]
        disable: bool,
    },
    /// Give a node another name
    #[command(after_help = "Example:\n  hsraft nodes rename --identifier 4 desk")]
    Rename {
        #[command(flatten)]
        node: Which,
        #[arg(required_unless_present = "name")]
        new_name: Option<String>,
        /// The new name, as it was said before
        #[arg(short, long, hide = true)]
        name: Option<String>,
    },
    /// Delete a node
    #[command(alias = "del", after_help = "Example:\n  hsraft nodes delete --identifier 4 --force")]
    Delete {
        #[command(flatten)]
        node: Which,
    },
    /// Give a node to tags, replacing those it has
    #[command(aliases = ["tags", "t"], after_help = "Example:\n  hsraft nodes tag --identifier 4 --tags tag:server,tag:web")]
    Tag {
        #[command(flatten)]
        node: Which,
        #[arg(short, long, value_delimiter = ',')]
        tags: Vec<String>,
    },
    /// Approve routes, replacing those approved; an empty list approves none
    #[command(after_help = "Example:\n  hsraft nodes approve-routes --identifier 4 --routes 10.0.0.0/24")]
    ApproveRoutes {
        #[command(flatten)]
        node: Which,
        #[arg(short, long, value_delimiter = ',')]
        routes: Vec<String>,
    },
    /// Give a node to another user
    #[command(after_help = "Example:\n  hsraft nodes move --identifier 4 --user bob")]
    Move {
        #[command(flatten)]
        node: Which,
        /// Id or name
        #[arg(short, long, alias = "namespace", short_alias = 'n')]
        user: String,
    },
    /// Give a node the address you choose; the other family stays as it is
    #[command(
        name = "set-ip",
        after_help = "Example:\n  hsraft nodes set-ip --identifier 4 100.64.8.7 fd7a:115c:a1e0::807"
    )]
    SetIp {
        #[command(flatten)]
        node: Which,
        #[arg(required = true, num_args = 1..=2)]
        addresses: Vec<String>,
    },
    /// Show nodes that wait for an approval (node.approval)
    #[command(after_help = "Example:\n  hsraft nodes waiting")]
    Waiting,
    /// Let a node in that waits for an approval
    #[command(after_help = "Example:\n  hsraft nodes approve --identifier 4")]
    Approve {
        #[command(flatten)]
        node: Which,
    },
    /// Take an approval back: nobody sees the node, and it sees nobody
    #[command(after_help = "Example:\n  hsraft nodes hold --identifier 4")]
    Hold {
        #[command(flatten)]
        node: Which,
    },
    /// Give addresses to nodes that lack one
    #[command(name = "backfillips", after_help = "Example:\n  hsraft nodes backfillips --force")]
    BackfillIps,
}

/// What can be done with logins that wait.
#[derive(Debug, Subcommand)]
pub enum Auth {
    /// Let the node in
    #[command(after_help = "Example:\n  hsraft auth register --user alice --auth-id hskey-authreq-…")]
    Register {
        /// Id or name
        #[arg(short, long)]
        user: String,
        #[arg(long)]
        auth_id: String,
    },
    /// Let a connection by SSH in that the policy wants to be checked
    #[command(after_help = "Example:\n  hsraft auth approve --auth-id 4vXk2mJr0bQfZp8sYw1nTq7d")]
    Approve {
        #[arg(long)]
        auth_id: String,
    },
    /// Turn the node or the connection away
    #[command(after_help = "Example:\n  hsraft auth reject --auth-id hskey-authreq-…")]
    Reject {
        #[arg(long)]
        auth_id: String,
    },
}

/// Who lets which node in.
#[derive(Args, Debug)]
pub struct Register {
    /// Owner of the node: id or name
    #[arg(short, long, alias = "namespace", short_alias = 'n')]
    user: String,
    #[arg(short, long)]
    key: String,
}

/// Which node.
#[derive(Args, Debug)]
pub struct Which {
    /// Id or name
    #[arg(short, long)]
    identifier: String,
}

fn in_future(text: &str) -> Result<Timestamp, String> {
    parse_moment(text)?.ok_or_else(|| "write RFC 3339, such as 2030-01-31T12:00:00Z".to_owned())
}

/// How many nodes are asked for at a time, so that the first are shown while others are still read.
const NODES_A_PAGE: u32 = 500;
/// At first: about what a screen holds, so that it is there at once.
const NODES_FIRST: u32 = 50;

/// Does it.
pub async fn run(word: Nodes, desk: &Desk) -> Result<(), Problem> {
    match word {
        Nodes::List { user, tags: _ } => {
            let filter = user.map(|user| format!("&user={}", escape(&user))).unwrap_or_default();
            let (mut pages, mut after, mut limit) = (desk.output.pages(), 0, NODES_FIRST);
            loop {
                let path = format!("/api/v1/node?limit={limit}&after={after}{filter}");
                let reply: NodeList = desk.client.get(&path).await?;
                pages.page(&reply.nodes, || table(&reply.nodes, desk.now))?;
                match reply.next {
                    Some(next) => (after, limit) = (next, NODES_A_PAGE),
                    None => return pages.end(),
                }
            }
        }
        Nodes::ListRoutes { identifier } => {
            let mut nodes = match identifier {
                Some(node) => vec![desk.client.get::<OneNode>(&format!("/api/v1/node/{}", escape(&node))).await?.node],
                None => desk.client.get::<NodeList>("/api/v1/node").await?.nodes,
            };
            nodes.retain(|node| !(node.approved_routes.is_empty() && node.available_routes.is_empty()));
            desk.output.show(&nodes, || routes(&nodes).render())
        }
        Nodes::Register(Register { user, key }) => {
            let path = format!("/api/v1/node/register?user={}&key={}", escape(&user), escape(&key));
            let reply: OneNode = desk.client.post(&path, json!({})).await?;
            desk.output.show(&reply.node, || format!("Node {} registered\n", reply.node.given_name))
        }
        Nodes::Expire { node, expiry, disable } => {
            let (query, said) = match expiry {
                _ if disable => ("?disableExpiry=true".to_owned(), "Node expiry disabled\n"),
                Some(expiry) if expiry > desk.now => {
                    (format!("?expiry={}", escape(&expiry.to_string())), "Node expiration updated\n")
                }
                Some(expiry) => (format!("?expiry={}", escape(&expiry.to_string())), "Node expired\n"),
                None => (String::new(), "Node expired\n"),
            };
            change(desk, &node, &format!("/expire{query}"), json!({}), said).await
        }
        Nodes::Rename { node, new_name, name } => {
            let name = new_name.or(name).unwrap_or_default();
            change(desk, &node, &format!("/rename/{}", escape(&name)), json!({}), "Node renamed\n").await
        }
        Nodes::Delete { node } => {
            let path = format!("/api/v1/node/{}", escape(&node.identifier));
            let shown: OneNode = desk.client.get(&path).await?;
            if !desk.agreed(&format!("Do you want to remove the node {}?", shown.node.given_name)) {
                return declined(desk, "Node not deleted");
            }
            desk.client.delete::<Value>(&path).await?;
            desk.output.done("Node deleted")
        }
        Nodes::Tag { node, tags } => change(desk, &node, "/tags", json!({ "tags": tags }), "Node updated\n").await,
        Nodes::ApproveRoutes { node, routes } => {
            change(desk, &node, "/approve_routes", json!({ "routes": routes }), "Node updated\n").await
        }
        Nodes::Move { node, user } => change(desk, &node, "/user", json!({ "user": user }), "Node moved\n").await,
        Nodes::SetIp { node, addresses } => {
            ours(desk, &node, "addresses", json!({ "addresses": addresses }), "Node updated\n").await
        }
        Nodes::Waiting => {
            let reply: NodeList = desk.client.get("/api/v1/cluster/nodes/waiting").await?;
            desk.output.show(&reply.nodes, || table(&reply.nodes, desk.now).render())
        }
        Nodes::Approve { node } => ours(desk, &node, "approval", json!({ "approved": true }), "Node approved\n").await,
        Nodes::Hold { node } => ours(desk, &node, "approval", json!({ "approved": false }), "Node waits\n").await,
        Nodes::BackfillIps => {
            let question = "Are you sure that you want to assign/remove IPs to/from nodes?";
            if !desk.agreed(question) {
                return Ok(());
            }
            let reply: Changes = desk.client.post("/api/v1/node/backfillips?confirmed=true", json!({})).await?;
            desk.output.show_ours(&reply, || "Node IPs backfilled successfully\n".into())
        }
    }
}

/// Does it.
pub async fn run_auth(word: Auth, desk: &Desk) -> Result<(), Problem> {
    match word {
        Auth::Register { user, auth_id } => {
            let wish = json!({ "user": user, "authId": auth_id });
            let reply: OneNode = desk.client.post("/api/v1/auth/register", wish).await?;
            desk.output.show(&reply.node, || format!("Node {} registered\n", reply.node.given_name))
        }
        Auth::Approve { auth_id } => {
            desk.client.post::<Value>("/api/v1/auth/approve", json!({ "authId": auth_id })).await?;
            desk.output.done("Auth request approved")
        }
        Auth::Reject { auth_id } => {
            desk.client.post::<Value>("/api/v1/auth/reject", json!({ "authId": auth_id })).await?;
            desk.output.done("Auth request rejected")
        }
    }
}

async fn change(desk: &Desk, node: &Which, verb: &str, wish: Value, said: &str) -> Result<(), Problem> {
    let path = format!("/api/v1/node/{}{verb}", escape(&node.identifier));
    let reply: OneNode = desk.client.post(&path, wish).await?;
    desk.output.show(&reply.node, || said.into())
}

/// What Headscale has no path for.
async fn ours(desk: &Desk, node: &Which, verb: &str, wish: Value, said: &str) -> Result<(), Problem> {
    let path = format!("/api/v1/cluster/nodes/{}/{verb}", escape(&node.identifier));
    let reply: OneNode = desk.client.post(&path, wish).await?;
    desk.output.show(&reply.node, || said.into())
}

fn table(nodes: &[Node], now: Timestamp) -> Table {
    let mut table = Table::new([
        "ID",
        "Hostname",
        "Name",
        "MachineKey",
        "NodeKey",
        "User",
        "Tags",
        "IP addresses",
        "Ephemeral",
        "Last seen",
        "Expiration",
        "Connected",
        "Expired",
    ]);
    for node in nodes {
        let expired = node.expiry.is_some_and(|expiry| expiry <= now);
        table.row([
            node.id.to_string(),
            node.name.clone(),
            node.given_name.clone(),
            short(&node.machine_key),
            short(&node.node_key),
            node.user.as_ref().map(|user| user.name.clone()).unwrap_or_default(),
            lines(&node.tags),
            lines(&node.ip_addresses),
            node.pre_auth_key.as_ref().is_some_and(|key| key.ephemeral).to_string(),
            moment(node.last_seen).unwrap_or_default(),
            moment(node.expiry).unwrap_or_else(|| "N/A".into()),
            if node.online { "online" } else { "offline" }.into(),
            if expired { "yes" } else { "no" }.into(),
        ]);
    }
    table
}

fn routes(nodes: &[Node]) -> Table {
    let mut table = Table::new(["ID", "Hostname", "Approved", "Available", "Serving (Primary)"]);
    for node in nodes {
        table.row([
            node.id.to_string(),
            node.given_name.clone(),
            lines(&node.approved_routes),
            lines(&node.available_routes),
            lines(&node.subnet_routes),
        ]);
    }
    table
}

/// A key as Tailscale's own tools abbreviate it: five characters of base64 in brackets.
fn short(key: &str) -> String {
    let digits = key.rsplit(':').next().unwrap_or_default();
    match hex::decode(digits) {
        Ok(bytes) if bytes.len() == 32 => format!("[{}]", &BASE64_STANDARD.encode(bytes)[..5]),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shown_short() {
        assert_eq!(short(&format!("nodekey:{}", "ff".repeat(32))), "[/////]");
        assert_eq!(short(""), "");
        assert_eq!(short("nodekey:zz"), "");
    }
}
