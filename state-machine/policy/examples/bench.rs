//! What a policy costs: `cargo run --release -p policy --example bench`.
//!
//! P1: 21 rules, 5 groups, 10 users, 5 tags, 40 % of the nodes tagged. P3: 1,000 rules, 200 groups, 400 users, 100 tags,
//! 40 % tagged, 20 subnet routers. Compiling is all that must happen before the first node can be told something;
//! what nodes of a class are told is written when the first of them asks, and is measured apart.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time; nothing else runs in this process")]

use std::{hint::black_box, sync::Arc, time::Instant};

use policy::{Meaning, Node, Policy, Role, Tailnet, User};
use serde_json::{Value, json};

struct Shape {
    name: &'static str,
    rules: usize,
    groups: usize,
    users: u64,
    tags: usize,
    routers: u64,
}

const SHAPES: [Shape; 2] = [
    Shape { name: "P1", rules: 21, groups: 5, users: 10, tags: 5, routers: 0 },
    Shape { name: "P3", rules: 1000, groups: 200, users: 400, tags: 100, routers: 20 },
];

fn main() {
    println!(
        "{:<4} {:>7} {:>8} {:>11} {:>11} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "", "nodes", "classes", "parse", "compile", "join", "leave", "new class", "write all", "one filter"
    );
    for shape in &SHAPES {
        for nodes in [1_000, 10_000] {
            measure(shape, nodes);
        }
    }
}

fn measure(shape: &Shape, nodes: u64) {
    let text = policy(shape).to_string();
    let tailnet = tailnet(shape, nodes);
    let parse = median(9, || _ = black_box(Policy::parse(&text)));
    let policy = Policy::parse(&text).expect("a policy").policy;
    let compile = median(15, || _ = black_box(Meaning::compile(&policy, tailnet.clone())));
    let meaning = Meaning::compile(&policy, tailnet.clone());
    let write = median(3, || write_all(&Meaning::compile(&policy, tailnet.clone()))) - compile;
    write_all(&meaning);

    let fresh = nodes + 1;
    let mut joined = tailnet.clone();
    joined.nodes.insert(fresh, Arc::new(node(shape, fresh, 1)));
    let join = median(201, || _ = black_box(meaning.moved(joined.clone(), &[fresh])));
    let with = meaning.moved(joined.clone(), &[fresh]);
    let leave = median(201, || _ = black_box(with.moved(tailnet.clone(), &[fresh])));
    let mut router = tailnet.clone();
    let routes = vec!["10.250.0.0/16".parse().expect("a prefix")];
    router.nodes.insert(fresh, Arc::new(Node { routes, ..node(shape, fresh, 1) }));
    let new_class = median(31, || _ = black_box(meaning.moved(router.clone(), &[fresh])));
    let filter = median(31, || _ = black_box(meaning.filter(nodes / 2)));
    println!(
        "{:<4} {nodes:>7} {:>8} {:>11} {:>11} {:>12} {:>12} {:>12} {:>12} {:>12}",
        shape.name,
        meaning.classes(),
        show(parse),
        show(compile),
        show(join),
        show(leave),
        show(new_class),
        show(write),
        show(filter)
    );
}

/// Templates and shells of all classes, with their lists of sources.
fn write_all(meaning: &Meaning) {
    for class in 0..meaning.classes() as u32 {
        black_box((meaning.template(class), meaning.ssh_of_class(class), meaning.attributes_of_class(class)));
    }
}

fn policy(shape: &Shape) -> Value {
    let group = |n: usize| format!("group:g{}", n % shape.groups);
    let tag = |n: usize| format!("tag:t{}", n % shape.tags);
    let groups = (0..shape.groups).map(|n| {
        let members = (0..8).map(|m| format!("u{}@example.com", (n * 7 + m * 13) as u64 % shape.users + 1));
        (group(n), members.collect())
    });
    let owners = (0..shape.tags).map(|n| (tag(n), json!([group(n)])));
    let rule = |n: usize| match n % 5 {
        0 => json!({"action": "accept", "src": [group(n)], "dst": [format!("{}:22,443", tag(n))]}),
        1 => json!({"action": "accept", "src": [tag(n)], "dst": [format!("{}:5432", tag(n + 1))]}),
        2 => json!({"action": "accept", "src": [group(n), tag(n * 3)], "dst": [format!("{}:80-90", tag(n * 2 + 1))]}),
        3 => {
            json!({"action": "accept", "proto": "tcp", "src": [format!("u{}@example.com", n as u64 % shape.users + 1)], "dst": [format!("{}:*", tag(n))]})
        }
        _ => json!({"action": "accept", "src": [group(n)], "dst": [format!("10.{}.0.0/16:*", n % 20)]}),
    };
    json!({
        "groups": Value::Object(groups.collect()),
        "tagOwners": Value::Object(owners.collect()),
        "acls": (0..shape.rules).map(rule).collect::<Vec<_>>(),
    })
}

fn tailnet(shape: &Shape, nodes: u64) -> Tailnet {
    let mut tailnet = Tailnet::default();
    for id in 1..=shape.users {
        let (name, email) = (format!("u{id}"), format!("u{id}@example.com"));
        tailnet.users.insert(id, Arc::new(User { id, name, email, role: Role::Admin, ..User::default() }));
    }
    for id in 1..=nodes {
        let mut row = node(shape, id, id);
        if id <= shape.routers {
            row.routes = vec![format!("10.{}.0.0/16", id - 1).parse().expect("a prefix")];
            tailnet.primaries.insert(row.routes[0], id);
        }
        tailnet.nodes.insert(id, Arc::new(row));
    }
    tailnet
}

fn node(shape: &Shape, id: u64, owner: u64) -> Node {
    let tagged = owner % 5 < 2;
    Node {
        id,
        user: Some(owner % shape.users + 1).filter(|_| !tagged),
        tags: if tagged { vec![format!("tag:t{}", owner / 5 % shape.tags as u64)] } else { vec![] },
        ipv4: Some(std::net::Ipv4Addr::from_bits(0x6440_0000 + id as u32)),
        ipv6: Some(std::net::Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, (id >> 16) as u16, id as u16)),
        routes: vec![],
        online: true,
    }
}

/// Seconds.
fn median(rounds: usize, mut round: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

fn show(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s => format!("{:.2} ms", s * 1e3),
    }
}
