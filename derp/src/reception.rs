//! From a stream to a client: TLS, request, introduction, a place in the hub.
//!
//! What happens here is over once a client is let in, and so is the memory it took: the greeting is one boxed future,
//! the guest another.

use std::{
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
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use world::{BoxStream, Entropy, World};

use crate::{
    admission::Admission,
    answers::{self, Answer, Asked, Upgrade},
    connection::{Connection, Ended, Surroundings, Who},
    frame::{Frame, PROTOCOL_VERSION, present},
    http::{self, Head, ReadError},
    hub::{ConnectionId, Seat},
    login::{Doorman, Newcomer, Refusal},
    metrics::Metrics,
    newcomers::{Newcomers, Place},
    options::RelayOptions,
    outbox::Outbox,
    read_ahead::ReadAhead,
    switchboard::Switchboard,
    tls::{Certificate, Identity, SelfSigned},
};

/// What rustls may hold back for a client; small, so that a client that takes anything at all is seen to.
const TLS_BUFFER_BYTES: usize = 32 << 10;
/// A goodbye is not waited for longer.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where streams arrive.
pub(crate) struct Reception {
    pub(crate) options: RelayOptions,
    pub(crate) admission: Arc<dyn Admission>,
    entropy: Entropy,
    pub(crate) around: Surroundings,
    pub(crate) identity: Arc<Identity>,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) public_key: NodeKey,
    next_id: AtomicU64,
    newcomers: Newcomers,
    pub(crate) clients: Arc<Semaphore>,
    /// Counts calls of `recheck`.
    pub(crate) rechecks: watch::Sender<u64>,
    pub(crate) draining: watch::Sender<bool>,
}

impl Reception {
    pub(crate) fn open(options: RelayOptions, admission: Arc<dyn Admission>, world: &World) -> Reception {
        let public_key = options.private_key.public();
        let certificate = options.certificate.clone().unwrap_or_else(|| fallback_certificate(world));
        let identity = Identity::new(certificate, public_key, world);
        let metrics = Arc::new(Metrics::new());
        let limits = Arc::new(options.limits.clone());
        let board = Arc::new(Switchboard::new(limits.hub, metrics.clone()));
        Reception {
            admission,
            entropy: world.entropy.clone(),
            tls: identity.server_config(),
            identity,
            public_key,
            next_id: AtomicU64::new(1),
            newcomers: Newcomers::new(limits.newcomers_max, limits.newcomers_per_source_max),
            clients: Arc::new(Semaphore::new(clients_max(limits.clients_max) as usize)),
            rechecks: watch::Sender::new(0),
            draining: watch::Sender::new(false),
            around: Surroundings { board, metrics, limits },
            options,
        }
    }

    pub(crate) async fn serve(self: Arc<Self>, stream: BoxStream, from: SocketAddr) {
        let greeted = Box::pin(async { self.greet(stream, from, self.knock(from)?).await }).await;
        self.host(greeted).await;
    }

    pub(crate) async fn serve_tls(self: Arc<Self>, stream: BoxStream, from: SocketAddr) {
        let greeted = Box::pin(async {
            let place = self.knock(from)?;
            let stream = self.accept_tls(stream).await?;
            self.greet(stream, from, place).await
        })
        .await;
        self.host(greeted).await;
    }

    /// How many permits `clients` has in all.
    pub(crate) fn clients_max(&self) -> u32 {
        clients_max(self.around.limits.clients_max)
    }

    async fn host(&self, greeted: Result<Option<Box<Guest>>, Refusal>) {
        match greeted {
            Ok(Some(guest)) => guest.stay().await,
            Ok(None) => {}
            Err(refusal) => {
                self.around.metrics.refused.with_label_values(&[refusal.label()]).inc();
                tracing::debug!(error = &refusal as &dyn std::error::Error, "a connection was refused");
            }
        }
    }

    /// A place for somebody who has yet to say who it is.
    pub(crate) fn knock(&self, from: SocketAddr) -> Result<Place, Refusal> {
        self.newcomers.admit(from.ip()).ok_or(Refusal::Full)
    }

    async fn accept_tls(&self, stream: BoxStream) -> Result<BoxStream, Refusal> {
        let acceptor = TlsAcceptor::from(self.tls.clone());
        let accept =
            acceptor.accept_with(ReadAhead::new(stream), |session| session.set_buffer_limit(Some(TLS_BUFFER_BYTES)));
        match timeout(self.around.limits.handshake_timeout, accept).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(Refusal::Tls(error)),
            Err(_) => Err(Refusal::Timeout),
        }
    }

    /// Answers requests until one is for a relayed connection, and lets that client in.
    async fn greet(
        self: &Arc<Self>,
        mut stream: BoxStream,
        from: SocketAddr,
        place: Place,
    ) -> Result<Option<Box<Guest>>, Refusal> {
        let mut buffer = Vec::new();
        let mut is_first = true;
        loop {
            let within = self.around.limits.handshake_timeout;
            let head = match http::read_head(&mut stream, &mut buffer, within).await {
                Ok(head) => head,
                // A connection kept for another request that never came.
                Err(ReadError::Closed | ReadError::Timeout | ReadError::Io(_)) if !is_first => return Ok(None),
                Err(error) => return Err(Refusal::Request(error)),
            };
            is_first = false;
            let answer = match Asked::of(&head.path) {
                Asked::Derp => match self.upgrade(&head) {
                    Ok(first) => return self.let_in(stream, from, &head, first, buffer, place).await.map(Some),
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
                return Ok(None);
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

    async fn let_in(
        self: &Arc<Self>,
        mut stream: BoxStream,
        from: SocketAddr,
        head: &Head,
        first: Vec<u8>,
        early: Vec<u8>,
        place: Place,
    ) -> Result<Box<Guest>, Refusal> {
        self.around.metrics.accepts.inc();
        let mut doorman = Doorman {
            own: &self.options.private_key,
            mesh_key: self.options.mesh_key.as_ref(),
            admission: &*self.admission,
            rechecks: self.rechecks.subscribe(),
            patience: self.around.limits.admission_patience,
            within: self.around.limits.handshake_timeout,
        };
        let newcomer = doorman.let_in(&mut stream, first, early).await?;
        let permit = self.clients.clone().try_acquire_owned().map_err(|_| Refusal::Full)?;
        drop(place);
        let is_ideal = head.header("ideal-node").is_none_or(str::is_empty);
        Ok(Box::new(self.seat(newcomer, stream, from, is_ideal, permit)))
    }

    /// Gives a client its place in the hub.
    fn seat(
        self: &Arc<Self>,
        newcomer: Newcomer,
        stream: BoxStream,
        from: SocketAddr,
        is_ideal: bool,
        permit: OwnedSemaphorePermit,
    ) -> Guest {
        let Surroundings { board, metrics, limits } = &self.around;
        let Newcomer { key, info, channel, is_mesh, rest } = newcomer;
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(is_mesh, present::MESH_PEER)
            | flag(info.is_prober, present::PROBER)
            | flag(!is_ideal, present::NOT_IDEAL);
        let id = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let outbox = Arc::new(Outbox::new(&limits.queue));
        // First in the outbox, so first on the wire, whoever sends the client a packet the moment it is known.
        let sealed = channel.seal_server_info(self.entropy.bytes());
        outbox.notify(&Frame::ServerInfo { sealed: &sealed });
        if board.is_here(&key) {
            metrics.total_dup_client_conns.inc();
        }
        let here = Here::take(self.clone(), Seat { id, key, handle: outbox.clone(), from, flags });
        // The relay may have begun to drain, or the key been removed, since we asked.
        if *self.draining.borrow() {
            outbox.close(Ended::Drained);
        }
        if !is_mesh && !self.admission.admits(&key) {
            outbox.close(Ended::NotAdmitted);
        }
        let keep_alive_every = limits.keep_alive + self.entropy.jitter(limits.keep_alive_jitter);
        let who = Who { id, key, is_mesh, keep_alive_every };
        let connection = Connection::new(self.around.clone(), who, outbox, stream, rest);
        Guest { connection, here, _permit: permit }
    }
}

/// A client that was let in.
struct Guest {
    connection: Connection,
    here: Here,
    _permit: OwnedSemaphorePermit,
}

impl Guest {
    /// Serves the client to its end.
    async fn stay(mut self: Box<Self>) {
        let ended = self.connection.run().await;
        let Guest { connection, here, _permit } = *self;
        here.reception.around.metrics.ended.with_label_values(&[ended.label()]).inc();
        tracing::debug!(key = ?here.key, reason = ended.label(), "client left");
        let stream = connection.into_stream();
        drop(here);
        goodbye(stream).await;
    }
}

/// A place in the hub, given back also when the task that holds it is dropped.
struct Here {
    reception: Arc<Reception>,
    key: NodeKey,
    id: ConnectionId,
    not_ideal: i64,
}

impl Here {
    fn take(reception: Arc<Reception>, seat: Seat<Arc<Outbox>>) -> Here {
        let not_ideal = i64::from(seat.flags & present::NOT_IDEAL != 0);
        let here = Here { reception, key: seat.key, id: seat.id, not_ideal };
        here.reception.around.metrics.current_notideal_connections.add(not_ideal);
        here.reception.around.board.arrive(seat);
        here
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.reception.around.board.leave(&self.key, self.id);
        self.reception.around.metrics.current_notideal_connections.sub(self.not_ideal);
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

/// Semaphores count to less than `usize`, and a drain asks for all permits at once as a `u32`.
fn clients_max(wanted: usize) -> u32 {
    wanted.min(u32::MAX as usize >> 4) as u32
}
