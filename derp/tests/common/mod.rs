//! A relay to talk to, over pipes.
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use derp::{
    Limits, Metrics, PrivateKey, Relay, RelayOptions,
    client::{Client, ClientError},
    frame::Frame,
    hello::ClientInfo,
};
use tailcfg::NodeKey;
use tokio::io::{AsyncReadExt, DuplexStream};
use world::{BoxStream, World};

/// The relay's secret in all tests.
pub const RELAY_SECRET: [u8; 32] = [0x22; 32];
pub const MESH_KEY: [u8; 32] = [0x77; 32];
/// Nothing in a test takes so long.
pub const SOON: Duration = Duration::from_secs(20);

/// A relay and who may enter it.
pub struct Stage {
    pub relay: Relay,
    pub world: World,
    pub refused: Arc<Mutex<BTreeSet<NodeKey>>>,
}

/// Limits that do not make tests wait.
pub fn limits() -> Limits {
    Limits { admission_patience: Duration::ZERO, ..Limits::default() }
}

impl Stage {
    pub fn new() -> Stage {
        Stage::with(limits(), |_| {})
    }

    pub fn with(limits: Limits, more: impl FnOnce(&mut RelayOptions)) -> Stage {
        let world = world::real::world();
        let refused = Arc::new(Mutex::new(BTreeSet::new()));
        let list = refused.clone();
        let mut options = RelayOptions { limits, ..RelayOptions::new(PrivateKey::from_bytes(RELAY_SECRET)) };
        more(&mut options);
        let admission = move |key: &NodeKey| !list.lock().unwrap().contains(key);
        Stage { relay: Relay::start(options, Arc::new(admission), &world), world, refused }
    }

    pub fn metrics(&self) -> &Metrics {
        self.relay.metrics()
    }

    /// A pipe whose other end the relay serves.
    pub fn pipe(&self, bytes: usize) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(bytes);
        let relay = self.relay.clone();
        tokio::spawn(async move { relay.serve(Box::new(theirs), "192.0.2.9:4242".parse().unwrap()).await });
        ours
    }

    /// A client whose secret is `name` repeated.
    pub async fn client(&self, name: u8) -> Client {
        self.try_client(name, ClientInfo::default()).await.unwrap()
    }

    pub async fn try_client(&self, name: u8, info: ClientInfo) -> Result<Client, ClientError> {
        self.client_over(Box::new(self.pipe(1 << 20)), name, info).await
    }

    pub async fn client_over(&self, stream: BoxStream, name: u8, info: ClientInfo) -> Result<Client, ClientError> {
        Client::connect(stream, &secret(name), &info, &self.world.entropy).await
    }

    pub async fn mesh_client(&self, name: u8) -> Client {
        self.try_client(name, ClientInfo { mesh_key: Some(MESH_KEY), ..ClientInfo::default() }).await.unwrap()
    }

    /// What the relay answers to bytes, until it closes the connection.
    pub async fn answer(&self, bytes: &[u8]) -> String {
        use tokio::io::AsyncWriteExt;
        let mut stream = self.pipe(1 << 20);
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

pub fn secret(name: u8) -> PrivateKey {
    PrivateKey::from_bytes([name; 32])
}

pub fn key(name: u8) -> NodeKey {
    secret(name).public()
}

/// The next frame, as a line of text.
pub async fn next(client: &mut Client) -> String {
    let received = tokio::time::timeout(SOON, client.next()).await.expect("a frame comes soon");
    match received {
        Ok(received) => show(&received.frame().unwrap()),
        Err(ClientError::Closed | ClientError::Io(_)) => "closed".into(),
        Err(error) => panic!("{error}"),
    }
}

fn show(frame: &Frame<'_>) -> String {
    let name = |key: &NodeKey| {
        let found = (1..=u8::MAX).find(|name| self::key(*name) == *key);
        found.map_or_else(|| "?".to_owned(), |name| name.to_string())
    };
    match frame {
        Frame::RecvPacket { from, packet } => {
            format!("packet from {}: {}", name(from), String::from_utf8_lossy(packet))
        }
        Frame::PeerGone { key, why } => format!("{} is gone: {why:?}", name(key)),
        Frame::PeerPresent { key, flags, .. } => format!("{} is present, {flags}", name(key)),
        Frame::Pong(data) => format!("pong {}", String::from_utf8_lossy(data)),
        Frame::KeepAlive => "keep alive".into(),
        other => format!("{other:?}"),
    }
}

/// A packet that looks like path discovery.
pub fn disco() -> Vec<u8> {
    let mut packet = b"TS\xf0\x9f\x92\xac".to_vec();
    packet.resize(70, 1);
    packet
}

/// Waits until the relay has done everything it was sent: it answers in order.
pub async fn settle(client: &mut Client) {
    client.send(&Frame::Ping(*b"settled?")).await.unwrap();
    assert_eq!(next(client).await, "pong settled?");
}
