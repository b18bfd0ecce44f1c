//! The house rules that Cargo and clippy cannot say on their own.

#[path = "house/alerts.rs"]
mod alerts;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// Who may know whom. An edge that is not written here does not exist.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("tailcfg", &[]),
    ("policy", &[]),
    ("world", &[]),
    ("bucket", &["world"]),
    ("state-machine", &["policy", "tailcfg"]),
    ("netmap", &["policy", "state-machine", "tailcfg"]),
    ("raft", &["state-machine", "world"]),
    ("derp", &["tailcfg", "world"]),
    ("admin", &["bucket", "netmap", "policy", "raft", "state-machine", "tailcfg"]),
    ("node", &["admin", "bucket", "derp", "netmap", "policy", "raft", "state-machine", "tailcfg", "world"]),
    ("chaos-tests", &["admin", "derp", "netmap", "node", "policy", "raft", "state-machine", "tailcfg", "world"]),
];

/// Crates that compute and never reach outside: their whole dependency tree is checked.
const PURE: &[&str] = &["tailcfg", "policy", "state-machine", "netmap"];
const OUTSIDE: &[&str] = &[
    "async-std",
    "axum",
    "fastrand",
    "getrandom",
    "h2",
    "hyper",
    "mio",
    "openraft",
    "rand",
    "reqwest",
    "ring",
    "rocksdb",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tonic",
    "tower",
    "tracing",
    "tracing-subscriber",
    "turmoil",
    "world",
];

/// Guests that live in one room only: whoever else needs what they do asks that room.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("openraft", &["raft"]),
    ("openraft-rt", &["raft"]),
    ("openraft-rt-tokio", &["raft"]),
    // Members among themselves; and the service of Headscale's command line.
    ("tonic", &["raft", "admin"]),
    ("turmoil", &["chaos-tests"]),
    ("tailscale", &["chaos-tests"]),
    ("getrandom", &["world"]),
    ("socket2", &["world"]),
    // Never in a simulation: only the real composition root and the command line open a bucket.
    ("object_store", &["bucket"]),
];

#[test]
fn dependencies_point_inwards() {
    let allowed: BTreeMap<_, _> = MAY_DEPEND_ON.iter().copied().collect();
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} is not on the house plan"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let is_ours = dependency["path"].is_string();
            let dependency = dependency["name"].as_str().unwrap();
            assert!(!is_ours || allowed.contains(&dependency), "{name} must not know {dependency}");
        }
    }
}

#[test]
fn guests_stay_in_their_room() {
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let guest = dependency["name"].as_str().unwrap();
            for (only, rooms) in ONLY_IN {
                assert!(
                    guest != *only || rooms.contains(&name),
                    "{name} must not use {guest}: it belongs to {rooms:?}"
                );
            }
        }
    }
}

#[test]
fn pure_crates_stay_pure() {
    for name in PURE {
        for dependency in tree(name) {
            assert!(!OUTSIDE.contains(&dependency.as_str()), "{name} reaches outside through {dependency}");
        }
    }
}

#[test]
fn the_relay_knows_no_state() {
    let tree = tree("derp");
    for stranger in ["state-machine", "raft", "admin", "netmap", "policy", "openraft"] {
        assert!(!tree.contains(stranger), "derp must not know {stranger}, not even through another crate");
    }
}

/// Points at which a test can stop a member (`world::failpoint`) are compiled into what is built together with the
/// tests, and into nothing else: what `cargo build --release -p node` makes has none.
#[test]
fn a_release_has_no_failpoints() {
    assert!(!tree("node").contains("fail"), "hsraft would be released with failpoints");
    assert!(tree("chaos-tests").contains("fail"), "this test looks at the wrong name");
}

#[test]
fn every_crate_obeys_the_one_table_of_lints() {
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let manifest = read(package["manifest_path"].as_str().unwrap());
        let lints = manifest.split("[lints]").nth(1).unwrap_or_else(|| panic!("{name} has no [lints]"));
        assert!(lints.trim_start().starts_with("workspace = true"), "{name} has lints of its own");
    }
}

/// A closer `clippy.toml` replaces the root's instead of adding to it, so it must repeat the root's bans.
#[test]
fn closer_clippy_files_repeat_the_bans() {
    let root = bans(include_str!("../../clippy.toml"));
    assert!(root.contains("std::time::SystemTime::now"), "the root clippy.toml bans the wall clock");
    for package in packages() {
        let folder = std::path::Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap();
        let closer = folder.join("clippy.toml");
        if closer.exists() {
            let closer_bans = bans(&read(closer.to_str().unwrap()));
            let missing: Vec<_> = root.difference(&closer_bans).collect();
            assert!(missing.is_empty(), "{} forgets {missing:?}", closer.display());
        }
    }
}

/// Nobody who is refused goes without a line of the table of codes. At the command line the type sees to that; what
/// Tailscale's clients and browsers are told, and what a process says before it ends, is looked for here.
#[test]
fn every_refusal_has_a_code() {
    // Probes are no refusals: `/readyz` answers 503 to whoever asks how the member is.
    let probes = ["node/src/wellness.rs", "node/src/mockoidc.rs"];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut seen = 0;
    for file in sources(root, &["node/src", "admin/src"]) {
        // Tests stand last in a file, or in files of their own.
        if file.ends_with("tests.rs") {
            continue;
        }
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let text = read(file.to_str().unwrap());
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        assert!(!code.contains("codes::NOT_DONE"), "{name}: HSR-9001 says nothing; choose or make a better line");
        if probes.contains(&name.as_str()) {
            continue;
        }
        for (at, _) in code.match_indices("text(StatusCode::").chain(code.match_indices("eprintln!(\"hsraft: ")) {
            let call: String = code[at..].chars().take(120).collect();
            let fine = ["text(StatusCode::OK", "text(StatusCode::FOUND", "eprintln!(\"hsraft: {}\", problem.page())"];
            let is_fine = fine.iter().any(|fine| call.starts_with(fine)) || call.contains("[{code}]");
            assert!(is_fine, "{name} refuses without a code: {call}");
            seen += 1;
        }
    }
    assert!(seen > 3, "this test looks for the wrong words");
}

/// Every Rust file below some folders.
fn sources(root: &std::path::Path, folders: &[&str]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut left: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    let disk = world::real::world().disk;
    while let Some(place) = left.pop() {
        for name in disk.list(&place).unwrap() {
            let path = place.join(name);
            match path.extension() {
                Some(end) if end == "rs" => found.push(path),
                None => left.push(path),
                _ => {}
            }
        }
    }
    found
}

fn bans(text: &str) -> BTreeSet<String> {
    let mut bans = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        if let Some(path) = line.split("path = \"").nth(1).and_then(|rest| rest.split('"').next()) {
            bans.insert(path.to_string());
        }
    }
    bans
}

fn packages() -> Vec<serde_json::Value> {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version=1"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Everything a crate is built from, itself left out.
fn tree(name: &str) -> BTreeSet<String> {
    let tree = cargo(&["tree", "-p", name, "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    tree.lines().skip(1).filter_map(|line| line.split(' ').next()).map(String::from).collect()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn read(path: &str) -> String {
    let world = world::real::world();
    let bytes = world.disk.read(std::path::Path::new(path)).unwrap().unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(bytes).unwrap()
}
