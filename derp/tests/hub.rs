//! Runs `scripts/*.txt` against the hub: what happens above the line, who is told what below it.
//! `UPDATE=1 cargo test -p derp --test hub` rewrites what is expected; read the difference.
#![expect(clippy::disallowed_methods, reason = "the scripts lie next to this file")]

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use derp::{
    frame::{Gone, present},
    hub::{Closing, ConnectionId, Counts, Hub, HubLimits, Route, Seat, Tell},
};
use proptest::prelude::*;
use tailcfg::NodeKey;

struct Story {
    hub: Hub<String>,
    /// Connections by name: key and identifier.
    connections: BTreeMap<String, (NodeKey, ConnectionId)>,
    last_id: u64,
}

/// Keys are named by one letter in the scripts.
fn key(name: &str) -> NodeKey {
    NodeKey([name.bytes().next().expect("a letter"); 32])
}

fn letter(key: &NodeKey) -> char {
    char::from(key.0[0])
}

impl Story {
    fn new() -> Story {
        let limits = HubLimits { connections_per_key_max: 3, acquaintances_max: 2 };
        Story { hub: Hub::new(limits), connections: BTreeMap::new(), last_id: 0 }
    }

    fn step(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let arguments: Vec<&str> = words.collect();
        match (verb, arguments.as_slice()) {
            ("arrive", [name, rest @ ..]) => self.arrive(name, rest),
            ("leave", [name]) => {
                let (key, id) = self.connections.remove(*name).expect("it is here");
                tells(self.hub.leave(&key, id))
            }
            ("speak", [name]) => {
                let (key, id) = self.connections[*name];
                self.hub.spoke(&key, id);
                "ok\n".into()
            }
            ("send", [from, to]) => route(self.hub.route(&key(from), &key(to))),
            ("forwarded", [to]) => route(self.hub.route_forwarded(&key(to))),
            ("watch", [name]) => {
                let (_, id) = self.connections[*name];
                tells(self.hub.watch(id, (*name).into()))
            }
            ("close", [name]) => tells(self.hub.close_peer(&key(name), Closing::Asked)),
            ("refuse", [name]) => tells(self.hub.close_clients(&key(name), Closing::Refused)),
            ("counts", []) => format!("{:?}\n", self.hub.counts()),
            _ => panic!("no such line: {line}"),
        }
    }

    /// The first letter of a connection's name is its key.
    fn arrive(&mut self, name: &str, rest: &[&str]) -> String {
        self.last_id += 1;
        let (key, id) = (key(name), ConnectionId(self.last_id));
        self.connections.insert(name.into(), (key, id));
        let flags = match rest {
            ["mesh"] => present::MESH_PEER,
            ["prober"] => present::PROBER,
            _ => 0,
        };
        let from = format!("192.0.2.{}:1", self.last_id).parse().expect("an address");
        tells(self.hub.arrive(Seat { id, key, handle: name.into(), from, flags }))
    }
}

fn tells(tells: Vec<Tell<String>>) -> String {
    let mut out = String::new();
    for tell in tells {
        let written = match tell {
            Tell::PeerGone { to, key, why: Gone::Disconnected } => writeln!(out, "{to}: {} is gone", letter(&key)),
            Tell::PeerGone { to, key, why } => writeln!(out, "{to}: {} is gone, {why:?}", letter(&key)),
            Tell::PeerPresent { to, key, from, flags } => {
                writeln!(out, "{to}: {} is present from {from}, flags {flags}", letter(&key))
            }
            Tell::Close { handle, why } => writeln!(out, "{handle}: close, {why:?}"),
        };
        written.expect("a string grows");
    }
    if out.is_empty() { "ok\n".into() } else { out }
}

fn route(route: Route<String>) -> String {
    match route {
        Route::To(name) => format!("to {name}\n"),
        Route::Unknown => "unknown\n".into(),
    }
}

fn run(path: &Path) {
    let text = fs::read_to_string(path).expect("a script can be read");
    let mut story = Story::new();
    let mut told = String::new();
    for paragraph in text.split("\n\n") {
        let (said, _) = paragraph.split_once("\n----").unwrap_or((paragraph, ""));
        told.push_str(said.trim_end());
        let mut answers = String::new();
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        for line in &lines {
            answers.push_str(&story.step(line));
        }
        if !lines.is_empty() {
            told.push_str("\n----\n");
            told.push_str(answers.trim_end());
        }
        told.push_str("\n\n");
    }
    let told = format!("{}\n", told.trim_end());
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, told).expect("a script can be rewritten");
    } else {
        assert_eq!(told, text, "{}", path.display());
    }
}

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("there are scripts").map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().for_each(|path| run(path));
}

/// Something that happens, with numbers that are made to fit.
#[derive(Clone, Debug)]
enum Event {
    Arrive(u8),
    Leave(usize),
    Speak(usize),
    Send(u8, u8),
    Watch(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (b'A'..b'F').prop_map(Event::Arrive),
        2 => any::<usize>().prop_map(Event::Leave),
        2 => any::<usize>().prop_map(Event::Speak),
        4 => (b'A'..b'F', b'A'..b'F').prop_map(|(from, to)| Event::Send(from, to)),
        1 => any::<usize>().prop_map(Event::Watch),
    ];
    prop::collection::vec(event, 0..60)
}

/// The slow way to know what the hub counts, from who is here: connections by identifier.
fn counted(here: &BTreeMap<u64, u8>, watchers: usize) -> Counts {
    let mut per_key = BTreeMap::<u8, usize>::new();
    here.values().for_each(|key| *per_key.entry(*key).or_default() += 1);
    let shared = || per_key.values().filter(|connections| **connections > 1);
    Counts {
        keys: per_key.len(),
        connections: here.len(),
        shared_keys: shared().count(),
        shared_connections: shared().sum(),
        watchers,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, packets reach whoever is here, by the connection that spoke last, and the numbers are right.
    #[test]
    fn nobody_is_lost(events in events()) {
        let mut hub = Hub::<u64>::new(HubLimits { connections_per_key_max: 3, acquaintances_max: 2 });
        let mut here = BTreeMap::<u64, u8>::new();
        // Connections in the order in which they came or spoke.
        let mut spoke = Vec::<u64>::new();
        let mut watchers = Vec::<u64>::new();
        for (id, event) in (1u64..).zip(events) {
            let chosen = |number: usize| here.keys().nth(number % here.len().max(1)).copied();
            match event {
                Event::Arrive(letter) => {
                    let (key, from) = (NodeKey([letter; 32]), "192.0.2.1:1".parse().unwrap());
                    let tells = hub.arrive(Seat { id: ConnectionId(id), key, handle: id, from, flags: 0 });
                    let told = tells.iter().filter(|tell| matches!(tell, Tell::PeerPresent { .. })).count();
                    prop_assert_eq!(told, watchers.len());
                    here.insert(id, letter);
                    spoke.push(id);
                }
                Event::Leave(number) => if let Some(id) = chosen(number) {
                    let key = NodeKey([here[&id]; 32]);
                    here.remove(&id);
                    watchers.retain(|watcher| *watcher != id);
                    for tell in hub.leave(&key, ConnectionId(id)) {
                        let Tell::PeerGone { to, key: gone, .. } = tell else { panic!("only who is gone") };
                        prop_assert!(here.contains_key(&to) && gone == key && !here.values().any(|k| [*k; 32] == key.0));
                    }
                    // Leaving twice is harmless.
                    prop_assert_eq!(hub.leave(&key, ConnectionId(id)), vec![]);
                },
                Event::Speak(number) => if let Some(id) = chosen(number) {
                    hub.spoke(&NodeKey([here[&id]; 32]), ConnectionId(id));
                    spoke.retain(|other| *other != id);
                    spoke.push(id);
                },
                Event::Send(from, to) => {
                    let active = spoke.iter().rev().find(|id| here.get(id) == Some(&to)).copied();
                    let expected = active.map_or(Route::Unknown, Route::To);
                    prop_assert_eq!(hub.route(&NodeKey([from; 32]), &NodeKey([to; 32])), expected);
                }
                Event::Watch(number) => if let Some(id) = chosen(number) {
                    hub.watch(ConnectionId(id), id);
                    if !watchers.contains(&id) {
                        watchers.push(id);
                    }
                },
            }
            prop_assert_eq!(hub.counts(), counted(&here, watchers.len()));
        }
    }
}
