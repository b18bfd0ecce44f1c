//! People and their programs: the API over HTTP/1.1 and HTTP/2, and a port of its own for gRPC.

use std::{net::SocketAddr, sync::Arc};

use axum::{body::Body as AnyBody, extract::ConnectInfo};
use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use world::{BoxStream, Listener};

use super::{
    Closing, Gate, accept, authority,
    dialect::{self, Dialect},
    guarded, http as http_1,
};
use crate::options::Limits;

/// Calls at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 200;

/// A port of its own for gRPC, as Headscale has it (`grpc_listen_addr`). REST is reached there too.
pub struct GrpcDoor {
    pub api: axum::Router,
    /// `None`: callers are believed to be near (`grpc_allow_insecure`).
    pub tls: Option<Arc<ServerConfig>>,
    pub gate: Arc<Gate>,
    pub limits: Limits,
}

/// Serves the gRPC port until told to stop.
pub async fn grpc(listener: Box<dyn Listener>, door: GrpcDoor, tasks: TaskTracker, closing: Closing) {
    let door = Arc::new(door);
    let (stop, cut) = (closing.stop.clone(), closing.cut);
    accept(listener, "gRPC", closing.stop, |stream, from| {
        let Some(seat) = Gate::enter(&door.gate, from.ip()) else { return };
        let (door, stop, cut) = (door.clone(), stop.clone(), cut.clone());
        tasks.spawn(async move {
            let _seat = seat;
            cut.run_until_cancelled(caller(&door, stream, from, stop)).await;
        });
    })
    .await;
}

async fn caller(door: &GrpcDoor, stream: BoxStream, from: SocketAddr, stop: CancellationToken) {
    let limits = door.limits;
    let stream: BoxStream = match &door.tls {
        None => stream,
        Some(config) => {
            let accept = TlsAcceptor::from(config.clone()).accept(stream);
            match tokio::time::timeout(limits.handshake, accept).await {
                Ok(Ok(stream)) => Box::new(stream),
                Ok(Err(error)) => return tracing::debug!(%from, %error, "no TLS"),
                Err(_) => return tracing::debug!(%from, "TLS took too long"),
            }
        }
    };
    either(stream, Some(from), door.api.clone(), &limits, stop).await;
}

/// Serves the API in whichever dialect the caller begins.
pub async fn either(
    stream: BoxStream,
    from: Option<SocketAddr>,
    api: axum::Router,
    limits: &Limits,
    stop: CancellationToken,
) {
    let stream = match dialect::heard(stream, limits.handshake).await {
        Ok(Dialect::Http1(stream)) => stream,
        Ok(Dialect::Http2(stream)) => {
            // On the unix socket, which has no address, Go names the socket's path.
            let stream = if from.is_none() { Box::new(authority::Readable::new(stream)) } else { stream };
            return http_2(stream, from, api, limits, stop).await;
        }
        Err(error) => return tracing::trace!(from = ?from, %error, "said nothing"),
    };
    let service = service_fn(move |request| api.clone().oneshot(told(request, from)));
    if let Err(error) = http_1(limits).serve_connection(TokioIo::new(stream), service).await {
        tracing::trace!(from = ?from, %error, "connection ended");
    }
}

/// Serves the API over HTTP/2, to the last answer.
pub async fn http_2(
    stream: BoxStream,
    from: Option<SocketAddr>,
    api: axum::Router,
    limits: &Limits,
    stop: CancellationToken,
) {
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { api.oneshot(told(request, from)).await.map(guarded) }
    });
    let connection = bounded(limits).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! { biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(from = ?from, %error, "connection ended");
    }
}

/// The request and where it came from: failed logins are counted by address.
fn told(mut request: Request<Incoming>, from: Option<SocketAddr>) -> Request<AnyBody> {
    if let Some(from) = from {
        request.extensions_mut().insert(ConnectInfo(from));
    }
    request.map(AnyBody::new)
}

fn bounded(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.handshake)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX));
    builder
}
