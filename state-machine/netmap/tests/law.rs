//! The law of maps: what a client was told first, and all it was told since, is what it would be told now.

mod common;

use std::collections::BTreeMap;

use common::{Tailnet, difference, naive};
use netmap::{Atlas, Delta, Mirror, delta, full};
use state_machine::NodeId;

/// One client's stream.
struct Session {
    known: Atlas,
    mirror: Mirror,
}

fn first(atlas: &Atlas, viewer: NodeId, tailnet: &Tailnet) -> Mirror {
    let frame = full(atlas, viewer, &tailnet.moment()).expect("the viewer is there");
    let mut mirror = Mirror::default();
    mirror.apply(&frame).unwrap_or_else(|wrong| panic!("{wrong}\n{}", String::from_utf8_lossy(&frame)));
    mirror
}

fn catch_up(sessions: &mut BTreeMap<NodeId, Session>, viewer: NodeId, latest: &Atlas, tailnet: &Tailnet) {
    let Some(session) = sessions.get_mut(&viewer) else { return };
    match delta(&session.known, latest, viewer, &tailnet.moment()) {
        Delta::Nothing => {}
        Delta::Frame(frame) => {
            let text = || String::from_utf8_lossy(&frame).into_owned();
            session.mirror.apply(&frame).unwrap_or_else(|wrong| panic!("viewer {viewer}: {wrong}\n{}", text()));
            assert!(!text().contains("\"Peers\":"), "a delta replaces no list");
        }
        Delta::Gone => {
            assert!(tailnet.state.node(viewer).is_none());
            sessions.remove(&viewer);
            return;
        }
    }
    sessions.get_mut(&viewer).expect("still there").known = latest.clone();
}

fn live(seed: u64, steps: usize) {
    let mut tailnet = Tailnet::new(seed);
    let mut atlas = Atlas::draw(&tailnet.latest());
    let mut sessions: BTreeMap<NodeId, Session> = BTreeMap::new();
    for step in 0..steps {
        tailnet.live();
        if tailnet.roll(3) == 0 {
            continue;
        }
        atlas = atlas.redraw(&tailnet.latest());
        for viewer in sessions.keys().copied().collect::<Vec<_>>() {
            // Slow clients skip atlases.
            if tailnet.roll(3) > 0 {
                catch_up(&mut sessions, viewer, &atlas, &tailnet);
            }
        }
        if let Some(viewer) = tailnet.some_node()
            && sessions.len() < 6
        {
            sessions.insert(viewer, Session { known: atlas.clone(), mirror: first(&atlas, viewer, &tailnet) });
        }
        if step % 20 == 0 || step + 1 == steps {
            for viewer in sessions.keys().copied().collect::<Vec<_>>() {
                catch_up(&mut sessions, viewer, &atlas, &tailnet);
            }
            let fresh = Atlas::draw(&tailnet.latest());
            for (viewer, session) in &sessions {
                let moment = tailnet.moment();
                assert!(full(&atlas, *viewer, &moment) == full(&fresh, *viewer, &moment), "redraw is draw");
                let expected = naive::picture(&tailnet.state, *viewer);
                let now = naive::translated(first(&atlas, *viewer, &tailnet).picture());
                assert_eq!(difference(&now, &expected), None, "full is what the state says");
                let told = naive::translated(session.mirror.picture());
                assert_eq!(difference(&told, &expected), None, "seed {seed} step {step} viewer {viewer}");
            }
        }
    }
    assert!(tailnet.state.nodes().len() > 1, "seed {seed} was too dull");
}

#[test]
fn first_map_and_deltas_make_the_last_map() {
    for seed in 1..=12 {
        live(seed, 250);
    }
}
