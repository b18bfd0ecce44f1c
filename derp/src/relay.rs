//! Relay: accepts streams and serves them to their end.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tailcfg::NodeKey;
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;
use world::{BoxStream, Datagrams, World};

use crate::{
    admission::Admission,
    answers::Asked,
    connection::Ended,
    frame::PROTOCOL_VERSION,
    http::{self, Rewound},
    hub::Closing,
    metrics::Metrics,
    options::RelayOptions,
    reception::Reception,
    stun,
    tls::Certificate,
};

/// A running relay. Clones are handles of the same one.
#[derive(Clone)]
pub struct Relay {
    reception: Arc<Reception>,
}

impl Relay {
    /// Starts a relay without clients. It needs no task of its own: work happens where streams are served.
    pub fn start(options: RelayOptions, admission: Arc<dyn Admission>, world: &World) -> Relay {
        Relay { reception: Arc::new(Reception::open(options, admission, world)) }
    }

    /// Serves a stream that is not (or no longer) encrypted, to its end.
    pub async fn serve(&self, stream: BoxStream, from: SocketAddr) {
        self.on_own_threads(self.reception.clone().serve(stream, from)).await;
    }

    /// Accepts TLS with the relay's certificate and serves the stream to its end.
    pub async fn serve_tls(&self, stream: BoxStream, from: SocketAddr) {
        self.on_own_threads(self.reception.clone().serve_tls(stream, from)).await;
    }

    /// Looks at the first request of an unencrypted stream. When it is for the relay (a path below `/derp`,
    /// `/generate_204` or `/bootstrap-dns`), serves the stream to its end; otherwise hands it back, rewound. For ports
    /// that are shared with other services.
    pub async fn serve_or_return(&self, mut stream: BoxStream, from: SocketAddr) -> Option<BoxStream> {
        // Too many newcomers already: this one is dropped like those of `serve`.
        let place = self.reception.knock(from).ok()?;
        let mut seen = Vec::new();
        let limit = self.reception.around.limits.handshake_timeout;
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
        drop(place);
        if !ours {
            return Some(stream);
        }
        self.serve(stream, from).await;
        None
    }

    /// Serves a stream whose upgrade somebody else has answered with 101 and [`Relay::upgrade_headers`]: a request for
    /// the relay that came second on a connection, as proxies send them. `read`: bytes that came after the request.
    pub async fn serve_upgraded(&self, read: &[u8], stream: BoxStream, from: SocketAddr) {
        // To whoever starts fast nothing is answered.
        let mut seen =
            b"GET /derp HTTP/1.1\r\nHost: derp\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n"
                .to_vec();
        seen.extend_from_slice(read);
        self.serve(Box::new(Rewound::new(seen, stream)), from).await;
    }

    /// What a 101 says of this relay, beside the upgrade.
    pub fn upgrade_headers(&self) -> [(&'static str, String); 2] {
        [("derp-version", PROTOCOL_VERSION.to_string()), ("derp-public-key", hex::encode(self.public_key().0))]
    }

    /// Answers STUN on `socket` for as long as the relay takes clients. Never returns by itself.
    pub async fn serve_stun(&self, socket: Box<dyn Datagrams>) {
        let (metrics, draining) = (self.reception.around.metrics.clone(), self.reception.draining.subscribe());
        self.on_own_threads(serve_stun(socket, metrics, draining)).await;
    }

    /// Asks about everybody again: closes the connections of keys that are no longer admitted, and lets strangers in
    /// that wait to become known. To be called when the answers may have changed.
    pub fn recheck(&self) {
        self.reception.rechecks.send_modify(|count| *count += 1);
        for key in self.reception.around.board.keys() {
            if !self.reception.admission.admits(&key) {
                self.reception.around.board.close_clients(&key, Closing::Refused);
            }
        }
    }

    /// The key clients know the relay by.
    pub fn public_key(&self) -> NodeKey {
        self.reception.public_key
    }

    /// How many keys are connected.
    pub fn clients(&self) -> usize {
        self.reception.around.board.keys().len()
    }

    /// Whether a key is connected.
    pub fn has_client(&self, key: &NodeKey) -> bool {
        self.reception.around.board.is_here(key)
    }

    /// Shows another certificate from the next TLS handshake on.
    pub fn replace_certificate(&self, certificate: Certificate) {
        self.reception.identity.replace(certificate);
    }

    /// The certificate clients are shown now, without what stands behind it.
    pub fn certificate_leaf(&self) -> Option<rustls::pki_types::CertificateDer<'static>> {
        self.reception.identity.current().cert.first().cloned()
    }

    /// The relay's side of TLS, for ports that accept TLS themselves.
    pub fn tls_config(&self) -> Arc<ServerConfig> {
        self.reception.tls.clone()
    }

    /// What the relay counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.reception.around.metrics
    }

    /// Sends clients elsewhere: stops answering STUN and probes, takes nobody new, closes connections spread over
    /// most of `within` so that they do not all arrive at the next relay at once, and returns when all are gone or the
    /// time is up.
    pub async fn drain(&self, within: Duration) {
        const SLICE: Duration = Duration::from_millis(50);
        let reception = &self.reception;
        let (start, until) = (Instant::now(), Instant::now() + within);
        reception.draining.send_replace(true);
        let outboxes = reception.around.board.outboxes();
        let slices = (within.mul_f64(0.8).as_millis() / SLICE.as_millis()).max(1) as usize;
        let per_slice = outboxes.len().div_ceil(slices).max(1);
        for (index, slice) in outboxes.chunks(per_slice).enumerate() {
            sleep_until(start + SLICE * index as u32).await;
            slice.iter().for_each(|outbox| outbox.close(Ended::Drained));
        }
        // Everybody gives back a permit; those who came in while we looked are closed by themselves.
        let all = reception.clients_max();
        if timeout_at(until, reception.clients.acquire_many(all)).await.is_err() {
            tracing::warn!(clients = self.clients(), "clients were still connected when the time to drain was up");
        }
    }

    async fn on_own_threads<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) {
        let here = Handle::try_current().map(|current| current.id()).ok();
        match &self.reception.options.runtime {
            // Dropping the caller's future ends the work too.
            Some(runtime) if here != Some(runtime.id()) => drop(AbortOnDropHandle::new(runtime.spawn(work)).await),
            _ => drop(work.await),
        }
    }
}

/// Answers STUN on `socket`, unless `silent` is true: clients measure who answers and must not choose a relay that
/// takes nobody. Never returns.
pub async fn serve_stun(socket: Box<dyn Datagrams>, metrics: Arc<Metrics>, silent: watch::Receiver<bool>) {
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
