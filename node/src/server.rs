//! One member: build, serve, drain.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use prometheus::Registry;
use raft::{Cluster, StartAs};
use state_machine::codes::{self, Code};
use state_machine::{Command, MemberId, Settings, Timestamp};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use world::{Datagrams, Listener, World};
use zeroize::Zeroizing;

use crate::{
    atlas, cert_dns, chores,
    control::{Control, Parts, noise, reports::Reports},
    keys, listen,
    listen::{
        Closing, Doors, Gate,
        door::Port,
        tls::{Certificate, Chain, Source},
    },
    login::{self, provider::Provider},
    observe::Metrics,
    options::{Limits, NoisePrivate, Options, Start},
    presence::Presence,
    relay,
    wellness::Wellness,
};

/// A joiner's state arrives with a snapshot or the log; the Noise key is in it.
const STATE_PATIENCE: Duration = Duration::from_secs(60);
/// A leader that leaves hands over first: writes pause for a moment and not for an election.
const HAND_OVER: Duration = Duration::from_secs(1);
/// What stopping may take beyond [`Limits::drain`].
const AND_THEN: Duration = Duration::from_secs(7);
/// For telling the cluster which streams have ended.
const SETTLE: Duration = Duration::from_millis(500);

/// A member could not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Raft(#[from] raft::StartError),
    #[error("cannot listen on {address} for {what}")]
    Listen { what: &'static str, address: String, source: io::Error },
    #[error("the relay cannot start")]
    Relay(#[source] io::Error),
    #[error("the certificate cannot be used")]
    Certificate(#[source] io::Error),
    #[error("the metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    #[error("the login provider cannot be reached, and oidc.only_start_if_oidc_is_available is set: {0}")]
    LoginProvider(String),
    #[error("the cluster has no Noise key; is the state complete? see: hsraft status")]
    NoNoiseKey,
}

impl StartError {
    /// Its line in the table of codes.
    pub fn code(&self) -> &'static Code {
        match self {
            StartError::Raft(error) => error.code(),
            StartError::Listen { .. } => &codes::START_PLACE,
            StartError::Relay(_) => &codes::START_RELAY,
            StartError::Certificate(_) => &codes::START_CERTIFICATE,
            StartError::Metrics(_) => &codes::START_FATAL,
            StartError::LoginProvider(_) => &codes::START_PROVIDER,
            StartError::NoNoiseKey => &codes::START_NO_NOISE_KEY,
        }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> i32 {
        match self {
            StartError::Raft(error) => error.exit_code(),
            StartError::Listen { .. } | StartError::Relay(_) | StartError::Certificate(_) => 16,
            StartError::Metrics(_) => 70,
            StartError::LoginProvider(_) => 16,
            StartError::NoNoiseKey => 20,
        }
    }
}

/// A running member.
pub struct Server {
    cluster: Cluster,
    control: Arc<Control>,
    relay: Option<derp::Relay>,
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// Where own certificates are read.
    pub(crate) files: watch::Sender<chores::client_certificate::Files>,
    registry: Registry,
    limits: Limits,
    /// What the policy file said when it was last read.
    pub(crate) policy_file: watch::Sender<Option<Arc<str>>>,
    /// As it was started.
    pub(crate) options: Options,
    pub(crate) world: World,
    tasks: TaskTracker,
    closing: Closing,
    client_addr: SocketAddr,
    grpc_addr: Option<SocketAddr>,
    relay_addr: Option<SocketAddr>,
    metrics_addr: Option<SocketAddr>,
    plain_addr: Option<SocketAddr>,
    dns_addr: Option<SocketAddr>,
}

impl Server {
    /// Builds a member, and returns when it serves. The only entrance, for production and simulation alike.
    pub async fn start(options: Options, world: World) -> Result<Server, StartError> {
        let limits = options.limits;
        let registry = Registry::new();
        let metrics = Metrics::new(&registry)?;
        let placeholder = placeholder(&options, &world)?;
        let certificate = match (&options.client_tls, &placeholder) {
            (Some(files), _) => Some(Certificate::load(files, &*world.disk).map_err(StartError::Certificate)?),
            (None, Some(made)) => Some(shown_at_first(made)?),
            (None, None) => None,
        };
        let client_port = options.client_listen.port();
        let prepared = match &options.relay {
            Some(relay) => {
                let runtime = options.relay_runtime.clone();
                let prepared =
                    relay::prepare(relay, &options.name, client_port, placeholder.as_ref(), runtime, &world).await;
                Some(prepared.map_err(StartError::Relay)?)
            }
            None => None,
        };

        let provider = login_provider(&options, &world).await?;
        let facts = prepared.as_ref().and_then(relay::Prepared::facts);
        let cluster = Cluster::start(raft_options(&options, facts, &world), &world).await?;
        let noise_private = noise_key(&cluster).await?;
        let sign_in_key = login::flow::Key::of(&noise_private);
        cluster.metrics().register(&registry)?;
        tell_drift(&cluster, &options.settings);

        let (tasks, closing) = (TaskTracker::new(), Closing::default());
        let until_cut = |what: &'static str, task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let (cut, task) = (closing.cut.clone(), cluster.vital(what, task));
            tasks.spawn(async move {
                cut.run_until_cancelled(task).await;
            });
        };
        let (atlas, redraw) = atlas::start(cluster.clone(), metrics.clone());
        until_cut("atlas", Box::pin(redraw));
        let (presence, tell) = Presence::start(cluster.clone(), options.name.clone(), metrics.clone());
        until_cut("presence", Box::pin(tell));
        let (reports, batch) = Reports::start(cluster.clone(), options.name.clone(), metrics.clone());
        until_cut("reports", Box::pin(batch));
        let (policy_file, file_text) = watch::channel(options.policy.as_deref().map(Arc::from));
        chores::start(&cluster, &world, &options, file_text, &metrics, &tasks, &closing.cut);
        first_wishes(&cluster, &options, &tasks, &closing.cut);

        let control = Arc::new(Control::new(Parts {
            cluster: cluster.clone(),
            atlas,
            presence,
            reports,
            clock: world.clock.clone(),
            entropy: world.entropy.clone(),
            limits,
            metrics: metrics.clone(),
            name: options.name.clone(),
            noise_private,
            cut: closing.cut.clone(),
        }));
        until_cut("draining", Box::pin(chores::draining::watch(cluster.clone(), control.clone())));
        let relay_addr = prepared.as_ref().and_then(relay::Prepared::local_addr);
        let relay = prepared.map(|prepared| prepared.start(cluster.clone(), &world, &tasks, &closing.stop));
        if let Some(relay) = &relay {
            relay.metrics().register(&registry)?;
        }
        let (files, shown_files) = watch::channel(chores::client_certificate::Files::of(&options));
        let follow = chores::client_certificate::Follow {
            cluster: cluster.clone(),
            world: world.clone(),
            certificate: certificate.clone(),
            files: shown_files,
            wish: options.client_acme.as_ref().map(|acme| acme.wish.clone()),
            relay: relay.clone(),
            metrics: metrics.clone(),
            name: options.name.clone(),
        };
        follow.once();
        until_cut("client certificate", Box::pin(follow.run()));
        let tls = match (&relay, &certificate) {
            // On a shared port the relay's side of TLS spares its clients a round trip.
            (Some(relay), Some(_)) if relay_addr.is_none() => Some(listen::tls::also_grpc(&relay.tls_config())),
            (_, certificate) => certificate.as_ref().map(Certificate::config),
        };

        let desk = Arc::new(login::flow::Desk::new(control.clone(), provider.clone(), sign_in_key));
        if let Some(provider) = provider {
            until_cut("sign-in", Box::pin(provider.discover_for_ever()));
        }
        // Who listens must be able to serve, so ports open last.
        let doors = Arc::new(Doors {
            control: control.clone(),
            relay: relay.clone(),
            api: api(&control, &world, &options, &closing.stop, false).merge(login::flow::router(desk)),
            tls,
            gate: Gate::new(limits, metrics.clone()),
        });
        let grpc_addr = match options.grpc_listen {
            Some(addr) => {
                let listener = world.net.listen(addr).await.map_err(listening("gRPC", addr))?;
                let bound = listener.local_addr().map_err(listening("gRPC", addr))?;
                let door = listen::people::GrpcDoor {
                    api: doors.api.clone(),
                    tls: certificate.as_ref().filter(|_| !options.grpc_insecure).map(Certificate::config),
                    gate: doors.gate.clone(),
                    limits,
                };
                let served = listen::people::grpc(listener, door, tasks.clone(), closing.clone());
                tasks.spawn(cluster.vital("grpc", served));
                Some(bound)
            }
            None => None,
        };
        let addr = options.client_listen;
        // Before the command line's: what a word has made through the socket is used at the client port at once.
        let clients = world.net.listen(addr).await.map_err(listening("clients", addr))?;
        let client_addr = clients.local_addr().map_err(listening("clients", addr))?;
        let (port, client_port) = watch::channel(Port::Closed("this member is starting".to_owned()));
        let dns_addr = match options.cert_dns.listen {
            Some(addr) => {
                let (listener, socket) = dns_ports(addr, &world).await.map_err(listening("DNS", addr))?;
                let bound = listener.local_addr().map_err(listening("DNS", addr))?;
                let desk = Arc::new(cert_dns::serve::Desk {
                    cluster: cluster.clone(),
                    name_servers: options.cert_dns.name_servers.clone(),
                    port: client_port.clone(),
                    metrics: metrics.clone(),
                });
                until_cut("DNS datagrams", Box::pin(cert_dns::serve::datagrams(socket, desk.clone())));
                let served = cert_dns::serve::streams(listener, desk, tasks.clone(), closing.clone());
                tasks.spawn(cluster.vital("DNS streams", served));
                Some(bound)
            }
            None => None,
        };
        let metrics_addr = match options.metrics_listen {
            Some(addr) => {
                let listener = world.net.listen(addr).await.map_err(listening("metrics", addr))?;
                let bound = listener.local_addr().map_err(listening("metrics", addr))?;
                let wellness = Arc::new(Wellness {
                    cluster: cluster.clone(),
                    world: world.clone(),
                    metrics: metrics.clone(),
                    registry: registry.clone(),
                    leaving: control.drain.clone(),
                    data_dir: options.data_dir.clone(),
                    certificate: certificate.clone(),
                    noise_key: control.public_key(),
                    client_port,
                });
                let served = listen::metrics(listener, wellness, limits, tasks.clone(), closing.clone());
                tasks.spawn(cluster.vital("metrics", served));
                Some(bound)
            }
            None => None,
        };
        let mut plain_addr = None;
        if let Some(addr) = options.client_acme.as_ref().and_then(|acme| acme.plain_listen) {
            let listener = world.net.listen(addr).await.map_err(listening("authorities", addr))?;
            plain_addr = Some(listener.local_addr().map_err(listening("authorities", addr))?);
            let served = listen::challenge::plain(listener, cluster.clone(), limits, tasks.clone(), closing.clone());
            tasks.spawn(cluster.vital("challenges", served));
        }
        if let Some(path) = &options.unix_socket {
            if let Some(folder) = path.parent() {
                let made = world.disk.create_dir_all(folder);
                made.map_err(listening("the local command line", path.display()))?;
            }
            let opened = world.net.listen_unix(path, options.unix_socket_mode).await;
            let listener = opened.map_err(listening("the local command line", path.display()))?;
            let api = api(&control, &world, &options, &closing.stop, true);
            let served = listen::local(listener, api, limits, tasks.clone(), closing.clone());
            tasks.spawn(cluster.vital("local", served));
        }
        let (door, opened) = watch::channel(None);
        let sign = listen::door::Sign { cluster: cluster.clone(), metrics: metrics.clone(), port };
        until_cut("door", Box::pin(listen::door::keep(cluster.clone(), control.clone(), door)));
        let served = listen::door::clients(clients, doors, world.net.clone(), opened, sign, closing.clone());
        tasks.spawn(cluster.vital("clients", served));

        let metrics_shown = metrics_addr.map(tracing::field::display);
        tracing::info!(
            member = %cluster.me(),
            name = options.name,
            %client_addr,
            metrics_addr = metrics_shown,
            "serving"
        );
        // The secrets in it have been used.
        let options = Options { noise_private: None, start: Start::Continue, ..options };
        Ok(Server {
            cluster,
            control,
            relay,
            certificate,
            files,
            policy_file,
            registry,
            limits,
            options,
            world,
            tasks,
            closing,
            client_addr,
            grpc_addr,
            relay_addr,
            metrics_addr,
            plain_addr,
            dns_addr,
        })
    }

    /// Leaves: listeners close, the leader hands over, clients are sent away spread over some seconds, and the rest is
    /// cut. Within ten seconds by default, and whatever hangs, within fifteen.
    pub async fn drain(self) {
        tracing::info!("draining");
        let begun = tokio::time::Instant::now();
        let cap = self.limits.drain + AND_THEN;
        match tokio::time::timeout(cap, self.leave()).await {
            Ok(()) => tracing::info!(millis = begun.elapsed().as_millis() as u64, "drained"),
            Err(_) => tracing::error!(?cap, "something did not end; the member stops all the same"),
        }
    }

    async fn leave(&self) {
        self.closing.stop.cancel();
        if self.cluster.is_leader() && self.cluster.status().voters.len() > 1 {
            match tokio::time::timeout(HAND_OVER, self.cluster.transfer_leader(None)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::info!(%error, "leadership was not handed over"),
                Err(_) => tracing::info!("leadership was not handed over in time"),
            }
        }
        self.control.drain.cancel();
        self.control.tasks.close();
        let clients_leave = tokio::time::timeout(self.limits.drain, self.control.tasks.wait());
        match &self.relay {
            Some(relay) => {
                let _ = tokio::join!(clients_leave, relay.drain(self.limits.drain / 2));
            }
            None => {
                let _ = clients_leave.await;
            }
        }
        if tokio::time::timeout(SETTLE, self.control.presence.settled()).await.is_err() {
            tracing::debug!("the cluster was not told of all streams that ended");
        }
        self.closing.cut.cancel();
        self.tasks.close();
        if tokio::time::timeout(SETTLE, self.tasks.wait()).await.is_err() {
            tracing::debug!("some tasks did not end in time");
        }
        self.cluster.shutdown().await;
    }

    /// Resolves when this member cannot go on; the process must exit with code 70.
    pub async fn fatal(&self) -> String {
        self.cluster.fatal().await
    }

    /// The log.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Where clients reach this member.
    pub fn client_addr(&self) -> SocketAddr {
        self.client_addr
    }

    /// Where gRPC has a port of its own.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc_addr
    }

    /// Where the relay listens by itself.
    pub fn relay_addr(&self) -> Option<SocketAddr> {
        self.relay_addr
    }

    /// Where metrics are served.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Where certificate authorities may ask about the nodes' names.
    pub fn dns_addr(&self) -> Option<SocketAddr> {
        self.dns_addr
    }

    /// Where authorities ask over plain HTTP.
    pub fn plain_addr(&self) -> Option<SocketAddr> {
        self.plain_addr
    }

    /// The embedded relay.
    pub fn relay(&self) -> Option<&derp::Relay> {
        self.relay.as_ref()
    }

    /// All metrics of this member.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The key clients expect.
    pub fn noise_key(&self) -> tailcfg::MachineKey {
        self.control.public_key()
    }
}

/// Whoever drops a server without draining it wants it gone: all its tasks end.
impl Drop for Server {
    fn drop(&mut self) {
        self.closing.stop.cancel();
        self.closing.cut.cancel();
    }
}

/// What stands for a certificate until the first one of the authority came.
fn placeholder(options: &Options, world: &World) -> Result<Option<derp::SelfSigned>, StartError> {
    let name = options.client_acme.as_ref().map(|acme| acme.wish.name.clone());
    let made = name.map(|name| derp::SelfSigned::new(&[name], &*world.clock)).transpose();
    made.map_err(|error| StartError::Certificate(io::Error::other(error)))
}

fn shown_at_first(made: &derp::SelfSigned) -> Result<Arc<Certificate>, StartError> {
    let chain = Chain::from_pem(made.certificate_pem.as_bytes(), made.key_pem.as_bytes());
    let chain = chain.map_err(|error| StartError::Certificate(io::Error::other(error)))?;
    Ok(Certificate::new(chain, Source::Placeholder))
}

fn tell(what: &str, from: &str, answer: &state_machine::Answer) {
    match answer {
        Ok(_) => tracing::info!(what, from, "taken over into the cluster"),
        Err(refusal) => tracing::error!(what, from, %refusal, "refused"),
    }
}

fn listening<A: ToString>(what: &'static str, address: A) -> impl FnOnce(io::Error) -> StartError {
    let address = address.to_string();
    move |source| StartError::Listen { what, address, source }
}

fn raft_options(options: &Options, relay: Option<state_machine::RelayFacts>, world: &World) -> raft::Options {
    let start = match &options.start {
        Start::Found => {
            let noise = match &options.noise_private {
                Some(NoisePrivate(key)) => Zeroizing::new(*key),
                None => Zeroizing::new(world.entropy.bytes()),
            };
            let secrets = vec![(keys::NOISE.to_owned(), noise.to_vec())];
            StartAs::FoundIfEmpty { settings: options.settings.clone(), secrets }
        }
        Start::Join { addresses, token, replaces } => {
            StartAs::Join { address: addresses.clone(), token: token.0.clone(), replaces: replaces.clone() }
        }
        Start::Continue => StartAs::Continue,
    };
    raft::Options {
        data_dir: options.data_dir.clone(),
        sealing_key: options.sealing_key.clone(),
        name: options.name.clone(),
        peer_listen: options.peer_listen,
        peer_advertise: options.peer_advertise.clone(),
        timing: options.timing,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        client_url: options.client_url.clone(),
        relay,
        start,
        snapshot_every: options.snapshot_every,
        feature_level: state_machine::FEATURE_LEVEL,
        space: options.space,
        auto_remove_after: options.auto_remove_after,
        join_within: options.join_within,
        arrival: options.arrival.clone(),
        drills: options.drills,
        backup: options.backup_place(world),
        runtime: options.raft_runtime.clone(),
    }
}

/// The provider people sign in at. Waited for only where the configuration says so.
async fn login_provider(options: &Options, world: &World) -> Result<Option<Arc<Provider>>, StartError> {
    let Some(oidc) = &options.oidc else { return Ok(None) };
    let provider = Arc::new(Provider::new(oidc.clone(), world.clone()));
    if oidc.only_start_if_available {
        provider.discover().await.map_err(StartError::LoginProvider)?;
    }
    Ok(Some(provider))
}

/// The cluster's Noise key, as soon as this member's state holds it.
async fn noise_key(cluster: &Cluster) -> Result<Zeroizing<[u8; 32]>, StartError> {
    let mut states = cluster.watch();
    let wait = async {
        loop {
            states.borrow_and_update();
            if let Some(key) = cluster.secret(keys::NOISE) {
                let mut private = Zeroizing::new([0; 32]);
                if key.len() != private.len() {
                    return Err(StartError::NoNoiseKey);
                }
                private.copy_from_slice(&key);
                return Ok(private);
            }
            states.changed().await.map_err(|_| StartError::NoNoiseKey)?;
        }
    };
    let private = tokio::time::timeout(STATE_PATIENCE, wait).await.unwrap_or(Err(StartError::NoNoiseKey))?;
    tracing::info!(key = %noise::public_key(&private), "Noise key of the cluster");
    Ok(private)
}

fn tell_drift(cluster: &Cluster, file: &Settings) {
    let state = cluster.latest();
    if state.is_founded() {
        for difference in chores::differences(state.settings(), file) {
            tracing::warn!(
                difference,
                "the configuration file differs from what the cluster was told; send SIGHUP to take the file over"
            );
        }
    }
}

/// What a founder's file says beyond settings: said once, while the cluster has none of it.
fn first_wishes(cluster: &Cluster, options: &Options, tasks: &TaskTracker, stop: &CancellationToken) {
    let founder = matches!(options.start, Start::Found) && cluster.me() == MemberId(1);
    let state = cluster.latest();
    let mut wishes = Vec::new();
    if let Some(text) = &options.policy
        && state.policy().is_none()
        && founder
    {
        let author = format!("file of {}", options.name);
        wishes.push(Command::SetPolicy { text: text.as_str().into(), author });
    }
    let regions = options.derp.fixed_regions();
    if founder && state.derp_regions().is_empty() && !regions.is_empty() {
        wishes.push(Command::SetDerpRegions { regions });
    }
    let (cluster, by, stop) = (cluster.clone(), options.name.clone(), stop.clone());
    tasks.spawn(async move {
        for wish in wishes {
            let proposed = stop.run_until_cancelled(cluster.propose(&by, wish)).await;
            match proposed {
                Some(Ok(applied)) => tell("first wish", "the configuration file", &applied.answer),
                Some(Err(error)) => tracing::error!(%error, "the founder's file was not taken over; send SIGHUP"),
                None => return,
            }
        }
    });
}

/// One port for both; where any will do, one that is free for both.
async fn dns_ports(addr: SocketAddr, world: &World) -> io::Result<(Box<dyn Listener>, Box<dyn Datagrams>)> {
    let mut tries = 8;
    loop {
        let listener = world.net.listen(addr).await?;
        match world.net.udp(listener.local_addr()?).await {
            Ok(socket) => return Ok((listener, socket)),
            Err(_) if addr.port() == 0 && tries > 0 => tries -= 1,
            Err(error) => return Err(error),
        }
    }
}

fn api(
    control: &Control,
    world: &World,
    options: &Options,
    leaving: &CancellationToken,
    trusted: bool,
) -> axum::Router {
    let (entropy, clock) = (world.entropy.clone(), world.clock.clone());
    let sender = chores::sender(&control.cluster, world, options);
    let router = admin::RouterOptions {
        tell: Arc::new(move |webhook, by| {
            let sender = sender.clone();
            Box::pin(async move { chores::webhooks::test(&sender, &webhook, &by).await })
        }),
        random: Arc::new(move |bytes: &mut [u8]| entropy.fill(bytes)),
        now: Arc::new(move || Timestamp(clock.now_ms())),
        noise_key: control.public_key().to_string(),
        token_key: control.token_key,
        leaving: leaving.clone(),
        trusted,
        policy_file: options.policy.is_some(),
        drills_freeze: options.drills_freeze.clone(),
        allowed_origins: options.allowed_origins.clone(),
    };
    listen::meter::counted(admin::router(control.cluster.clone(), router), &control.metrics)
}
