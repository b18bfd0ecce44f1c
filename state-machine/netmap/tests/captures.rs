//! The same answers as Tailscale's own control plane, scenario by scenario.
//!
//! Captured scenarios are not part of this repository. They are looked for in `HSRAFT_CAPTURES`, else in
//! `../shared/captures` beside the repository; without them this test says so and skips.
#![expect(clippy::disallowed_methods, reason = "the scenarios are files, named by the environment")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use netmap::preview::{Scenario, preview};
use serde_json::{Map, Value, json};

fn folder() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/captures");
    let given = std::env::var("HSRAFT_CAPTURES").map_or_else(|_| beside(), PathBuf::from);
    Some(given.join("policy")).filter(|folder| folder.is_dir())
}

#[test]
fn captured_scenarios_agree() {
    let Some(folder) = folder() else {
        println!("skipped: no captures (HSRAFT_CAPTURES, or ../shared/captures beside the repository)");
        return;
    };
    let (mut score, mut failures) = (BTreeMap::<String, [usize; 2]>::new(), Vec::new());
    for path in scenarios(&folder) {
        let category = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let case: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let good = score.entry(category.clone()).or_default();
        good[1] += 1;
        match judge(&category, &case) {
            Ok(()) => good[0] += 1,
            Err(why) => failures.push(format!("{}: {why}", case["id"].as_str().unwrap_or("?"))),
        }
    }
    score.iter().for_each(|(category, [good, all])| println!("{category}: {good} of {all}"));
    let all: usize = score.values().map(|[_, all]| all).sum();
    println!("captures: {} of {all} scenarios agree", all - failures.len());
    let shown: Vec<String> = failures.iter().take(40).map(|failure| failure.chars().take(900).collect()).collect();
    assert!(failures.is_empty(), "{}", shown.join("\n"));
    assert!(all > 0, "{} has no scenarios", folder.display());
}

fn scenarios(folder: &Path) -> Vec<PathBuf> {
    let inside = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let categories = inside(folder).into_iter().filter(|path| path.is_dir());
    let mut files: Vec<PathBuf> = categories.flat_map(|category| inside(&category)).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "json"));
    files.sort();
    files
}

fn judge(category: &str, case: &Value) -> Result<(), String> {
    let scenario: Scenario = serde_json::from_value(case.clone()).map_err(|error| error.to_string())?;
    let wanted = &case["expect"];
    let nodes = match (preview(&scenario), wanted["accepted"] == true) {
        (Ok(nodes), true) => nodes,
        (Err(rejection), true) => return Err(format!("refused: {rejection}")),
        (Ok(_), false) => return Err(format!("accepted, but must be refused: {}", wanted["message"])),
        (Err(rejection), false) => {
            let message = wanted["message"].as_str().unwrap_or_default();
            return match category == "nodeattrs" || rejection.to_string().contains(message) {
                true => Ok(()),
                false => Err(format!("refused with {rejection:?}, wanted {message:?}")),
            };
        }
    };
    for (name, wanted) in wanted["nodes"].as_object().into_iter().flatten() {
        let ours = nodes.get(name).ok_or_else(|| format!("node {name} is missing"))?;
        let (theirs, ours) = (view(wanted, category, wanted), view(ours, category, wanted));
        for (part, theirs) in &theirs {
            let ours = &ours[part];
            if theirs != ours {
                return Err(format!("node {name}, {part}:\n  wanted {theirs}\n  got    {ours}"));
            }
        }
    }
    Ok(())
}

/// What is compared of one node.
fn view(node: &Value, category: &str, wanted: &Value) -> Map<String, Value> {
    let mut peers = Map::new();
    for (name, peer) in node["peers"].as_object().into_iter().flatten() {
        let peer = json!({
            "allowed_ips": peer["allowed_ips"], "primary_routes": peer["primary_routes"], "cap_map": caps(&peer["cap_map"]),
        });
        peers.insert(name.clone(), peer);
    }
    let mut view = json!({
        "packet_filter": node["packet_filter"], "allowed_ips": node["allowed_ips"],
        "primary_routes": node["primary_routes"], "peers": peers,
    });
    if wanted.get("ssh_rules").is_some() {
        view["ssh_rules"] = node["ssh_rules"].clone();
    }
    if category == "nodeattrs" {
        view["cap_map"] = caps(&node["cap_map"]);
    }
    view.as_object().unwrap().iter().map(|(part, value)| (part.clone(), canonical(value, part))).collect()
}

/// Without what depends on the account and not on the policy.
fn caps(value: &Value) -> Value {
    const IGNORED: [&str; 12] = [
        "https://tailscale.com/cap/is-admin",
        "https://tailscale.com/cap/is-owner",
        "https://tailscale.com/cap/tailnet-lock",
        "service-host",
        "store-appc-routes",
        "warn-funnel-no-https",
        "tailnet-display-name",
        "tailnet.maxKeyDuration",
        "native-ipv4",
        "probe-udp-lifetime",
        "ssh-behavior-v1",
        "ssh-env-vars",
    ];
    let counts = |name: &str| !IGNORED.contains(&name) && !name.starts_with("https://tailscale.com/cap/funnel-ports?");
    let all = value.as_object().into_iter().flatten().filter(|(name, _)| counts(name));
    Value::Object(all.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// Drops what is empty, sorts what has no order.
fn canonical(value: &Value, key: &str) -> Value {
    const UNORDERED: [&str; 8] =
        ["SrcIPs", "DstPorts", "Dsts", "IPProto", "principals", "allowed_ips", "primary_routes", "acceptEnv"];
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(fields) => {
            let keep_empty = matches!(key, "cap_map" | "CapMap");
            let fields = fields.iter().map(|(name, value)| (name.clone(), canonical(value, name)));
            let fields = fields.filter(|(_, value)| keep_empty || !empty(value));
            Value::Object(fields.map(|(name, value)| (name, if empty(&value) { Value::Null } else { value })).collect())
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(|item| canonical(item, "")).collect();
            if UNORDERED.contains(&key) {
                items.sort_by_key(Value::to_string);
            }
            if items.is_empty() { Value::Null } else { Value::Array(items) }
        }
        Value::String(text) if text.is_empty() => Value::Null,
        other => other.clone(),
    }
}
