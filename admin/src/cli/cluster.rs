//! `members`, `member`, `status`, `token`, `transfer-leader`: the servers themselves.

use std::{io::IsTerminal, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use state_machine::{Timestamp, codes};

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
        /// Also when the rest could not go on without it
        #[arg(long)]
        risk_quorum: bool,
    },
    /// Let a member vote, as soon as it has caught up; with --force also when the number of voters becomes even
    #[command(after_help = "Example:\n  hsraft member promote hs4\n  hsraft member promote hs4 --force")]
    Promote {
        /// Name or id
        member: String,
    },
    /// Let a member follow without a vote
    #[command(after_help = "Example:\n  hsraft member demote hs4")]
    Demote {
        /// Name or id
        member: String,
    },
}

/// `drain` and `undrain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// Name or id; without it the member that answers
    member: Option<String>,
}

/// What can be done with join tokens.
#[derive(Debug, Subcommand)]
pub enum TokenWord {
    /// Make a token; it is shown this once
    #[command(aliases = ["c", "new"], after_help = "Example:\n  hsraft token create --name hs2 --ttl 15m\n  hsraft token create --uses 2 --from-cidr 10.0.0.0/24")]
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
        /// Good for so many members
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=7))]
        uses: u32,
        /// Only for joiners that call from this network; may be said again
        #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
        from_cidr: Vec<String>,
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
        desk.output
            .show_ours(&reply, || table(&reply.members, desk.now).render() + &footer(&reply.summary, desk.now))?;
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// `member …`.
pub async fn member(word: MemberWord, desk: &Desk) -> Result<(), Problem> {
    match word {
        MemberWord::Remove { member, risk_quorum } => {
            if !desk.agreed(&format!("Remove member {member} for ever? Its data folder will be worthless.")) {
                return super::users::declined(desk, "Member not removed");
            }
            remove(&member, risk_quorum, desk).await?;
            desk.output.done("Member removed")
        }
        MemberWord::Promote { member } => {
            set_role(&member, "voter", desk).await?;
            desk.output.done(match desk.force {
                true => "It votes once it has caught up, also beside an odd number of others; see: hsraft members",
                false => "It votes once it has caught up and the number of voters stays odd; see: hsraft members",
            })
        }
        MemberWord::Demote { member } => {
            set_role(&member, "learner", desk).await?;
            desk.output.done("It loses its vote as soon as the rest can spare it; see: hsraft members")
        }
    }
}

async fn set_role(member: &str, role: &str, desk: &Desk) -> Result<(), Problem> {
    let path = format!("/api/v1/cluster/members/{}/role", escape(member));
    desk.client.post::<Value>(&path, json!({ "role": role, "force": desk.force })).await.map(|_| ())
}

pub(super) async fn remove(member: &str, risk_quorum: bool, desk: &Desk) -> Result<(), Problem> {
    let path = format!("/api/v1/cluster/members/{}?riskQuorum={risk_quorum}", escape(member));
    desk.client.delete::<Value>(&path).await.map(|_| ())
}

pub(super) async fn list(desk: &Desk) -> Result<Members, Problem> {
    desk.client.get("/api/v1/cluster/members").await
}

/// The member that answers.
pub(super) async fn this_member(desk: &Desk) -> Result<Member, Problem> {
    let mine = list(desk).await?.members.into_iter().find(|member| member.me);
    mine.ok_or_else(|| {
        Problem::of(&codes::NO_LONGER_MEMBER, "the member that answers does not belong to the cluster any more")
    })
}

/// `drain` and `undrain`.
pub async fn drain(args: DrainArgs, draining: bool, desk: &Desk) -> Result<(), Problem> {
    let member = match args.member {
        Some(member) => member,
        None => this_member(desk).await?.name,
    };
    set_draining(&member, draining, desk).await?;
    desk.output.done(&match draining {
        true => format!("{member} leads no more and sends its clients elsewhere; back with: hsraft undrain {member}"),
        false => format!("{member} is used again"),
    })
}

pub(super) async fn set_draining(member: &str, draining: bool, desk: &Desk) -> Result<(), Problem> {
    let path = format!("/api/v1/cluster/members/{}/draining", escape(member));
    desk.client.post::<Value>(&path, json!({ "draining": draining })).await.map(|_| ())
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
        TokenWord::Create { ttl, name, role, uses, from_cidr } => {
            let role = match role {
                Role::Voter => "voter",
                Role::Learner => "learner",
            };
            let wish = json!({ "ttlSecs": ttl.as_secs(), "name": name, "role": role, "uses": uses, "from": from_cidr });
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
                let mut table =
                    Table::new(["ID", "For", "From", "Role", "State", "Uses", "Used by", "Created", "Expires"]);
                for token in &reply.tokens {
                    table.row([
                        token.id.clone(),
                        if token.name.is_empty() { "anybody".into() } else { token.name.clone() },
                        if token.from.is_empty() { "anywhere".into() } else { token.from.join(" ") },
                        token.role.clone(),
                        token.state.clone(),
                        format!("{}/{}", token.used, token.uses),
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
    desk.output.show_ours(&status, || page(&status, desk.now))?;
    Ok(match status.verdict {
        Verdict::Healthy => exit::OK,
        Verdict::Degraded => exit::FAILED,
        Verdict::NoQuorum => exit::NO_QUORUM,
    })
}

/// One screen.
pub fn page(status: &Status, now: Timestamp) -> String {
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
    page += &table(&status.members, now).render();
    page += &match status.verdict {
        Verdict::NoQuorum => {
            let Summary { quorum, voters, .. } = &status.summary;
            format!("quorum {quorum} of {voters} · not reached\n{}", whose_view(&status.summary))
        }
        _ => footer(&Summary { advice: Vec::new(), ..status.summary.clone() }, now),
    };
    for reason in &status.reasons {
        page += &format!("! {reason}\n");
    }
    page
}

fn table(members: &[Member], now: Timestamp) -> Table {
    let header = [
        "ID",
        "Name",
        "Address",
        "Role",
        "State",
        "Version",
        "Lag",
        "Last contact",
        "Cert",
        "Clock",
        "State hash",
        "Region",
        "Clients",
    ];
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
            match member {
                Member { disk_full: true, .. } => format!("{state}, DISK FULL"),
                Member { draining: true, .. } => format!("{state}, drained"),
                _ if member.has_shut_clients_out() => format!("{state}, client port closed"),
                _ => state,
            },
            member.version.clone(),
            lag(member),
            member.last_contact_ms.map_or_else(dash, span),
            member.certificate_ends.map_or_else(dash, |end| format!("{}d", end.0.saturating_sub(now.0) / DAY_MS)),
            member.clock_ahead_ms.map_or_else(dash, |ahead| format!("{ahead:+}ms")),
            member.same_state.map_or_else(dash, |same| if same { "same" } else { "DIFFERS" }.into()),
            if member.region_id == 0 { dash() } else { member.region_id.to_string() },
            member.nodes.to_string(),
        ]);
    }
    table
}

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Entries behind; while a newcomer catches up also how fast, and when it will be done.
fn lag(member: &Member) -> String {
    match (member.lag, member.per_second, member.eta_secs) {
        (None, ..) => "-".into(),
        (Some(lag), Some(rate), Some(eta)) if member.role == "learner" && eta > 0 => {
            format!("{lag} ({rate}/s, {})", span(eta * 1000))
        }
        (Some(lag), ..) => lag.to_string(),
    }
}

fn backup_age(at: Timestamp, now: Timestamp) -> String {
    match at.0 {
        0 => "not made yet".into(),
        at => format!("{} ago", span(now.0.saturating_sub(at))),
    }
}

fn footer(summary: &Summary, now: Timestamp) -> String {
    let Summary { voters, quorum, can_lose, term, leader, .. } = summary;
    let spare = can_lose.map_or_else(String::new, |spare| format!(" · can lose {spare} more"));
    let leader = leader.as_deref().unwrap_or("nobody");
    let backup = summary.backup_at.map_or_else(String::new, |at| format!(" · backup {}", backup_age(at, now)));
    let said = summary.advice.iter().chain(&summary.warnings);
    let said: String = said.map(|line| format!("! {line}\n")).collect();
    let since = match summary.leading_secs {
        0 => String::new(),
        secs => format!(" since {}", span(secs * 1000)),
    };
    format!(
        "quorum {quorum} of {voters}{spare} · term {term} · {leader} leads{since}{backup}\n{}{said}",
        whose_view(summary)
    )
}

/// Nothing when the table shows how the members are now.
fn whose_view(summary: &Summary) -> String {
    match &summary.seen_by {
        _ if summary.is_fresh => String::new(),
        Some(leader) => format!("lag and contact are as {leader} saw them {} ago\n", span(summary.seen_ms_ago)),
        None => "no leader was heard of since this member started: how the others are is not known\n".into(),
    }
}
