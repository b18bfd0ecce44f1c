//! The policy in force, compiled for the tailnet as State has it.

use std::{collections::BTreeSet, sync::Arc};

use ::policy::{Meaning, Policy, Rejection};
use state_machine::{NodeId, State, UserId};

use crate::atlas::changed_keys;

/// The policy in force, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub meaning: Meaning,
    /// Why the policy in force is not understood. Then nobody may reach anybody: letting the wrong node in would be worse.
    pub problem: Option<Arc<Rejection>>,
}

impl Rules {
    pub fn of(state: &State) -> Rules {
        let tailnet = state.inventory();
        let Some(version) = state.policy() else {
            return Rules { meaning: Meaning::unset(tailnet), problem: None };
        };
        if let Some(policy) = state.policy_in_force() {
            return Rules { meaning: Meaning::compile(policy, tailnet), problem: None };
        }
        let closed = Policy::parse("{\"acls\": []}").expect("a policy").policy;
        let problem = Policy::parse(&version.text).err().map(Arc::new);
        Rules { meaning: Meaning::compile(&closed, tailnet), problem }
    }

    /// The same policy for a later state, and the nodes about which it may find something different. `moved` are the
    /// nodes whose rows may differ.
    pub fn moved(&self, old: &State, new: &State, moved: impl Iterator<Item = NodeId>) -> (Rules, Vec<u64>) {
        let mut tailnet = self.meaning.tailnet().clone();
        let mut nodes: Vec<u64> = Vec::new();
        let mut same = old.primaries().ptr_eq(new.primaries());
        tailnet.primaries = if same { tailnet.primaries } else { primaries(new) };
        for user in changed_users(old, new) {
            let of = |state: &State| state.nodes_of_user(user).map(|node| node.id.0).collect::<Vec<_>>();
            nodes.extend(of(old).into_iter().chain(of(new)));
            match new.user(user) {
                Some(row) => _ = tailnet.users.insert(user.0, Arc::new(new.inventory_user(row))),
                None => _ = tailnet.users.remove(&user.0),
            }
            same = false;
        }
        for id in moved {
            let after = new.node(id).and_then(|row| new.in_inventory(row));
            if after.as_ref() == tailnet.nodes.get(&id.0).map(|known| &**known) {
                continue;
            }
            match after {
                Some(after) => _ = tailnet.nodes.insert(id.0, Arc::new(after)),
                None => _ = tailnet.nodes.remove(&id.0),
            }
            nodes.push(id.0);
        }
        if same && nodes.is_empty() {
            return (self.clone(), nodes);
        }
        nodes.sort_unstable();
        nodes.dedup();
        let meaning = self.meaning.moved(tailnet, &nodes);
        (Rules { meaning, problem: self.problem.clone() }, nodes)
    }
}

fn primaries(state: &State) -> imbl::OrdMap<ipnet::IpNet, u64> {
    state.primaries().iter().map(|(route, node)| (*route, node.0)).collect()
}

/// Users about whom policies may find something different.
fn changed_users(old: &State, new: &State) -> BTreeSet<UserId> {
    let mut changed: BTreeSet<UserId> = changed_keys(old.users(), new.users()).collect();
    if old.founder() != new.founder() {
        changed.extend([old.founder(), new.founder()].into_iter().flatten());
    }
    changed
}
