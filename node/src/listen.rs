//! Ports, TLS, and who gets which path.

mod authority;
mod dialect;
mod gate;
pub mod people;
pub mod tls;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{body::Body as AnyBody, extract::ConnectInfo};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tailcfg::{DerpAdmitClientRequest, DerpAdmitClientResponse, from_client_json};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use world::{BoxStream, Listener};

use crate::{
    control::{
        Control,
        body::{Answer, empty, json, text},
        key, ts2021,
    },
    login,
    options::Limits,
    wellness::Wellness,
};

use dialect::Dialect;
pub use gate::{Gate, Seat};

/// After an `accept` that failed: no more file descriptors, most likely.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// `/verify` takes this much (`headscale` draws the line there).
const VERIFY_BYTES_MAX: usize = 4 << 10;

/// What a member's client port leads to.
pub struct Doors {
    pub control: Arc<Control>,
    pub relay: Option<derp::Relay>,
    /// REST and whatever else people use; asks for keys.
    pub api: axum::Router,
    pub tls: Option<Arc<ServerConfig>>,
    pub gate: Arc<Gate>,
}

/// When listeners close, and when connections that are still open are cut.
#[derive(Clone, Default)]
pub struct Closing {
    pub stop: CancellationToken,
    pub cut: CancellationToken,
}

/// The one way to accept: hands every stream to `serve` until told to stop. An `accept` that fails is told and tried
/// again: it lacks file descriptors most likely, and somebody will close one.
pub async fn accept(
    mut listener: Box<dyn Listener>,
    what: &'static str,
    stop: CancellationToken,
    mut serve: impl FnMut(BoxStream, SocketAddr),
) {
    loop {
        let accepted = tokio::select! { biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => serve(stream, from),
            Err(error) => {
                tracing::warn!(what, %error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves clients until told to stop.
pub async fn clients(listener: Box<dyn Listener>, doors: Arc<Doors>, closing: Closing) {
    let stop = closing.stop.clone();
    accept(listener, "clients", stop, |stream, from| {
        let Some(seat) = Gate::enter(&doors.gate, from.ip()) else { return };
        let (doors, closing) = (doors.clone(), closing.clone());
        let tasks = doors.control.tasks.clone();
        tasks.spawn(async move {
            // A connection that has become Noise lives on in a task of its own.
            let served = client(doors, stream, from, Arc::new(seat), closing.stop.clone());
            closing.cut.run_until_cancelled(served).await;
        });
    })
    .await;
}

async fn client(doors: Arc<Doors>, stream: BoxStream, from: SocketAddr, seat: Arc<Seat>, stop: CancellationToken) {
    let limits = doors.control.limits;
    let stream: BoxStream = match &doors.tls {
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
    let service = service_fn(move |request| {
        let (doors, seat) = (doors.clone(), seat.clone());
        async move { Ok::<_, Infallible>(route(&doors, request, from, seat).await) }
    });
    let connection = http(&limits).serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! { biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            // The request under way is answered, an idle connection closes.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%from, %error, "connection ended");
    }
}

/// HTTP/1.1 with everything bounded. Nobody needs a Date, and it would not come from the world's clock.
fn http(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake)
        .max_buf_size(limits.head_bytes_max.max(8192));
    builder
}

async fn route(doors: &Arc<Doors>, request: Request<Incoming>, from: SocketAddr, seat: Arc<Seat>) -> Response<AnyBody> {
    let path = request.uri().path().to_owned();
    let answer = match (request.method(), path.as_str()) {
        (&Method::GET, "/key") => key::answer(request.uri().query(), doors.control.public_key()),
        (_, "/ts2021") => ts2021::upgrade(&doors.control, request, seat),
        (&Method::POST, "/verify") => verify(&doors.control, request).await,
        (&Method::GET, "/robots.txt") => text(StatusCode::OK, "User-agent: *\nDisallow: /\n"),
        (&Method::GET | &Method::HEAD, "/generate_204") => generate_204(&request),
        // A relay answers these itself; clients ask even where there is none.
        (&Method::GET | &Method::HEAD, "/derp/probe" | "/derp/latency-check") => with_origin(empty(StatusCode::OK)),
        (&Method::GET, "/bootstrap-dns") => json(&BTreeMap::<String, Vec<IpAddr>>::new()),
        (&Method::GET, path) if path.starts_with("/register/") => {
            login::page(&doors.control.cluster.latest(), &path["/register/".len()..])
        }
        (&Method::GET, path) if path.starts_with("/auth/") => {
            login::check_page(&doors.control.cluster.latest(), &path["/auth/".len()..])
        }
        _ => return guarded(api(doors, request, from).await),
    };
    guarded(answer.map(AnyBody::new))
}

async fn api(doors: &Doors, mut request: Request<Incoming>, from: SocketAddr) -> Response<AnyBody> {
    // Failed logins are counted by address.
    request.extensions_mut().insert(ConnectInfo(from));
    match doors.api.clone().oneshot(request.map(AnyBody::new)).await {
        Ok(answer) => answer,
        Err(impossible) => match impossible {},
    }
}

/// What `headscale` puts on every answer.
fn guarded(mut answer: Response<AnyBody>) -> Response<AnyBody> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return answer;
    }
    let guards = [
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in guards {
        answer.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}

/// May this key use a relay? Asked by relays that are not ours.
async fn verify(control: &Control, request: Request<Incoming>) -> Answer {
    use http_body_util::{BodyExt, LengthLimitError, Limited};
    let body = Limited::new(request.into_body(), VERIFY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(control.limits.handshake, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "the question is too long");
        }
        _ => return text(StatusCode::BAD_REQUEST, "the question broke off"),
    };
    match from_client_json::<DerpAdmitClientRequest>(&body) {
        Ok(asked) => {
            let allow = control.cluster.latest().node_by_key(&asked.node_public).is_some();
            json(&DerpAdmitClientResponse { allow })
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("malformed question: {error}")),
    }
}

/// For clients that look for captive portals: they send a word and want it back.
fn generate_204(request: &Request<Incoming>) -> Answer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    let challenge = request.headers().get("x-tailscale-challenge").and_then(|value| value.to_str().ok());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:_-".contains(&byte);
    if let Some(challenge) = challenge.filter(|text| text.len() <= 64 && text.bytes().all(plain))
        && let Ok(value) = HeaderValue::from_str(&format!("response {challenge}"))
    {
        answer.headers_mut().insert(HeaderName::from_static("x-tailscale-response"), value);
    }
    let never = HeaderValue::from_static("no-cache, no-store, must-revalidate, no-transform, max-age=0");
    answer.headers_mut().insert(header::CACHE_CONTROL, never);
    answer
}

fn with_origin(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer
}

/// Serves a router to whoever may open the unix socket.
pub async fn local(
    listener: Box<dyn Listener>,
    api: axum::Router,
    limits: Limits,
    tasks: TaskTracker,
    closing: Closing,
) {
    let (stop, cut) = (closing.stop.clone(), closing.cut);
    accept(listener, "the local command line", closing.stop, |stream, _| {
        let (api, stop, cut) = (api.clone(), stop.clone(), cut.clone());
        tasks.spawn(async move {
            cut.run_until_cancelled(people::either(stream, None, api, &limits, stop)).await;
        });
    })
    .await;
}

/// Serves `/metrics`, `/livez` and `/readyz`.
pub async fn metrics(
    listener: Box<dyn Listener>,
    wellness: Arc<Wellness>,
    limits: Limits,
    tasks: TaskTracker,
    closing: Closing,
) {
    accept(listener, "metrics", closing.stop, |stream, _| {
        let (wellness, cut) = (wellness.clone(), closing.cut.clone());
        tasks.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let wellness = wellness.clone();
                async move { Ok::<_, Infallible>(wellness.answer(&request).await) }
            });
            cut.run_until_cancelled(http(&limits).serve_connection(TokioIo::new(stream), service)).await;
        });
    })
    .await;
}
