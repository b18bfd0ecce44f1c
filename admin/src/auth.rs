//! API keys and roles: who may ask what.
//!
//! A key is found by its public prefix and proved by comparing SHA-256 in constant time. Requests through the unix
//! socket carry none: who may open the socket is the operating system's decision.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State as Shared},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use state_machine::{ApiKey, Command, Role, State, Timestamp, UserId, codes};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use crate::{
    Api, CATCH_UP,
    access::{self, Need},
    secret_text,
    status::ApiError,
    throttle::Throttle,
};

/// Who asks, as the log will name them.
#[derive(Clone, Debug)]
pub struct Caller {
    /// `cli`, or `api key <prefix> from <address>`.
    pub by: String,
    /// Whose things alone the caller may see and change; none: everybody's.
    pub own: Option<UserId>,
}

impl Caller {
    /// Whoever may open the unix socket.
    pub fn local() -> Caller {
        Caller { by: "cli".into(), own: None }
    }
}

/// What is remembered between requests.
#[derive(Default)]
pub struct Guard {
    throttle: Throttle,
    /// When a key's last use was last written to the log, by prefix.
    touched: Mutex<BTreeMap<String, Instant>>,
}

/// Last use is kept coarsely.
const TOUCH_EVERY: Duration = Duration::from_secs(3600);

/// Lets a request through when its key is good, and names its caller.
pub async fn check(Shared(api): Shared<Api>, mut request: Request, next: Next) -> Response {
    if api.options.trusted {
        request.extensions_mut().insert(Caller::local());
        return next.run(request).await;
    }
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let text = bearer(request.headers()).unwrap_or_default().to_owned();
    // A path that leads nowhere is answered as such, to whoever has a key.
    let need = match request.extensions().get::<MatchedPath>() {
        Some(path) => access::of_route(request.method().as_str(), path.as_str()),
        None => Need::Key,
    };
    let caller = match admit(&api, &text, from, request.uri().path(), need).await {
        Ok(caller) => caller,
        Err(Denied::Unknown) => return unauthorized(),
        Err(Denied::TooOften(wait)) => return too_many(wait),
        Err(Denied::Role(why)) => return ApiError::forbidden(why).into_response(),
    };
    if let Some(user) = caller.own {
        let state = api.backend.latest();
        request = match access::narrow(&state, user, need, request) {
            Ok(request) => request,
            Err(error) => return error.into_response(),
        };
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Why a key does not let its bearer through.
pub enum Denied {
    /// Not one of ours, or over.
    Unknown,
    /// Too many failures from this address; it may try again after so long.
    TooOften(Duration),
    /// The role of the key does not reach so far.
    Role(&'static str),
}

/// Who calls with this key. `path` is for the log, `need` says what a key must be for it.
pub async fn admit(api: &Api, text: &str, from: Option<IpAddr>, path: &str, need: Need) -> Result<Caller, Denied> {
    let (key, caller) = identify(api, text, from, path).await?;
    // What a client may do is told by its scopes, and only `/api/v2` knows them.
    if !key.scopes.is_empty() {
        return Err(Denied::Role("this is the secret of an OAuth client: it is for /api/v2 alone"));
    }
    access::check(key.role, need).map_err(Denied::Role)?;
    Ok(caller)
}

/// A caller who proved nothing; counted by address.
pub fn failed(api: &Api, from: Option<IpAddr>, path: &str) -> Denied {
    // A good key is served even from an address where others fail: behind a proxy all callers share one.
    if let Some(wait) = api.guard.throttle.wait(from, Instant::now()) {
        return Denied::TooOften(wait);
    }
    api.guard.throttle.failed(from, Instant::now());
    tracing::warn!(from = ?from, path, "API key refused");
    Denied::Unknown
}

/// The key that a text proves, whatever it may do, and who calls with it.
pub async fn identify(api: &Api, text: &str, from: Option<IpAddr>, path: &str) -> Result<(ApiKey, Caller), Denied> {
    let Some(key) = known_key(api, text, from).await else { return Err(failed(api, from, path)) };
    // A user's key without its user would be everybody's.
    if (key.role == Role::User) != key.user.is_some() {
        return Err(Denied::Unknown);
    }
    touch(api, &key);
    let by = match from {
        Some(from) => format!("api key {} from {}", key.prefix, from.to_canonical()),
        None => format!("api key {}", key.prefix),
    };
    let caller = Caller { by, own: key.user };
    Ok((key, caller))
}

/// The key of this prefix. One that is not known here may have been made at another member a moment ago; that is asked
/// for callers who have not failed too often.
pub async fn key_by_prefix(api: &Api, prefix: &str, from: Option<IpAddr>) -> Option<ApiKey> {
    if let Some(key) = api.backend.latest().api_key_by_prefix(prefix) {
        return Some((**key).clone());
    }
    if api.guard.throttle.wait(from, Instant::now()).is_some() {
        return None;
    }
    let state = tokio::time::timeout(CATCH_UP, api.backend.confirm()).await.ok()?.ok()?;
    state.api_key_by_prefix(prefix).map(|key| (**key).clone())
}

/// The key a text proves. One that is not known here may have been made at another member a moment ago; that is asked
/// for callers who have not failed too often.
async fn known_key(api: &Api, text: &str, from: Option<IpAddr>) -> Option<ApiKey> {
    let (prefix, _) = secret_text::split(secret_text::API, text)?;
    let now = (api.options.now)();
    let state = api.backend.latest();
    if let Some(key) = state.api_key_by_prefix(prefix) {
        return match key.bcrypt.is_some() && key.secret_sha256 == [0; 32] {
            true => prove_slowly(api, key, text, from).await,
            false => prove(&state, text, now).cloned(),
        };
    }
    if api.guard.throttle.wait(from, Instant::now()).is_some() {
        return None;
    }
    let state = tokio::time::timeout(CATCH_UP, api.backend.confirm()).await.ok()?.ok()?;
    prove(&state, text, now).cloned()
}

/// A key of another server, proved for the first time: from then on its quick proof is known to the cluster.
async fn prove_slowly(api: &Api, key: &ApiKey, text: &str, from: Option<IpAddr>) -> Option<ApiKey> {
    let (prefix, secret) = secret_text::split(secret_text::API, text)?;
    let expired = key.expiration.is_some_and(|expiration| expiration <= api.now());
    if expired || api.guard.throttle.wait(from, Instant::now()).is_some() {
        return None;
    }
    if !secret_text::proves_slowly(secret, key.bcrypt.as_ref()?).await {
        return None;
    }
    let command = Command::LearnApiKey { prefix: prefix.to_owned(), secret_sha256: secret_text::hash(secret) };
    if let Err(failure) = api.backend.propose("api", command).await {
        tracing::debug!(?failure, "could not write down the proof of an API key");
    }
    Some(key.clone())
}

/// The key a text proves, if it is one of ours and has not expired.
pub fn prove<'a>(state: &'a State, text: &str, now: Timestamp) -> Option<&'a ApiKey> {
    let (prefix, secret) = secret_text::split(secret_text::API, text)?;
    let key = state.api_key_by_prefix(prefix)?;
    let same: bool = key.secret_sha256.ct_eq(&secret_text::hash(secret)).into();
    let expired = key.expiration.is_some_and(|expiration| expiration <= now.max(state.now()));
    (same && !expired).then_some(&**key)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

/// Writes down that the key was used, behind the back of the request and rarely.
fn touch(api: &Api, key: &ApiKey) {
    let seen = key.last_seen.is_some_and(|seen| (api.options.now)().since(seen) < TOUCH_EVERY);
    let now = Instant::now();
    let mut touched = api.guard.touched.lock().expect("nothing panics under this lock");
    if seen || touched.get(&key.prefix).is_some_and(|at| now.saturating_duration_since(*at) < TOUCH_EVERY) {
        return;
    }
    touched.retain(|_, at| now.saturating_duration_since(*at) < TOUCH_EVERY);
    touched.insert(key.prefix.clone(), now);
    let (backend, prefix) = (api.backend.clone(), key.prefix.clone());
    // Ends by itself: a proposal has a deadline of seconds.
    tokio::spawn(async move {
        if let Err(failure) = backend.propose("api", Command::TouchApiKey { prefix }).await {
            tracing::debug!(?failure, "could not write down the use of an API key");
        }
    });
}

/// Plain text, because consoles compare the body with exactly this word; its code is a header.
fn unauthorized() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    let code = [("hsr", codes::UNAUTHORIZED.to_string())];
    (StatusCode::UNAUTHORIZED, challenge, code, "Unauthorized").into_response()
}

/// Somebody fails too often.
pub fn too_many(wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let code = &codes::TOO_OFTEN;
    let text = format!("too many failed attempts from this address; try again in {seconds} s [{code}]");
    let mut response = (StatusCode::TOO_MANY_REQUESTS, text).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}
