//! OAuth client credentials (RFC 6749, 4.4): a client's id and secret for a token that lives an hour.
//!
//! A token is not written down anywhere: it carries the client's id, its end and its scopes, and an HMAC over them under a
//! key that every member derives from the cluster's own, together with the hash of the client's secret. So a token made
//! at one member is good at every other at once, making one costs the log nothing, and it ends with its client.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use axum::{
    Json as Reply,
    extract::{ConnectInfo, Request, State as Shared},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::json;
use state_machine::{ApiKey, Timestamp};

use super::scope::{self, Grant};
use crate::{
    Api,
    auth::{self, Caller, Denied},
    request::Text,
    secret_text,
    status::ApiError,
};

/// What a token starts with.
pub const TOKEN: &str = "hskey-oauthtok-";

/// What a client's secret starts with; the rest is as in an API key.
pub const CLIENT: &str = "hskey-client-";

/// How long a token is good: an hour, as Tailscale's.
const LIFE: Duration = Duration::from_secs(3600);

/// A longer one is nobody's.
const TOKEN_BYTES_MAX: usize = 4096;

/// What a token says.
#[derive(Debug, Deserialize, Serialize)]
struct Claims {
    /// The client's id.
    k: String,
    /// When it ends, in milliseconds since 1970.
    e: u64,
    /// Scopes.
    s: BTreeSet<String>,
}

/// `POST /oauth/token`: a form, with the client in it or in the header.
pub(super) async fn token(Shared(api): Shared<Api>, headers: HeaderMap, request: Request) -> Response {
    let from = request.extensions().get::<ConnectInfo<std::net::SocketAddr>>().map(|info| info.0.ip());
    let body = match <Text as axum::extract::FromRequest<()>>::from_request(request, &()).await {
        Ok(Text(body)) => body,
        Err(error) => return error.into_response(),
    };
    let form = |name: &str| {
        let mut fields = url::form_urlencoded::parse(body.as_bytes());
        fields.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    if !matches!(form("grant_type").as_str(), "" | "client_credentials") {
        return told(StatusCode::BAD_REQUEST, "unsupported_grant_type", "only client_credentials is known here");
    }
    let (id, secret) = scope::basic(&headers).unwrap_or_else(|| (form("client_id"), form("client_secret")));
    let text = as_key(&secret);
    let (key, _) = match auth::identify(&api, &text, from, "/api/v2/oauth/token").await {
        Ok(found) => found,
        Err(Denied::TooOften(wait)) => return auth::too_many(wait),
        Err(_) => return told(StatusCode::UNAUTHORIZED, "invalid_client", "unknown client, or another secret"),
    };
    if !id.is_empty() && id != key.prefix && as_key(&id) != text {
        return told(StatusCode::UNAUTHORIZED, "invalid_client", "the secret is another client's");
    }
    // The first proof of a key of another server has just been written down.
    let key = api.backend.latest().api_key_by_prefix(&key.prefix).map_or(key, |key| (**key).clone());
    let grant = match Grant::of(&key) {
        Ok(grant) => grant,
        Err(why) => return told(StatusCode::BAD_REQUEST, "unauthorized_client", why),
    };
    let wanted = form("scope");
    let wanted: Result<BTreeSet<String>, ApiError> =
        wanted.split([' ', ',']).filter(|name| !name.is_empty()).map(scope::known).collect();
    let scopes = match wanted {
        Ok(wanted) if wanted.is_empty() => grant.scopes.clone(),
        Ok(wanted) => match wanted.iter().find(|scope| !grant.covers(scope)) {
            Some(beyond) => {
                return told(StatusCode::BAD_REQUEST, "invalid_scope", &format!("this client has no scope {beyond}"));
            }
            None => wanted,
        },
        Err(error) => return told(StatusCode::BAD_REQUEST, "invalid_scope", error.message()),
    };
    let scope = scopes.iter().cloned().collect::<Vec<_>>().join(" ");
    let end = api.now().after(LIFE);
    let body = json!({
        "access_token": made(&api, &key, end, scopes),
        "token_type": "Bearer",
        "expires_in": LIFE.as_secs(),
        "scope": scope,
    });
    ([(header::CACHE_CONTROL, "no-store")], Reply(body)).into_response()
}

/// RFC 6749, 5.2, and what programs for Tailscale's API read besides.
fn told(status: StatusCode, error: &str, why: &str) -> Response {
    let body = json!({ "error": error, "error_description": why, "message": why, "status": status.as_u16() });
    (status, [(header::CACHE_CONTROL, "no-store")], Reply(body)).into_response()
}

/// A client's secret is an API key by another name.
fn as_key(secret: &str) -> String {
    match secret.strip_prefix(CLIENT) {
        Some(rest) => format!("{}{rest}", secret_text::API),
        None => secret.to_owned(),
    }
}

fn made(api: &Api, key: &ApiKey, end: Timestamp, scopes: BTreeSet<String>) -> String {
    let claims = Claims { k: key.prefix.clone(), e: end.0, s: scopes };
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).expect("texts and a number"));
    let mac = hmac::sign(&hmac_key(api), &signed(&claims, key));
    format!("{TOKEN}{claims}.{}", URL_SAFE_NO_PAD.encode(mac))
}

/// What the HMAC covers: another secret under the same id, and the token is void.
fn signed(claims: &str, key: &ApiKey) -> Vec<u8> {
    [claims.as_bytes(), b".", &key.secret_sha256].concat()
}

fn hmac_key(api: &Api) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &api.options.token_key)
}

/// Who calls with a token, and what they may.
pub(super) async fn prove(api: &Api, text: &str, from: Option<IpAddr>, path: &str) -> Result<(Caller, Grant), Denied> {
    let Some((key, claims)) = read(api, text, from).await else { return Err(auth::failed(api, from, path)) };
    let grant = Grant::of(&key).map_err(Denied::Role)?;
    let by = match from {
        Some(from) => format!("oauth client {} from {}", key.prefix, from.to_canonical()),
        None => format!("oauth client {}", key.prefix),
    };
    // A client never has more than its key, whatever the token says.
    let scopes = claims.s.into_iter().filter(|scope| grant.covers(scope)).collect();
    Ok((Caller { by, own: None }, Grant { scopes, ..grant }))
}

async fn read(api: &Api, text: &str, from: Option<IpAddr>) -> Option<(ApiKey, Claims)> {
    let (encoded, mac) = text.strip_prefix(TOKEN).filter(|_| text.len() <= TOKEN_BYTES_MAX)?.split_once('.')?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?;
    let key = auth::key_by_prefix(api, &claims.k, from).await?;
    let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
    hmac::verify(&hmac_key(api), &signed(encoded, &key), &mac).ok()?;
    let now = api.now();
    let over = Timestamp(claims.e) <= now || key.expiration.is_some_and(|expiration| expiration <= now);
    (!over).then_some((key, claims))
}
