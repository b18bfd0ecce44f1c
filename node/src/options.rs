//! What one member is told at its start.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use state_machine::{CertificateWish, DerpRegion, Settings, Timestamp};
use url::Url;

/// Everything [`Server::start`](crate::Server::start) needs beside a world.
#[derive(Clone, Debug)]
pub struct Options {
    /// Unique in the cluster: `hs1`.
    pub name: String,
    pub data_dir: PathBuf,
    /// Where the sealing key is kept; none: in the data folder.
    pub sealing_key: Option<PathBuf>,
    pub start: Start,
    /// What all members share. Used when a cluster is founded; later only compared.
    pub settings: Settings,
    /// The Noise key of an older installation, to found a cluster its clients trust already.
    pub noise_private: Option<NoisePrivate>,
    /// The first policy of a new cluster.
    pub policy: Option<String>,
    /// DERP regions that are not ours.
    pub derp: DerpMaps,

    pub client_listen: SocketAddr,
    pub client_tls: Option<TlsFiles>,
    /// Instead of files: a certificate the cluster fetches.
    pub client_acme: Option<Acme>,
    /// How certificate authorities learn of the nodes' names; which way, [`Settings::node_certificates`] says.
    pub cert_dns: CertDns,
    /// A port of its own for gRPC; with the certificate of the client port unless [`Options::grpc_insecure`].
    pub grpc_listen: Option<SocketAddr>,
    /// Plain text on the gRPC port.
    pub grpc_insecure: bool,
    /// The URL of this very member, for people; may be empty.
    pub client_url: String,
    /// Where clients reach this member besides asking DNS; empty: what DNS says of the host of `client_url`.
    pub client_addresses: Vec<IpAddr>,
    pub metrics_listen: Option<SocketAddr>,
    pub unix_socket: Option<PathBuf>,
    pub unix_socket_mode: u32,
    /// Pages from these origins may ask the API from a browser; empty: none.
    pub allowed_origins: Vec<String>,

    pub peer_listen: SocketAddr,
    /// `host:port` other members dial. Port 0: the port that was bound.
    pub peer_advertise: String,
    pub timing: raft::Timing,
    /// A silent voter is removed after so long, when a learner is ready to vote in its place; none: never.
    pub auto_remove_after: Option<Duration>,
    /// How long a joiner tries to be let in, and then to catch up to its own admission.
    pub join_within: Duration,
    /// Told how much of the state has come, while a newcomer receives it.
    pub arrival: Option<tokio::sync::watch::Sender<Option<raft::Arriving>>>,
    /// A newcomer whose disk or network cannot hold the timing is turned away, not only warned.
    pub timing_must_hold: bool,
    /// Log entries between snapshots.
    pub snapshot_every: u64,
    /// How much room this member wants on its disk.
    pub space: raft::Space,
    /// A folder where backups are kept.
    pub backup_dir: Option<PathBuf>,
    /// Whether drills may break this member on purpose.
    pub drills: bool,
    /// No drill begins within these spans: from, until.
    pub drills_freeze: Vec<(Timestamp, Timestamp)>,
    /// Another place where backups are kept; opened by whoever runs a real member, and preferred to the folder.
    pub backup_bucket: Option<Bucket>,

    /// The login provider people prove themselves at; none: they are let in on a server.
    pub oidc: Option<Oidc>,

    pub relay: Option<Relay>,
    pub limits: Limits,
    /// Where Raft lives; `None`: the runtime that starts the server.
    pub raft_runtime: Option<tokio::runtime::Handle>,
    /// Where the relay lives; `None`: the runtime that starts the server.
    pub relay_runtime: Option<tokio::runtime::Handle>,
}

/// How a member with an empty data folder begins. With data it continues what it was.
#[derive(Clone, Debug)]
pub enum Start {
    /// Founds a cluster of one.
    Found,
    /// Joins the members at these addresses.
    /// `replaces`: a member that is gone and whose place this one takes; empty for none.
    Join { addresses: Vec<String>, token: Token, replaces: String },
    /// Refuses to start without data.
    Continue,
}

/// A join token. Its Debug form keeps the secret.
#[derive(Clone)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A Noise private key. Its Debug form keeps the secret.
#[derive(Clone)]
pub struct NoisePrivate(pub [u8; 32]);

impl std::fmt::Debug for NoisePrivate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoisePrivate(…)")
    }
}

/// A login provider that speaks OpenID Connect, and whom it may let in. Must be the same at all members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oidc {
    /// As the provider itself writes it: `https://idp.example.com`.
    pub issuer: String,
    pub client_id: String,
    /// Empty for a public client.
    pub client_secret: ClientSecret,
    pub scope: Vec<String>,
    /// Added to the URL people are sent to.
    pub extra_params: BTreeMap<String, String>,
    /// Domains of mail addresses; empty: all.
    pub allowed_domains: Vec<String>,
    /// Groups of the provider, one of which is needed; empty: none is.
    pub allowed_groups: Vec<String>,
    /// Mail addresses; empty: all.
    pub allowed_users: Vec<String>,
    /// Whether a mail address counts only when the provider has verified it.
    pub email_verified_required: bool,
    /// Whether a node's key ends with the token.
    pub use_expiry_from_token: bool,
    pub pkce: Pkce,
    /// Whether a member refuses to start while the provider cannot be reached.
    pub only_start_if_available: bool,
    /// A PEM file of authorities to trust instead of the system's (`SSL_CERT_FILE`).
    pub authorities: Option<PathBuf>,
}

/// How a code is bound to who asked for it (RFC 7636).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pkce {
    Off,
    S256,
    Plain,
}

/// The secret of an OAuth client. Its Debug form keeps the secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientSecret(pub String);

impl std::fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientSecret(…)")
    }
}

/// A place for backups that somebody opened. Its Debug form is its name.
#[derive(Clone)]
pub struct Bucket(pub Arc<dyn raft::archive::Objects>);

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A certificate from an authority of the public.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    pub wish: CertificateWish,
    /// Where the authority asks over plain HTTP (HTTP-01), and where others are told to use HTTPS.
    pub plain_listen: Option<SocketAddr>,
    /// A PEM file of authorities to trust, instead of the system's, when speaking to the authority (`SSL_CERT_FILE`).
    pub authorities: Option<PathBuf>,
}

/// What is a member's own of the way nodes prove their names to certificate authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertDns {
    /// UDP and TCP; none: this member answers nobody.
    pub listen: Option<SocketAddr>,
    /// To whom the zone is delegated: names without a dot at the end.
    pub name_servers: Vec<String>,
    pub update: Option<DnsUpdate>,
}

/// A DNS server that is told by whoever leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsUpdate {
    /// `host:port`.
    pub server: String,
    /// Without a dot at the end, as the other name.
    pub zone: String,
    pub key_name: String,
    pub secret: TsigSecret,
}

/// A key shared with a DNS server. Its Debug form keeps the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct TsigSecret(pub Vec<u8>);

impl std::fmt::Debug for TsigSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TsigSecret(…)")
    }
}

/// Regions by id; `None` takes a region of an earlier map away.
pub type Regions = BTreeMap<u32, Option<DerpRegion>>;

/// Where DERP regions that are not ours come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerpMaps {
    /// Of files (`derp.paths`); wins over what is fetched.
    pub fixed: Regions,
    /// Fetched by the leader, in this order, later ones win (`derp.urls`).
    pub urls: Vec<Url>,
    /// Between two looks (`derp.update_frequency`).
    pub every: Duration,
    /// A PEM file of authorities to trust instead of the system's (`SSL_CERT_FILE`).
    pub authorities: Option<PathBuf>,
}

impl Default for DerpMaps {
    fn default() -> DerpMaps {
        DerpMaps { fixed: Regions::new(), urls: Vec::new(), every: Duration::from_secs(3 * 3600), authorities: None }
    }
}

impl DerpMaps {
    /// The regions of files alone.
    pub fn fixed_regions(&self) -> Vec<DerpRegion> {
        self.fixed.values().flatten().cloned().collect()
    }
}

/// The embedded relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// A TLS listener of its own; `None`: only `/derp` on the client port.
    pub listen: Option<SocketAddr>,
    pub stun_listen: Option<SocketAddr>,
    /// `None` with [`Relay::insecure_for_tests`]: self-signed.
    pub tls: Option<TlsFiles>,
    /// Where the relay's own key is kept; made when missing.
    pub key_path: PathBuf,
    /// Whether only nodes of the tailnet are admitted.
    pub verify_clients: bool,
    /// Whether other members may put the relay into the DERP map.
    pub advertise: bool,
    /// Region code and name; empty: the member's name.
    pub region_code: String,
    pub region_name: String,
    /// What clients dial and expect in the certificate.
    pub host_name: String,
    /// Literals, empty (ask DNS) or `none`.
    pub ipv4: String,
    pub ipv6: String,
    /// What clients dial; `None`: the port that was bound.
    pub port: Option<u16>,
    pub stun_port: Option<i32>,
    /// Clients shall not verify the certificate: laboratories only.
    pub insecure_for_tests: bool,
}

/// How much a stranger may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections in all.
    pub connections_max: usize,
    /// Connections of one address on which no node of the tailnet has spoken yet. A load balancer counts as one
    /// address.
    pub strangers_per_address_max: usize,
    /// From the first byte of a connection to the end of its handshake.
    pub handshake: Duration,
    /// A request's body inside Noise.
    pub body_bytes_max: usize,
    /// A request's head.
    pub head_bytes_max: usize,
    /// How long a frame may wait for a client that does not read.
    pub stalled_client: Duration,
    /// How long a follow-up waits for a person.
    pub followup_hold: Duration,
    /// How long drain may take.
    pub drain: Duration,
    /// A map stream hears at least this often from us, and up to nine seconds later.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 65_536,
            strangers_per_address_max: 1_024,
            handshake: Duration::from_secs(10),
            body_bytes_max: 1 << 20,
            head_bytes_max: 16 << 10,
            stalled_client: Duration::from_secs(60),
            followup_hold: Duration::from_secs(60),
            drain: Duration::from_secs(8),
            keep_alive: Duration::from_secs(50),
        }
    }
}

impl Options {
    /// Where backups go; none: nowhere.
    pub fn backup_place(&self, world: &world::World) -> Option<Arc<dyn raft::archive::Objects>> {
        match (&self.backup_bucket, &self.backup_dir) {
            (Some(Bucket(place)), _) => Some(place.clone()),
            (None, Some(folder)) => Some(raft::archive::folder(folder, &world.disk)),
            (None, None) => None,
        }
    }

    /// A member that founds (or continues) a cluster of one in `data_dir`, on free loopback ports, without relay,
    /// metrics or unix socket. What tests and simulations start from.
    pub fn new(name: &str, data_dir: impl Into<PathBuf>) -> Options {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Options {
            name: name.to_owned(),
            data_dir: data_dir.into(),
            sealing_key: None,
            start: Start::Found,
            settings: Settings {
                server_url: "http://127.0.0.1".to_owned(),
                base_domain: "example.ts.net".to_owned(),
                ..Settings::default()
            },
            noise_private: None,
            policy: None,
            derp: DerpMaps::default(),
            client_listen: anywhere,
            client_tls: None,
            client_acme: None,
            cert_dns: CertDns::default(),
            grpc_listen: None,
            grpc_insecure: false,
            client_url: String::new(),
            client_addresses: Vec::new(),
            metrics_listen: None,
            unix_socket: None,
            unix_socket_mode: 0o600,
            allowed_origins: Vec::new(),
            peer_listen: anywhere,
            peer_advertise: "127.0.0.1:0".to_owned(),
            timing: raft::Timing::lan(),
            auto_remove_after: None,
            join_within: raft::JOIN_WITHIN,
            arrival: None,
            timing_must_hold: true,
            snapshot_every: 10_000,
            space: raft::Space::default(),
            backup_dir: None,
            drills: false,
            drills_freeze: Vec::new(),
            oidc: None,
            backup_bucket: None,
            relay: None,
            limits: Limits::default(),
            raft_runtime: None,
            relay_runtime: None,
        }
    }
}
