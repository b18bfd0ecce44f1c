//! Every frame parses with the Rust client's own reader, and means there what we meant.

mod common;

use common::Tailnet;
use netmap::{Atlas, Delta, Moment, delta, full};
use state_machine::{NodeId, Timestamp};
use tailcfg::{ControlDialPlan, ControlIpCandidate, PingRequest};
use ts_control_serde::{MapResponse, RegisterResponse};

fn read(frame: &[u8]) -> MapResponse<'_> {
    serde_json::from_slice(frame).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(frame)))
}

#[test]
fn all_frames_of_random_lives() {
    for seed in 100..106 {
        let mut tailnet = Tailnet::new(seed);
        let mut atlas = Atlas::draw(&tailnet.latest());
        for _ in 0..150 {
            tailnet.live();
            let latest = atlas.redraw(&tailnet.latest());
            let viewers: Vec<NodeId> = tailnet.state.nodes().keys().copied().collect();
            for viewer in viewers.into_iter().take(3) {
                let frame = full(&latest, viewer, &tailnet.moment()).unwrap();
                let map = read(&frame);
                assert_eq!(map.node.unwrap().id as u64, viewer.0);
                let seen = |peer: &&NodeId| latest.meaning().sees(viewer.0, peer.0);
                let seen = tailnet.state.nodes().keys().filter(seen).count();
                assert_eq!(map.peers.unwrap_or_default().len(), seen);
                assert_eq!(map.packet_filters.len(), 1);
                if let Delta::Frame(frame) = delta(&atlas, &latest, viewer, &tailnet.moment()) {
                    // A stranger to the known atlas is sent a whole map.
                    let is_new = full(&atlas, viewer, &tailnet.moment()).is_none();
                    assert_eq!(read(&frame).peers.is_some(), is_new && seen > 0);
                }
            }
            atlas = latest;
        }
    }
}

#[test]
fn signals() {
    let moment = Moment { control_time: Timestamp(0) };
    let ping = PingRequest {
        url: "https://unused/c2n/x".into(),
        types: "c2n".into(),
        payload: b"POST /echo HTTP/1.1\r\n\r\n".to_vec(),
        ..PingRequest::default()
    };
    let frame = netmap::wire::ping(&ping, &moment);
    assert_eq!(read(&frame).ping_request.unwrap().url.path(), "/c2n/x");
    let candidate = ControlIpCandidate::new("203.0.113.7".parse().unwrap(), 0.3);
    let frame = netmap::wire::dial_plan(&ControlDialPlan { candidates: vec![candidate] }, &moment);
    assert_eq!(read(&frame).control_dial_plan.unwrap().candidates.len(), 1);
    assert_eq!(read(netmap::wire::keep_alive()).keep_alive, Some(true));
}

#[test]
fn registrations() {
    let mut answer = tailcfg::RegisterResponse::default();
    answer.user.display_name = "Ann \"Q\" Public".into();
    answer.error = "no such key: \"x\"\n".into();
    let json = serde_json::to_vec(&answer).unwrap();
    let read: RegisterResponse = serde_json::from_slice(&json).unwrap();
    assert_eq!(read.error, "no such key: x");
    assert!(!read.machine_authorized);
}
