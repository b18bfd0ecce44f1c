//! What a relay needs to know about itself, and its limits.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use zeroize::Zeroizing;

use crate::{hello::PrivateKey, hub::HubLimits, tls::Certificate};

/// What [`Relay::start`](crate::Relay::start) is given.
pub struct RelayOptions {
    /// The relay's identity. Clients notice when it changes, so it is kept in a file by whoever embeds the relay.
    pub private_key: PrivateKey,
    /// Shown by `serve_tls`; without one a self-signed certificate for `127.0.0.1` is made.
    pub certificate: Option<Certificate>,
    /// Who knows it may watch all clients, forward packets and close connections. `None`: nobody may.
    pub mesh_key: Option<MeshKey>,
    /// What `/bootstrap-dns` answers: names of control servers and relays with their addresses.
    pub bootstrap_dns: BTreeMap<String, Vec<IpAddr>>,
    /// Spans and sizes.
    pub limits: Limits,
    /// Where connections run: the relay's own threads, so that a flood cannot starve its host. `None`: where `serve`
    /// is called.
    pub runtime: Option<tokio::runtime::Handle>,
}

impl RelayOptions {
    /// The usual limits, no mesh, a self-signed certificate, the caller's runtime.
    pub fn new(private_key: PrivateKey) -> RelayOptions {
        RelayOptions {
            private_key,
            certificate: None,
            mesh_key: None,
            bootstrap_dns: BTreeMap::new(),
            limits: Limits::default(),
            runtime: None,
        }
    }

    /// The name of the certificate that is made when none is given.
    pub(crate) fn fallback_name() -> String {
        Ipv4Addr::LOCALHOST.to_string()
    }
}

/// The secret of a mesh of relays. Never shown, compared in constant time.
#[derive(Clone)]
pub struct MeshKey(Zeroizing<[u8; 32]>);

impl MeshKey {
    /// Takes the 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> MeshKey {
        MeshKey(Zeroizing::new(bytes))
    }

    /// Whether somebody who shows `bytes` knows the key.
    pub fn is(&self, bytes: &[u8; 32]) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.0.as_slice(), bytes.as_slice()).into()
    }
}

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshKey")
    }
}

/// How much the relay does for one client and for all.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections that passed the handshake.
    pub clients_max: usize,
    /// Connections that have not.
    pub newcomers_max: usize,
    /// The same from one IPv4 address or IPv6 /64.
    pub newcomers_per_source_max: usize,
    /// For the TLS handshake, for a request's head and for the introduction, each.
    pub handshake_timeout: Duration,
    /// How long a stranger may wait for the news that it was admitted meanwhile: a node that has just registered may
    /// be faster than the log.
    pub admission_patience: Duration,
    /// A client that takes nothing for so long is disconnected.
    pub write_timeout: Duration,
    /// The same for relays of the mesh.
    pub mesh_write_timeout: Duration,
    /// A sign of life, and what is added to it at random once per connection.
    pub keep_alive: Duration,
    pub keep_alive_jitter: Duration,
    /// What waits for one client.
    pub queue: QueueLimits,
    /// The room of somebody who watches all clients.
    pub watcher_notices_bytes_max: usize,
    /// Bytes read from one client before others get their turn.
    pub read_bytes_per_turn: usize,
    /// Bytes handed to one write.
    pub write_bytes_per_turn: usize,
    /// What the table of clients remembers.
    pub hub: HubLimits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            clients_max: 50_000,
            newcomers_max: 2_000,
            newcomers_per_source_max: 500,
            handshake_timeout: Duration::from_secs(10),
            admission_patience: Duration::from_secs(2),
            write_timeout: Duration::from_secs(2),
            mesh_write_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            keep_alive_jitter: Duration::from_secs(5),
            queue: QueueLimits::default(),
            watcher_notices_bytes_max: 8 << 20,
            read_bytes_per_turn: 64 << 10,
            write_bytes_per_turn: 64 << 10,
            hub: HubLimits::default(),
        }
    }
}

/// What may wait for one client. Beyond that the oldest packets are dropped.
#[derive(Clone, Debug)]
pub struct QueueLimits {
    pub packets_max: usize,
    pub bytes_max: usize,
    pub disco_packets_max: usize,
    pub disco_bytes_max: usize,
    pub notices_bytes_max: usize,
}

impl Default for QueueLimits {
    fn default() -> QueueLimits {
        QueueLimits {
            packets_max: 1024,
            bytes_max: 128 << 10,
            disco_packets_max: 64,
            disco_bytes_max: 16 << 10,
            notices_bytes_max: 64 << 10,
        }
    }
}
