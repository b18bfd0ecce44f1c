//! The truth afterwards, asked of every member, against what was answered.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use http::Method;
use serde_json::Value;

use super::{
    canaries::{Diary, Race},
    crew::Crew,
};

/// Acknowledged writes a round needs to count.
pub const FLOOR: usize = 20;

/// What one member holds: names of users, and of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    pub users: BTreeSet<String>,
    pub nodes: BTreeSet<String>,
}

/// Asks one member, linearizably.
pub async fn truth(crew: &Crew, member: usize) -> Result<Truth> {
    let users = crew.ask_only(member, Method::GET, "/api/v1/user?consistency=linearizable", None).await?;
    let nodes = crew.ask_only(member, Method::GET, "/api/v1/node?consistency=linearizable", None).await?;
    Ok(Truth { users: names(&users["users"], "name")?, nodes: names(&nodes["nodes"], "givenName")? })
}

fn names(list: &Value, key: &str) -> Result<BTreeSet<String>> {
    let list = list.as_array().context("a list")?;
    Ok(list.iter().filter_map(|row| row[key].as_str()).map(ToOwned::to_owned).collect())
}

/// Every promise that was broken, in words; nothing when all were kept.
pub async fn broken(crew: &Crew, diary: &Diary) -> Result<Vec<String>> {
    let mut broken = diary.stale.clone();
    let mut first: Option<Truth> = None;
    for member in 0..crew.plan.members {
        let truth = truth(crew, member).await.with_context(|| crew.logs())?;
        let name = &crew.seats[member].name;
        broken.extend(lost(diary, &truth).into_iter().map(|what| format!("{name}: {what}")));
        broken.extend(diary.races.iter().flat_map(|race| unfair(race, &truth)).map(|what| format!("{name}: {what}")));
        match &first {
            None => first = Some(truth),
            Some(first) if *first == truth => {}
            Some(first) => broken.push(format!(
                "{name} has {} users and {} nodes, {} has {} and {}",
                truth.users.len(),
                truth.nodes.len(),
                crew.seats[0].name,
                first.users.len(),
                first.nodes.len()
            )),
        }
    }
    Ok(broken)
}

fn lost(diary: &Diary, truth: &Truth) -> Vec<String> {
    let lost = diary.writes.iter().filter(|write| !truth.users.contains(&write.name));
    lost.map(|write| format!("{} was acknowledged and is gone", write.name)).collect()
}

/// A one-use key lets one device in, for good, and it is the one that was told so.
fn unfair(race: &Race, truth: &Truth) -> Vec<String> {
    let mut unfair = Vec::new();
    let inside = [truth.nodes.contains(&race.devices[0]), truth.nodes.contains(&race.devices[1])];
    if inside == [true, true] || race.let_in == [Some(true), Some(true)] {
        unfair.push(format!("a one-use key let in both {} and {}", race.devices[0], race.devices[1]));
    }
    for ((device, let_in), inside) in race.devices.iter().zip(race.let_in).zip(inside) {
        match let_in {
            Some(true) if !inside => unfair.push(format!("{device} was let in and is gone")),
            Some(false) if inside => unfair.push(format!("{device} was refused and is in")),
            _ => {}
        }
    }
    unfair
}

#[cfg(test)]
mod tests {
    use super::*;

    fn race(let_in: [Option<bool>; 2], inside: &[&str]) -> usize {
        let race = Race { devices: ["a".into(), "b".into()], let_in };
        let nodes = inside.iter().map(|name| (*name).to_owned()).collect();
        unfair(&race, &Truth { users: BTreeSet::new(), nodes }).len()
    }

    #[test]
    fn a_key_counts_once() {
        assert_eq!(race([Some(true), Some(false)], &["a"]), 0);
        assert_eq!(race([None, Some(false)], &["a"]), 0, "let in, and the answer got lost");
        assert_eq!(race([None, None], &[]), 0);
        assert_eq!(race([Some(true), None], &["a", "b"]), 1);
        assert_eq!(race([Some(true), Some(false)], &[]), 1);
        assert_eq!(race([None, Some(false)], &["b"]), 1);
        assert_eq!(race([Some(true), Some(true)], &["a"]), 2);
    }
}
