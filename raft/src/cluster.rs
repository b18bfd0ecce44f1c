//! The door: propose, watch, confirm, shut down. Starting is `start.rs`.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use state_machine::{Answer, Command, JoinRole, JoinToken, MemberId, RequestId, Revision, SealedSecret, State};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use world::World;
use zeroize::Zeroizing;

use crate::{
    agreement::Agreement,
    archive::{self, RECOVERY_SECRET, RecoveryKey},
    board::{Board, Boards},
    drills::{DrillRefused, Drills, Fault},
    encode::Blob,
    error::{ProposeError, ReadError, StartError},
    forward::{DEADLINE, Forwards},
    identity::Identity,
    integrity::{Comparison, Gate, Warden},
    keyring::Keyring,
    log::{LogFact, WeakLog},
    metrics::Metrics,
    options::Options,
    peers::{Client, Dialer},
    pki,
    publish::Published,
    renewal::{Renewed, Trust, Wish},
    scrub::{Scrubbed, Scrubbing},
    seal::unseal,
    space::Room,
    start,
    status::{Arriving, Leadership, Role, Status},
    store::Closed,
    tasks::{self, Tasks},
    token::Token,
    types::Raft,
};

/// The name of the authority's key among the cluster's secrets.
pub(crate) const AUTHORITY_SECRET: &str = "ca";

/// The reason of [`Cluster::fatal`] when this member was removed: it must not be started again.
pub const REMOVED: &str = "this member was removed from the cluster";

/// What a join token allows.
#[derive(Clone, Debug, Default)]
pub struct TokenWish {
    /// From now.
    pub ttl: Duration,
    /// Only for a member of this name; empty for any.
    pub name: String,
    pub role: JoinRole,
    /// For so many members; zero and one are the same.
    pub uses: u32,
    /// Only for joiners that call from these networks; empty for any.
    pub from: Vec<IpNet>,
}

/// Data keys are made by hand; twice in a row is rare.
const PUT_ATTEMPTS: usize = 5;

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
    pub(crate) core: Arc<Core>,
    pub(crate) _guard: Arc<Guard>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {} of {}", self.core.me, self.core.cluster_id)
    }
}

/// What the tasks of a member share.
pub struct Core {
    pub raft: Raft,
    /// Not the log itself: a handle of a member that has shut down must not keep its database open.
    pub log: WeakLog,
    pub me: MemberId,
    /// What this program can apply (upgrade.rs).
    pub feature_level: u32,
    pub auto_remove_after: Option<Duration>,
    pub arrival: Option<watch::Sender<Option<Arriving>>>,
    pub cluster_id: Arc<str>,
    /// The authority of this member's certificate when it started; State knows of later ones.
    pub authority: Vec<u8>,
    /// For those who want a new certificate.
    pub renewals: mpsc::Sender<Wish>,
    pub sealing: Keyring,
    pub latest: watch::Receiver<Arc<State>>,
    pub published: Published,
    pub leadership: watch::Receiver<Leadership>,
    pub dialer: Dialer,
    pub forwards: Forwards,
    pub world: World,
    pub tasks: Tasks,
    pub metrics: Metrics,
    pub boards: Boards,
    pub gate: Gate,
    pub scrubbing: Mutex<Scrubbing>,
    pub warden: Warden,
    pub room: watch::Receiver<Room>,
    pub clients: Mutex<BTreeMap<MemberId, Client>>,
    pub statuses: watch::Receiver<Status>,
    pub fatal: watch::Receiver<Option<String>>,
    pub fatal_sender: watch::Sender<Option<String>>,
    pub closed: Closed,
    /// Shut down on purpose: that the engine stops is no news.
    pub stopping: Arc<AtomicBool>,
}

/// Ends the member when nobody holds it any more.
pub struct Guard {
    pub raft: Raft,
    pub tasks: Tasks,
    pub stopping: Arc<AtomicBool>,
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
        let state = self.latest.borrow().clone();
        unseal(&self.sealing.of(&state), &state, name)
    }

    /// Whose certificates are taken, and who signs new ones.
    pub fn trust(&self, state: &State) -> Trust {
        let authority = Blob(self.authority.clone().into());
        Trust::of(state, &Identity { authority, ..Identity::default() })
    }

    /// A new certificate for this member.
    pub async fn renew_here(&self) -> Result<Renewed, String> {
        let (wish, answer) = oneshot::channel();
        self.renewals.send(wish).await.map_err(|_| "this member is shutting down".to_owned())?;
        answer.await.map_err(|_| "this member is shutting down".to_owned())?
    }
}

impl Cluster {
    /// Starts this member: founds, joins or continues, as the folder and the options say.
    pub async fn start(options: Options, world: &World) -> Result<Cluster, StartError> {
        let world = world.clone();
        match options.runtime.clone() {
            // openraft spawns on the runtime it is made on.
            Some(runtime) => runtime.spawn(start::start(options, world)).await.map_err(StartError::engine)?,
            None => start::start(options, world).await,
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

    /// The newest entries of this member's log, oldest first: what members have in common must be the same.
    pub fn newest_entries(&self, count: u64) -> std::io::Result<Vec<LogFact>> {
        let log = self.core.log.upgrade().ok_or_else(|| std::io::Error::other("this member has stopped"))?;
        log.newest(count)
    }

    /// All members as the leader sees them: the same at every member, at most a second old while there is a leader.
    pub fn board(&self) -> Board {
        self.core.board()
    }

    /// Whether each member's State is the others', as last compared.
    pub fn agreements(&self) -> BTreeMap<MemberId, Agreement> {
        self.core.board().agreements(&self.core.status().voters)
    }

    /// Runs a task of the member's process that it cannot be without: should it panic, the member is told to end
    /// ([`Cluster::fatal`]).
    pub fn vital(
        &self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let fatal = self.core.fatal_sender.clone();
        async move { tasks::vital(what, &fatal, task).await }
    }

    /// Has all members take a fingerprint of their States at one revision, and compares them; from any member.
    pub async fn compare_states(&self) -> Result<Comparison, ProposeError> {
        self.core.compare_states().await
    }

    /// Reads this member's disk through, at 20 MB a second at most; damage quarantines the member.
    pub async fn scrub(&self) -> Result<Scrubbed, String> {
        self.core.scrub(&self.core.fatal_sender).await
    }

    /// The same in the background, unless that goes on already.
    pub fn begin_scrub(&self) -> Scrubbing {
        self.core.begin_scrub()
    }

    /// How that goes.
    pub fn scrubbing(&self) -> Scrubbing {
        self.core.scrubbing()
    }

    /// When that was done last and the disk was whole, in milliseconds since 1970; zero: never.
    pub fn scrubbed_ms(&self) -> u64 {
        self.core.boards.scrubbed_ms()
    }

    /// Why no changes are taken though there may be a quorum: States differ, and nobody can say who is right.
    pub fn halted(&self) -> Option<String> {
        self.core.gate.halted()
    }

    /// How much room this member's disk has; nothing where nobody counts.
    pub fn room(&self) -> Option<Room> {
        Some(self.core.room()).filter(|room| *room != Room::default())
    }

    /// How far this member's clock is behind most others' (negative: ahead), in milliseconds; none when fewer than two
    /// others said what theirs shows.
    pub fn clock_behind_ms(&self) -> Option<i64> {
        self.core.boards.clock_behind_ms()
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
        let state = self.latest();
        self.core.sealing.of(&state).seal_in(&state, name, secret, &self.core.world.entropy)
    }

    /// Seals a secret and replicates it.
    pub async fn put_secret(&self, name: &str, secret: &[u8], by: &str) -> Result<Applied, ProposeError> {
        let mut attempts = 0;
        loop {
            let command = Command::PutSecret { name: name.into(), secret: self.seal(name, secret) };
            let applied = self.propose(by, command).await?;
            attempts += 1;
            // Meanwhile all secrets got another data key: this one, too.
            if applied.answer != Err(state_machine::Refusal::SecretsChanged) || attempts == PUT_ATTEMPTS {
                return Ok(applied);
            }
        }
    }

    /// Makes the key that opens backups and replicates what it takes; the text is shown once.
    pub async fn create_recovery_key(&self, by: &str) -> Result<Zeroizing<String>, ProposeError> {
        let key = RecoveryKey::new(&self.core.world.entropy);
        for _ in 0..PUT_ATTEMPTS {
            let sealing = self.core.sealing.of(&self.latest());
            let secret = key.wrap(&sealing, &self.core.world.entropy);
            let command = Command::PutSecret { name: RECOVERY_SECRET.into(), secret };
            let applied = self.propose(by, command).await?;
            applied.answer.map_err(ProposeError::Refused)?;
            // Unless the sealing key was replaced while it was on its way: what it holds then opens nothing.
            if self.is_recovery_key(&key.text()) {
                return Ok(key.text());
            }
        }
        Err(ProposeError::Refused(state_machine::Refusal::SecretsChanged))
    }

    /// Whether a text is the recovery key of now.
    pub fn is_recovery_key(&self, text: &str) -> bool {
        let state = self.latest();
        let sealing = RecoveryKey::parse(text).and_then(|key| key.unwrap(&state));
        sealing.is_some_and(|sealing| sealing.bytes() == self.core.sealing.of(&state).bytes())
    }

    /// The latest State as a backup file.
    pub fn full_backup(&self) -> (String, Vec<u8>) {
        let state = self.latest();
        let now = self.core.world.clock.now_ms();
        let head = archive::FullHead {
            cluster_id: self.core.cluster_id.to_string(),
            member: state.member(self.core.me).map(|member| member.name.clone()).unwrap_or_default(),
            index: state.revision().0,
            term: self.core.status().term,
            taken_ms: now,
            state_ms: state.now().0,
            state_hash: crate::encode::Blob(state.hash().to_vec().into()),
            program: env!("CARGO_PKG_VERSION").into(),
        };
        let item = archive::Item::Full { index: head.index, taken_ms: now };
        (item.file_name(), archive::write_full(&head, &state))
    }

    /// A ticket for one new member; shown once. `name`: only for a member of this name; empty for any.
    pub async fn create_join_token(
        &self,
        ttl: Duration,
        name: &str,
        role: JoinRole,
        by: &str,
    ) -> Result<String, ProposeError> {
        self.create_token(TokenWish { ttl, name: name.into(), role, ..TokenWish::default() }, by).await
    }

    /// A ticket into the cluster with conditions; shown once.
    pub async fn create_token(&self, wish: TokenWish, by: &str) -> Result<String, ProposeError> {
        let core = &self.core;
        let issuer = core.trust(&self.latest()).issuer;
        let pin = pki::spki_sha256(&issuer.0)
            .ok_or_else(|| ProposeError::Impossible("the cluster's certificate cannot be read".into()))?;
        let token = Token::new(&core.cluster_id, pin, &core.world.entropy);
        let now = state_machine::Timestamp(core.world.clock.now_ms()).max(core.latest.borrow().now());
        let row = JoinToken {
            id: token.id.clone(),
            secret_sha256: token.secret_sha256(),
            name: wish.name,
            role: wish.role,
            created_at: now,
            expires_at: now.after(wish.ttl),
            used_by: None,
            uses: wish.uses,
            from: wish.from,
            ..JoinToken::default()
        };
        let applied = self.propose(by, Command::CreateJoinToken { token: row }).await?;
        applied.answer.map_err(ProposeError::Refused)?;
        Ok(token.text())
    }

    /// Hands leadership to `to`, or to the voter that is furthest along; from any member.
    pub async fn transfer_leader(&self, to: Option<MemberId>) -> Result<(), ProposeError> {
        self.core.transfer_leader(to).await
    }

    /// Fences a member for ever and takes its seat; from any member.
    /// Refused when the rest could not go on without it, unless `force`.
    pub async fn remove_member(&self, id: MemberId, force: bool, by: &str) -> Result<(), ProposeError> {
        self.core.remove_member(id, force, by).await
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

    /// The door for drills.
    pub fn drills(&self) -> &Drills {
        &self.core.dialer.drills
    }

    /// Breaks something on purpose for a while, within the session of a drill.
    pub fn inject(&self, drill: &str, fault: Fault, within: Duration) -> Result<(), DrillRefused> {
        self.drills().inject(drill, fault, within, &self.core.tasks)
    }

    /// Prometheus collectors.
    pub fn metrics(&self) -> Metrics {
        self.core.metrics.clone()
    }
}
