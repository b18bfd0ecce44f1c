//! What drawing, redrawing, first maps and deltas cost: `cargo run --release -p netmap --example bench`.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time; nothing else runs in this process")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{hint::black_box, sync::Arc, time::Instant};

use common::{Tailnet, endpoint};
use netmap::{Atlas, Delta, delta, full};
use state_machine::{NodeId, State};

fn main() {
    println!(
        "{:>7} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12} {:>10}",
        "nodes", "draw", "redraw 1", "full", "per peer", "delta first", "delta next", "full bytes"
    );
    for nodes in [100, 1_000, 10_000] {
        measure(nodes);
    }
}

fn measure(nodes: usize) {
    let mut tailnet = Tailnet::new(1);
    let users: Vec<_> = (0..20).map(|n| tailnet.user(&format!("user{n}"))).collect();
    let keys: Vec<String> = users.iter().map(|user| tailnet.key(Some(*user), &[], false)).collect();
    let ids: Vec<NodeId> = (0..nodes).map(|n| tailnet.join(&keys[n % keys.len()], &format!("node{n}"))).collect();
    let moment = tailnet.moment();
    let state = tailnet.latest();

    let rounds = 50_000 / nodes;
    let draw = time(rounds.min(50), || _ = black_box(Atlas::draw(&state)));
    let mut atlas = Atlas::draw(&state);

    // Each state differs from the one before by one node's endpoints.
    let states: Vec<Arc<State>> = (0..500)
        .map(|n| {
            tailnet.report(ids[n * 7 % nodes], |report| report.endpoints = Some(vec![endpoint(n as u64, 1)]));
            tailnet.latest()
        })
        .collect();
    let mut atlases = vec![atlas.clone()];
    let mut next = states.iter();
    let redraw = time(states.len(), || {
        atlas = atlas.redraw(next.next().expect("one state a round"));
        atlases.push(atlas.clone());
    });

    let mut bytes = 0;
    let full = time(rounds, || bytes = black_box(full(&atlas, ids[nodes / 2], &moment)).expect("a node").len());

    let mut pair = atlases.windows(2);
    let first = time(states.len(), || {
        let [known, latest] = pair.next().expect("one pair a round") else { unreachable!("windows of two") };
        assert_ne!(black_box(delta(known, latest, ids[nodes - 1], &moment)), Delta::Gone);
    });
    let (known, latest) = (&atlases[0], &atlases[1]);
    let mut viewers = ids.iter().cycle();
    let shared = time(20_000, || _ = black_box(delta(known, latest, *viewers.next().expect("a cycle"), &moment)));
    println!(
        "{nodes:>7} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12} {bytes:>10}",
        show(draw),
        show(redraw),
        show(full),
        show(full / nodes as f64),
        show(first),
        show(shared)
    );
}

/// Seconds a round.
fn time(rounds: usize, mut round: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        round();
    }
    start.elapsed().as_secs_f64() / rounds as f64
}

fn show(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s => format!("{:.2} ms", s * 1e3),
    }
}
