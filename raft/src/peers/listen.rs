//! Accepting connections and learning who calls.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::{TokioIo, TokioTimer};
use state_machine::MemberId;
use tokio::sync::Semaphore;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower::Service as _;
use world::{BoxStream, Listener};

use super::{Dialer, MESSAGE_BYTES_MAX, Service, proto::peers_server::PeersServer};
use crate::{join::EXPORTER_LABEL, pki};

/// Who is on the other end of a connection, as its certificate says.
#[derive(Clone, Debug)]
pub struct Caller {
    /// None: a stranger, who may ask to join.
    pub member: Option<MemberId>,
    /// Keying material of this very TLS connection: a proof over it cannot be replayed on another.
    pub exporter: [u8; 32],
    pub from: SocketAddr,
}

/// Handshakes going on at once; more wait.
const HANDSHAKES: usize = 64;
const HANDSHAKE_AT_MOST: Duration = Duration::from_secs(5);

/// Serves until the tasks of the member end.
pub async fn serve(mut listener: Box<dyn Listener>, dialer: Dialer, service: Service) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let server = PeersServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    loop {
        let permit = handshakes.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, from)) => {
                let (dialer, server) = (dialer.clone(), server.clone());
                dialer.tasks.clone().spawn(async move {
                    let shaken = tokio::time::timeout(HANDSHAKE_AT_MOST, shake(stream, from, &dialer)).await;
                    drop(permit);
                    match shaken {
                        Ok(Ok((stream, caller))) => converse(stream, caller, server, &dialer).await,
                        Ok(Err(error)) => tracing::debug!(%from, %error, "peer handshake failed"),
                        Err(_) => tracing::debug!(%from, "peer handshake timed out"),
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

async fn shake(stream: BoxStream, from: SocketAddr, dialer: &Dialer) -> io::Result<(TlsStream<BoxStream>, Caller)> {
    let stream = TlsAcceptor::from(dialer.tls.server.clone()).accept(stream).await?;
    let session = stream.get_ref().1;
    let member = match session.peer_certificates() {
        None | Some([]) => None,
        Some([certificate, ..]) => Some(
            pki::member_of(certificate, &dialer.cluster_id)
                .ok_or_else(|| io::Error::other("a certificate of our authority that names no member"))?,
        ),
    };
    let exporter = session.export_keying_material([0; 32], EXPORTER_LABEL, None).map_err(io::Error::other)?;
    Ok((stream, Caller { member, exporter, from }))
}

async fn converse(stream: TlsStream<BoxStream>, caller: Caller, server: PeersServer<Service>, dialer: &Dialer) {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(caller.clone());
        let mut server = server.clone();
        async move { server.call(request).await }
    });
    let served = hyper::server::conn::http2::Builder::new(dialer.tasks.clone())
        .timer(TokioTimer::new())
        // The date would come from the system's clock behind our back, and its moments would show in a simulation.
        .auto_date_header(false)
        .keep_alive_interval(dialer.silence() * 2)
        .keep_alive_timeout(dialer.silence() * 2)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(256)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a peer connection ended");
    }
}
