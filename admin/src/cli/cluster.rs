//! `members`, `member`, `status`, `token`, `transfer-leader`: the servers themselves.

use std::{io::IsTerminal, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{
    Format,
    desk::Desk,
    problem::{Problem, exit},
    spans,
    table::{Table, moment, span},
};
use crate::{
    client::escape,
    cluster::{
        tokens::{NewToken, Tokens},
        view::{Member, Members, Status, Summary, Verdict},
    },
};

/// `members`.
#[derive(Args, Debug)]
pub struct MembersArgs {
    /// Show it again and again, every two seconds
    #[arg(short, long)]
    watch: bool,
    /// Removed members too
    #[arg(short, long)]
    all: bool,
}

/// What can be done with one member.
#[derive(Debug, Subcommand)]
pub enum MemberWord {
    /// Take a member out of the cluster, for ever
    #[command(aliases = ["rm", "delete"], after_help = "Example:\n  hsraft member remove hs3")]
    Remove {
        /// Name or id
        member: String,
    },
}

/// What can be done with join tokens.
#[derive(Debug, Subcommand)]
pub enum TokenWord {
    /// Make a token; it is shown this once
    #[command(aliases = ["c", "new"], after_help = "Example:\n  hsraft token create --name hs2 --ttl 15m")]
    Create {
        /// Good for so long, at most 24h
        #[arg(long, default_value = "15m", value_parser = spans::parse)]
        ttl: Duration,
        /// Only for a member of this name
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// What the joiner becomes
        #[arg(long, default_value = "voter")]
        role: Role,
    },
    /// Show tokens
    #[command(aliases = ["ls", "show"], after_help = "Example:\n  hsraft token list")]
    List,
    /// Make a token worthless
    #[command(aliases = ["rm", "delete"], after_help = "Example:\n  hsraft token revoke 3f9a0c1e")]
    Revoke {
        /// See: hsraft token list
        id: String,
    },
}

/// What a joiner becomes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Role {
    /// Has a vote.
    Voter,
    /// Follows without a vote.
    Learner,
}

/// `transfer-leader`.
#[derive(Args, Debug)]
pub struct TransferArgs {
    /// Name or id; without it the member that is furthest
    #[arg(long)]
    to: Option<String>,
}

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// `members`.
pub async fn members(args: MembersArgs, desk: &Desk) -> Result<(), Problem> {
    let path = format!("/api/v1/cluster/members?all={}", args.all);
    loop {
        let reply: Members = match desk.client.get(&path).await {
            Ok(reply) => reply,
            // Whoever watches wants to see it come back.
            Err(problem) if args.watch => {
                desk.output.problem(&problem);
                tokio::time::sleep(WATCH_EVERY).await;
                continue;
            }
            Err(problem) => return Err(problem),
        };
        if args.watch && desk.output.format == Format::Human && std::io::stdout().is_terminal() {
            // Clears the screen.
            desk.output.write("\x1b[2J\x1b[H")?;
        }
        desk.output.show_ours(&reply, || table(&reply.members).render() + &footer(&reply.summary))?;
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// `member …`.
pub async fn member(word: MemberWord, desk: &Desk) -> Result<(), Problem> {
    let MemberWord::Remove { member } = word;
    if !desk.agreed(&format!("Remove member {member} for ever? Its data folder will be worthless.")) {
        return super::users::declined(desk, "Member not removed");
    }
    desk.client.delete::<Value>(&format!("/api/v1/cluster/members/{}", escape(&member))).await?;
    desk.output.done("Member removed")
}

/// `transfer-leader`.
pub async fn transfer_leader(args: TransferArgs, desk: &Desk) -> Result<(), Problem> {
    let wish = json!({ "to": args.to.unwrap_or_default() });
    desk.client.post::<Value>("/api/v1/cluster/transfer-leader", wish).await?;
    desk.output.done("Leadership handed over")
}

/// `token …`.
pub async fn token(word: TokenWord, desk: &Desk) -> Result<(), Problem> {
    match word {
        TokenWord::Create { ttl, name, role } => {
            let role = match role {
                Role::Voter => "voter",
                Role::Learner => "learner",
            };
            let wish = json!({ "ttlSecs": ttl.as_secs(), "name": name, "role": role });
            let reply: NewToken = desk.client.post("/api/v1/cluster/tokens", wish).await?;
            desk.output.show_ours(&reply, || format!("{}\n", reply.token))?;
            if desk.output.format == Format::Human {
                let address = reply.addresses.first().map_or("HOST:PORT", String::as_str);
                desk.output.talk(&format!("On the new machine, within {}:", span(reply.ttl_secs * 1000)));
                desk.output.talk(&format!("  hsraft join {address} --token {}", reply.token));
            }
            Ok(())
        }
        TokenWord::List => {
            let reply: Tokens = desk.client.get("/api/v1/cluster/tokens").await?;
            desk.output.show_ours(&reply.tokens, || {
                let mut table = Table::new(["ID", "For", "Role", "State", "Used by", "Created", "Expires"]);
                for token in &reply.tokens {
                    table.row([
                        token.id.clone(),
                        if token.name.is_empty() { "anybody".into() } else { token.name.clone() },
                        token.role.clone(),
                        token.state.clone(),
                        token.used_by.clone().unwrap_or_else(|| "-".into()),
                        moment(token.created_at).unwrap_or_default(),
                        moment(token.expires_at).unwrap_or_default(),
                    ]);
                }
                table.render()
            })
        }
        TokenWord::Revoke { id } => {
            desk.client.delete::<Value>(&format!("/api/v1/cluster/tokens/{}", escape(&id))).await?;
            desk.output.done("Token revoked")
        }
    }
}

/// `status`; the result is the exit code.
pub async fn status(desk: &Desk) -> Result<i32, Problem> {
    let status: Status = desk.client.get("/api/v1/cluster/status").await?;
    desk.output.show_ours(&status, || page(&status))?;
    Ok(match status.verdict {
        Verdict::Healthy => exit::OK,
        Verdict::Degraded => exit::FAILED,
        Verdict::NoQuorum => exit::NO_QUORUM,
    })
}

/// One screen.
pub fn page(status: &Status) -> String {
    let verdict = match status.verdict {
        Verdict::Healthy => "healthy",
        Verdict::Degraded => "degraded",
        Verdict::NoQuorum => "NO QUORUM",
    };
    let leader = status.leader.as_deref().unwrap_or("none");
    let Status { cluster_id, server_url, me, users, nodes, nodes_online, applied, committed, last_log, .. } = status;
    let mut page = format!(
        "{verdict} · cluster {cluster_id} · {server_url}\n\
         leader {leader} · answered by {me} · log {last_log}, committed {committed}, applied {applied}\n\
         {users} users · {nodes} nodes, {nodes_online} online\n\n"
    );
    page += &table(&status.members).render();
    page += &match status.verdict {
        Verdict::NoQuorum => format!("quorum {} of {} · not reached\n", status.summary.quorum, status.summary.voters),
        _ => footer(&status.summary),
    };
    for reason in &status.reasons {
        page += &format!("! {reason}\n");
    }
    page
}

fn table(members: &[Member]) -> Table {
    let header = ["ID", "Name", "Address", "Role", "State", "Version", "Lag", "Last contact", "Region", "Clients"];
    let mut table = Table::new(header);
    let dash = || "-".to_owned();
    for member in members {
        let state = match member.state.as_str() {
            "unreachable" => "UNREACHABLE".into(),
            _ => member.state.clone(),
        };
        table.row([
            member.id.to_string(),
            member.name.clone() + if member.me { "*" } else { "" },
            member.peer_address.clone(),
            member.role.clone(),
            state,
            member.version.clone(),
            member.lag.map_or_else(dash, |lag| lag.to_string()),
            member.last_contact_ms.map_or_else(dash, span),
            if member.region_id == 0 { dash() } else { member.region_id.to_string() },
            member.nodes.to_string(),
        ]);
    }
    table
}

fn footer(summary: &Summary) -> String {
    let Summary { voters, quorum, can_lose, term } = summary;
    let spare = match can_lose {
        Some(spare) => format!("can lose {spare} more"),
        None => "ask the leader how many more it can lose".into(),
    };
    format!("quorum {quorum} of {voters} · {spare} · term {term}\n")
}
