//! `/ts2021`: upgrade → Noise → HTTP/2.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http2, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use state_machine::codes;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use world::BoxStream;

use super::{
    Control, Peer,
    body::{Answer, Body, no},
    noise::{self, HandshakeError, NoiseError, NoiseStream, handshake::INITIATION_BYTES},
};
use crate::listen::Seat;

/// A client that does not answer a ping is gone; clients never ping by themselves.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_PATIENCE: Duration = Duration::from_secs(15);
/// Go opens one stream, some updates and answers to pings beside it.
const STREAMS_MAX: u32 = 64;
/// Between saying goodbye and closing the connection.
pub(super) const GOODBYE: Duration = Duration::from_secs(1);

/// Why an upgrade was refused; the text goes to the client.
#[derive(Debug, Error, PartialEq, Eq)]
enum Refused {
    #[error("use POST with Upgrade: tailscale-control-protocol")]
    Method,
    #[error("missing next protocol: send Upgrade: tailscale-control-protocol")]
    Protocol,
    #[error("missing X-Tailscale-Handshake header")]
    Missing,
    #[error("X-Tailscale-Handshake is not a handshake message in base64")]
    Invalid,
}

/// Answers the upgrade and serves what comes inside, in a task of its own that keeps the connection's seat.
pub fn upgrade(control: &Arc<Control>, mut request: Request<Incoming>, seat: Arc<Seat>) -> Answer {
    if control.drain.is_cancelled() {
        return no(StatusCode::SERVICE_UNAVAILABLE, &codes::STOPPED, "this member is leaving; another one will answer");
    }
    let initiation = match initiation(request.method(), request.headers()) {
        Ok(initiation) => initiation,
        Err(refused) => {
            control.metrics.handshakes.with_label_values(&["refused"]).inc();
            return no(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, refused.to_string());
        }
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let (served, cut) = (serve(control.clone(), upgraded, initiation, seat), control.cut.clone());
    control.tasks.spawn(async move { cut.run_until_cancelled(served).await });
    let mut answer = Response::new(Body::Whole(None));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::UPGRADE, header::HeaderValue::from_static(noise::PROTOCOL));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    answer
}

/// The first handshake message, out of the upgrade request.
fn initiation(method: &Method, headers: &HeaderMap) -> Result<Vec<u8>, Refused> {
    if method != Method::POST && method != Method::GET {
        return Err(Refused::Method);
    }
    let upgrade = headers.get(header::UPGRADE).ok_or(Refused::Protocol)?;
    if !upgrade.as_bytes().eq_ignore_ascii_case(noise::PROTOCOL.as_bytes()) {
        return Err(Refused::Protocol);
    }
    let encoded = headers.get(noise::HANDSHAKE_HEADER).ok_or(Refused::Missing)?;
    let message = BASE64_STANDARD.decode(encoded.as_bytes()).map_err(|_| Refused::Invalid)?;
    if message.len() != INITIATION_BYTES {
        return Err(Refused::Invalid);
    }
    Ok(message)
}

async fn serve(control: Arc<Control>, upgraded: OnUpgrade, initiation: Vec<u8>, seat: Arc<Seat>) {
    let secured = tokio::time::timeout(control.limits.handshake, secure(&control, upgraded, &initiation)).await;
    let result = match &secured {
        Ok(Ok(_)) => "ok",
        Ok(Err(NoiseError::Handshake(HandshakeError::Cryptography(_)))) => "undecipherable",
        Ok(Err(NoiseError::Handshake(_))) => "malformed",
        Ok(Err(_)) => "broken_off",
        Err(_) => "timeout",
    };
    control.metrics.handshakes.with_label_values(&[result]).inc();
    match secured {
        Ok(Ok(stream)) => converse(control, stream, seat).await,
        Ok(Err(error)) => tracing::debug!(%error, "no Noise connection"),
        Err(_) => tracing::debug!("a Noise handshake took too long"),
    }
}

async fn secure(
    control: &Control,
    upgraded: OnUpgrade,
    initiation: &[u8],
) -> Result<NoiseStream<BoxStream>, NoiseError> {
    let broken = |error: hyper::Error| NoiseError::Io(std::io::Error::other(error));
    let upgraded = upgraded.await.map_err(broken)?;
    // Taking the stream out of hyper's wrapping keeps what the parser has read beyond the request.
    let parts = upgraded
        .downcast::<TokioIo<BoxStream>>()
        .map_err(|_| NoiseError::Io(std::io::Error::other("the upgraded connection is of another kind")))?;
    let private = &control.noise_private;
    let stream = parts.io.into_inner();
    noise::accept(stream, &parts.read_buf, private, initiation, Some(control.challenge), &control.entropy).await
}

/// HTTP/2 until the client leaves or we do.
async fn converse(control: Arc<Control>, stream: NoiseStream<BoxStream>, seat: Arc<Seat>) {
    let leaving = CancellationToken::new();
    // Whatever ends the connection ends its streams.
    let _ends_streams = leaving.clone().drop_guard();
    let peer = Peer { machine_key: stream.peer(), version: stream.version(), leaving: leaving.clone(), seat };
    tracing::debug!(machine = ?peer.machine_key, version = peer.version, "Noise connection open");
    let service = {
        let (control, peer) = (control.clone(), peer.clone());
        service_fn(move |request| {
            let (control, peer) = (control.clone(), peer.clone());
            async move { Ok::<_, std::convert::Infallible>(control.answer(peer, request).await) }
        })
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(control.limits.head_bytes_max as u32)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let sent_away = control.sent_away();
    let ended = tokio::select! { biased;
        ended = connection.as_mut() => Some(ended),
        () = control.drain.cancelled() => None,
        () = sent_away.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // All clients of a member that leaves come back elsewhere at once; spread them.
            let wait = control.entropy.jitter(control.spread());
            let ended = tokio::select! { biased;
                ended = connection.as_mut() => Some(ended),
                () = tokio::time::sleep(wait) => None,
            };
            match ended {
                Some(ended) => ended,
                None => {
                    leaving.cancel();
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
                }
            }
        }
    };
    if let Err(error) = ended {
        if is_broken(&error) {
            control.metrics.connections_broken.inc();
            tracing::debug!(machine = ?peer.machine_key, %error, "Noise connection broke");
        } else {
            tracing::trace!(machine = ?peer.machine_key, %error, "Noise connection ended");
        }
    }
}

/// Whether somebody sent bytes that mean nothing, as opposed to merely vanishing.
fn is_broken(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof);
        }
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            if let Some(io) = h2.get_io() {
                return matches!(io.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof);
            }
            return !h2.is_remote();
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_headers_are_checked() {
        let good = HeaderValue::from_str(&BASE64_STANDARD.encode([1; INITIATION_BYTES])).unwrap();
        let protocol = HeaderValue::from_static(noise::PROTOCOL);
        let mut headers = HeaderMap::new();
        assert_eq!(initiation(&Method::POST, &headers), Err(Refused::Protocol));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        assert_eq!(initiation(&Method::POST, &headers), Err(Refused::Protocol));
        headers.insert(header::UPGRADE, protocol);
        assert_eq!(initiation(&Method::POST, &headers), Err(Refused::Missing));
        for bad in ["", "!!!", "AAAA"] {
            headers.insert(noise::HANDSHAKE_HEADER, HeaderValue::from_static(bad));
            assert_eq!(initiation(&Method::POST, &headers), Err(Refused::Invalid), "{bad}");
        }
        headers.insert(noise::HANDSHAKE_HEADER, good);
        assert_eq!(initiation(&Method::PUT, &headers), Err(Refused::Method));
        assert_eq!(initiation(&Method::POST, &headers).unwrap().len(), INITIATION_BYTES);
        assert_eq!(initiation(&Method::GET, &headers).unwrap().len(), INITIATION_BYTES);
    }
}
