//! A member starts: opens its folder, founds, joins or continues, and sets its tasks going.

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use state_machine::{Command, Member, MemberState, State, codes, mutants};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use world::World;

use crate::{
    agreement,
    apply::Machine,
    archive,
    board::{self, Boards, Memory},
    cluster::{Applied, Cluster, Core, Guard, REMOVED},
    drills::Drills,
    encode::{Blob, Call, decode},
    error::StartError,
    forward::Forwards,
    founding,
    identity::{Home, Identity},
    integrity::{self, Gate, QUARANTINED, Warden, fail},
    join,
    keyring::{self, KeyPlace, Keyring, Successor},
    log::Log,
    membership,
    metrics::Metrics,
    options::{Options, StartAs},
    peers::{self, AddressBook, Dialer, Network, Service, proto::Frame},
    pki::{self, MemberTls},
    renewal::{self, renew_if_due},
    scrub,
    seal::SealingKey,
    slow_disk,
    snapshot::Snapshots,
    space::{self, Room},
    status::{Leadership, Status, watch_engine},
    store::{Closed, Marker, Recovered, Store, StoreOptions},
    tasks::{self, Tasks},
    token::Token,
    types::Raft,
    upgrade,
};

/// Whom the folder belongs to, with what the database holds.
struct Opened {
    store: Store,
    recovered: Recovered,
    broken: watch::Receiver<Option<String>>,
    identity: Identity,
    sealing: Keyring,
    /// Joined just now.
    is_new: bool,
}

/// Starts this member.
pub async fn start(options: Options, world: World) -> Result<Cluster, StartError> {
    let metrics = Metrics::default();
    let tasks = Tasks::here();
    let mut opened = None;
    let result = start_with(&options, &world, &metrics, &tasks, &mut opened).await;
    if let Err(error) = &result {
        tasks.stop();
        // RocksDB aborts a process that ends with a database open, and the exit code would be lost.
        if let Some(closed) = opened {
            let _ = timeout(CLOSE_WITHIN, closed.wait()).await;
        }
        if let StartError::Integrity(_) = error {
            Warden::new(&options, &world).report(&error.to_string());
        }
    }
    result
}

/// A database whose start failed closes in so long.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Leaves in `opened` what tells that the database is closed, once there is one.
async fn start_with(
    options: &Options,
    world: &World,
    metrics: &Metrics,
    tasks: &Tasks,
    opened: &mut Option<Closed>,
) -> Result<Cluster, StartError> {
    let listener = world
        .net
        .listen(options.peer_listen)
        .await
        .map_err(|source| StartError::Listen { address: options.peer_listen.to_string(), source })?;
    let port = listener.local_addr().map_or(options.peer_listen.port(), |address| address.port());
    let mut facts = facts(options, port)?;
    let drills = if options.drills { Drills::allowed() } else { Drills::forbidden() };
    let home = open_home(options, world, metrics, &facts, &drills, opened).await?;
    let Opened { store, recovered, broken, mut identity, sealing, is_new } = home;
    let me = identity.member();
    if recovered.state.0.member(me).is_some_and(|member| member.state == MemberState::Removed) {
        return Err(StartError::Removed);
    }
    let level = recovered.state.0.feature_level();
    if level > options.feature_level {
        return Err(StartError::Skew(upgrade::too_old(options.feature_level, level)));
    }
    let files = Home { disk: &*world.disk, folder: &options.data_dir };
    identity.incarnation += 1;
    (facts.id, facts.incarnation) = (me, identity.incarnation);
    let key = sealing.of(&recovered.state.0);
    renew_if_due(&mut identity, &recovered.state.0, &key, world, false)?;

    let tls = identity.with_papers(|papers| MemberTls::new(papers, world.clock.clone())).map_err(StartError::engine)?;
    let snapshots = Snapshots::open(options.data_dir.join("snapshots"), world.disk.clone())
        .map_err(|error| StartError::disk(&options.data_dir.join("snapshots"), error))?;
    let (mut machine, published) =
        Machine::new(store.clone(), snapshots, &recovered, options.feature_level, metrics.apply.clone());
    if mutants::is("wall-clock-on-members") {
        machine.mistrust_the_log(world.clock.clone());
    }
    let latest = published.latest.clone();
    let samples = machine.samples();
    let dialer = Dialer {
        net: world.net.clone(),
        tls,
        cluster_id: identity.cluster_id.as_str().into(),
        book: AddressBook::new(latest.clone(), identity.peers.iter().cloned()),
        tasks: tasks.clone(),
        timing: options.timing,
        drills: drills.clone(),
    };
    if !is_new && !mutants::is("rollback-not-noticed") {
        let last = recovered.end().map_or(0, |last| last.index);
        ask_the_others(&dialer, &recovered.state.0, &identity, last).await?;
        // Whoever takes part follows every authority. One that does not could vote with others of its day only.
        if let Some(theirs) = dialer.tls.take_newer() {
            return Err(StartError::Outdated(theirs, identity.generation));
        }
    }
    world::failpoint!("start.incarnation.before");
    files.put_identity(&identity)?;
    world::failpoint!("start.engine.before");
    let closed = store.closed();
    let log = Log::new(store.clone(), &recovered);
    let archive = options.backup.clone().map(|place| (place, log.clone()));
    let facts_of_log = log.weak();
    drop(recovered);
    let config = engine_config(options, &identity.cluster_id)?;
    let raft = Raft::new(me.0, Arc::new(config), Network(dialer.clone()), log, machine).await.map_err(engine_error)?;

    world::failpoint!("start.engine.after");
    let stopping = Arc::new(AtomicBool::new(false));
    let (leadership_sender, leadership) = watch::channel(Leadership::default());
    let (changed_sender, changed) = watch::channel(0);
    let (fatal_sender, fatal) = watch::channel(None);
    let (status_sender, statuses) = watch::channel(Status::default());
    let (room_sender, room) = watch::channel(Room::default());
    let (renewals, wishes) = mpsc::channel(8);
    let core = Arc::new(Core {
        raft: raft.clone(),
        log: facts_of_log,
        me,
        feature_level: options.feature_level,
        auto_remove_after: options.auto_remove_after,
        arrival: options.arrival.clone(),
        cluster_id: dialer.cluster_id.clone(),
        authority: identity.authority.0.to_vec(),
        renewals,
        sealing,
        latest,
        published,
        leadership,
        dialer: dialer.clone(),
        forwards: Forwards::default(),
        world: world.clone(),
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        boards: Boards::default(),
        gate: Gate::default(),
        scrubbing: Mutex::default(),
        warden: Warden::new(options, world),
        room,
        clients: Mutex::default(),
        statuses,
        fatal,
        fatal_sender: fatal_sender.clone(),
        closed,
        stopping: stopping.clone(),
    });
    let guard = Guard { raft: raft.clone(), tasks: tasks.clone(), stopping: stopping.clone() };
    let cluster = Cluster { core: core.clone(), _guard: Arc::new(guard) };

    let vital = |what: &'static str, task: BoxFuture<'static, ()>| {
        let fatal = fatal_sender.clone();
        tasks.spawn(async move { tasks::vital(what, &fatal, task).await });
    };
    let fatal = || fatal_sender.clone();
    vital("engine", watch_engine(raft, leadership_sender, changed_sender, fatal(), stopping, options.timing).boxed());
    vital("disk", watch_disk(core.clone(), broken, fatal()).boxed());
    vital("integrity", integrity::guard(core.clone(), fatal()).boxed());
    vital("space", space::watch(core.clone(), options.data_dir.clone(), options.space, room_sender).boxed());
    vital("scrub", scrub::keep(core.clone(), fatal()).boxed());
    vital("board", board::keep(core.clone(), identity.incarnation, fatal()).boxed());
    vital("removal", watch_removal(core.clone(), fatal()).boxed());
    vital("status", publish_status(core.clone(), changed, status_sender).boxed());
    vital("peers", peers::serve(listener, dialer, Service(core.clone())).boxed());
    vital("membership", membership::reconcile(core.clone()).boxed());
    vital("slow disk", slow_disk::watch(core.clone()).boxed());
    vital("fingerprints", agreement::take(core.clone(), samples, store.clone()).boxed());
    vital("sealing key", keyring::keep(core.clone(), store).boxed());

    if identity.authority_key.is_some() {
        founding::finish(&core, options, &facts, &mut identity).await?;
        files.put_identity(&identity)?;
    } else if is_new {
        wait_for_seat(&core, options.join_within).await?;
    }
    if let Some((place, log)) = archive {
        let folder = options.data_dir.clone();
        vital("backup", archive::keep(core.clone(), place, log, options.name.clone(), folder).boxed());
    }
    vital("announcement", announce(core.clone(), facts).boxed());
    vital("renewal", renewal::keep(core, identity, options.clone(), wishes).boxed());
    Ok(cluster)
}

/// How long the others may think about it. One that is down, or starts as well, is not waited for longer.
const MEMORY_WITHIN: Duration = Duration::from_secs(1);

/// A folder that was put back to an earlier day is whole in itself; only the others can tell. It must not take part: it
/// would deny what it promised, and a leader would trip over a log that became shorter.
async fn ask_the_others(dialer: &Dialer, state: &State, identity: &Identity, last: u64) -> Result<(), StartError> {
    let others =
        state.members().values().filter(|member| member.state == MemberState::Active && member.id != identity.member());
    let frame = Frame { kind: Call::Remember as u32, data: Default::default() };
    let asked = others.map(|other| {
        let (mut client, frame) = (dialer.channel(other.id), frame.clone());
        async move { (other.name.clone(), timeout(MEMORY_WITHIN, client.call(frame)).await) }
    });
    for (name, answer) in join_all(asked).await {
        let frame = match answer {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) if status.code() == tonic::Code::PermissionDenied => return Err(StartError::Removed),
            Ok(Err(_)) | Err(_) => continue,
        };
        let Ok(memory) = decode::<Memory>(&frame.data) else { continue };
        if memory.incarnation >= identity.incarnation {
            return Err(StartError::Integrity(format!(
                "this folder is from an earlier day: {name} remembers start {} of this member, the folder only {}",
                memory.incarnation,
                identity.incarnation - 1
            )));
        }
        if memory.has > last {
            return Err(StartError::Integrity(format!(
                "this folder is from an earlier day: {name} knows that this member had log entry {}, the folder ends at {last}",
                memory.has
            )));
        }
    }
    Ok(())
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
        feature_level: options.feature_level,
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
        enable_leader_restore: Some(mutants::is("leader-restore")),
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

async fn open_home(
    options: &Options,
    world: &World,
    metrics: &Metrics,
    facts: &Member,
    drills: &Drills,
    opened: &mut Option<Closed>,
) -> Result<Opened, StartError> {
    let folder = &options.data_dir;
    let disk = &world.disk;
    let files = Home { disk: &**disk, folder };
    let keys = KeyPlace::of(options);
    disk.create_dir_all(folder).map_err(|error| StartError::disk(folder, error))?;
    let lock = disk.lock(folder).map_err(|error| StartError::disk(folder, error))?;
    Warden::new(options, world).check()?;
    space::make_room(&**disk, folder, options.space);
    let identity = files.identity()?;
    let (store, mut recovered, broken) = Store::open(StoreOptions {
        folder: folder.clone(),
        disk: disk.clone(),
        entropy: world.entropy.clone(),
        lock,
        metrics: metrics.store.clone(),
        drills: drills.clone(),
    })?;
    *opened = Some(store.closed());
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
        // A newcomer that was stopped while it caught up has the newest key, and a State of before.
        let caught_up = recovered.state.0.member(identity.member()).is_some();
        let state = if caught_up { recovered.state.0.clone() } else { State::default() };
        let sealing = Keyring::open(keys, disk.clone(), &state)?;
        return Ok(Opened { store, recovered, broken, identity, sealing, is_new: false });
    }

    let (identity, sealing, successor) = match &options.start {
        StartAs::FoundIfEmpty { .. } => {
            files.refuse_to_found_for_the_second_time()?;
            let (identity, fresh) = founding::prepare(options, world)?;
            (identity, keys.given(&**disk)?.unwrap_or(fresh), None)
        }
        StartAs::Join { address, token, replaces } => {
            let key = files.joining_key(|| pki::new_key(&world.entropy).to_vec())?;
            world::failpoint!("join.ask.before");
            ask_to_join(options, world, facts, address, token, replaces, key).await?
        }
        StartAs::Continue => return Err(StartError::NothingThere(folder.display().to_string())),
    };
    world::failpoint!("start.marker.before");
    // Database first: an identity without its database is refused ever after.
    let marker = Marker { cluster_id: identity.cluster_id.clone(), member: identity.member };
    store.write_marker(&marker).await.map_err(|error| StartError::disk(folder, error))?;
    recovered.marker = Some(marker);
    world::failpoint!("start.marker.after");
    keys.put(&**disk, &sealing)?;
    keys.put_next(&**disk, successor.as_ref())?;
    world::failpoint!("start.sealing_key.after");
    files.put_identity(&identity)?;
    world::failpoint!("start.identity.after");
    files.forget_who_left()?;
    let is_new = identity.authority_key.is_none();
    let sealing = Keyring::open(keys, disk.clone(), &recovered.state.0)?;
    Ok(Opened { store, recovered, broken, identity, sealing, is_new })
}

async fn ask_to_join(
    options: &Options,
    world: &World,
    facts: &Member,
    addresses: &[String],
    token: &str,
    replaces: &str,
    key: Vec<u8>,
) -> Result<(Identity, SealingKey, Option<Successor>), StartError> {
    let token = Token::parse(token).ok_or_else(|| StartError::Token {
        why: "it does not look like hsr1.…; make one on a member: hsraft token create".into(),
        code: &codes::START_TOKEN_MALFORMED,
    })?;
    let joined = join::ask(addresses, &token, &key, facts, replaces, options.join_within, world).await?;
    let sealing = SealingKey::from_bytes(&joined.sealing_key)
        .ok_or_else(|| StartError::Engine("the member sent an unusable sealing key".into()))?;
    world::failpoint!("join.admitted");
    tracing::info!(member = %joined.member, cluster = token.cluster_id, "admitted");
    // The token may pin an authority that is being replaced; the certificate is of the newest, which is named first.
    let authority = joined.trusted.first().cloned().unwrap_or_else(|| Blob(joined.authority.into()));
    let identity = Identity {
        cluster_id: token.cluster_id.clone(),
        member: joined.member.0,
        name: options.name.clone(),
        incarnation: 0,
        certificate: Blob(joined.certificate.into()),
        key: Blob(key.into()),
        authority,
        generation: joined.generation,
        chain: joined.chain,
        trusted: joined.trusted,
        peers: joined.peers,
        authority_key: None,
    };
    Ok((identity, sealing, joined.successor))
}

/// A joiner is in once it has applied its own admission.
async fn wait_for_seat(core: &Core, within: Duration) -> Result<(), StartError> {
    let mut latest = core.latest.clone();
    match timeout(within, latest.wait_for(|state| state.member(core.me).is_some())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(StartError::Engine("the engine stopped".into())),
        Err(_) => Err(StartError::CatchingUp),
    }
}

/// Tells the others when what they know of this member is no longer so. What it says of its program depends on the
/// cluster's level.
async fn announce(core: Arc<Core>, facts: Member) {
    let mut latest = core.latest.clone();
    loop {
        let level = latest.borrow_and_update().feature_level();
        let announced = upgrade::announced(core.feature_level, &latest.borrow());
        announce_once(&core, Member { feature_level: announced, ..facts.clone() }).await;
        if latest.wait_for(|state| state.feature_level() != level).await.is_err() {
            return;
        }
    }
}

async fn announce_once(core: &Arc<Core>, facts: Member) {
    let mut latest = core.latest.clone();
    let news = |known: &Member| {
        known.incarnation < facts.incarnation
            || (&known.peer_address, &known.client_url, &known.version, known.feature_level, &known.relay)
                != (&facts.peer_address, &facts.client_url, &facts.version, facts.feature_level, &facts.relay)
    };
    let mut pause = Duration::from_millis(100);
    loop {
        let known = latest.borrow_and_update().member(core.me).cloned();
        match known {
            Some(known) if known.state == MemberState::Active && news(&known) => {
                world::failpoint!("member.announce.before");
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

async fn watch_disk(
    core: Arc<Core>,
    mut broken: watch::Receiver<Option<String>>,
    fatal: watch::Sender<Option<String>>,
) {
    let Ok(reason) = broken.wait_for(Option::is_some).await.map(|reason| reason.clone().unwrap_or_default()) else {
        return;
    };
    match reason.strip_prefix(QUARANTINED) {
        Some(why) => integrity::quarantine(&core, &fatal, why).await,
        None => fail(&fatal, reason),
    }
}

async fn watch_removal(core: Arc<Core>, fatal: watch::Sender<Option<String>>) {
    let mut latest = core.latest.clone();
    let removed = |state: &Arc<State>| state.member(core.me).is_some_and(|member| member.state == MemberState::Removed);
    if latest.wait_for(removed).await.is_ok() {
        fail(&fatal, REMOVED);
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
