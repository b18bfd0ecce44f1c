//! Accepting connections and learning who calls.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper_util::rt::{TokioIo, TokioTimer};
use state_machine::MemberId;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use world::{BoxStream, Listener};

use super::{
    Dialer, MESSAGE_BYTES_MAX, Service,
    gate::{Peer, gated},
    proto::peers_server::PeersServer,
};
use crate::{join::EXPORTER_LABEL, pki};

/// Who is on the other end of a connection, as its certificate says.
#[derive(Clone, Debug)]
pub struct Caller {
    /// None: a stranger, who may ask to join.
    pub member: Option<MemberId>,
    /// Keying material of this very TLS connection: a proof over it cannot be replayed on another.
    pub exporter: [u8; 32],
    pub from: SocketAddr,
    /// Cancelled when this connection is about to end: what streams on it shall come to an end by itself.
    pub leaving: CancellationToken,
}

/// Connections that have not proved to be a member's, at once. When one more comes, the oldest is turned out: a member
/// is through its handshake in milliseconds, so a crowd of strangers cannot lock it out.
const STRANGERS: usize = 32;
/// For a stranger's handshake, and for asking to join.
const STRANGER_FOR: Duration = Duration::from_secs(30);

/// Serves until the tasks of the member end.
pub async fn serve(mut listener: Box<dyn Listener>, dialer: Dialer, service: Service) {
    let strangers = Strangers::default();
    let server = PeersServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let (dialer, server, stay) = (dialer.clone(), server.clone(), strangers.enter());
                let mut papers = dialer.tls.changes();
                dialer.tasks.clone().spawn(async move {
                    match stay.bounded(shake(stream, from, &dialer)).await {
                        Some(Ok((stream, caller))) if caller.member.is_some() => {
                            drop(stay);
                            converse(stream, caller, server, &dialer, &mut papers).await;
                        }
                        Some(Ok((stream, caller))) => {
                            let talk = converse(stream, caller, server, &dialer, &mut papers);
                            if stay.bounded(talk).await.is_none() {
                                tracing::debug!(%from, "a stranger was turned out");
                            }
                        }
                        Some(Err(error)) => tracing::debug!(%from, %error, "peer handshake failed"),
                        None => tracing::debug!(%from, "a peer handshake took too long, or there were too many"),
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: try again when some have been closed.
                tracing::warn!(%error, "could not accept a peer connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Who is in the hall: number → how to turn it out.
#[derive(Clone, Default)]
struct Strangers(Arc<Mutex<BTreeMap<u64, CancellationToken>>>);

/// One of them; leaves when dropped.
struct Stay {
    number: u64,
    until: Instant,
    out: CancellationToken,
    hall: Strangers,
}

impl Strangers {
    fn enter(&self) -> Stay {
        let mut hall = self.0.lock().expect("nobody panics in the hall");
        while hall.len() >= STRANGERS
            && let Some((_, oldest)) = hall.pop_first()
        {
            oldest.cancel();
        }
        let number = hall.last_key_value().map_or(0, |(last, _)| last + 1);
        let out = CancellationToken::new();
        hall.insert(number, out.clone());
        Stay { number, until: Instant::now() + STRANGER_FOR, out, hall: self.clone() }
    }
}

impl Stay {
    /// What `talk` came to; none when it took too long or room was needed.
    async fn bounded<T>(&self, talk: impl Future<Output = T>) -> Option<T> {
        tokio::select! { biased;
            () = self.out.cancelled() => None,
            done = talk => Some(done),
            () = sleep_until(self.until) => None,
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut hall = self.hall.0.lock().expect("nobody panics in the hall");
        // The number may be another's once this one was turned out.
        if !self.out.is_cancelled() {
            hall.remove(&self.number);
        }
    }
}

async fn shake(stream: BoxStream, from: SocketAddr, dialer: &Dialer) -> io::Result<(TlsStream<BoxStream>, Caller)> {
    let peer = Peer::default();
    let stream = gated(stream, &dialer.drills, peer.clone());
    let stream = TlsAcceptor::from(dialer.tls.server()).accept(stream).await?;
    let session = stream.get_ref().1;
    let member = match session.peer_certificates() {
        None | Some([]) => None,
        Some([certificate, ..]) => Some(
            pki::member_of(certificate, &dialer.cluster_id)
                .ok_or_else(|| io::Error::other("a certificate of our authority that names no member"))?,
        ),
    };
    if let Some(member) = member {
        peer.is(member);
    }
    let exporter = session.export_keying_material([0; 32], EXPORTER_LABEL, None).map_err(io::Error::other)?;
    Ok((stream, Caller { member, exporter, from, leaving: CancellationToken::new() }))
}

/// A connection whose certificates are replaced ends: new requests come on a new one, those under way are finished.
const FAREWELL: Duration = Duration::from_secs(30);
/// A caller has long had another certificate when only this much of its old one is left.
const OLD: Duration = Duration::from_secs(5 * 24 * 3600);
/// Clocks are set; a long wait is taken in pieces.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Returns when this member's papers changed, or the caller's certificate nears its end (or, if it came with an old
/// one, at its end).
async fn outdated(shown: Option<Vec<u8>>, dialer: &Dialer, papers: &mut watch::Receiver<u64>) {
    let left = || shown.as_ref().map(|certificate| dialer.tls.left(certificate));
    let margin = if left().is_some_and(|left| left > OLD) { OLD } else { Duration::ZERO };
    loop {
        let wait = left().map_or(LOOK_EVERY, |left| left.saturating_sub(margin));
        if wait.is_zero() {
            return;
        }
        tokio::select! { biased;
            // The sender lives as long as the dialer.
            _ = papers.changed() => return,
            () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
        }
    }
}

async fn converse(
    stream: TlsStream<BoxStream>,
    caller: Caller,
    server: PeersServer<Service>,
    dialer: &Dialer,
    papers: &mut watch::Receiver<u64>,
) {
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
    let leaving = caller.leaving.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(caller.clone());
        let mut server = server.clone();
        async move { server.call(request).await }
    });
    let connection = hyper::server::conn::http2::Builder::new(dialer.tasks.clone())
        .timer(TokioTimer::new())
        // The date would come from the system's clock behind our back, and its moments would show in a simulation.
        .auto_date_header(false)
        .keep_alive_interval(dialer.silence() * 2)
        .keep_alive_timeout(dialer.silence() * 2)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(256)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! { biased;
        served = connection.as_mut() => served,
        () = outdated(shown, dialer, papers) => {
            leaving.cancel();
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(FAREWELL, connection).await {
                Ok(served) => served,
                Err(_) => return tracing::debug!("a peer connection was cut: its certificates were replaced"),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a peer connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_hall_holds_so_many_and_nobody_for_long() {
        let hall = Strangers::default();
        let crowd: Vec<Stay> = (0..STRANGERS).map(|_| hall.enter()).collect();
        let late = hall.enter();
        assert_eq!(crowd[0].bounded(pending::<()>()).await, None, "the oldest made room");
        assert_eq!(crowd[1].bounded(async { 1 }).await, Some(1));
        assert_eq!(hall.0.lock().unwrap().len(), STRANGERS);
        drop(crowd);
        assert_eq!(hall.0.lock().unwrap().len(), 1);
        let start = Instant::now();
        assert_eq!(late.bounded(pending::<()>()).await, None);
        assert_eq!(start.elapsed(), STRANGER_FOR);
        drop(late);
        assert!(hall.0.lock().unwrap().is_empty());
    }
}
