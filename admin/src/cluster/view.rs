//! What the cluster looks like from one member, and whether that is good.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use state_machine::{MemberId, MemberState, State, Timestamp};

use crate::v1::types::{id, moment};

/// What Raft knows at this member.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    pub me: MemberId,
    pub leader: Option<MemberId>,
    pub term: u64,
    pub voters: BTreeSet<MemberId>,
    pub learners: BTreeSet<MemberId>,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    /// Only the leader knows: how far each other member is and when it last answered.
    pub contacts: BTreeMap<MemberId, Contact>,
}

/// What the leader knows of another member.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Contact {
    /// Entries it lacks.
    pub lag: Option<u64>,
    /// How long ago it answered.
    pub silent_for: Option<Duration>,
}

/// Longer silence is worth a word.
const SILENT: Duration = Duration::from_secs(5);
/// A lag beyond this many entries is worth a word.
const LAG: u64 = 1000;

/// One member, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Member {
    #[serde(with = "id")]
    pub id: u64,
    pub name: String,
    pub peer_address: String,
    pub client_url: String,
    pub version: String,
    /// `voter`, `learner`, `none` (not in the membership yet) or `removed`.
    pub role: String,
    /// `leader`, `follower`, `unreachable`, `unknown` or `removed`.
    pub state: String,
    /// The one that answered.
    pub me: bool,
    pub lag: Option<u64>,
    pub last_contact_ms: Option<u64>,
    pub region_id: u32,
    /// Nodes whose stream is open there.
    pub nodes: u64,
    #[serde(with = "moment")]
    pub joined_at: Option<Timestamp>,
}

/// Reply around the members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Members {
    pub members: Vec<Member>,
    pub summary: Summary,
}

/// The last line below the table of members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    pub voters: u64,
    /// How many voters it takes to write.
    pub quorum: u64,
    /// How many more voters may fail; absent where it is not known (the leader knows).
    pub can_lose: Option<u64>,
    pub term: u64,
}

/// How the cluster is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Healthy,
    Degraded,
    #[default]
    NoQuorum,
}

/// Everything `hsraft status` shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    pub verdict: Verdict,
    /// Why it is not healthy, and what to do; in whole sentences.
    pub reasons: Vec<String>,
    pub cluster_id: String,
    pub server_url: String,
    pub me: String,
    pub leader: Option<String>,
    pub summary: Summary,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    pub revision: u64,
    pub feature_level: u32,
    pub users: u64,
    pub nodes: u64,
    pub nodes_online: u64,
    pub members: Vec<Member>,
}

/// Members in the order they came, without the removed ones unless `removed_too`.
pub fn members(state: &State, standing: &Standing, removed_too: bool) -> Members {
    let mut streams = BTreeMap::<MemberId, u64>::new();
    for presence in state.presences().values() {
        if let Some(session) = presence.session {
            *streams.entry(session.member).or_default() += 1;
        }
    }
    let shown = state.members().values().filter(|member| removed_too || member.state == MemberState::Active);
    let members = shown
        .map(|member| {
            let contact = standing.contacts.get(&member.id).copied().unwrap_or_default();
            let is_leader = standing.leader == Some(member.id);
            Member {
                id: member.id.0,
                name: member.name.clone(),
                peer_address: member.peer_address.clone(),
                client_url: member.client_url.clone(),
                version: member.version.clone(),
                role: role(standing, member).into(),
                state: condition(standing, member).into(),
                me: standing.me == member.id,
                lag: if is_leader { Some(0) } else { contact.lag },
                last_contact_ms: contact.silent_for.map(|silence| silence.as_millis() as u64),
                region_id: member.region_id,
                nodes: streams.get(&member.id).copied().unwrap_or_default(),
                joined_at: Some(member.joined_at),
            }
        })
        .collect();
    Members { members, summary: summary(standing) }
}

fn role(standing: &Standing, member: &state_machine::Member) -> &'static str {
    match member.state {
        MemberState::Removed => "removed",
        _ if standing.voters.contains(&member.id) => "voter",
        _ if standing.learners.contains(&member.id) => "learner",
        _ => "none",
    }
}

fn condition(standing: &Standing, member: &state_machine::Member) -> &'static str {
    let contact = standing.contacts.get(&member.id);
    match contact.and_then(|contact| contact.silent_for) {
        _ if member.state == MemberState::Removed => "removed",
        _ if standing.leader == Some(member.id) => "leader",
        _ if standing.me == member.id => "follower",
        Some(silence) if silence <= SILENT => "follower",
        Some(_) => "unreachable",
        // The leader has never heard of it; another member cannot know.
        None if standing.leader == Some(standing.me) && contact.is_some() => "unreachable",
        None => "unknown",
    }
}

fn summary(standing: &Standing) -> Summary {
    let voters = standing.voters.len() as u64;
    let quorum = voters / 2 + 1;
    let leads = standing.leader == Some(standing.me);
    let heard = |id: &&MemberId| {
        **id == standing.me
            || standing.contacts.get(id).and_then(|contact| contact.silent_for).is_some_and(|silence| silence <= SILENT)
    };
    let reachable = standing.voters.iter().filter(heard).count() as u64;
    Summary { voters, quorum, can_lose: leads.then(|| reachable.saturating_sub(quorum)), term: standing.term }
}

/// One screen about the cluster. `has_quorum`: a read that must be current went through a moment ago.
pub fn status(state: &State, standing: &Standing, has_quorum: bool) -> Status {
    // Without a quorum nobody leads, whatever was last heard.
    let standing = &match has_quorum {
        true => standing.clone(),
        false => Standing { leader: None, ..standing.clone() },
    };
    let Members { members, summary } = members(state, standing, false);
    let name = |id: MemberId| match state.member(id) {
        Some(member) => member.name.clone(),
        None => format!("member {id}"),
    };
    let reasons = match has_quorum {
        true => worries(&members),
        false => vec![no_quorum(&summary)],
    };
    let verdict = match (has_quorum, reasons.is_empty()) {
        (false, _) => Verdict::NoQuorum,
        (true, false) => Verdict::Degraded,
        (true, true) => Verdict::Healthy,
    };
    Status {
        verdict,
        reasons,
        cluster_id: state.cluster_id().to_owned(),
        server_url: state.settings().server_url.clone(),
        me: name(standing.me),
        leader: standing.leader.map(name),
        summary,
        last_log: standing.last_log,
        committed: standing.committed,
        applied: standing.applied,
        revision: state.revision().0,
        feature_level: state.feature_level(),
        users: state.users().len() as u64,
        nodes: state.nodes().len() as u64,
        nodes_online: state.presences().values().filter(|presence| presence.online).count() as u64,
        members,
    }
}

fn no_quorum(summary: &Summary) -> String {
    let Summary { voters, quorum, .. } = summary;
    format!(
        "no quorum: writes need {quorum} of {voters} voters and this member cannot reach that many; \
         connected clients keep their maps; start the missing members (hsraft members names them)"
    )
}

/// What an operator should look at, in the order of the members.
fn worries(members: &[Member]) -> Vec<String> {
    let mut worries = Vec::new();
    for member in members {
        let name = &member.name;
        match (member.state.as_str(), member.role.as_str()) {
            ("unreachable", _) => {
                let silence = match member.last_contact_ms {
                    Some(silence) => format!("silent for {} s", silence / 1000),
                    None => "never heard of since this leader began".to_owned(),
                };
                worries.push(format!(
                    "{name} is {silence}: start it again; if the machine is gone: hsraft member remove {name}, then hsraft token create"
                ));
            }
            (_, "none") => worries.push(format!("{name} was admitted but takes no part yet: look at its log")),
            (_, "learner") if member.lag.is_some_and(|lag| lag > LAG) => {
                worries.push(format!("{name} is still catching up: {} entries to go", member.lag.unwrap_or_default()));
            }
            _ if member.lag.is_some_and(|lag| lag > LAG) => {
                worries.push(format!(
                    "{name} lags by {} entries: look at its disk and network",
                    member.lag.unwrap_or_default()
                ));
            }
            _ => {}
        }
    }
    worries
}
