//! Golden frames, and the codec against arbitrary bytes.

use derp::frame::{self, Frame, FrameError, Gone, Side, Step, kind};
use proptest::prelude::*;
use tailcfg::NodeKey;

const A: NodeKey = NodeKey([0xaa; 32]);
const B: NodeKey = NodeKey([0xbb; 32]);

/// Bytes written by hand from `derp/derp.go`.
fn golden() -> Vec<(&'static str, Frame<'static>, Side, String)> {
    let (a, b) = ("aa".repeat(32), "bb".repeat(32));
    vec![
        ("server key", Frame::ServerKey(A), Side::Server, format!("0100000028 44455250f09f9491 {a}")),
        (
            "client info",
            Frame::ClientInfo { key: A, sealed: &[0xcc; 25] },
            Side::Newcomer,
            format!("0200000039 {a} {}", "cc".repeat(25)),
        ),
        (
            "server info",
            Frame::ServerInfo { sealed: &[0xcc; 24] },
            Side::Server,
            format!("0300000018 {}", "cc".repeat(24)),
        ),
        ("send", Frame::SendPacket { to: B, packet: b"hi" }, Side::Client, format!("0400000022 {b} 6869")),
        ("send nothing", Frame::SendPacket { to: B, packet: b"" }, Side::Client, format!("0400000020 {b}")),
        ("receive", Frame::RecvPacket { from: A, packet: b"hi" }, Side::Server, format!("0500000022 {a} 6869")),
        ("keep alive", Frame::KeepAlive, Side::Server, "0600000000".into()),
        ("home", Frame::NotePreferred(true), Side::Client, "0700000001 01".into()),
        ("not home", Frame::NotePreferred(false), Side::Client, "0700000001 00".into()),
        ("gone", Frame::PeerGone { key: A, why: Gone::Disconnected }, Side::Server, format!("0800000021 {a} 00")),
        ("not here", Frame::PeerGone { key: A, why: Gone::NotHere }, Side::Server, format!("0800000021 {a} 01")),
        (
            "present, IPv4",
            Frame::PeerPresent { key: A, endpoint: Some("192.0.2.1:80".parse().unwrap()), flags: 1 },
            Side::Server,
            format!("0900000033 {a} 00000000000000000000ffffc0000201 0050 01"),
        ),
        (
            "present, IPv6",
            Frame::PeerPresent { key: A, endpoint: Some("[2001:db8::1]:443".parse().unwrap()), flags: 8 },
            Side::Server,
            format!("0900000033 {a} 20010db8000000000000000000000001 01bb 08"),
        ),
        (
            "forward",
            Frame::ForwardPacket { from: A, to: B, packet: b"x" },
            Side::Client,
            format!("0a00000041 {a} {b} 78"),
        ),
        ("watch", Frame::WatchConns, Side::Client, "1000000000".into()),
        ("close peer", Frame::ClosePeer(A), Side::Client, format!("1100000020 {a}")),
        ("ping", Frame::Ping(*b"12345678"), Side::Client, "1200000008 3132333435363738".into()),
        ("pong", Frame::Pong(*b"12345678"), Side::Server, "1300000008 3132333435363738".into()),
        ("health", Frame::Health("sick"), Side::Server, "1400000004 7369636b".into()),
        (
            "restarting",
            Frame::Restarting { reconnect_in_ms: 1000, try_for_ms: 2 },
            Side::Server,
            "1500000008 000003e8 00000002".into(),
        ),
    ]
}

#[test]
fn frames_are_the_bytes_they_should_be() {
    for (name, frame, side, text) in golden() {
        let bytes = hex::decode(text.replace(' ', "")).unwrap();
        assert_eq!(hex::encode(frame.to_vec()), hex::encode(&bytes), "writing: {name}");
        let used = bytes.len();
        assert_eq!(frame::step(&bytes, side), Ok(Step::Frame { frame, used }), "reading: {name}");
        for cut in 0..bytes.len() {
            assert_eq!(frame::step(&bytes[..cut], side), Ok(Step::Incomplete), "{name}, {cut} bytes");
        }
    }
}

#[test]
fn old_relays_say_less() {
    let mut short = vec![kind::PEER_GONE, 0, 0, 0, 32];
    short.extend(A.0);
    let gone = Frame::PeerGone { key: A, why: Gone::Disconnected };
    assert_eq!(frame::step(&short, Side::Server), Ok(Step::Frame { frame: gone, used: 37 }));
    short[0] = kind::PEER_PRESENT;
    let present = Frame::PeerPresent { key: A, endpoint: None, flags: 0 };
    assert_eq!(frame::step(&short, Side::Server), Ok(Step::Frame { frame: present, used: 37 }));
}

#[test]
fn lengths_are_judged_by_the_header_alone() {
    let header = |kind: u8, length: u32| {
        let [a, b, c, d] = length.to_be_bytes();
        [kind, a, b, c, d]
    };
    let client = |kind, length| frame::step(&header(kind, length), Side::Client).map(|step| step == Step::Incomplete);
    let too_long = |kind, length: usize, most| Err(FrameError::TooLong { kind, length, most });
    let too_short = |kind, length: usize, least| Err(FrameError::TooShort { kind, length, least });
    assert_eq!(client(kind::SEND_PACKET, 65_568), Ok(true));
    assert_eq!(client(kind::SEND_PACKET, 65_569), too_long(kind::SEND_PACKET, 65_569, 65_568));
    assert_eq!(client(kind::SEND_PACKET, 31), too_short(kind::SEND_PACKET, 31, 32));
    assert_eq!(client(kind::NOTE_PREFERRED, 2), too_long(kind::NOTE_PREFERRED, 2, 1));
    assert_eq!(client(kind::NOTE_PREFERRED, 0), too_short(kind::NOTE_PREFERRED, 0, 1));
    assert_eq!(client(kind::PING, 7), too_short(kind::PING, 7, 8));
    assert_eq!(client(kind::PING, 1001), too_long(kind::PING, 1001, 1000));
    assert_eq!(client(kind::WATCH_CONNS, 1), too_long(kind::WATCH_CONNS, 1, 0));
    assert_eq!(client(0xee, u32::MAX), too_long(0xee, u32::MAX as usize, 1 << 20));
    let skip = Step::Skip { kind: 0xee, used: 5, payload: 1 << 20 };
    let unknown = header(0xee, 1 << 20);
    assert_eq!(frame::step(&unknown, Side::Client), Ok(skip));
    let endless = header(kind::CLIENT_INFO, 256 * 1024 + 1);
    let newcomer = frame::step(&endless, Side::Newcomer);
    assert_eq!(newcomer, Err(FrameError::TooLong { kind: kind::CLIENT_INFO, length: 262_145, most: 262_144 }));
    let bad_home = frame::step(&[kind::NOTE_PREFERRED, 0, 0, 0, 1, 2], Side::Client);
    assert!(matches!(bad_home, Err(FrameError::Content { .. })));
}

#[test]
fn path_discovery_is_recognised() {
    let mut packet = b"TS\xf0\x9f\x92\xac".to_vec();
    packet.resize(62, 0);
    assert!(frame::is_disco(&packet));
    assert!(!frame::is_disco(&packet[..61]));
    packet[0] = b't';
    assert!(!frame::is_disco(&packet));
}

fn sides() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Newcomer), Just(Side::Client), Just(Side::Server)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), side in sides()) {
        if let Ok(Step::Frame { used, .. }) = frame::step(&bytes, side) {
            prop_assert!(used <= bytes.len());
        }
    }

    #[test]
    fn arbitrary_payloads_are_read_or_refused(
        kind in 0u8..0x18,
        payload in prop::collection::vec(any::<u8>(), 0..120),
        side in sides(),
    ) {
        let mut bytes = vec![kind];
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(&payload);
        match frame::step(&bytes, side) {
            Ok(Step::Frame { frame, used }) => {
                prop_assert_eq!(used, bytes.len());
                // What was understood is written again so that it is understood the same way.
                let again = frame.to_vec();
                prop_assert_eq!(frame::step(&again, side), Ok(Step::Frame { frame, used: again.len() }));
            }
            Ok(Step::Skip { payload: length, .. }) => prop_assert_eq!(length, payload.len()),
            Ok(Step::Incomplete) => prop_assert!(false, "all bytes are there"),
            Err(_) => {}
        }
    }

    #[test]
    fn packets_go_both_ways(key in any::<[u8; 32]>(), packet in prop::collection::vec(any::<u8>(), 0..3000)) {
        let frame = Frame::SendPacket { to: NodeKey(key), packet: &packet };
        let bytes = frame.to_vec();
        prop_assert_eq!(frame::step(&bytes, Side::Client), Ok(Step::Frame { frame, used: bytes.len() }));
    }
}
