//! Relay: accepts streams and serves them to their end.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::ServerConfig;
use tailcfg::NodeKey;
use tokio::{
    io::AsyncWriteExt,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use world::{BoxStream, Datagrams, Entropy, World};

use crate::{
    admission::Admission,
    answers::{self, Answer, Asked, Upgrade},
    connection::{Connection, Ended, Surroundings, Who},
    frame::{Frame, PROTOCOL_VERSION, present},
    hello,
    http::{self, Head, ReadError, Rewound},
    hub::{Closing, ConnectionId, Seat},
    login::{Doorman, Newcomer, Refusal},
    metrics::Metrics,
    options::RelayOptions,
    outbox::Outbox,
    read_ahead::ReadAhead,
    stun,
    switchboard::Switchboard,
    tls::{Certificate, Identity, SelfSigned},
};

/// What rustls may hold back for a client; small, so that a client that takes anything at all is seen to.
const TLS_BUFFER_BYTES: usize = 32 << 10;
/// A goodbye is not waited for longer.
const GOODBYE: Duration = Duration::from_secs(1);

/// A running relay. Clones are handles of the same one.
#[derive(Clone)]
pub struct Relay {
    shared: Arc<Shared>,
}

struct Shared {
    options: RelayOptions,
    admission: Arc<dyn Admission>,
    entropy: Entropy,
    around: Surroundings,
    identity: Arc<Identity>,
    tls: Arc<ServerConfig>,
    public_key: NodeKey,
    next_id: AtomicU64,
    newcomers: Arc<Semaphore>,
    clients: Arc<Semaphore>,
    /// Counts calls of `recheck`.
    rechecks: watch::Sender<u64>,
    draining: watch::Sender<bool>,
}

impl Relay {
    /// Starts a relay without clients. It needs no task of its own: work happens where streams are served.
    pub fn start(options: RelayOptions, admission: Arc<dyn Admission>, world: &World) -> Relay {
        let public_key = options.private_key.public();
        let certificate = options.certificate.clone().unwrap_or_else(|| fallback_certificate(world));
        let identity = Identity::new(certificate, public_key, world);
        let metrics = Metrics::new();
        let limits = Arc::new(options.limits.clone());
        let board = Arc::new(Switchboard::new(limits.hub, metrics.clone()));
        let shared = Shared {
            admission,
            entropy: world.entropy.clone(),
            tls: identity.server_config(),
            identity,
            public_key,
            next_id: AtomicU64::new(1),
            newcomers: Arc::new(Semaphore::new(limits.newcomers_max)),
            clients: Arc::new(Semaphore::new(limits.clients_max.min(u32::MAX as usize >> 4))),
            rechecks: watch::Sender::new(0),
            draining: watch::Sender::new(false),
            around: Surroundings { board, metrics, limits },
            options,
        };
        Relay { shared: Arc::new(shared) }
    }

    /// Serves a stream that is not (or no longer) encrypted, to its end.
    pub async fn serve(&self, stream: BoxStream, from: SocketAddr) {
        let shared = self.shared.clone();
        self.on_own_threads(async move { shared.guard(shared.serve_plain(stream, from)).await }).await;
    }

    /// Accepts TLS with the relay's certificate and serves the stream to its end.
    pub async fn serve_tls(&self, stream: BoxStream, from: SocketAddr) {
        let shared = self.shared.clone();
        self.on_own_threads(async move {
            let served = async {
                let stream = shared.accept_tls(stream).await?;
                shared.serve_plain(stream, from).await
            };
            shared.guard(served).await
        })
        .await;
    }

    /// Looks at the first request of an unencrypted stream. When it is for the relay (a path below `/derp`,
    /// `/generate_204` or `/bootstrap-dns`), serves the stream to its end; otherwise hands it back, rewound. For ports
    /// that are shared with other services.
    pub async fn serve_or_return(&self, mut stream: BoxStream, from: SocketAddr) -> Option<BoxStream> {
        // Too many newcomers already: this one is dropped like those of `serve`.
        let permit = self.shared.newcomer_permit().ok()?;
        let mut seen = Vec::new();
        let limit = self.shared.around.limits.handshake_timeout;
        let head = timeout(limit, async {
            loop {
                match http::parse(&seen) {
                    Ok(Some((head, _))) => return Some(head),
                    Ok(None) => http::read_some(&mut stream, &mut seen).await.ok()?,
                    // Not HTTP/1: HTTP/2, TLS or nonsense; whoever is next will say.
                    Err(_) => return None,
                }
            }
        })
        .await
        .unwrap_or(None);
        let ours = head.is_some_and(|head| {
            matches!(Asked::of(&head.path), Asked::Derp | Asked::Probe | Asked::Generate204 | Asked::BootstrapDns)
        });
        let stream: BoxStream = Box::new(Rewound::new(seen, stream));
        drop(permit);
        if !ours {
            return Some(stream);
        }
        self.serve(stream, from).await;
        None
    }

    /// Answers STUN on `socket` for as long as the relay takes clients. Never returns by itself.
    pub async fn serve_stun(&self, socket: Box<dyn Datagrams>) {
        let (metrics, draining) = (self.shared.around.metrics.clone(), self.shared.draining.subscribe());
        self.on_own_threads(serve_stun(socket, metrics, draining)).await;
    }

    /// Asks about everybody again: closes the connections of keys that are no longer admitted, and lets strangers in
    /// that wait to become known. To be called when the answers may have changed.
    pub fn recheck(&self) {
        self.shared.rechecks.send_modify(|count| *count += 1);
        for key in self.shared.around.board.keys() {
            if !self.shared.admission.admits(&key) {
                self.shared.around.board.close_clients(&key, Closing::Refused);
            }
        }
    }

    /// The key clients know the relay by.
    pub fn public_key(&self) -> NodeKey {
        self.shared.public_key
    }

    /// How many keys are connected.
    pub fn clients(&self) -> usize {
        self.shared.around.board.keys().len()
    }

    /// Whether a key is connected.
    pub fn has_client(&self, key: &NodeKey) -> bool {
        self.shared.around.board.is_here(key)
    }

    /// Shows another certificate from the next TLS handshake on.
    pub fn replace_certificate(&self, certificate: Certificate) {
        self.shared.identity.replace(certificate);
    }

    /// The relay's side of TLS, for ports that accept TLS themselves.
    pub fn tls_config(&self) -> Arc<ServerConfig> {
        self.shared.tls.clone()
    }

    /// What the relay counts.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.around.metrics
    }

    /// Sends clients elsewhere: stops answering STUN and probes, takes nobody new, closes connections spread over
    /// most of `within` so that they do not all arrive at the next relay at once, and returns when all are gone or the
    /// time is up.
    pub async fn drain(&self, within: Duration) {
        const SLICE: Duration = Duration::from_millis(50);
        let shared = &self.shared;
        let (start, until) = (Instant::now(), Instant::now() + within);
        shared.draining.send_replace(true);
        let outboxes = shared.around.board.outboxes();
        let slices = (within.mul_f64(0.8).as_millis() / SLICE.as_millis()).max(1) as usize;
        let per_slice = outboxes.len().div_ceil(slices).max(1);
        for (index, slice) in outboxes.chunks(per_slice).enumerate() {
            sleep_until(start + SLICE * index as u32).await;
            slice.iter().for_each(|outbox| outbox.close(Ended::Drained));
        }
        // Everybody gives back a permit; those who came in while we looked are closed by themselves.
        let all = shared.around.limits.clients_max.min(u32::MAX as usize >> 4) as u32;
        if timeout_at(until, shared.clients.acquire_many(all)).await.is_err() {
            tracing::warn!(clients = self.clients(), "clients were still connected when the time to drain was up");
        }
    }

    async fn on_own_threads<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) {
        match &self.shared.options.runtime {
            // Dropping the caller's future ends the work too.
            Some(runtime) => drop(AbortOnDropHandle::new(runtime.spawn(work)).await),
            None => drop(work.await),
        }
    }
}

impl Shared {
    /// Bounds the connections that have not proved anything yet, and counts those that never do.
    async fn guard(&self, served: impl Future<Output = Result<(), Refusal>>) {
        if let Err(refusal) = served.await {
            self.around.metrics.refused.with_label_values(&[refusal.label()]).inc();
            tracing::debug!(error = &refusal as &dyn std::error::Error, "a connection was refused");
        }
    }

    fn newcomer_permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.newcomers.clone().try_acquire_owned().map_err(|_| Refusal::Full)
    }

    async fn accept_tls(&self, stream: BoxStream) -> Result<BoxStream, Refusal> {
        let _permit = self.newcomer_permit()?;
        let acceptor = TlsAcceptor::from(self.tls.clone());
        let accept =
            acceptor.accept_with(ReadAhead::new(stream), |session| session.set_buffer_limit(Some(TLS_BUFFER_BYTES)));
        match timeout(self.around.limits.handshake_timeout, accept).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(Refusal::Tls(error)),
            Err(_) => Err(Refusal::Timeout),
        }
    }

    async fn serve_plain(&self, mut stream: BoxStream, from: SocketAddr) -> Result<(), Refusal> {
        let permit = self.newcomer_permit()?;
        let mut buffer = Vec::new();
        let mut is_first = true;
        loop {
            let within = self.around.limits.handshake_timeout;
            let head = match http::read_head(&mut stream, &mut buffer, within).await {
                Ok(head) => head,
                // A connection kept for another request that never came.
                Err(ReadError::Closed | ReadError::Timeout | ReadError::Io(_)) if !is_first => return Ok(()),
                Err(error) => return Err(Refusal::Request(error)),
            };
            is_first = false;
            let answer = match Asked::of(&head.path) {
                Asked::Derp => match self.upgrade(&head) {
                    Ok(first) => return self.serve_derp(stream, from, &head, first, buffer, permit).await,
                    Err(answer) => answer,
                },
                asked => {
                    self.around.metrics.requests.with_label_values(&[asked.label()]).inc();
                    answers::answer(asked, &head, *self.draining.borrow(), &self.options.bootstrap_dns)
                }
            };
            let bytes = answer.to_wire(head.method == "HEAD", head.keep_alive);
            let written = timeout(within, async {
                stream.write_all(&bytes).await?;
                stream.flush().await
            });
            if !matches!(written.await, Ok(Ok(()))) || !head.keep_alive {
                goodbye(stream).await;
                return Ok(());
            }
        }
    }

    /// The first bytes of a relayed connection, or why there will be none.
    fn upgrade(&self, head: &Head) -> Result<Vec<u8>, Answer> {
        if *self.draining.borrow() {
            return Err(answers::draining());
        }
        match answers::upgrade(head) {
            Upgrade::Refused(answer) => Err(answer),
            Upgrade::FastStart => Ok(Vec::new()),
            Upgrade::Derp => Ok(format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\
                 Derp-Version: {PROTOCOL_VERSION}\r\nDerp-Public-Key: {}\r\n\r\n",
                hex::encode(self.public_key.0)
            )
            .into_bytes()),
        }
    }

    async fn serve_derp(
        &self,
        mut stream: BoxStream,
        from: SocketAddr,
        head: &Head,
        first: Vec<u8>,
        early: Vec<u8>,
        newcomer: OwnedSemaphorePermit,
    ) -> Result<(), Refusal> {
        self.around.metrics.accepts.inc();
        let mut doorman = Doorman {
            own: &self.options.private_key,
            mesh_key: self.options.mesh_key.as_ref(),
            admission: &*self.admission,
            rechecks: self.rechecks.subscribe(),
            patience: self.around.limits.admission_patience,
            within: self.around.limits.handshake_timeout,
        };
        let Newcomer { key, info, is_mesh, rest } = doorman.let_in(&mut stream, first, early).await?;
        let client = self.clients.clone().try_acquire_owned().map_err(|_| Refusal::Full)?;
        drop(newcomer);
        let is_ideal = head.header("ideal-node").is_none_or(str::is_empty);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(is_mesh, present::MESH_PEER)
            | flag(info.is_prober, present::PROBER)
            | flag(!is_ideal, present::NOT_IDEAL);
        let ended = self.serve_client(stream, Client { key, from, flags, is_mesh, rest }).await;
        tracing::debug!(?key, reason = ended.label(), "client left");
        drop(client);
        Ok(())
    }

    async fn serve_client(&self, stream: BoxStream, client: Client) -> Ended {
        let Surroundings { board, metrics, limits } = &self.around;
        let id = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let outbox = Arc::new(Outbox::new(&limits.queue));
        // First in the outbox, so first on the wire, whoever sends the client a packet the moment it is known.
        let sealed = hello::seal_server_info(&self.options.private_key, &client.key, self.entropy.bytes());
        outbox.notify(&Frame::ServerInfo { sealed: &sealed });
        let (key, from, flags) = (client.key, client.from, client.flags);
        if board.is_here(&key) {
            metrics.total_dup_client_conns.inc();
        }
        let _here = Here::new(self, Seat { id, key, handle: outbox.clone(), from, flags });
        // The relay may have begun to drain, or the key been removed, since we asked.
        if *self.draining.borrow() {
            outbox.close(Ended::Drained);
        }
        if !client.is_mesh && !self.admission.admits(&key) {
            outbox.close(Ended::NotAdmitted);
        }
        let keep_alive_every = limits.keep_alive + self.entropy.jitter(limits.keep_alive_jitter);
        let who = Who { id, key, is_mesh: client.is_mesh, keep_alive_every };
        let connection = Connection::new(self.around.clone(), who, outbox, stream, client.rest);
        let (ended, stream) = connection.run().await;
        metrics.ended.with_label_values(&[ended.label()]).inc();
        drop(_here);
        goodbye(stream).await;
        ended
    }
}

struct Client {
    key: NodeKey,
    from: SocketAddr,
    flags: u8,
    is_mesh: bool,
    rest: Vec<u8>,
}

/// A place in the hub, given back also when the task that holds it is dropped.
struct Here<'a> {
    shared: &'a Shared,
    key: NodeKey,
    id: ConnectionId,
    not_ideal: bool,
}

impl<'a> Here<'a> {
    fn new(shared: &'a Shared, seat: Seat<Arc<Outbox>>) -> Here<'a> {
        let not_ideal = seat.flags & present::NOT_IDEAL != 0;
        let here = Here { shared, key: seat.key, id: seat.id, not_ideal };
        shared.around.metrics.current_notideal_connections.add(i64::from(not_ideal));
        shared.around.board.arrive(seat);
        here
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.shared.around.board.leave(&self.key, self.id);
        self.shared.around.metrics.current_notideal_connections.sub(i64::from(self.not_ideal));
    }
}

/// Closes a stream properly, if the other side lets us.
async fn goodbye(mut stream: BoxStream) {
    drop(timeout(GOODBYE, stream.shutdown()).await);
}

fn fallback_certificate(world: &World) -> Certificate {
    SelfSigned::new(&[RelayOptions::fallback_name()], &*world.clock)
        .and_then(|made| made.certificate())
        .expect("a certificate for an address literal can always be made")
}

/// Answers STUN on `socket`, unless `silent` is true: clients measure who answers and must not choose a relay that
/// takes nobody. Never returns.
pub async fn serve_stun(socket: Box<dyn Datagrams>, metrics: Metrics, silent: watch::Receiver<bool>) {
    let mut buffer = [0; stun::REQUEST_BYTES_MAX];
    let count = |what: &str| metrics.stun_requests.with_label_values(&[what]).inc();
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                count("read_error");
                tracing::debug!(%error, "could not read from the STUN socket");
                // Errors of earlier answers come back here; a socket that is broken for good must not spin.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let Some(transaction) = stun::parse_request(&buffer[..length]) else {
            count("not_stun");
            continue;
        };
        if *silent.borrow() || from.port() == 0 {
            continue;
        }
        let sent: io::Result<usize> = socket.send_to(&stun::response(&transaction, from), from).await;
        count(if sent.is_ok() { "success" } else { "write_error" });
        let family = if from.ip().to_canonical().is_ipv4() { "ipv4" } else { "ipv6" };
        metrics.stun_addrfamily.with_label_values(&[family]).inc();
    }
}
