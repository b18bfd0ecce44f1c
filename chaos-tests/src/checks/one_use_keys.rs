//! A key for one use lets one node in, and a ticket one member, however many knock at however many doors.

use std::collections::BTreeMap;

use state_machine::MemberId;

use super::{Law, Sight};

/// Counts nodes per key and remembers who used each ticket.
#[derive(Default)]
pub struct OneUseKeys {
    /// The last look at each member's nodes and tickets was at this revision.
    looked: BTreeMap<u64, state_machine::Revision>,
    used_by: BTreeMap<String, MemberId>,
}

impl Law for OneUseKeys {
    fn name(&self) -> &'static str {
        "one-use keys"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (prefix, nodes) in &sight.history.one_use {
            if nodes.len() > 1 {
                return Err(format!("key {prefix} was answered to have let in nodes {nodes:?}"));
            }
        }
        for machines in sight.history.tickets.values() {
            if machines.len() > 1 {
                return Err(format!("one ticket let in the members of the machines {machines:?}"));
            }
        }
        for (member, state) in sight.states {
            let looked = self.looked.entry(*member).or_default();
            // Every look walks over all nodes; what is broken stays broken.
            if state.revision().0 < looked.0 + 10 && state.revision() >= *looked {
                continue;
            }
            *looked = state.revision();
            let mut users = BTreeMap::new();
            for node in state.nodes().values() {
                let Some(key) = node.pre_auth_key.and_then(|id| state.pre_auth_keys().get(&id)) else { continue };
                if !key.reusable
                    && let Some(other) = users.insert(key.id, node.id)
                {
                    return Err(format!("member {member}: key {} let in nodes {other} and {}", key.prefix, node.id));
                }
            }
            for (id, token) in state.join_tokens() {
                let Some(now) = token.used_by else { continue };
                let first = *self.used_by.entry(id.clone()).or_insert(now);
                if first != now {
                    return Err(format!("join token {id} let in members {first} and {now}"));
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        self.looked.clear();
        self.watch(sight)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use state_machine::NodeId;

    use super::*;
    use crate::checks::staged::{Stage, founded};

    #[test]
    fn a_key_that_is_said_to_have_let_in_two_is_noticed() {
        let mut stage = Stage::default();
        stage.show(1, &founded());
        stage.history.one_use.insert("abc".into(), BTreeSet::from([NodeId(1)]));
        OneUseKeys::default().watch(&stage.sight()).unwrap();
        stage.history.one_use.insert("abc".into(), BTreeSet::from([NodeId(1), NodeId(2)]));
        assert!(OneUseKeys::default().watch(&stage.sight()).is_err());
    }

    #[test]
    fn a_ticket_that_two_machines_came_in_with_is_noticed() {
        let mut stage = Stage::default();
        stage.show(1, &founded());
        stage.history.tickets.insert("hsr1".into(), BTreeSet::from([4]));
        OneUseKeys::default().watch(&stage.sight()).unwrap();
        stage.history.tickets.insert("hsr1".into(), BTreeSet::from([4, 5]));
        assert!(OneUseKeys::default().watch(&stage.sight()).unwrap_err().contains("one ticket"));
    }
}
