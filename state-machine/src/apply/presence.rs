//! Who is connected, and where.
//!
//! The newest stream in log order wins, whichever member it is at. A stream that ends counts only when it is the one
//! we know of, so that a late "gone" of an old stream cannot undo a newer "here".

use std::time::Duration;

use crate::{
    command::PresenceChange,
    model::*,
    mutants,
    outcome::{Answer, What},
    state::State,
};

use super::{changed, not_found};

impl State {
    pub(super) fn change_presence(&mut self, member: MemberId, changes: &[PresenceChange]) -> Answer {
        self.active_member(member)?;
        let mut count = 0;
        for change in changes {
            let moved = match change.here {
                true => self.stream_opened(change.node, Session { member, id: change.session }),
                false => self.stream_closed(change.node, Session { member, id: change.session }),
            };
            count += u64::from(moved);
        }
        changed(count)
    }

    fn stream_opened(&mut self, node: NodeId, session: Session) -> bool {
        if self.node(node).is_none() {
            return false;
        }
        let here = Presence { session: Some(session), online: true, offline_at: None, last_seen: Some(self.now()) };
        if self.presence(node).is_some_and(|presence| **presence == here) {
            return false;
        }
        self.put_presence(node, here);
        true
    }

    fn stream_closed(&mut self, node: NodeId, session: Session) -> bool {
        let known = self.presence(node).and_then(|presence| presence.session);
        if known != Some(session) && !mutants::is("late-goodbye") {
            return false;
        }
        self.session_ended(node, self.settings().presence_grace_secs);
        true
    }

    /// A member was silent too long.
    pub(super) fn forget_sessions_of(&mut self, member: MemberId) -> Answer {
        self.member(member).ok_or_else(|| not_found(What::Member, member))?;
        changed(self.forget_sessions(member))
    }

    /// Its clients need time to notice, so their nodes stay online for the long grace.
    pub(super) fn forget_sessions(&mut self, member: MemberId) -> u64 {
        let range = (member, NodeId(0))..=(member, NodeId(u64::MAX));
        let nodes: Vec<_> = self.indexes.sessions.range(range).map(|((_, node), ())| *node).collect();
        let grace = self.settings().member_loss_grace_secs;
        for node in &nodes {
            self.session_ended(*node, grace);
        }
        nodes.len() as u64
    }

    fn session_ended(&mut self, node: NodeId, grace_secs: u64) {
        let now = self.now();
        let offline_at = Some(now.after(Duration::from_secs(grace_secs)));
        self.put_presence(node, Presence { session: None, online: true, offline_at, last_seen: Some(now) });
    }
}
