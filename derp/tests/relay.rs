//! The relay end to end, over pipes: clients come, talk, misbehave and go.

mod common;

use std::time::Duration;

use common::{MESH_KEY, RELAY_SECRET, SOON, Stage, disco, key, limits, next, secret, settle};
use derp::{
    Limits, MeshKey, QueueLimits,
    client::{Client, ClientError},
    frame::{Frame, kind},
    hello::{Channel, ClientInfo},
};
use tailcfg::NodeKey;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

async fn send(client: &mut Client, to: u8, text: &str) {
    client.send(&Frame::SendPacket { to: key(to), packet: text.as_bytes() }).await.unwrap();
}

/// What client 1 would tell a relay, sealed.
fn introduction_for(relay: NodeKey) -> Vec<u8> {
    Channel::new(&secret(1), &relay).unwrap().seal_client_info(&ClientInfo::default(), [3; 24])
}

#[tokio::test]
async fn packets_and_pings() {
    let stage = Stage::new();
    let (mut a, mut b) = (stage.client(1).await, stage.client(2).await);
    assert_eq!(a.relay(), stage.relay.public_key());
    send(&mut a, 2, "hello").await;
    assert_eq!(next(&mut b).await, "packet from 1: hello");
    send(&mut b, 1, "hello yourself").await;
    assert_eq!(next(&mut a).await, "packet from 2: hello yourself");
    a.send(&Frame::Ping(*b"12345678")).await.unwrap();
    assert_eq!(next(&mut a).await, "pong 12345678");
    assert_eq!(stage.metrics().packets_received.get(), 2);
    assert_eq!(stage.metrics().packets_sent.get(), 2);
    assert_eq!(stage.metrics().current_connections.get(), 2);
}

#[tokio::test]
async fn who_leaves_is_gone_for_those_it_wrote_to() {
    let stage = Stage::new();
    let (mut a, mut b) = (stage.client(1).await, stage.client(2).await);
    send(&mut a, 2, "hello").await;
    assert_eq!(next(&mut b).await, "packet from 1: hello");
    drop(a);
    assert_eq!(next(&mut b).await, "1 is gone: Disconnected");
    assert_eq!(stage.relay.clients(), 1);
}

#[tokio::test]
async fn a_stranger_is_not_here() {
    let stage = Stage::new();
    let mut a = stage.client(1).await;
    send(&mut a, 9, "not discovery, so no answer").await;
    for _ in 0..5 {
        a.send(&Frame::SendPacket { to: key(9), packet: &disco() }).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(next(&mut a).await, "9 is gone: NotHere");
    }
    settle(&mut a).await;
    let dropped = &stage.metrics().packets_dropped;
    assert_eq!(dropped.with_label_values(&["unknown_dest", "disco"]).get(), 5);
    assert_eq!(dropped.with_label_values(&["unknown_dest", "other"]).get(), 1);
}

#[tokio::test]
async fn the_connection_that_wrote_last_gets_the_packets() {
    let stage = Stage::new();
    let (mut first, mut b) = (stage.client(1).await, stage.client(2).await);
    let mut second = stage.client(1).await;
    send(&mut b, 1, "one").await;
    assert_eq!(next(&mut second).await, "packet from 2: one");
    settle(&mut first).await;
    send(&mut b, 1, "two").await;
    assert_eq!(next(&mut first).await, "packet from 2: two");
    assert_eq!(stage.metrics().current_dup_client_conns.get(), 2);
    drop(first);
    // Its end is noticed when its pipe breaks; the other one still answers for the key.
    settle(&mut second).await;
    send(&mut b, 1, "three").await;
    assert_eq!(next(&mut second).await, "packet from 2: three");
}

#[tokio::test]
async fn the_ninth_connection_of_a_key_replaces_the_first() {
    let stage = Stage::new();
    let mut first = stage.client(1).await;
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(stage.client(1).await);
    }
    assert_eq!(next(&mut first).await, "closed");
    for other in &mut others {
        settle(other).await;
    }
}

#[tokio::test]
async fn strangers_are_not_admitted() {
    let stage = Stage::new();
    stage.refused.lock().unwrap().insert(key(1));
    let refused = stage.try_client(1, ClientInfo::default()).await;
    assert!(matches!(refused, Err(ClientError::Closed)), "{:?}", refused.err());
    assert_eq!(stage.metrics().refused.with_label_values(&["not_admitted"]).get(), 1);
    stage.client(2).await;
}

#[tokio::test]
async fn a_stranger_that_becomes_known_in_time_is_let_in() {
    let stage = Stage::with(Limits { admission_patience: SOON, ..limits() }, |_| {});
    stage.refused.lock().unwrap().insert(key(1));
    let admit = async {
        while stage.metrics().accepts.get() == 0 {
            tokio::task::yield_now().await;
        }
        stage.refused.lock().unwrap().clear();
        stage.relay.recheck();
    };
    let (client, ()) = tokio::join!(stage.client(1), admit);
    drop(client);
}

#[tokio::test]
async fn who_is_no_longer_admitted_is_closed() {
    let stage = Stage::new();
    let (mut a, mut b) = (stage.client(1).await, stage.client(2).await);
    stage.refused.lock().unwrap().insert(key(1));
    stage.relay.recheck();
    assert_eq!(next(&mut a).await, "closed");
    settle(&mut b).await;
    assert_eq!(stage.metrics().ended.with_label_values(&["not_admitted"]).get(), 1);
}

#[tokio::test]
async fn the_relays_own_key_is_refused() {
    let stage = Stage::new();
    assert!(matches!(stage.try_client(RELAY_SECRET[0], ClientInfo::default()).await, Err(ClientError::Closed)));
}

#[tokio::test]
async fn a_fast_start_sends_no_http_answer() {
    let stage = Stage::new();
    let info = ClientInfo::default();
    let stream = Box::new(stage.pipe(1 << 20));
    let relay = stage.relay.public_key();
    let mut a = Client::connect_fast(stream, relay, &secret(1), &info, &stage.world.entropy).await.unwrap();
    settle(&mut a).await;
}

#[tokio::test]
async fn frames_right_behind_the_introduction_are_not_lost() {
    let stage = Stage::new();
    let mut b = stage.client(2).await;
    let sealed = introduction_for(stage.relay.public_key());
    let mut bytes = b"POST /derp HTTP/1.1\r\nUpgrade: derp\r\n\r\n".to_vec();
    Frame::ClientInfo { key: key(1), sealed: &sealed }.encode(&mut bytes);
    Frame::SendPacket { to: key(2), packet: b"early" }.encode(&mut bytes);
    let half = Frame::SendPacket { to: key(2), packet: b"late" }.to_vec();
    bytes.extend(&half[..7]);
    let mut stream = stage.pipe(1 << 20);
    // Split anywhere, for good measure.
    for piece in bytes.chunks(11) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(next(&mut b).await, "packet from 1: early");
    stream.write_all(&half[7..]).await.unwrap();
    assert_eq!(next(&mut b).await, "packet from 1: late");
}

#[tokio::test]
async fn bad_frames_close_the_connection_and_are_counted() {
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a packet that is too long", vec![kind::SEND_PACKET, 0, 1, 0, 33]),
        ("a packet without destination", vec![kind::SEND_PACKET, 0, 0, 0, 31]),
        ("an endless unknown frame", vec![0xee, 0xff, 0xff, 0xff, 0xff]),
        ("a strange home", vec![kind::NOTE_PREFERRED, 0, 0, 0, 1, 7]),
        ("a ping too short", vec![kind::PING, 0, 0, 0, 7]),
    ];
    let stage = Stage::new();
    for (index, (what, bytes)) in cases.into_iter().enumerate() {
        let mut a = stage.client(1).await;
        a.write(&bytes).await.unwrap();
        assert_eq!(next(&mut a).await, "closed", "{what}");
        assert_eq!(stage.metrics().ended.with_label_values(&["bad_frame"]).get(), index as u64 + 1, "{what}");
    }
}

#[tokio::test]
async fn mesh_frames_without_the_mesh_key_close_the_connection() {
    let stage = Stage::with(limits(), |options| options.mesh_key = Some(MeshKey::from_bytes(MESH_KEY)));
    let forward = Frame::ForwardPacket { from: key(3), to: key(4), packet: b"x" };
    for frame in [Frame::WatchConns, Frame::ClosePeer(key(2)), forward] {
        let wrong = ClientInfo { mesh_key: Some([0x78; 32]), ..ClientInfo::default() };
        for info in [ClientInfo::default(), wrong] {
            let mut a = stage.try_client(1, info).await.unwrap();
            a.send(&frame).await.unwrap();
            assert_eq!(next(&mut a).await, "closed", "{frame:?}");
        }
    }
}

#[tokio::test]
async fn a_relay_of_the_mesh_watches_forwards_and_closes() {
    let stage = Stage::with(limits(), |options| options.mesh_key = Some(MeshKey::from_bytes(MESH_KEY)));
    stage.refused.lock().unwrap().insert(key(7));
    let mut a = stage.client(1).await;
    let mut mesh = stage.mesh_client(7).await;
    mesh.send(&Frame::WatchConns).await.unwrap();
    let mut here = [next(&mut mesh).await, next(&mut mesh).await];
    here.sort();
    assert_eq!(here, ["1 is present, 1", "7 is present, 2"]);
    mesh.send(&Frame::ForwardPacket { from: key(5), to: key(1), packet: b"from afar" }).await.unwrap();
    assert_eq!(next(&mut a).await, "packet from 5: from afar");
    mesh.send(&Frame::ClosePeer(key(1))).await.unwrap();
    assert_eq!(next(&mut a).await, "closed");
    assert_eq!(next(&mut mesh).await, "1 is gone: Disconnected");
    stage.relay.recheck();
    settle(&mut mesh).await;
}

#[tokio::test]
async fn unknown_frames_are_skipped() {
    let stage = Stage::new();
    let mut a = stage.client(1).await;
    let mut bytes = vec![0x77, 0, 3, 0, 0];
    bytes.resize(5 + 0x30000, 0xff);
    // A server's frame from a client, and a second introduction.
    Frame::RecvPacket { from: key(2), packet: b"x" }.encode(&mut bytes);
    Frame::ClientInfo { key: key(2), sealed: &[0; 40] }.encode(&mut bytes);
    a.write(&bytes).await.unwrap();
    settle(&mut a).await;
    assert_eq!(stage.metrics().unknown_frames.get(), 3);
}

#[tokio::test]
async fn a_slow_reader_loses_packets_and_blocks_nobody() {
    let queue = QueueLimits { bytes_max: 16 << 10, ..QueueLimits::default() };
    let stage = Stage::with(Limits { queue, write_timeout: SOON, ..limits() }, |_| {});
    let slow = stage.client_over(Box::new(stage.pipe(4096)), 3, ClientInfo::default()).await.unwrap();
    let (mut a, mut b) = (stage.client(1).await, stage.client(2).await);
    let packet = [0u8; 1000];
    for round in 0..500 {
        a.send(&Frame::SendPacket { to: key(3), packet: &packet }).await.unwrap();
        if round % 50 == 0 {
            send(&mut a, 2, "through").await;
            assert_eq!(next(&mut b).await, "packet from 1: through");
        }
    }
    settle(&mut a).await;
    let dropped = stage.metrics().packets_dropped.with_label_values(&["queue_head", "other"]).get();
    assert!(dropped > 400, "{dropped}");
    drop(slow);
}

#[tokio::test]
async fn who_reads_nothing_is_cut_off() {
    let stage = Stage::with(Limits { write_timeout: Duration::from_millis(20), ..limits() }, |_| {});
    let slow = stage.client_over(Box::new(stage.pipe(1024)), 3, ClientInfo::default()).await.unwrap();
    let mut a = stage.client(1).await;
    // Each has written to the other, so `a` is told when the other is gone.
    let mut slow = slow;
    send(&mut slow, 1, "hello").await;
    assert_eq!(next(&mut a).await, "packet from 3: hello");
    a.send(&Frame::SendPacket { to: key(3), packet: &[0; 5000] }).await.unwrap();
    assert_eq!(next(&mut a).await, "3 is gone: Disconnected");
    assert_eq!(stage.metrics().sclient_write_timeouts.get(), 1);
    drop(slow);
}

#[tokio::test]
async fn signs_of_life() {
    let every = Duration::from_millis(5);
    let stage = Stage::with(Limits { keep_alive: every, keep_alive_jitter: every, ..limits() }, |_| {});
    let mut a = stage.client(1).await;
    for _ in 0..3 {
        assert_eq!(next(&mut a).await, "keep alive");
    }
}

#[tokio::test]
async fn newcomers_that_say_nothing_are_dropped() {
    let stage = Stage::with(Limits { handshake_timeout: Duration::from_millis(20), ..limits() }, |_| {});
    assert_eq!(stage.answer(b"").await, "");
    assert_eq!(stage.answer(b"GET /de").await, "");
    let answer = stage.answer(b"GET /derp HTTP/1.1\r\nUpgrade: DERP\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert_eq!(stage.metrics().refused.with_label_values(&["timeout"]).get(), 3);
}

#[tokio::test]
async fn introductions_that_are_none() {
    let stage = Stage::new();
    let request = b"GET /derp HTTP/1.1\r\nUpgrade: DERP\r\n\r\n".to_vec();
    let sealed = introduction_for(key(9));
    let for_another_relay = Frame::ClientInfo { key: key(1), sealed: &sealed }.to_vec();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("bad_frame", Frame::SendPacket { to: key(1), packet: b"" }.to_vec()),
        ("bad_frame", vec![kind::CLIENT_INFO, 0, 0, 0, 55]),
        ("bad_frame", vec![kind::CLIENT_INFO, 0x7f, 0, 0, 0]),
        ("bad_hello", for_another_relay),
    ];
    for (reason, bytes) in cases {
        let before = stage.metrics().refused.with_label_values(&[reason]).get();
        stage.answer(&[request.clone(), bytes].concat()).await;
        assert_eq!(stage.metrics().refused.with_label_values(&[reason]).get(), before + 1);
    }
    assert_eq!(stage.metrics().current_connections.get(), 0);
}

#[tokio::test]
async fn other_requests_on_one_connection() {
    let stage = Stage::new();
    let answer = stage
        .answer(
            b"GET /generate_204 HTTP/1.1\r\nHost: h\r\n\r\nHEAD /derp/latency-check HTTP/1.1\r\n\r\n\
              GET /derp HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        )
        .await;
    let statuses: Vec<&str> = answer.lines().filter(|line| line.starts_with("HTTP/")).collect();
    assert_eq!(
        statuses,
        ["HTTP/1.1 204 No Content", "HTTP/1.1 200 OK", "HTTP/1.1 426 Upgrade Required", "HTTP/1.1 200 OK"]
    );
    assert_eq!(stage.answer(b"nonsense\r\n\r\n").await, "");
    assert_eq!(stage.metrics().refused.with_label_values(&["http"]).get(), 1);
}

#[tokio::test]
async fn requests_that_are_not_ours_are_handed_back_whole() {
    let stage = Stage::new();
    for request in [&b"GET /key?v=1 HTTP/1.1\r\nHost: h\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        ours.write_all(request).await.unwrap();
        let from = "192.0.2.9:4242".parse().unwrap();
        let mut back = stage.relay.serve_or_return(Box::new(theirs), from).await.expect("handed back");
        let mut again = vec![0; request.len()];
        back.read_exact(&mut again).await.unwrap();
        assert_eq!(again, request);
    }
    let (mut ours, theirs) = tokio::io::duplex(4096);
    ours.write_all(b"GET /derp/probe HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(stage.relay.serve_or_return(Box::new(theirs), "192.0.2.9:1".parse().unwrap()).await.is_none());
    let mut answer = String::new();
    ours.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn draining_sends_everybody_away() {
    let stage = Stage::new();
    let (mut a, mut b) = (stage.client(1).await, stage.client(2).await);
    timeout(SOON, stage.relay.drain(Duration::from_millis(400))).await.unwrap();
    assert_eq!((next(&mut a).await, next(&mut b).await), ("closed".into(), "closed".into()));
    assert_eq!(stage.relay.clients(), 0);
    assert!(stage.answer(b"GET /derp/probe HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.1 503 "));
    assert!(matches!(stage.try_client(1, ClientInfo::default()).await, Err(ClientError::Answer(_))));
}

#[tokio::test]
async fn too_many_clients_are_refused() {
    let stage = Stage::with(Limits { clients_max: 1, ..limits() }, |_| {});
    let mut a = stage.client(1).await;
    assert!(matches!(stage.try_client(2, ClientInfo::default()).await, Err(ClientError::Closed)));
    settle(&mut a).await;
    assert_eq!(stage.metrics().refused.with_label_values(&["full"]).get(), 1);
}

#[tokio::test]
async fn who_only_knocks_does_not_keep_others_out_forever() {
    let stage = Stage::with(Limits { newcomers_per_source_max: 1, ..limits() }, |_| {});
    let silent = stage.pipe(100);
    assert!(matches!(stage.try_client(1, ClientInfo::default()).await, Err(ClientError::Closed | ClientError::Io(_))));
    drop(silent);
    while stage.metrics().refused.with_label_values(&["closed"]).get() == 0 {
        tokio::task::yield_now().await;
    }
    // Those who are in do not count.
    let (mut a, mut b) = (stage.client(1).await, stage.client(2).await);
    settle(&mut a).await;
    settle(&mut b).await;
}

#[tokio::test]
async fn homes_are_counted() {
    let stage = Stage::new();
    let mut a = stage.client(1).await;
    a.send(&Frame::NotePreferred(true)).await.unwrap();
    settle(&mut a).await;
    assert_eq!(stage.metrics().current_home_connections.get(), 1);
    a.send(&Frame::NotePreferred(false)).await.unwrap();
    settle(&mut a).await;
    assert_eq!(stage.metrics().current_home_connections.get(), 0);
}

/// Bytes that mean nothing, at every stage of a connection, end that connection at most.
#[tokio::test]
async fn noise_hurts_nobody_else() {
    let stage = Stage::with(Limits { handshake_timeout: Duration::from_millis(50), ..limits() }, |_| {});
    let (mut a, mut b) = (stage.client(1).await, stage.client(2).await);
    let request = b"GET /derp HTTP/1.1\r\nUpgrade: DERP\r\n\r\n";
    for round in 0..100 {
        let mut noise = vec![0; 1 + stage.world.entropy.below(3000) as usize];
        stage.world.entropy.fill(&mut noise);
        match round % 4 {
            0 => drop(stage.pipe(1 << 20).write_all(&noise).await),
            1 => drop(stage.pipe(1 << 20).write_all(&[request, noise.as_slice()].concat()).await),
            // Types that are known are more interesting.
            _ => {
                noise[0] %= 0x18;
                noise.iter_mut().skip(1).take(3).for_each(|byte| *byte = 0);
                drop(stage.client(3).await.write(&noise).await);
            }
        }
        send(&mut a, 2, "still here").await;
        while next(&mut b).await != "packet from 1: still here" {}
    }
}
