//! Time passed: everything that is due happens now, in order.

use crate::{deadlines::Due, model::*, outcome::Answer, state::State};

use super::changed;

impl State {
    pub(super) fn elapse(&mut self) -> Answer {
        let now = self.now();
        let mut count = 0;
        while let Some(((at, due), ())) = self.indexes.deadlines.get_min().cloned()
            && at <= now
        {
            match &due {
                Due::Offline(node) => self.go_offline(*node),
                Due::EphemeralIdle(node) => self.drop_node(*node),
                Due::Login(id) => self.drop_login(id),
                Due::JoinToken(id) => self.drop_join_token(id),
                Due::SshCheck(id) => self.drop_ssh_check(id),
                Due::SignIn(id) => self.drop_sign_in(id),
                Due::TextRecord(key) => self.drop_text_record(key),
            }
            // What was done took its deadline with it. Should it not, one entry of the log must not last for ever.
            self.indexes.deadlines.remove(&(at, due));
            count += 1;
        }
        changed(count)
    }

    fn go_offline(&mut self, node: NodeId) {
        if let Some(presence) = self.presence(node).cloned() {
            self.put_presence(node, Presence { online: false, offline_at: None, ..(*presence).clone() });
        }
    }
}
