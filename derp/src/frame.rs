//! Bytes ⇄ frames: the sixteen things relay and client say to each other. Pure.
//!
//! A frame is a type byte, a big-endian `u32` length and so many bytes of payload (`derp/derp.go`). Lengths are
//! checked against the limit of their type before anybody waits for the payload or makes room for it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tailcfg::NodeKey;
use thiserror::Error;

/// Type byte and length.
pub const HEADER_LEN: usize = 5;
/// What a server's first frame starts with: `DERP🔑`.
pub const MAGIC: [u8; 8] = *b"DERP\xf0\x9f\x94\x91";
/// The version of the protocol spoken here: received packets name their source.
pub const PROTOCOL_VERSION: u32 = 2;
/// The longest packet that is relayed (`derp.go`, MaxPacketSize).
pub const PACKET_BYTES_MAX: usize = 64 << 10;
/// The longest introduction of a client, key and nonce included.
pub const CLIENT_INFO_BYTES_MAX: usize = 256 << 10;
/// The longest frame of an unknown type that is skipped; anything longer ends the connection.
pub const UNKNOWN_BYTES_MAX: usize = 1 << 20;
/// The longest frame a client that was let in can write: a forwarded packet.
pub const CLIENT_FRAME_BYTES_MAX: usize = HEADER_LEN + 2 * KEY_LEN + PACKET_BYTES_MAX;
/// Ping and pong carry eight bytes and may carry more, which are ignored (`derp_server.go`).
const PING_BYTES_MAX: usize = 1000;
/// Frames that carry a key and little else.
const NOTICE_BYTES_MAX: usize = 1024;
/// A text a person reads.
const HEALTH_BYTES_MAX: usize = 4096;
const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 24;

/// The type bytes.
pub mod kind {
    pub const SERVER_KEY: u8 = 0x01;
    pub const CLIENT_INFO: u8 = 0x02;
    pub const SERVER_INFO: u8 = 0x03;
    pub const SEND_PACKET: u8 = 0x04;
    pub const RECV_PACKET: u8 = 0x05;
    pub const KEEP_ALIVE: u8 = 0x06;
    pub const NOTE_PREFERRED: u8 = 0x07;
    pub const PEER_GONE: u8 = 0x08;
    pub const PEER_PRESENT: u8 = 0x09;
    pub const FORWARD_PACKET: u8 = 0x0a;
    pub const WATCH_CONNS: u8 = 0x10;
    pub const CLOSE_PEER: u8 = 0x11;
    pub const PING: u8 = 0x12;
    pub const PONG: u8 = 0x13;
    pub const HEALTH: u8 = 0x14;
    pub const RESTARTING: u8 = 0x15;
}

/// Why a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It was here and hung up.
    Disconnected,
    /// Nobody of that key is connected to this relay.
    NotHere,
    /// A reason this version does not know.
    Other(u8),
}

impl Gone {
    fn from_wire(byte: u8) -> Gone {
        match byte {
            0x00 => Gone::Disconnected,
            0x01 => Gone::NotHere,
            other => Gone::Other(other),
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Gone::Disconnected => 0x00,
            Gone::NotHere => 0x01,
            Gone::Other(byte) => byte,
        }
    }
}

/// What a relay says about a peer that is present, as bits.
pub mod present {
    /// None of the others.
    pub const REGULAR: u8 = 1;
    /// Another relay of the mesh.
    pub const MESH_PEER: u8 = 2;
    /// A probe that measures us.
    pub const PROBER: u8 = 4;
    /// A client that would rather be with another relay of the region.
    pub const NOT_IDEAL: u8 = 8;
}

/// One frame, borrowing its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The relay's public key; the first frame on every connection.
    ServerKey(NodeKey),
    /// The client's public key and its sealed introduction, nonce first.
    ClientInfo { key: NodeKey, sealed: &'a [u8] },
    /// The relay's sealed introduction, nonce first.
    ServerInfo { sealed: &'a [u8] },
    /// From a client: deliver this.
    SendPacket { to: NodeKey, packet: &'a [u8] },
    /// To a client: this came for you.
    RecvPacket { from: NodeKey, packet: &'a [u8] },
    /// To a client, now and then: the connection is alive.
    KeepAlive,
    /// From a client: you are (or are no longer) my home.
    NotePreferred(bool),
    /// To a client: forget the way to this peer.
    PeerGone { key: NodeKey, why: Gone },
    /// To a watcher: this peer is connected here.
    PeerPresent { key: NodeKey, endpoint: Option<SocketAddr>, flags: u8 },
    /// From a relay of the mesh: deliver this to a client of yours.
    ForwardPacket { from: NodeKey, to: NodeKey, packet: &'a [u8] },
    /// From a relay of the mesh: tell me who comes and goes.
    WatchConns,
    /// From a relay of the mesh: close all connections of this peer.
    ClosePeer(NodeKey),
    /// Answer with the same bytes.
    Ping([u8; 8]),
    /// The answer.
    Pong([u8; 8]),
    /// To a client: what is wrong; empty when nothing is.
    Health(&'a str),
    /// To a client: the relay restarts.
    Restarting { reconnect_in_ms: u32, try_for_ms: u32 },
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("frame {kind:#04x} is {length} bytes long, at most {most} are taken")]
    TooLong { kind: u8, length: usize, most: usize },
    #[error("frame {kind:#04x} is {length} bytes long, at least {least} are needed")]
    TooShort { kind: u8, length: usize, least: usize },
    #[error("frame {kind:#04x} does not carry {expected}")]
    Content { kind: u8, expected: &'static str },
}

/// Who wrote the bytes; frames it does not say are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client that has yet to introduce itself.
    Newcomer,
    /// A client that was let in.
    Client,
    /// The relay.
    Server,
}

impl Side {
    fn says(self, kind: u8) -> bool {
        use kind::*;
        match self {
            Side::Newcomer => kind == CLIENT_INFO,
            Side::Client => {
                matches!(kind, SEND_PACKET | NOTE_PREFERRED | FORWARD_PACKET | WATCH_CONNS | CLOSE_PEER | PING | PONG)
            }
            Side::Server => matches!(
                kind,
                SERVER_KEY
                    | SERVER_INFO
                    | RECV_PACKET
                    | KEEP_ALIVE
                    | PEER_GONE
                    | PEER_PRESENT
                    | PING
                    | PONG
                    | HEALTH
                    | RESTARTING
            ),
        }
    }
}

/// What the start of some bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A whole frame; the next one starts after `used` bytes.
    Frame { frame: Frame<'a>, used: usize },
    /// A frame of a type this side does not say: `used` bytes of header, then `payload` bytes to skip.
    Skip { kind: u8, used: usize, payload: usize },
    /// Not a whole frame yet.
    Incomplete,
}

/// Looks at the first frame of `bytes`, which `side` wrote.
pub fn step(bytes: &[u8], side: Side) -> Result<Step<'_>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(Step::Incomplete) };
    let [kind, l0, l1, l2, l3] = *header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if !side.says(kind) {
        check_length(kind, length, 0, UNKNOWN_BYTES_MAX)?;
        return Ok(Step::Skip { kind, used: HEADER_LEN, payload: length });
    }
    let (least, most) = lengths(kind);
    check_length(kind, length, least, most)?;
    match rest.get(..length) {
        Some(payload) => Ok(Step::Frame { frame: decode(kind, payload)?, used: HEADER_LEN + length }),
        None => Ok(Step::Incomplete),
    }
}

fn check_length(kind: u8, length: usize, least: usize, most: usize) -> Result<(), FrameError> {
    if length > most {
        return Err(FrameError::TooLong { kind, length, most });
    }
    if length < least {
        return Err(FrameError::TooShort { kind, length, least });
    }
    Ok(())
}

/// The least and the most bytes of payload a type may have.
fn lengths(kind: u8) -> (usize, usize) {
    match kind {
        kind::SERVER_KEY => (MAGIC.len() + KEY_LEN, NOTICE_BYTES_MAX),
        kind::CLIENT_INFO => (KEY_LEN + NONCE_LEN, CLIENT_INFO_BYTES_MAX),
        kind::SERVER_INFO => (NONCE_LEN, CLIENT_INFO_BYTES_MAX),
        kind::SEND_PACKET | kind::RECV_PACKET => (KEY_LEN, KEY_LEN + PACKET_BYTES_MAX),
        kind::FORWARD_PACKET => (2 * KEY_LEN, 2 * KEY_LEN + PACKET_BYTES_MAX),
        kind::KEEP_ALIVE => (0, NOTICE_BYTES_MAX),
        kind::NOTE_PREFERRED => (1, 1),
        kind::WATCH_CONNS => (0, 0),
        kind::CLOSE_PEER => (KEY_LEN, KEY_LEN),
        kind::PEER_GONE | kind::PEER_PRESENT => (KEY_LEN, NOTICE_BYTES_MAX),
        kind::PING | kind::PONG => (8, PING_BYTES_MAX),
        kind::HEALTH => (0, HEALTH_BYTES_MAX),
        kind::RESTARTING => (8, NOTICE_BYTES_MAX),
        _ => (0, UNKNOWN_BYTES_MAX),
    }
}

/// Reads a payload whose length was checked.
fn decode(kind: u8, payload: &[u8]) -> Result<Frame<'_>, FrameError> {
    let short = FrameError::TooShort { kind, length: payload.len(), least: lengths(kind).0 };
    Ok(match kind {
        kind::SERVER_KEY => {
            let key = payload.strip_prefix(&MAGIC).ok_or(FrameError::Content { kind, expected: "the magic bytes" })?;
            Frame::ServerKey(key_and_rest(key).ok_or(short)?.0)
        }
        kind::CLIENT_INFO => {
            let (key, sealed) = key_and_rest(payload).ok_or(short)?;
            Frame::ClientInfo { key, sealed }
        }
        kind::SERVER_INFO => Frame::ServerInfo { sealed: payload },
        kind::SEND_PACKET => {
            let (to, packet) = key_and_rest(payload).ok_or(short)?;
            Frame::SendPacket { to, packet }
        }
        kind::RECV_PACKET => {
            let (from, packet) = key_and_rest(payload).ok_or(short)?;
            Frame::RecvPacket { from, packet }
        }
        kind::FORWARD_PACKET => {
            let (from, rest) = key_and_rest(payload).ok_or(short.clone())?;
            let (to, packet) = key_and_rest(rest).ok_or(short)?;
            Frame::ForwardPacket { from, to, packet }
        }
        kind::KEEP_ALIVE => Frame::KeepAlive,
        kind::NOTE_PREFERRED => match payload {
            [0] => Frame::NotePreferred(false),
            [1] => Frame::NotePreferred(true),
            _ => return Err(FrameError::Content { kind, expected: "one byte, 0 or 1" }),
        },
        kind::WATCH_CONNS => Frame::WatchConns,
        kind::CLOSE_PEER => Frame::ClosePeer(key_and_rest(payload).ok_or(short)?.0),
        kind::PEER_GONE => {
            let (key, rest) = key_and_rest(payload).ok_or(short)?;
            // Old relays do not give a reason.
            let why = rest.first().map_or(Gone::Disconnected, |byte| Gone::from_wire(*byte));
            Frame::PeerGone { key, why }
        }
        kind::PEER_PRESENT => {
            let (key, rest) = key_and_rest(payload).ok_or(short)?;
            let endpoint = rest.first_chunk::<18>().map(endpoint_from_wire);
            Frame::PeerPresent { key, endpoint, flags: rest.get(18).copied().unwrap_or(0) }
        }
        kind::PING => Frame::Ping(*payload.first_chunk().ok_or(short)?),
        kind::PONG => Frame::Pong(*payload.first_chunk().ok_or(short)?),
        kind::HEALTH => {
            Frame::Health(str::from_utf8(payload).map_err(|_| FrameError::Content { kind, expected: "text" })?)
        }
        kind::RESTARTING => {
            let bytes: &[u8; 8] = payload.first_chunk().ok_or(short)?;
            let [a, b, c, d, e, f, g, h] = *bytes;
            Frame::Restarting {
                reconnect_in_ms: u32::from_be_bytes([a, b, c, d]),
                try_for_ms: u32::from_be_bytes([e, f, g, h]),
            }
        }
        _ => return Err(FrameError::Content { kind, expected: "anything known" }),
    })
}

fn key_and_rest(bytes: &[u8]) -> Option<(NodeKey, &[u8])> {
    let (key, rest) = bytes.split_first_chunk::<KEY_LEN>()?;
    Some((NodeKey(*key), rest))
}

/// An endpoint travels as sixteen bytes, IPv4 mapped into IPv6, and a port.
fn endpoint_from_wire(bytes: &[u8; 18]) -> SocketAddr {
    let mut ip = [0; 16];
    ip.copy_from_slice(&bytes[..16]);
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)).to_canonical(), u16::from_be_bytes([bytes[16], bytes[17]]))
}

fn endpoint_to_wire(endpoint: SocketAddr) -> [u8; 18] {
    let ip = match endpoint.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&endpoint.port().to_be_bytes());
    bytes
}

impl Frame<'_> {
    /// Appends the frame, header and all.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Frame::ServerKey(key) => put(out, kind::SERVER_KEY, &[&MAGIC, &key.0]),
            Frame::ClientInfo { key, sealed } => put(out, kind::CLIENT_INFO, &[&key.0, sealed]),
            Frame::ServerInfo { sealed } => put(out, kind::SERVER_INFO, &[sealed]),
            Frame::SendPacket { to, packet } => put(out, kind::SEND_PACKET, &[&to.0, packet]),
            Frame::RecvPacket { from, packet } => put(out, kind::RECV_PACKET, &[&from.0, packet]),
            Frame::KeepAlive => put(out, kind::KEEP_ALIVE, &[]),
            Frame::NotePreferred(home) => put(out, kind::NOTE_PREFERRED, &[&[u8::from(*home)]]),
            Frame::PeerGone { key, why } => put(out, kind::PEER_GONE, &[&key.0, &[why.to_wire()]]),
            Frame::PeerPresent { key, endpoint: None, .. } => put(out, kind::PEER_PRESENT, &[&key.0]),
            Frame::PeerPresent { key, endpoint: Some(endpoint), flags } => {
                put(out, kind::PEER_PRESENT, &[&key.0, &endpoint_to_wire(*endpoint), &[*flags]]);
            }
            Frame::ForwardPacket { from, to, packet } => put(out, kind::FORWARD_PACKET, &[&from.0, &to.0, packet]),
            Frame::WatchConns => put(out, kind::WATCH_CONNS, &[]),
            Frame::ClosePeer(key) => put(out, kind::CLOSE_PEER, &[&key.0]),
            Frame::Ping(data) => put(out, kind::PING, &[data]),
            Frame::Pong(data) => put(out, kind::PONG, &[data]),
            Frame::Health(text) => put(out, kind::HEALTH, &[text.as_bytes()]),
            Frame::Restarting { reconnect_in_ms, try_for_ms } => {
                put(out, kind::RESTARTING, &[&reconnect_in_ms.to_be_bytes(), &try_for_ms.to_be_bytes()]);
            }
        }
    }

    /// The frame as bytes of its own.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

fn put(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(HEADER_LEN + length);
    out.push(kind);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Whether a packet is one of path discovery (`disco.go`): small, rare, and better delivered than not.
pub fn is_disco(packet: &[u8]) -> bool {
    const MAGIC: &[u8] = b"TS\xf0\x9f\x92\xac";
    packet.len() >= MAGIC.len() + KEY_LEN + NONCE_LEN && packet.starts_with(MAGIC)
}
