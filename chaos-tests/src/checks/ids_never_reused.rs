//! The id of something that is gone is never given again, and ids only grow.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, ordmap::DiffItem};
use state_machine::{MemberId, MemberState, Node, NodeId, Revision, State, User, UserId};

use super::{Law, Sight};

/// Follows whichever member is furthest.
#[derive(Default)]
pub struct IdsNeverReused {
    front: Revision,
    nodes: Ids<NodeId, Node>,
    users: Ids<UserId, User>,
    /// Names of members by id; a removed one stays removed.
    members: BTreeMap<MemberId, String>,
    removed: BTreeSet<MemberId>,
}

struct Ids<K, V> {
    rows: OrdMap<K, std::sync::Arc<V>>,
    highest: Option<K>,
}

impl<K, V> Default for Ids<K, V> {
    fn default() -> Ids<K, V> {
        Ids { rows: OrdMap::new(), highest: None }
    }
}

impl<K: Ord + Copy + std::fmt::Display, V> Ids<K, V> {
    fn follow(&mut self, what: &str, rows: &OrdMap<K, std::sync::Arc<V>>) -> Result<(), String>
    where
        V: PartialEq,
    {
        let mut newest = self.highest;
        for item in self.rows.diff(rows) {
            let DiffItem::Add(id, _) = item else { continue };
            if Some(*id) <= self.highest {
                return Err(format!(
                    "{what} {id} is there, though {what} ids up to {} had been given",
                    newest_of(newest)
                ));
            }
            newest = newest.max(Some(*id));
        }
        self.highest = newest;
        self.rows = rows.clone();
        Ok(())
    }
}

fn newest_of<K: std::fmt::Display>(highest: Option<K>) -> String {
    highest.map_or_else(|| "none".into(), |id| id.to_string())
}

impl IdsNeverReused {
    fn follow(&mut self, state: &State) -> Result<(), String> {
        self.nodes.follow("node", state.nodes())?;
        self.users.follow("user", state.users())?;
        for (id, member) in state.members() {
            let first = self.members.entry(*id).or_insert_with(|| member.name.clone());
            if *first != member.name {
                return Err(format!("member {id} was {first} and is {}", member.name));
            }
            match member.state {
                MemberState::Removed => _ = self.removed.insert(*id),
                MemberState::Active if self.removed.contains(id) => {
                    return Err(format!("member {id} was removed and is back"));
                }
                MemberState::Active => {}
            }
        }
        Ok(())
    }
}

impl Law for IdsNeverReused {
    fn name(&self) -> &'static str {
        "ids are never reused"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        let furthest = sight.states.values().max_by_key(|state| state.revision());
        let Some(state) = furthest.filter(|state| state.revision() > self.front) else { return Ok(()) };
        self.front = state.revision();
        self.follow(state)
    }
}

#[cfg(test)]
mod tests {
    use state_machine::Command;

    use super::*;
    use crate::checks::staged::{Stage, apply, create_user, founded, register};

    #[test]
    fn an_id_that_comes_back_is_noticed() {
        let (mut law, mut stage) = (IdsNeverReused::default(), Stage::default());
        let mut state = founded();
        let user = create_user(&mut state, "anna");
        let node = register(&mut state, user, 1);
        stage.show(1, &state);
        law.watch(&stage.sight()).unwrap();
        let before = state.clone();
        apply(&mut state, Command::DeleteNode { node });
        stage.show(1, &state);
        law.watch(&stage.sight()).unwrap();
        let mut again = before;
        for name in ["b", "c"] {
            create_user(&mut again, name);
        }
        stage.show(1, &again);
        assert!(law.watch(&stage.sight()).unwrap_err().contains("node 1 is there"));
    }
}
