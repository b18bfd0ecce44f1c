//! The paths a Tailscale client knows.
//!
//! | file | path |
//! |---|---|
//! | `key.rs` | `GET /key`: our Noise key |
//! | `ts2021.rs` | `/ts2021`: upgrade → Noise → HTTP/2 |
//! | `register.rs` | `/machine/register`: coming, going, waiting for a person |
//! | `map.rs`, `session.rs`, `wire.rs` | `/machine/map`: reports in, maps out |
//! | `reports.rs` | what clients report, many of them in one command |
//! | `set_dns.rs` | `/machine/set-dns`: nodes prove their names to certificate authorities |
//! | `ssh.rs` | `/machine/ssh/action/…`: connections that wait for a person |
//! | `small.rs` | the rest of `/machine/…` |

pub mod body;
pub mod key;
mod map;
pub mod noise;
pub mod register;
pub mod reports;
mod session;
mod set_dns;
mod small;
mod ssh;
pub mod ts2021;
pub mod wire;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use netmap::{Atlas, Moment};
use raft::Cluster;
use state_machine::{State, Timestamp, codes};
use tailcfg::{ChallengeKey, MachineKey};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use world::{Clock, Entropy};
use zeroize::Zeroizing;

use crate::{listen::Seat, observe::Metrics, options::Limits, presence::Presence};
use body::{Answer, no};
use reports::Reports;

/// `headscale` 0.29 draws the line at the same place: Tailscale 1.80.
pub const CAPABILITY_VERSION_MIN: u16 = 113;

/// Full maps that are drawn at the same time; each keeps a core busy.
const FULL_MAPS_MAX: usize = 4;

/// What the control protocol needs of the member it runs in.
pub struct Control {
    pub cluster: Cluster,
    pub atlas: watch::Receiver<Atlas>,
    pub presence: Presence,
    pub reports: Reports,
    pub clock: Arc<dyn Clock>,
    pub entropy: Entropy,
    pub limits: Limits,
    pub metrics: Metrics,
    /// Cancelled when the member leaves.
    pub drain: CancellationToken,
    /// Cancelled, and replaced, when the connections there are now shall go elsewhere.
    away: Mutex<CancellationToken>,
    /// Cancelled when it has left; ends what still runs.
    pub cut: CancellationToken,
    /// Every connection and session, so that drain can wait for them.
    pub tasks: TaskTracker,
    /// `hs1`, for the log's "by".
    pub name: String,
    noise_private: Zeroizing<[u8; 32]>,
    noise_public: MachineKey,
    /// What access tokens of `/api/v2` are signed with.
    pub token_key: [u8; 32],
    challenge: ChallengeKey,
    full_maps: Semaphore,
}

/// What [`Control::new`] is made of.
pub struct Parts {
    pub cluster: Cluster,
    pub atlas: watch::Receiver<Atlas>,
    pub presence: Presence,
    pub reports: Reports,
    pub clock: Arc<dyn Clock>,
    pub entropy: Entropy,
    pub limits: Limits,
    pub metrics: Metrics,
    pub name: String,
    pub noise_private: Zeroizing<[u8; 32]>,
    pub cut: CancellationToken,
}

/// Who speaks inside a Noise connection.
#[derive(Clone)]
pub struct Peer {
    /// Proved by the handshake.
    pub machine_key: MachineKey,
    /// As the handshake carried it; requests repeat it.
    pub version: u16,
    /// Cancelled when the connection ends or is about to be ended: its streams end first.
    pub leaving: CancellationToken,
    /// Anybody can complete a handshake with a throw-away key: the connection is a stranger's until a node speaks on it.
    pub seat: Arc<Seat>,
}

impl Control {
    /// Sends the clients there are now elsewhere, spread over some seconds.
    pub fn send_away(&self) {
        let mut away = self.away.lock().expect("nobody panics while holding a token");
        std::mem::take(&mut *away).cancel();
    }

    /// Cancelled when a connection that begins now shall go elsewhere.
    pub fn sent_away(&self) -> CancellationToken {
        self.away.lock().expect("nobody panics while holding a token").clone()
    }

    /// A control server that accepts nothing by itself: `listen` hands it requests.
    pub fn new(parts: Parts) -> Control {
        let Parts { cluster, atlas, presence, reports, clock, entropy, limits, metrics, name, noise_private, cut } =
            parts;
        // Nobody has to answer the challenge yet, so one a start will do; its private half is forgotten here.
        let challenge = ChallengeKey(noise::public_key(&entropy.bytes()).0);
        Control {
            noise_public: noise::public_key(&noise_private),
            token_key: crate::keys::derived(&noise_private, "hsraft access tokens 1"),
            full_maps: Semaphore::new(FULL_MAPS_MAX),
            drain: CancellationToken::new(),
            away: Mutex::default(),
            cut,
            tasks: TaskTracker::new(),
            cluster,
            atlas,
            presence,
            reports,
            clock,
            entropy,
            limits,
            metrics,
            name,
            noise_private,
            challenge,
        }
    }

    /// Whether clients are answered with this key.
    pub fn is_private_key(&self, key: &[u8]) -> bool {
        self.noise_private.as_slice() == key
    }

    /// Over how long the clients there are now leave: two milliseconds each, so that the other members can draw maps for
    /// them (500 a second), and at most so long that all are gone in time.
    fn spread(&self) -> Duration {
        let sessions = u64::try_from(self.metrics.sessions.get()).unwrap_or_default();
        Duration::from_millis(2 * sessions).min(self.limits.drain.saturating_sub(2 * ts2021::GOODBYE))
    }

    /// Our Noise key, the same at every member.
    pub fn public_key(&self) -> MachineKey {
        self.noise_public
    }

    /// Answers one request inside Noise.
    pub async fn answer(self: Arc<Control>, peer: Peer, request: Request<Incoming>) -> Answer {
        let machine_key = peer.machine_key;
        let (path, method) = (request.uri().path().to_owned(), request.method().clone());
        let (label, answer) = match (method, path.as_str()) {
            (Method::POST, "/machine/register") => ("register", register::answer(&self, peer, request).await),
            (Method::GET, path) if path.starts_with("/machine/ssh/action/") => {
                ("ssh", ssh::answer(&self, peer, request).await)
            }
            (Method::POST, "/machine/map") => ("map", map::answer(&self, peer, request).await),
            (Method::POST, "/machine/set-dns") => ("set-dns", set_dns::answer(&self, peer, request).await),
            (method, path) => ("other", small::answer(&self, peer, method, path, request).await),
        };
        self.metrics.requests.with_label_values(&[label, answer.status().as_str()]).inc();
        tracing::debug!(machine = ?machine_key, path, status = answer.status().as_u16(), "answered");
        answer
    }

    /// The wall clock.
    fn now(&self) -> Timestamp {
        Timestamp(self.clock.now_ms())
    }

    fn moment(&self) -> Moment {
        Moment { control_time: self.now() }
    }

    /// The local state, or a certainly current one when the local one does not hold what a client speaks of: it may
    /// have been told so by another member a moment ago.
    async fn state_with(&self, known: impl Fn(&State) -> bool) -> Arc<State> {
        let state = self.cluster.latest();
        if known(&state) {
            return state;
        }
        self.cluster.confirm().await.unwrap_or(state)
    }

    /// A whole body within the limits.
    async fn read_body(&self, request: Request<Incoming>) -> Result<bytes::Bytes, Answer> {
        let body = Limited::new(request.into_body(), self.limits.body_bytes_max);
        match tokio::time::timeout(self.limits.handshake, body.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let text_max = format!("request body larger than {} bytes", self.limits.body_bytes_max);
                Err(no(StatusCode::PAYLOAD_TOO_LARGE, &codes::TOO_LARGE, text_max))
            }
            Ok(Err(_)) => Err(no(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, "request body broke off")),
            Err(_) => {
                Err(no(StatusCode::REQUEST_TIMEOUT, &codes::CLIENT_UNREADABLE, "request body did not arrive in time"))
            }
        }
    }
}

/// What clients below the line are told.
fn too_old(version: u16) -> Answer {
    let told = format!(
        "unsupported client version: capability version {version} is below {CAPABILITY_VERSION_MIN}; \
         update Tailscale to 1.80 or later"
    );
    no(StatusCode::BAD_REQUEST, &codes::CLIENT_TOO_OLD, told)
}
