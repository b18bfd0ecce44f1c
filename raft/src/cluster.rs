//! The door: start, propose, watch, confirm, shut down.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sha2::{Digest, Sha256};
use state_machine::{
    Answer, Command, FEATURE_LEVEL, JoinRole, JoinToken, Member, MemberId, MemberState, Outcome, Refusal, RequestId,
    Revision, SealedSecret, State,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use world::World;
use zeroize::Zeroizing;

use crate::{
    apply::Machine,
    encode::Blob,
    error::{ProposeError, ReadError, StartError},
    forward::{DEADLINE, Forwards},
    identity::{Home, Identity},
    join,
    log::Log,
    membership,
    metrics::Metrics,
    options::{Options, StartAs},
    peers::{self, AddressBook, Client, Dialer, Network, Service},
    pki::{self, MemberTls},
    publish::Published,
    seal::SealingKey,
    snapshot::Snapshots,
    status::{Leadership, Role, Status, watch_engine},
    store::{Closed, Marker, Recovered, Store, StoreOptions},
    tasks::Tasks,
    token::Token,
    types::{Raft, Seat},
};

/// The name of the authority's key among the cluster's secrets.
pub(crate) const AUTHORITY_SECRET: &str = "ca";

/// The founder's id; entry 1 is the first a leader ever writes, so no later member can get it.
const FOUNDER: MemberId = MemberId(1);

/// A command that was applied.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Where in the log.
    pub revision: Revision,
    pub answer: Answer,
}

/// One member of the cluster. Cheap to clone; the last clone that goes takes the member's tasks with it.
#[derive(Clone)]
pub struct Cluster {
    core: Arc<Core>,
    _guard: Arc<Guard>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {} of {}", self.core.me, self.core.cluster_id)
    }
}

/// What the tasks of a member share.
pub struct Core {
    pub raft: Raft,
    pub me: MemberId,
    pub cluster_id: Arc<str>,
    pub authority: Vec<u8>,
    pub sealing: SealingKey,
    pub latest: watch::Receiver<Arc<State>>,
    pub published: Published,
    pub leadership: watch::Receiver<Leadership>,
    pub dialer: Dialer,
    pub forwards: Forwards,
    pub world: World,
    pub tasks: Tasks,
    pub metrics: Metrics,
    clients: Mutex<BTreeMap<MemberId, Client>>,
    statuses: watch::Receiver<Status>,
    fatal: watch::Receiver<Option<String>>,
    closed: Closed,
    /// Shut down on purpose: that the engine stops is no news.
    stopping: Arc<AtomicBool>,
}

/// Ends the member when nobody holds it any more.
struct Guard {
    raft: Raft,
    tasks: Tasks,
    stopping: Arc<AtomicBool>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.tasks.stop();
        if !self.stopping.swap(true, Ordering::SeqCst) {
            let raft = self.raft.clone();
            self.tasks.handle().spawn(async move {
                let _ = raft.shutdown().await;
            });
        }
    }
}

impl Core {
    /// A channel for single calls.
    pub fn dialer_client(&self, to: MemberId) -> Client {
        let mut clients = self.clients.lock().expect("nobody panics while holding the clients");
        clients.entry(to).or_insert_with(|| self.dialer.channel(to)).clone()
    }

    /// A request id nobody else has.
    pub fn new_request(&self) -> RequestId {
        RequestId(u128::from_le_bytes(self.world.entropy.bytes()))
    }

    /// A secret of the cluster, unsealed from the latest State.
    pub fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        unseal(&self.sealing, &self.latest.borrow(), name)
    }
}

fn unseal(sealing: &SealingKey, state: &State, name: &str) -> Option<Zeroizing<Vec<u8>>> {
    let sealed = state.secrets().get(name)?;
    sealing.unseal(name, sealed).inspect_err(|error| tracing::error!(%error, "unsealing failed")).ok()
}

impl Cluster {
    /// Starts this member: founds, joins or continues, as the folder and the options say.
    pub async fn start(options: Options, world: &World) -> Result<Cluster, StartError> {
        let world = world.clone();
        match options.runtime.clone() {
            // openraft spawns on the runtime it is made on.
            Some(runtime) => runtime.spawn(start(options, world)).await.map_err(StartError::engine)?,
            None => start(options, world).await,
        }
    }

    /// Gets a command into the log from any member; returns once this member has applied it.
    ///
    /// Tried again under one request id until a deadline of ten seconds, so it is applied once at most. An error does
    /// not say that it was not applied, unless the error says so.
    pub async fn propose(&self, by: &str, command: Command) -> Result<Applied, ProposeError> {
        self.core.propose(self.core.new_request(), by, command).await
    }

    /// [`Cluster::propose`] under a request id of the caller's: two calls with one id are one wish.
    pub async fn propose_as(&self, id: RequestId, by: &str, command: Command) -> Result<Applied, ProposeError> {
        self.core.propose(id, by, command).await
    }

    /// The State as this member has applied it; may lag.
    pub fn latest(&self) -> Arc<State> {
        self.core.latest.borrow().clone()
    }

    /// Every State this member comes to; slow watchers skip some.
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.core.latest.clone()
    }

    /// A State that has every write answered before this call, whoever answered it.
    pub async fn confirm(&self) -> Result<Arc<State>, ReadError> {
        self.core.confirm(DEADLINE).await
    }

    pub fn me(&self) -> MemberId {
        self.core.me
    }

    pub fn cluster_id(&self) -> &str {
        &self.core.cluster_id
    }

    /// Whether this member leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.core.me)
    }

    pub fn leader(&self) -> Option<MemberId> {
        self.core.leadership.borrow().leader
    }

    /// Where this member stands now.
    pub fn status(&self) -> Status {
        self.core.status()
    }

    /// The status whenever leader, term or membership change, and once a second.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.core.statuses.clone()
    }

    /// A secret of the cluster: `noise` is the Noise private key, `ca` the authority's key.
    pub fn secret(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.core.secret(name)
    }

    /// Seals a secret, to be carried by a command.
    pub fn seal(&self, name: &str, secret: &[u8]) -> SealedSecret {
        self.core.sealing.seal(name, secret, &self.core.world.entropy)
    }

    /// Seals a secret and replicates it.
    pub async fn put_secret(&self, name: &str, secret: &[u8], by: &str) -> Result<Applied, ProposeError> {
        let command = Command::PutSecret { name: name.into(), secret: self.seal(name, secret) };
        self.propose(by, command).await
    }

    /// A ticket for one new member; shown once. `name`: only for a member of this name; empty for any.
    pub async fn create_join_token(
        &self,
        ttl: Duration,
        name: &str,
        role: JoinRole,
        by: &str,
    ) -> Result<String, ProposeError> {
        let core = &self.core;
        let pin = pki::spki_sha256(&core.authority)
            .ok_or_else(|| ProposeError::Impossible("the cluster's certificate cannot be read".into()))?;
        let token = Token::new(&core.cluster_id, pin, &core.world.entropy);
        let now = state_machine::Timestamp(core.world.clock.now_ms()).max(core.latest.borrow().now());
        let row = JoinToken {
            id: token.id.clone(),
            secret_sha256: token.secret_sha256(),
            name: name.into(),
            role,
            created_at: now,
            expires_at: now.after(ttl),
            used_by: None,
        };
        let applied = self.propose(by, Command::CreateJoinToken { token: row }).await?;
        applied.answer.map_err(|refusal| ProposeError::Impossible(refusal.to_string()))?;
        Ok(token.text())
    }

    /// Hands leadership to `to`, or to the voter that is furthest along; from any member.
    pub async fn transfer_leader(&self, to: Option<MemberId>) -> Result<(), ProposeError> {
        self.core.transfer_leader(to).await
    }

    /// Fences a member for ever and takes its seat; from any member.
    pub async fn remove_member(&self, id: MemberId) -> Result<(), ProposeError> {
        self.core.remove_member(id, "operator").await
    }

    /// Hands leadership over (one second at most), stops, and lets go of the database.
    pub async fn shutdown(&self) {
        let core = &self.core;
        if core.status().role == Role::Leader && core.status().voters.len() > 1 {
            match timeout(Duration::from_secs(1), core.hand_over_here(None)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error, "leadership was not handed over"),
                Err(_) => tracing::warn!("leadership was not handed over in time"),
            }
        }
        core.stopping.store(true, Ordering::SeqCst);
        if let Err(error) = core.raft.shutdown().await {
            tracing::warn!(%error, "the engine did not stop cleanly");
        }
        core.tasks.stop();
        core.tasks.ended(Duration::from_secs(2)).await;
        if timeout(Duration::from_secs(5), core.closed.wait()).await.is_err() {
            tracing::warn!("the database was not closed in time");
        }
    }

    /// Resolves, with the reason, when this member cannot go on: the engine died, a write or sync failed, or it was
    /// removed. The process must exit (70); it must not try again by itself.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.core.fatal.clone();
        loop {
            if let Some(reason) = fatal.borrow_and_update().clone() {
                return reason;
            }
            if fatal.changed().await.is_err() {
                // Shut down on purpose: not fatal.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Prometheus collectors.
    pub fn metrics(&self) -> Metrics {
        self.core.metrics.clone()
    }
}

/// Whom the folder belongs to, with what the database holds.
struct Opened {
    store: Store,
    recovered: Recovered,
    broken: watch::Receiver<Option<String>>,
    identity: Identity,
    sealing: SealingKey,
    /// Joined just now.
    is_new: bool,
}

async fn start(options: Options, world: World) -> Result<Cluster, StartError> {
    let metrics = Metrics::default();
    let tasks = Tasks::here();
    let result = start_with(&options, &world, &metrics, &tasks).await;
    if result.is_err() {
        tasks.stop();
    }
    result
}

async fn start_with(options: &Options, world: &World, metrics: &Metrics, tasks: &Tasks) -> Result<Cluster, StartError> {
    let listener = world
        .net
        .listen(options.peer_listen)
        .await
        .map_err(|source| StartError::Listen { address: options.peer_listen.to_string(), source })?;
    let port = listener.local_addr().map_or(options.peer_listen.port(), |address| address.port());
    let facts = facts(options, port)?;
    let home = open_home(options, world, metrics, &facts).await?;
    let Opened { store, recovered, broken, mut identity, sealing, is_new } = home;
    let me = identity.member();
    if recovered.state.0.member(me).is_some_and(|member| member.state == MemberState::Removed) {
        return Err(StartError::Removed);
    }
    let files = Home { disk: &*world.disk, folder: &options.data_dir };
    identity.incarnation += 1;
    renew_if_due(&mut identity, unseal(&sealing, &recovered.state.0, AUTHORITY_SECRET), world)?;
    files.put_identity(&identity)?;

    let tls = MemberTls::new(&identity.certificate.0, &identity.key.0, &identity.authority.0, world.clock.clone())
        .map_err(StartError::engine)?;
    let snapshots = Snapshots::open(options.data_dir.join("snapshots"), world.disk.clone())
        .map_err(|error| StartError::disk(&options.data_dir.join("snapshots"), error))?;
    let (machine, published) = Machine::new(store.clone(), snapshots, &recovered, metrics.apply.clone());
    let latest = published.latest.clone();
    let dialer = Dialer {
        net: world.net.clone(),
        tls,
        cluster_id: identity.cluster_id.as_str().into(),
        book: AddressBook::new(latest.clone(), identity.peers.iter().cloned()),
        tasks: tasks.clone(),
        timing: options.timing,
    };
    let closed = store.closed();
    let log = Log::new(store, &recovered);
    drop(recovered);
    let config = engine_config(options, &identity.cluster_id)?;
    let raft = Raft::new(me.0, Arc::new(config), Network(dialer.clone()), log, machine).await.map_err(engine_error)?;

    let stopping = Arc::new(AtomicBool::new(false));
    let (leadership_sender, leadership) = watch::channel(Leadership::default());
    let (changed_sender, changed) = watch::channel(0);
    let (fatal_sender, fatal) = watch::channel(None);
    let (status_sender, statuses) = watch::channel(Status::default());
    let core = Arc::new(Core {
        raft: raft.clone(),
        me,
        cluster_id: dialer.cluster_id.clone(),
        authority: identity.authority.0.to_vec(),
        sealing,
        latest,
        published,
        leadership,
        dialer: dialer.clone(),
        forwards: Forwards::default(),
        world: world.clone(),
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        clients: Mutex::default(),
        statuses,
        fatal,
        closed,
        stopping: stopping.clone(),
    });
    let guard = Guard { raft: raft.clone(), tasks: tasks.clone(), stopping: stopping.clone() };
    let cluster = Cluster { core: core.clone(), _guard: Arc::new(guard) };

    tasks.spawn(watch_engine(raft, leadership_sender, changed_sender, fatal_sender.clone(), stopping));
    tasks.spawn(watch_disk(broken, fatal_sender.clone()));
    tasks.spawn(watch_removal(core.clone(), fatal_sender));
    tasks.spawn(publish_status(core.clone(), changed, status_sender));
    tasks.spawn(peers::serve(listener, dialer, Service(core.clone())));
    tasks.spawn(membership::reconcile(core.clone()));

    if identity.authority_key.is_some() {
        finish_founding(&core, options, &facts, &mut identity).await?;
        files.put_identity(&identity)?;
    } else if is_new {
        wait_for_seat(&core).await?;
    }
    tasks.spawn(announce(core.clone(), Member { id: me, ..facts }));
    tasks.spawn(renew(core, identity, options.clone()));
    Ok(cluster)
}

/// What others should know of this member.
fn facts(options: &Options, port: u16) -> Result<Member, StartError> {
    let peer_address = match options.peer_advertise.rsplit_once(':') {
        Some((host, "0")) => format!("{host}:{port}"),
        Some((host, text)) if !host.is_empty() && text.parse::<u16>().is_ok() => options.peer_advertise.clone(),
        _ => return Err(StartError::Option(format!("peer_advertise {:?} is not host:port", options.peer_advertise))),
    };
    Ok(Member {
        name: options.name.clone(),
        peer_address,
        client_url: options.client_url.clone(),
        version: options.version.clone(),
        feature_level: FEATURE_LEVEL,
        relay: options.relay.clone(),
        ..Member::default()
    })
}

fn engine_config(options: &Options, cluster_id: &str) -> Result<openraft::Config, StartError> {
    let (timing, every) = (options.timing, options.snapshot_every.max(10));
    openraft::Config {
        cluster_name: cluster_id.into(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        enable_pre_vote: Some(true),
        // Safety, not taste: a leader that lost an entry it had replicated but not synced must not lead the same term
        // again (it would write another entry under the same id).
        enable_leader_restore: Some(false),
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(every),
        max_in_snapshot_log_to_keep: every / 6,
        replication_lag_threshold: every * 2,
        max_payload_entries: 1024,
        install_snapshot_timeout: 30_000,
        backoff: "50ms 100ms 200ms ...500ms".into(),
        ..openraft::Config::default()
    }
    .validate()
    .map_err(|error| StartError::Option(error.to_string()))
}

fn engine_error(fatal: openraft::errors::Fatal<crate::types::Types>) -> StartError {
    match fatal {
        openraft::errors::Fatal::StorageError(error) => StartError::Integrity(error.to_string()),
        other => StartError::engine(other),
    }
}

async fn open_home(options: &Options, world: &World, metrics: &Metrics, facts: &Member) -> Result<Opened, StartError> {
    let folder = &options.data_dir;
    let disk = &world.disk;
    let files = Home { disk: &**disk, folder };
    disk.create_dir_all(folder).map_err(|error| StartError::disk(folder, error))?;
    let lock = disk.lock(folder).map_err(|error| StartError::disk(folder, error))?;
    let identity = files.identity()?;
    let (store, mut recovered, broken) = Store::open(StoreOptions {
        folder: folder.clone(),
        disk: disk.clone(),
        entropy: world.entropy.clone(),
        lock,
        metrics: metrics.store.clone(),
    })?;
    match (&identity, &recovered.marker) {
        (Some(identity), Some(marker))
            if identity.cluster_id == marker.cluster_id && identity.member == marker.member => {}
        (Some(identity), Some(marker)) => {
            return Err(StartError::Foreign(format!(
                "the identity is member {} of {}, the database member {} of {}",
                identity.member, identity.cluster_id, marker.member, marker.cluster_id
            )));
        }
        (Some(identity), None) => {
            return Err(StartError::Integrity(format!(
                "this folder is member {} of {}, but its database is gone",
                identity.member, identity.cluster_id
            )));
        }
        (None, _) if !recovered.is_empty() => {
            return Err(StartError::Foreign("there is a database, but no identity".into()));
        }
        // Nothing, or the traces of a founding or joining that did not come to its end.
        (None, _) => {}
    }
    if let Some(identity) = identity {
        let sealing = files.sealing_key()?;
        return Ok(Opened { store, recovered, broken, identity, sealing, is_new: false });
    }

    let (identity, sealing) = match &options.start {
        StartAs::FoundIfEmpty { .. } => prepare_founding(options, world)?,
        StartAs::Join { address, token } => {
            let key = files.joining_key(|| pki::new_key(&world.entropy).to_vec())?;
            ask_to_join(options, world, facts, address, token, key).await?
        }
        StartAs::Continue => return Err(StartError::NothingThere(folder.display().to_string())),
    };
    // Database first: an identity without its database is refused ever after.
    let marker = Marker { cluster_id: identity.cluster_id.clone(), member: identity.member };
    store.write_marker(&marker).await.map_err(|error| StartError::disk(folder, error))?;
    recovered.marker = Some(marker);
    files.put_sealing_key(&sealing)?;
    files.put_identity(&identity)?;
    let is_new = identity.authority_key.is_none();
    Ok(Opened { store, recovered, broken, identity, sealing, is_new })
}

fn prepare_founding(options: &Options, world: &World) -> Result<(Identity, SealingKey), StartError> {
    let cluster_id = crate::token::base32(&world.entropy.bytes::<5>());
    let authority_key = pki::new_key(&world.entropy);
    let authority = pki::new_authority(&authority_key, &cluster_id, world).map_err(StartError::engine)?;
    let key = pki::new_key(&world.entropy);
    let public_key = pki::public_key(&key).map_err(StartError::engine)?;
    let certificate = pki::sign_member(&authority, &authority_key, &public_key, FOUNDER, &cluster_id, world)
        .map_err(StartError::engine)?;
    let identity = Identity {
        cluster_id,
        member: FOUNDER.0,
        name: options.name.clone(),
        incarnation: 0,
        certificate: Blob(certificate.into()),
        key: Blob(key.to_vec().into()),
        authority: Blob(authority.into()),
        authority_key: Some(Blob(authority_key.to_vec().into())),
        peers: Vec::new(),
    };
    Ok((identity, SealingKey::new(&world.entropy)))
}

async fn ask_to_join(
    options: &Options,
    world: &World,
    facts: &Member,
    addresses: &[String],
    token: &str,
    key: Vec<u8>,
) -> Result<(Identity, SealingKey), StartError> {
    let token = Token::parse(token).ok_or_else(|| StartError::Token("it does not look like hsr1.…".into()))?;
    let joined = join::ask(addresses, &token, &key, facts, world).await?;
    let sealing = SealingKey::from_bytes(&joined.sealing_key)
        .ok_or_else(|| StartError::Refused("the member sent an unusable sealing key".into()))?;
    tracing::info!(member = %joined.member, cluster = token.cluster_id, "admitted");
    let identity = Identity {
        cluster_id: token.cluster_id.clone(),
        member: joined.member.0,
        name: options.name.clone(),
        incarnation: 0,
        certificate: Blob(joined.certificate.into()),
        key: Blob(key.into()),
        authority: Blob(joined.authority.into()),
        authority_key: None,
        peers: joined.peers,
    };
    Ok((identity, sealing))
}

/// Gets the first command into the log of a new cluster; also after a start that was interrupted.
async fn finish_founding(
    core: &Arc<Core>,
    options: &Options,
    facts: &Member,
    identity: &mut Identity,
) -> Result<(), StartError> {
    let Some(authority_key) = identity.authority_key.clone() else { return Ok(()) };
    if !core.raft.is_initialized().await.map_err(StartError::engine)? {
        let seat = Seat { address: facts.peer_address.clone(), learner_only: false };
        core.raft.initialize(BTreeMap::from([(core.me.0, seat)])).await.map_err(StartError::engine)?;
    }
    if !core.latest.borrow().is_founded() {
        let StartAs::FoundIfEmpty { settings, secrets } = &options.start else {
            return Err(StartError::NothingThere(options.data_dir.display().to_string()));
        };
        let seal = |name: &str, secret: &[u8]| (name.to_string(), core.sealing.seal(name, secret, &core.world.entropy));
        let mut sealed = vec![seal(AUTHORITY_SECRET, &authority_key.0)];
        sealed.extend(
            secrets.iter().filter(|(name, _)| name != AUTHORITY_SECRET).map(|(name, secret)| seal(name, secret)),
        );
        let command = Command::Found {
            cluster_id: core.cluster_id.to_string(),
            member: Member { id: core.me, ..facts.clone() },
            settings: settings.clone(),
            secrets: sealed,
        };
        let hash: [u8; 32] = Sha256::digest(format!("hsraft found {}", core.cluster_id)).into();
        let request = RequestId(u128::from_be_bytes(*hash.first_chunk().expect("32 bytes have a first 16")));
        let applied = core.propose(request, "founder", command).await.map_err(StartError::engine)?;
        match applied.answer {
            Ok(Outcome::Member(_)) | Err(Refusal::AlreadyFounded) => {}
            Ok(other) => return Err(StartError::Refused(format!("unexpected answer {other:?}"))),
            Err(refusal) => return Err(StartError::Refused(refusal.to_string())),
        }
        tracing::info!(cluster = %core.cluster_id, "founded");
    }
    identity.authority_key = None;
    Ok(())
}

/// A joiner is in once it has applied its own admission.
const SEAT_WITHIN: Duration = Duration::from_secs(60);

async fn wait_for_seat(core: &Core) -> Result<(), StartError> {
    let mut latest = core.latest.clone();
    match timeout(SEAT_WITHIN, latest.wait_for(|state| state.member(core.me).is_some())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(StartError::Engine("the engine stopped".into())),
        Err(_) => Err(StartError::CatchingUp),
    }
}

/// Tells the others when what they know of this member is no longer so.
async fn announce(core: Arc<Core>, facts: Member) {
    let mut latest = core.latest.clone();
    let news = |known: &Member| {
        (&known.peer_address, &known.client_url, &known.version, known.feature_level, &known.relay)
            != (&facts.peer_address, &facts.client_url, &facts.version, facts.feature_level, &facts.relay)
    };
    let mut pause = Duration::from_millis(100);
    loop {
        let known = latest.borrow_and_update().member(core.me).cloned();
        match known {
            Some(known) if known.state == MemberState::Active && news(&known) => {
                match core
                    .propose(core.new_request(), &facts.name, Command::AnnounceMember { member: facts.clone() })
                    .await
                {
                    Ok(Applied { answer: Ok(_), .. }) => return,
                    Ok(Applied { answer: Err(refusal), .. }) => {
                        tracing::warn!(%refusal, "this member's facts were refused");
                        return;
                    }
                    Err(error) => tracing::info!(%error, "this member's facts could not be told yet"),
                }
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
            Some(_) => return,
            None => {
                if latest.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Two thirds of a certificate's life.
const RENEW_BEFORE_MS: u64 = pki::LEAF_DAYS * 24 * 3600 * 1000 / 3;

/// Signs a new certificate when the old one nears its end; every member can, it holds the sealing key. Whether it did.
fn renew_if_due(
    identity: &mut Identity,
    authority_key: Option<Zeroizing<Vec<u8>>>,
    world: &World,
) -> Result<bool, StartError> {
    let due = pki::not_after_ms(&identity.certificate.0)
        .is_none_or(|not_after| not_after < world.clock.now_ms() + RENEW_BEFORE_MS);
    let Some(authority_key) = authority_key.filter(|_| due) else { return Ok(false) };
    let key = pki::new_key(&world.entropy);
    let public_key = pki::public_key(&key).map_err(StartError::engine)?;
    let (authority, member) = (&identity.authority.0, identity.member());
    let certificate = pki::sign_member(authority, &authority_key, &public_key, member, &identity.cluster_id, world)
        .map_err(StartError::engine)?;
    identity.certificate = Blob(certificate.into());
    identity.key = Blob(key.to_vec().into());
    tracing::info!("this member's certificate was renewed");
    Ok(true)
}

async fn renew(core: Arc<Core>, mut identity: Identity, options: Options) {
    loop {
        sleep(Duration::from_secs(3600)).await;
        let result = renew_if_due(&mut identity, core.secret(AUTHORITY_SECRET), &core.world).and_then(|renewed| {
            if renewed {
                Home { disk: &*core.world.disk, folder: &options.data_dir }.put_identity(&identity)?;
                let (certificate, key) = (&identity.certificate.0, &identity.key.0);
                core.dialer.tls.replace(certificate, key, &identity.authority.0).map_err(StartError::engine)?;
            }
            Ok(())
        });
        if let Err(error) = result {
            tracing::warn!(%error, "this member's certificate could not be renewed; it will be tried again");
        }
    }
}

async fn watch_disk(mut broken: watch::Receiver<Option<String>>, fatal: watch::Sender<Option<String>>) {
    if let Ok(reason) = broken.wait_for(Option::is_some).await {
        fatal.send_replace(reason.clone());
    }
}

async fn watch_removal(core: Arc<Core>, fatal: watch::Sender<Option<String>>) {
    let mut latest = core.latest.clone();
    let removed = |state: &Arc<State>| state.member(core.me).is_some_and(|member| member.state == MemberState::Removed);
    if latest.wait_for(removed).await.is_ok() {
        fatal.send_replace(Some("this member was removed from the cluster".into()));
    }
}

async fn publish_status(core: Arc<Core>, mut changed: watch::Receiver<u64>, statuses: watch::Sender<Status>) {
    let mut next = Instant::now();
    loop {
        let status = core.status();
        core.update_metrics(&status);
        statuses.send_replace(status);
        next = next.max(Instant::now()) + Duration::from_secs(1);
        tokio::select! { biased;
            news = changed.changed() => if news.is_err() { return },
            () = tokio::time::sleep_until(next) => {}
        }
    }
}
