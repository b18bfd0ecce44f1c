//! One connection on the client port, from its first byte.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode, header};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use world::BoxStream;

use super::{
    Closing, Doors, Gate, Seat, challenge,
    dialect::{self, Dialect},
    http as http_1, people, route,
};

/// A member that leaves still answers on connections there are: a request that is on its way already would be lost, and
/// nobody could say whether it was done.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Serves a connection in a task of its own, if there is a seat for it.
pub fn welcome(doors: &Arc<Doors>, stream: BoxStream, from: SocketAddr, closing: &Closing) {
    let Some(seat) = Gate::enter(&doors.gate, from.ip()) else { return };
    let (doors, closing) = (doors.clone(), closing.clone());
    let tasks = doors.control.tasks.clone();
    tasks.spawn(async move {
        // A connection that has become Noise lives on in a task of its own.
        let served = serve(doors, stream, from, Arc::new(seat), closing.stop.clone());
        closing.cut.run_until_cancelled(served).await;
    });
}

async fn serve(doors: Arc<Doors>, stream: BoxStream, from: SocketAddr, seat: Arc<Seat>, stop: CancellationToken) {
    let limits = doors.control.limits;
    let stream: BoxStream = match &doors.tls {
        None => stream,
        Some(config) => {
            let shaken = challenge::shake(config.clone(), &doors.control.cluster, stream);
            match tokio::time::timeout(limits.handshake, shaken).await {
                Ok(Ok(Some(stream))) => Box::new(stream),
                // An authority has its answer.
                Ok(Ok(None)) => return,
                Ok(Err(error)) => return tracing::debug!(%from, %error, "no TLS"),
                Err(_) => return tracing::debug!(%from, "TLS took too long"),
            }
        }
    };
    let stream = match dialect::heard(stream, limits.handshake).await {
        Ok(Dialect::Http1(stream)) => stream,
        Ok(Dialect::Http2(stream)) => {
            return people::http_2(stream, Some(from), doors.api.clone(), &limits, stop).await;
        }
        Err(error) => return tracing::trace!(%from, %error, "said nothing"),
    };
    let stream = match &doors.relay {
        None => stream,
        // The relay speaks before HTTP does, so it looks at the first request itself.
        Some(relay) => match relay.serve_or_return(stream, from).await {
            Some(stream) => stream,
            None => return,
        },
    };
    let leaving = stop.clone();
    let service = service_fn(move |request| {
        let (doors, seat, leaving) = (doors.clone(), seat.clone(), leaving.clone());
        async move {
            let mut answer = route(&doors, request, from, seat).await;
            if leaving.is_cancelled() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http_1(&limits).serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! { biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => match tokio::time::timeout(LAST_ANSWERS, connection.as_mut()).await {
            Ok(ended) => ended,
            Err(_) => {
                // The request under way is answered, an idle connection closes.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%from, %error, "connection ended");
    }
}
