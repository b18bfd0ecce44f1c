//! Does a member's file still say what the cluster was told?
//!
//! The file founds a cluster; afterwards the state counts. A file that differs changes nothing by itself: three members
//! with three files would take turns. The difference is told at start, and taken over on request (SIGHUP).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use state_machine::Settings;

/// What differs, one line a key: `base_domain: the cluster has "a", the file says "b"`.
pub fn differences(cluster: &Settings, file: &Settings) -> Vec<String> {
    pairs(cluster, file)
        .into_iter()
        .map(|(key, (cluster, file))| format!("{key}: the cluster has {cluster}, the file says {file}"))
        .collect()
}

/// The names of what differs.
pub fn differing_keys(cluster: &Settings, file: &Settings) -> Vec<String> {
    pairs(cluster, file).into_keys().collect()
}

fn pairs(cluster: &Settings, file: &Settings) -> BTreeMap<String, (Value, Value)> {
    let (Ok(Value::Object(cluster)), Ok(Value::Object(file))) =
        (serde_json::to_value(cluster), serde_json::to_value(file))
    else {
        return BTreeMap::new();
    };
    // What is as usual may not be written at all, on either side.
    let keys: BTreeSet<&String> = cluster.keys().chain(file.keys()).collect();
    let of = |settings: &serde_json::Map<String, Value>, key: &str| settings.get(key).cloned().unwrap_or(Value::Null);
    keys.into_iter()
        .filter_map(|key| {
            let (here, there) = (of(&cluster, key), of(&file, key));
            (here != there).then_some((key.clone(), (here, there)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_told() {
        let cluster = Settings { base_domain: "a".to_owned(), ..Settings::default() };
        let file = Settings { base_domain: "b".to_owned(), ..Settings::default() };
        assert_eq!(differences(&cluster, &cluster), Vec::<String>::new());
        assert_eq!(differences(&cluster, &file), ["base_domain: the cluster has \"a\", the file says \"b\""]);
        assert_eq!(differing_keys(&cluster, &file), ["base_domain"]);
        let more = Settings { audit_rows: 200, ..cluster.clone() };
        assert_eq!(differing_keys(&cluster, &more), ["audit_rows"]);
        assert_eq!(differing_keys(&more, &cluster), ["audit_rows"]);
    }
}
