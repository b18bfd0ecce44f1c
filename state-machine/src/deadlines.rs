//! What will happen by itself, when, and why.
//!
//! Nothing happens by itself, of course: the leader sleeps until [`State::next_deadline`] and proposes
//! [`Command::Elapse`](crate::Command::Elapse), which does everything that is due by its own time (`apply/elapse.rs`).
//! Expiry of node keys is the exception: it is a comparison with [`State::now`], so it needs no verb, only a command
//! that moves the time.

use std::time::Duration;

use crate::{
    apply::text_records::GOODBYE,
    model::*,
    state::{State, Tables},
};

/// How long a join token that can no longer be used stays visible.
const JOIN_TOKEN_KEPT: Duration = Duration::from_secs(24 * 3600);

/// One thing `Elapse` does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    Offline(NodeId),
    EphemeralIdle(NodeId),
    Login(LoginId),
    JoinToken(String),
    SshCheck(String),
    SignIn(String),
    TextRecord(String),
}

impl Due {
    fn why(&self) -> &'static str {
        match self {
            Due::Offline(_) => "a node goes offline",
            Due::EphemeralIdle(_) => "an ephemeral node was away too long",
            Due::Login(_) => "a login runs out",
            Due::JoinToken(_) => "a spent join token is forgotten",
            Due::SshCheck(_) => "an SSH check is forgotten",
            Due::SignIn(_) => "a sign-in runs out",
            Due::TextRecord(_) => "a TXT record is forgotten",
        }
    }
}

impl State {
    /// When `Elapse` is due next and what for. After an `Elapse` at that time or later it is a later one. O(log n).
    pub fn next_deadline(&self) -> Option<(Timestamp, &'static str)> {
        let due = self.indexes.deadlines.get_min().map(|((at, due), ())| (*at, due.why()));
        let expiry = self.indexes.expiries.get_min().map(|((at, _), ())| (*at, "a node key expires"));
        [due, expiry].into_iter().flatten().min()
    }
}

/// What awaits a node: going offline, and being forgotten when it is ephemeral.
pub(crate) fn of_node(tables: &Tables, id: NodeId) -> [Option<(Timestamp, Due)>; 2] {
    let Some(node) = tables.nodes.get(&id) else { return [None, None] };
    let presence = tables.presences.get(&id).map(|presence| &**presence);
    let offline = presence.filter(|presence| presence.online).and_then(|presence| presence.offline_at);
    let idle = ephemeral_idle(node, presence, &tables.settings);
    [offline.map(|at| (at, Due::Offline(id))), idle.map(|at| (at, Due::EphemeralIdle(id)))]
}

/// Counted from the end of the last stream, or from birth for a node that never opened one.
fn ephemeral_idle(node: &Node, presence: Option<&Presence>, settings: &Settings) -> Option<Timestamp> {
    if !node.ephemeral || presence.is_some_and(|presence| presence.session.is_some()) {
        return None;
    }
    let since = presence.and_then(|presence| presence.last_seen).unwrap_or(node.created_at);
    let idle = since.after(Duration::from_secs(settings.ephemeral_inactivity_secs));
    let offline = presence.filter(|presence| presence.online).and_then(|presence| presence.offline_at);
    Some(offline.map_or(idle, |offline| idle.max(offline)))
}

pub(crate) fn of_join_token(token: &JoinToken) -> (Timestamp, Due) {
    (token.expires_at.after(JOIN_TOKEN_KEPT), Due::JoinToken(token.id.clone()))
}

/// A record that a DNS server elsewhere may know is kept for a while after its end: whoever leads tells that server.
pub(crate) fn of_text_record(record: &TextRecord) -> (Timestamp, Due) {
    let at = if record.elsewhere { record.ends_at.after(GOODBYE) } else { record.ends_at };
    (at, Due::TextRecord(TextRecord::key(&record.name, &record.value)))
}
