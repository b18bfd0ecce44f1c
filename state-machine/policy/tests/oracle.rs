//! The law of compiling: class to class says what pair by pair says, for random policies and tailnets, and also after
//! nodes and users came, went and changed.

#[path = "common/dice.rs"]
mod dice;
#[path = "common/naive.rs"]
mod naive;

use std::{collections::BTreeSet, sync::Arc};

use dice::{Dice, elect, put};
use naive::Naive;
use policy::{FilterRule, Meaning, Policy, Ports, Tailnet};
use serde_json::{Value, json};

const CASES: u64 = 2500;

#[test]
fn classes_say_what_pairs_say() {
    for seed in 1..=CASES {
        let mut dice = Dice::new(seed);
        let (tailnet, text) = (dice.tailnet(), dice.policy());
        let policy = Policy::parse(&text.to_string()).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{text}")).policy;
        agree(seed, &Meaning::compile(&policy, tailnet.clone()), Some(&text), &tailnet);
    }
}

#[test]
fn without_a_policy_everybody_reaches_everybody() {
    for seed in 1..=200 {
        let tailnet = Dice::new(seed).tailnet();
        agree(seed, &Meaning::unset(tailnet.clone()), None, &tailnet);
    }
}

#[test]
fn changes_say_what_compiling_anew_says() {
    for seed in 1..=CASES / 10 {
        let mut dice = Dice::new(seed ^ 0xabcd);
        let (mut tailnet, text) = (dice.tailnet(), dice.policy());
        let policy = Policy::parse(&text.to_string()).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{text}")).policy;
        let mut meaning = Meaning::compile(&policy, tailnet.clone());
        for _ in 0..12 {
            // What was asked before must not linger.
            let asked = tailnet.nodes.keys().next().copied().unwrap_or(0);
            _ = (meaning.filter(asked), meaning.ssh(asked), meaning.attributes(asked));
            let moved = change(&mut dice, &mut tailnet);
            meaning = meaning.moved(tailnet.clone(), &moved);
            agree(seed, &meaning, Some(&text), &tailnet);
        }
    }
}

/// One thing happens; says which nodes it is about.
fn change(dice: &mut Dice, tailnet: &mut Tailnet) -> Vec<u64> {
    let ids: Vec<u64> = tailnet.nodes.keys().copied().collect();
    let fresh = 1 + dice.roll(20);
    match dice.roll(4) {
        0 if ids.len() > 1 => {
            let id = dice.one(&ids);
            tailnet.nodes.remove(&id);
            elect(tailnet);
            vec![id]
        }
        1 => {
            let users: Vec<u64> = tailnet.users.keys().copied().collect();
            let user = dice.one(&users);
            tailnet.users.insert(user, Arc::new(dice.user(user)));
            tailnet.nodes.values().filter(|node| node.user == Some(user)).map(|node| node.id).collect()
        }
        _ => {
            let node = dice.node(fresh, tailnet);
            put(tailnet, node);
            vec![fresh]
        }
    }
}

fn agree(seed: u64, meaning: &Meaning, text: Option<&Value>, tailnet: &Tailnet) {
    let naive = Naive { policy: text, tailnet };
    let context = || format!("seed {seed}\npolicy {}\ntailnet {:#?}", text.unwrap_or(&Value::Null), tailnet.nodes);
    for (id, node) in &tailnet.nodes {
        assert_eq!(filter(meaning, *id), naive.filter(node), "filter of {id}, {}", context());
        assert_eq!(shells(meaning, *id), naive.ssh(node), "shells of {id}, {}", context());
        let attributes: BTreeSet<String> = meaning.attributes(*id).keys().cloned().collect();
        assert_eq!(attributes, naive.attributes(node), "attributes of {id}, {}", context());
        for (other, peer) in &tailnet.nodes {
            assert_eq!(meaning.sees(*id, *other), naive.sees(node, peer), "{id} sees {other}, {}", context());
            if id != other {
                let routes = meaning.routes(*id, *other);
                assert_eq!(routes, naive.routes(node, peer), "routes of {id} through {other}, {}", context());
            }
        }
    }
}

fn filter(meaning: &Meaning, node: u64) -> Vec<Value> {
    let internet = |word: &str| word.contains('-');
    let rules = meaning.filter(node).into_iter().map(|rule| match rule {
        FilterRule::Network { sources, destinations, protocol } => {
            let spelled = |(word, ports): &(String, Ports)| match (internet(word), word.starts_with("0.0.0.0-")) {
                (true, false) => None,
                (true, true) => Some(format!("internet:{ports}")),
                (false, _) => Some(format!("{word}:{ports}")),
            };
            let mut dst: Vec<String> = destinations.iter().filter_map(spelled).collect();
            dst.sort();
            json!({"src": sources.words().iter().collect::<BTreeSet<_>>(), "dst": dst, "proto": protocol})
        }
        FilterRule::Application { sources, destinations, capabilities } => {
            let dsts: BTreeSet<String> = destinations.iter().map(ToString::to_string).collect();
            json!({"src": sources.words().iter().collect::<BTreeSet<_>>(), "dsts": dsts, "caps": *capabilities})
        }
    });
    rules.collect()
}

fn shells(meaning: &Meaning, node: u64) -> Vec<Value> {
    let of = |rule: &policy::SshRule| {
        let from: BTreeSet<String> = rule.principals.iter().map(ToString::to_string).collect();
        json!({"from": from, "users": rule.users, "check": rule.check})
    };
    meaning.ssh(node).iter().map(of).collect()
}
