//! What of an import is in the cluster already, and what has to give way to what is there.
//!
//! Clients come back while an import still runs, and change their own rows; so a row is told by what it never loses, and
//! an import is repeated without harm. Only numbers of API keys are nobody's but the cluster's: an administrator may
//! well have made a key before anything was imported.

use std::collections::{BTreeMap, BTreeSet};

use state_machine::{ApiKeyId, Import};

/// Takes rows away that are in the cluster, and gives API keys free numbers. What was done otherwise than in the
/// database is the answer; a row that is another one there is an error, and then nothing may be sent.
pub fn meet(rows: &mut Import, here: &Import) -> Result<Vec<String>, String> {
    let users: BTreeMap<_, _> = here.users.iter().map(|user| (user.id, user)).collect();
    let names: BTreeMap<&str, _> = here.users.iter().map(|user| (user.name.as_str(), user.id)).collect();
    for user in &rows.users {
        match (users.get(&user.id), names.get(user.name.as_str())) {
            (Some(known), _) if known.created_at != user.created_at => {
                return Err(other("user", user.id, &user.name, &known.name));
            }
            (None, Some(id)) => {
                return Err(other("user", user.id, &user.name, &format!("{} with the number {id}", user.name)));
            }
            _ => {}
        }
    }
    let nodes: BTreeMap<_, _> = here.nodes.iter().map(|node| (node.id, node)).collect();
    for node in &rows.nodes {
        if let Some(known) = nodes.get(&node.id).filter(|known| known.machine_key != node.machine_key) {
            return Err(other("node", node.id, &node.given_name, &known.given_name));
        }
    }
    let keys: BTreeMap<_, _> = here.pre_auth_keys.iter().map(|key| (key.id, key)).collect();
    for key in &rows.pre_auth_keys {
        if let Some(known) = keys.get(&key.id).filter(|known| known.prefix != key.prefix) {
            return Err(other("pre-auth key", key.id, &key.prefix, &known.prefix));
        }
    }
    rows.users.retain(|user| !users.contains_key(&user.id));
    rows.nodes.retain(|node| !nodes.contains_key(&node.id));
    rows.pre_auth_keys.retain(|key| !keys.contains_key(&key.id));

    let prefixes: BTreeSet<_> = here.api_keys.iter().map(|key| key.prefix.as_str()).collect();
    rows.api_keys.retain(|key| !prefixes.contains(key.prefix.as_str()));
    let taken: BTreeSet<_> = here.api_keys.iter().map(|key| key.id).collect();
    let mut last = here.api_keys.iter().chain(&rows.api_keys).map(|key| key.id.0).max().unwrap_or_default();
    let mut repairs = Vec::new();
    for key in rows.api_keys.iter_mut().filter(|key| taken.contains(&key.id)) {
        last += 1;
        repairs.push(format!(
            "API key {} ({}) gets the number {last}: the cluster has a key {}",
            key.id, key.prefix, key.id
        ));
        key.id = ApiKeyId(last);
    }
    Ok(repairs)
}

fn other(what: &str, id: impl std::fmt::Display, theirs: &str, ours: &str) -> String {
    format!(
        "{what} {id} is {theirs:?} in the database and {ours:?} in the cluster, and numbers come along with an import; \
         nothing was changed. Delete that one in the cluster, or import into a new cluster before anybody makes users, \
         nodes or pre-auth keys there"
    )
}
