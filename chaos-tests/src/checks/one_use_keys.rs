//! A key for one use lets one node in, however many knock at however many doors.

use std::collections::BTreeMap;

use super::{Law, Sight};

/// Counts nodes per key.
pub struct OneUseKeys;

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
        for (member, state) in sight.states {
            let mut users = BTreeMap::new();
            for node in state.nodes().values() {
                let Some(key) = node.pre_auth_key.and_then(|id| state.pre_auth_keys().get(&id)) else { continue };
                if !key.reusable
                    && let Some(other) = users.insert(key.id, node.id)
                {
                    return Err(format!("member {member}: key {} let in nodes {other} and {}", key.prefix, node.id));
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        self.watch(sight)
    }
}
