//! What a member needs to know about itself.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use state_machine::{RelayFacts, Settings};
use tokio::sync::watch;
use world::Objects;

use crate::status::Arriving;

/// What [`Options::join_within`] is when nobody says.
pub const JOIN_WITHIN: Duration = Duration::from_secs(60);

/// Everything [`Cluster::start`](crate::Cluster::start) needs beside a world.
#[derive(Clone)]
pub struct Options {
    /// This member's folder: identity, database, snapshots.
    pub data_dir: PathBuf,
    /// Where the sealing key lies when it is kept outside that folder: a credential of the service, a memory disk; none:
    /// in the folder.
    pub sealing_key: Option<PathBuf>,
    /// `hs1`; unique in the cluster.
    pub name: String,
    /// Where members call.
    pub peer_listen: SocketAddr,
    /// `host:port` other members dial. Port 0 stands for the port that was bound.
    pub peer_advertise: String,
    pub timing: Timing,
    /// Version of the program, for people.
    pub version: String,
    /// What this program says it can apply: [`state_machine::FEATURE_LEVEL`]; another only in tests of upgrades.
    pub feature_level: u32,
    /// The URL clients may use for this very member; may be empty.
    pub client_url: String,
    pub relay: Option<RelayFacts>,
    pub start: StartAs,
    /// A silent voter is removed after so long, when a learner is ready to vote in its place; none: never.
    pub auto_remove_after: Option<Duration>,
    /// How long a joiner tries to be let in, and then to catch up to its own admission.
    pub join_within: Duration,
    /// Told how much of the state has come, while a newcomer receives it.
    pub arrival: Option<watch::Sender<Option<Arriving>>>,
    /// A snapshot after so many log entries.
    pub snapshot_every: u64,
    /// How much room this member wants on its disk.
    pub space: crate::space::Space,
    /// Whether drills may break this member on purpose.
    pub drills: bool,
    /// Where this member keeps the cluster's backups when it is its turn; none: nowhere.
    pub backup: Option<Arc<dyn Objects>>,
    /// Raft's own runtime in production; none: the current one.
    pub runtime: Option<tokio::runtime::Handle>,
}

/// What to do in a folder.
#[derive(Clone)]
pub enum StartAs {
    /// Continue, or found a cluster when the folder is empty. The secrets are sealed before they enter the log.
    FoundIfEmpty { settings: Settings, secrets: Vec<(String, Vec<u8>)> },
    /// Continue, or join a cluster when the folder is empty.
    /// `replaces`: the name of a member that is gone and whose place this one takes; empty for none.
    Join { address: Vec<String>, token: String, replaces: String },
    /// Continue, or fail.
    Continue,
}

/// How fast members notice each other's silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
}

impl Timing {
    /// One data centre: a crashed leader is replaced in 0.5 to 0.65 s.
    pub const fn lan() -> Timing {
        Timing { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 }
    }

    /// Slow disks, noisy neighbours: about 1.2 s.
    pub const fn cautious() -> Timing {
        Timing { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 }
    }

    /// Round trips up to 100 ms: about 4 s.
    pub const fn wan() -> Timing {
        Timing { heartbeat_ms: 250, election_min_ms: 1000, election_max_ms: 2000 }
    }

    /// Simulated networks.
    pub const fn test() -> Timing {
        Timing { heartbeat_ms: 20, election_min_ms: 80, election_max_ms: 160 }
    }
}
