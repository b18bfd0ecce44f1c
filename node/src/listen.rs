//! Ports, TLS, and who gets which path.

mod authority;
pub mod challenge;
mod client;
mod dialect;
pub mod door;
mod gate;
pub mod meter;
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
use state_machine::codes;
use tailcfg::{DerpAdmitClientRequest, DerpAdmitClientResponse, from_client_json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use world::{BoxStream, Listener};

use crate::{
    control::{
        Control,
        body::{Answer, empty, json, no, text},
        key, ts2021,
    },
    options::Limits,
    wellness::Wellness,
};

pub use gate::{Gate, Seat};

/// After an `accept` that failed: no more file descriptors, most likely.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long those who dialled before a listener closes are still let in.
const LAST_GUESTS: Duration = Duration::from_millis(50);
/// `/verify` takes this much (`headscale` draws the line there).
const VERIFY_BYTES_MAX: usize = 4 << 10;

/// What a member's client port leads to.
pub struct Doors {
    pub control: Arc<Control>,
    pub relay: Option<derp::Relay>,
    /// The pages people sign in at; REST and whatever else people use, which asks for keys.
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
            () = stop.cancelled() => break,
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
    // The kernel has let in whoever dialled before now, and may hold a request of theirs: closing at once would reset it.
    let last = tokio::time::Instant::now() + LAST_GUESTS;
    while let Ok(Ok((stream, from))) = tokio::time::timeout_at(last, listener.accept()).await {
        serve(stream, from);
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
        (_, "/derp") if doors.relay.is_some() => relayed(doors, request, from),
        (&Method::POST, "/verify") => verify(&doors.control, request).await,
        (&Method::GET, "/robots.txt") => text(StatusCode::OK, "User-agent: *\nDisallow: /\n"),
        (&Method::GET | &Method::HEAD, "/generate_204") => generate_204(&request),
        // A relay answers these itself; clients ask even where there is none.
        (&Method::GET | &Method::HEAD, "/derp/probe" | "/derp/latency-check") => with_origin(empty(StatusCode::OK)),
        (&Method::GET, "/bootstrap-dns") => json(&BTreeMap::<String, Vec<IpAddr>>::new()),
        _ => return guarded(api(doors, request, from).await),
    };
    guarded(answer.map(AnyBody::new))
}

/// A client of the relay whose request was not the first on its connection: proxies keep connections to us alive. (The
/// relay itself looks at the first.)
fn relayed(doors: &Arc<Doors>, mut request: Request<Incoming>, from: SocketAddr) -> Answer {
    let wants =
        request.headers().get(header::UPGRADE).is_some_and(|word| word.as_bytes().eq_ignore_ascii_case(b"derp"));
    let Some(relay) = doors.relay.clone().filter(|_| wants) else {
        return no(StatusCode::UPGRADE_REQUIRED, &codes::NOT_SERVED, "DERP requires connection upgrade");
    };
    let mut answer = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("DERP"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    for (name, value) in relay.upgrade_headers() {
        headers.insert(name, HeaderValue::from_str(&value).expect("digits are fit for a header"));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let served = async move {
        let Ok(upgraded) = upgraded.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<BoxStream>>() else { return };
        relay.serve_upgraded(&parts.read_buf, parts.io.into_inner(), from).await;
    };
    let cut = doors.control.cut.clone();
    doors.control.tasks.spawn(async move { cut.run_until_cancelled(served).await });
    answer
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
            return no(StatusCode::PAYLOAD_TOO_LARGE, &codes::TOO_LARGE, "the question is too long");
        }
        _ => return no(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, "the question broke off"),
    };
    match from_client_json::<DerpAdmitClientRequest>(&body) {
        Ok(asked) => {
            let allow = control.cluster.latest().node_by_key(&asked.node_public).is_some();
            json(&DerpAdmitClientResponse { allow })
        }
        Err(error) => no(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, format!("malformed question: {error}")),
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
