//! What the cluster looks like from one member, and whether that is good.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use state_machine::{JoinRole, MemberId, MemberState, State, Timestamp, codes};

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
    /// How the leader sees every member: how far it is and when it last answered.
    pub contacts: BTreeMap<MemberId, Contact>,
    /// Why no changes are taken though there may be a quorum: members came to different states.
    pub halted: Option<String>,
    /// Whose view that is; none when no leader was heard of since this member started.
    pub seen_by: Option<MemberId>,
    /// How old the view is.
    pub seen_ago: Duration,
    /// For how long the leader has led.
    pub leading_for: Duration,
    /// The feature level every program can apply, and for how long that has been so; none: some do not say.
    pub able: Option<(u32, Duration)>,
    /// The time of day at this member.
    pub now: Timestamp,
}

/// Members hear from the leader once a second; a view older than this says nothing about now.
const FRESH: Duration = Duration::from_secs(3);

impl Standing {
    /// What is known of the others is how they are now.
    pub fn is_fresh(&self) -> bool {
        self.seen_by.is_some() && self.seen_ago <= FRESH
    }
}

/// What the leader knows of a member.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contact {
    /// Entries it lacks.
    pub lag: Option<u64>,
    /// How long ago it answered.
    pub silent_for: Option<Duration>,
    /// Entries it took a second, lately.
    pub per_second: Option<u64>,
    /// How far its clock is ahead of the leader's.
    pub clock_ahead_ms: Option<i64>,
    /// How its backup stands; none: it keeps none.
    pub backup: Option<Backup>,
    /// How much room its disk has; none: not known.
    pub room: Option<raft::Room>,
    /// When its disk was last read through and was whole.
    pub scrubbed_at: Option<Timestamp>,
    /// Its State was compared with the others': the same, another, or none: not compared yet.
    pub same_state: Option<bool>,
    /// Members that answered it a moment ago.
    pub reaches: Option<BTreeSet<MemberId>>,
    /// When the certificate it shows to other members ends.
    pub certificate_ends: Option<Timestamp>,
    /// What its program can apply.
    pub feature_level: Option<u32>,
    /// What its appends need at the hundredth, lately.
    pub append_p99_us: Option<u64>,
    /// That certificate.
    pub certificate: Option<raft::MemberCertificate>,
    /// The one it shows to clients.
    pub client_certificate: Option<raft::ClientCertificate>,
    /// Why its port for clients is closed; empty: it is open; none: it does not say.
    pub client_port_closed: Option<String>,
}

/// How a member's backup stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Backup {
    /// What people call the place.
    pub place: String,
    /// This member fills it now; others stand by.
    pub acting: bool,
    /// When everything it had applied was last archived; zero: never.
    pub archived_at: Timestamp,
    /// When its newest full was written; zero: never.
    pub full_at: Timestamp,
    /// The log index up to which everything is archived.
    pub index: u64,
    /// How old the newest write is that might be missing; absent: nothing was archived yet.
    pub behind_ms: Option<u64>,
    /// When a backup was last restored on trial and its states compared; zero: never by this member.
    pub verified_at: Timestamp,
    /// Why the last attempt failed; empty when it did not.
    pub error: String,
    /// What the last trial found; empty when nothing.
    pub trial_error: String,
}

impl From<raft::archive::BackupReport> for Backup {
    fn from(report: raft::archive::BackupReport) -> Backup {
        Backup {
            place: report.place,
            acting: report.acting,
            archived_at: Timestamp(report.archived_at_ms),
            full_at: Timestamp(report.full_at_ms),
            index: report.index,
            behind_ms: report.behind_ms,
            verified_at: Timestamp(report.verified_at_ms),
            error: report.error,
            trial_error: report.trial_error,
        }
    }
}

/// More that might be missing is worth a word (reliability rules, section 6.2).
pub const BACKUP_OLD: Duration = Duration::from_secs(60);
/// A clock further from the leader's is worth a word.
const CLOCK_MS: u64 = 250;
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
    /// It leads no more, says it is not ready, and sends its clients elsewhere.
    pub draining: bool,
    /// Voters that it does not reach or that do not reach it: they keep it from voting.
    pub cut_off_from: Vec<String>,
    /// Why its port for clients is closed; empty: it is open; absent: it does not say.
    pub client_port_closed: Option<String>,
    /// Its state is the others', as last compared; absent: not compared yet.
    pub same_state: Option<bool>,
    /// Its disk is almost full: it takes no changes and does not lead.
    pub disk_full: bool,
    /// Free bytes below its data folder; absent when not known.
    pub disk_free_bytes: Option<u64>,
    /// When its disk was last read through and was whole; absent: not since it was made.
    #[serde(with = "moment")]
    pub scrubbed_at: Option<Timestamp>,
    /// When everything this member had applied was last archived; absent when it keeps no backup.
    #[serde(with = "moment")]
    pub backup_at: Option<Timestamp>,
    /// How its backup stands; absent when it keeps none.
    pub backup: Option<Backup>,
    /// The one that answered.
    pub me: bool,
    pub lag: Option<u64>,
    /// Entries it took a second, lately.
    pub per_second: Option<u64>,
    /// When it will have caught up, if it goes on like this.
    pub eta_secs: Option<u64>,
    pub last_contact_ms: Option<u64>,
    /// How far its clock is ahead of the leader's.
    pub clock_ahead_ms: Option<i64>,
    #[serde(with = "moment")]
    pub certificate_ends: Option<Timestamp>,
    /// Within this 99 of 100 appends were synced lately; absent: nothing was written, or it says nothing.
    pub append_p99_us: Option<u64>,
    /// Where clients reach it besides asking DNS.
    pub addresses: Vec<std::net::IpAddr>,
    pub region_id: u32,
    /// Nodes whose stream is open there.
    pub nodes: u64,
    #[serde(with = "moment")]
    pub joined_at: Option<Timestamp>,
}

impl Member {
    /// It says that it lets no clients in.
    pub fn has_shut_clients_out(&self) -> bool {
        self.client_port_closed.as_ref().is_some_and(|why| !why.is_empty())
    }
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
    /// How many more voters may fail; absent while nobody leads.
    pub can_lose: Option<u64>,
    pub term: u64,
    pub leader: Option<String>,
    /// For how long it has led.
    pub leading_secs: u64,
    /// Whose view of the others this is; absent when no leader was heard of since this member started.
    pub seen_by: Option<String>,
    /// How old that view is.
    pub seen_ms_ago: u64,
    /// It is how they are now.
    pub is_fresh: bool,
    /// When everything was last archived, at the member where that is most recent.
    #[serde(with = "moment")]
    pub backup_at: Option<Timestamp>,
    /// What should not stay like this, though the cluster works.
    pub warnings: Vec<String>,
    /// What is wrong with which member, and what to do.
    pub advice: Vec<String>,
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
            let contact = standing.contacts.get(&member.id).cloned().unwrap_or_default();
            let is_leader = standing.leader == Some(member.id);
            Member {
                id: member.id.0,
                name: member.name.clone(),
                peer_address: member.peer_address.clone(),
                client_url: member.client_url.clone(),
                version: member.version.clone(),
                role: role(standing, member).into(),
                state: condition(standing, member).into(),
                draining: member.draining,
                cut_off_from: cut_off_from(state, standing, member),
                client_port_closed: contact.client_port_closed.clone(),
                same_state: contact.same_state,
                disk_full: contact.room.is_some_and(|room| room.short),
                disk_free_bytes: contact.room.map(|room| room.free),
                scrubbed_at: contact.scrubbed_at,
                backup_at: contact.backup.as_ref().map(|backup| backup.archived_at),
                backup: contact.backup.clone(),
                me: standing.me == member.id,
                lag: if is_leader { Some(0) } else { contact.lag },
                per_second: contact.per_second,
                eta_secs: eta_secs(&contact),
                last_contact_ms: contact.silent_for.filter(|_| !is_leader).map(|silence| silence.as_millis() as u64),
                clock_ahead_ms: contact.clock_ahead_ms,
                certificate_ends: contact.certificate_ends,
                append_p99_us: contact.append_p99_us,
                addresses: member.addresses.clone(),
                region_id: member.region_id,
                nodes: streams.get(&member.id).copied().unwrap_or_default(),
                joined_at: Some(member.joined_at),
            }
        })
        .collect::<Vec<Member>>();
    let summary = Summary { advice: worries(&members), ..summary(state, standing) };
    Members { members, summary }
}

fn eta_secs(contact: &Contact) -> Option<u64> {
    let (lag, rate) = (contact.lag.filter(|lag| *lag > 0)?, contact.per_second.filter(|rate| *rate > 0)?);
    Some(lag.div_ceil(rate))
}

/// For a learner that shall vote: the healthy voters with which it has no path both ways.
fn cut_off_from(state: &State, standing: &Standing, member: &state_machine::Member) -> Vec<String> {
    let id = member.id;
    if member.role != JoinRole::Voter || !standing.learners.contains(&id) || !standing.is_fresh() {
        return Vec::new();
    }
    let reaches = |from: MemberId, to: MemberId| {
        let reached = standing.contacts.get(&from).and_then(|contact| contact.reaches.as_ref());
        reached.is_some_and(|reached| reached.contains(&to))
    };
    let silence = |voter: &MemberId| standing.contacts.get(voter).and_then(|contact| contact.silent_for);
    let healthy = standing.voters.iter().filter(|voter| silence(voter).is_some_and(|silence| silence <= SILENT));
    healthy
        .filter(|voter| !(reaches(id, **voter) && reaches(**voter, id)))
        .map(|voter| name_of(state, *voter))
        .collect()
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
        _ if !standing.is_fresh() => "unknown",
        Some(silence) if silence <= SILENT => "follower",
        // Silent, or the leader has never heard of it.
        _ if contact.is_some() => "unreachable",
        _ => "unknown",
    }
}

fn name_of(state: &State, id: MemberId) -> String {
    state.member(id).map_or_else(|| format!("member {id}"), |member| member.name.clone())
}

/// Said until they are dealt with.
fn warnings(state: &State, standing: &Standing) -> Vec<String> {
    let mut warnings = Vec::new();
    let backups: Vec<(MemberId, &Backup)> =
        standing.contacts.iter().filter_map(|(id, contact)| Some((*id, contact.backup.as_ref()?))).collect();
    if backups.is_empty() && standing.is_fresh() {
        warnings.push(
            "no member keeps a backup: the loss of all of them would be final; set cluster.backup_dir or cluster.backup_url"
                .into(),
        );
    }
    for (id, backup) in &backups {
        let name = name_of(state, *id);
        if !backup.error.is_empty() {
            warnings.push(format!("the backup of {name} fails: {} [{}]", backup.error, codes::BACKUP_BEHIND));
        }
        if !backup.trial_error.is_empty() {
            warnings.push(format!(
                "the backup could not be restored on trial: {}; a new full is written; hsraft snapshot verify {} [{}]",
                backup.trial_error,
                backup.place,
                codes::BACKUP_DAMAGED
            ));
        }
    }
    let behind = backups.iter().filter_map(|(_, backup)| backup.behind_ms).min();
    if let Some(behind) = behind.filter(|behind| u128::from(*behind) > BACKUP_OLD.as_millis()) {
        warnings.push(format!(
            "nothing was archived for {} s: so much would be lost with all members now [{}]",
            behind / 1000,
            codes::BACKUP_BEHIND
        ));
    }
    for (id, contact) in &standing.contacts {
        if let Some(ahead) = contact.clock_ahead_ms.filter(|ahead| ahead.unsigned_abs() > CLOCK_MS) {
            warnings.push(format!(
                "the clock of {} is {ahead:+} ms off the leader's: look at its NTP; above {} ms a member says it is not \
                 ready, and leads no more",
                name_of(state, *id),
                raft::CLOCK_OFF_MS
            ));
        }
    }
    if !backups.is_empty() && !state.secrets().contains_key(raft::archive::RECOVERY_SECRET) {
        warnings.push(
            "there is no recovery key: only a member's file sealing.key would open a backup; hsraft recovery-key create".into(),
        );
    }
    warnings.extend(super::certificates::warnings(state, standing));
    warnings
}

fn summary(state: &State, standing: &Standing) -> Summary {
    let voters = standing.voters.len() as u64;
    let quorum = voters / 2 + 1;
    let is_fresh = standing.is_fresh();
    let heard = |id: &&MemberId| {
        **id == standing.me
            || standing.contacts.get(id).and_then(|contact| contact.silent_for).is_some_and(|silence| silence <= SILENT)
    };
    let reachable = standing.voters.iter().filter(heard).count() as u64;
    Summary {
        voters,
        quorum,
        can_lose: is_fresh.then(|| reachable.saturating_sub(quorum)),
        term: standing.term,
        leader: standing.leader.map(|id| name_of(state, id)),
        leading_secs: standing.leading_for.as_secs(),
        seen_by: standing.seen_by.map(|id| name_of(state, id)),
        seen_ms_ago: standing.seen_ago.as_millis() as u64,
        is_fresh,
        backup_at: standing.contacts.values().filter_map(|contact| Some(contact.backup.as_ref()?.archived_at)).max(),
        warnings: warnings(state, standing),
        advice: Vec::new(),
    }
}

/// One screen about the cluster. `has_quorum`: a read that must be current went through a moment ago.
pub fn status(state: &State, standing: &Standing, has_quorum: bool) -> Status {
    // Without a quorum nobody leads, whatever was last heard.
    let standing = &match has_quorum {
        true => standing.clone(),
        false => Standing { leader: None, ..standing.clone() },
    };
    let Members { members, summary } = members(state, standing, false);
    let name = |id: MemberId| name_of(state, id);
    let halted = standing.halted.as_ref().map(|why| {
        format!("no changes are taken: {why}; hsraft verify --cluster shows who holds which [{}]", codes::STATES_DIFFER)
    });
    let reasons = match has_quorum {
        true => halted.into_iter().chain(worries(&members)).collect(),
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
                    "{name} is {silence}: start it again; if the machine is gone: hsraft token create --name {name}, \
                     then on the new one: hsraft join … --replace {name}"
                ));
            }
            _ if member.disk_full => worries.push(format!(
                "the disk of {name} is almost full ({} MiB free): it takes no changes and does not lead; free or add space below its data folder, then it goes on by itself [{}]",
                member.disk_free_bytes.unwrap_or_default() >> 20,
                codes::NO_SPACE
            )),
            _ if member.same_state == Some(false) => worries.push(format!(
                "{name} came to another state than the others: its memory, its disk or its program is wrong; stop it, keep its \
                 folder, and replace it: hsraft token create --name {name}, then on an empty folder: hsraft join … --replace {name}"
            )),
            (_, "learner") if !member.cut_off_from.is_empty() => worries.push(format!(
                "{name} cannot vote yet: no path both ways between it and {}; open the peer port (TCP) in both directions",
                member.cut_off_from.join(", ")
            )),
            _ if member.draining => {
                worries.push(format!("{name} is drained; when its work is done: hsraft undrain {name}"));
            }
            _ if member.has_shut_clients_out() => worries.push(format!(
                "the client port of {name} is closed ({}): clients go to other members; it opens by itself when that is over",
                member.client_port_closed.as_deref().unwrap_or_default()
            )),
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
