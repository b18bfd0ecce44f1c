//! `hsraft mockoidc`: a login provider for trying things out, as `headscale mockoidc` is. It asks nobody for anything:
//! whoever comes next is the next user of its list. Never for a network anybody relies on.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use world::World;

use crate::{keys, listen, listen::people, options::Limits};

/// Codes and tokens that are remembered; the oldest are forgotten.
const REMEMBERED_MAX: usize = 1_000;

/// Somebody, as Headscale's tests write them (`MOCKOIDC_USERS`).
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct User {
    pub subject: String,
    pub email: String,
    pub email_verified: bool,
    pub preferred_username: String,
    #[serde(deserialize_with = "nothing_is_empty")]
    pub groups: Vec<String>,
}

/// Go writes an empty list as `null`.
fn nothing_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What the provider is.
#[derive(Clone, Debug)]
pub struct Options {
    pub address: SocketAddr,
    pub client_id: String,
    pub client_secret: String,
    /// How long tokens are good.
    pub access_ttl: Duration,
    pub users: Vec<User>,
}

/// A change made to header and claims of an ID token before it is signed; for tests of those who read them. What it
/// returns takes the place of the whole token.
pub type Twist = Box<dyn Fn(&mut Value, &mut Value) -> Option<String> + Send + Sync>;

/// A running provider.
pub struct Mock {
    pub issuer: String,
    pub address: SocketAddr,
    options: Options,
    key: Ed25519KeyPair,
    world: World,
    users: Mutex<VecDeque<User>>,
    codes: Mutex<BTreeMap<String, Asked>>,
    tokens: Mutex<BTreeMap<String, User>>,
    twist: Mutex<Option<Twist>>,
}

struct Asked {
    user: User,
    nonce: String,
    challenge: Option<(String, String)>,
    redirect: String,
}

/// Listens, and serves until told to stop.
pub async fn start(options: Options, world: World, stop: CancellationToken) -> std::io::Result<Arc<Mock>> {
    let listener = world.net.listen(options.address).await?;
    let address = listener.local_addr()?;
    let key = Ed25519KeyPair::from_seed_unchecked(&world.entropy.bytes::<32>()).map_err(std::io::Error::other)?;
    let mock = Arc::new(Mock {
        issuer: format!("http://{address}/oidc"),
        address,
        key,
        users: Mutex::new(options.users.iter().cloned().collect()),
        codes: Mutex::default(),
        tokens: Mutex::default(),
        twist: Mutex::default(),
        options,
        world,
    });
    let router = router(mock.clone());
    let (tasks, limits) = (TaskTracker::new(), Limits::default());
    tokio::spawn(async move {
        listen::accept(listener, "the mock provider", stop.clone(), |stream, from| {
            let (router, stop) = (router.clone(), stop.clone());
            tasks.spawn(async move {
                let serve = people::either(stream, Some(from), router, &limits, stop.clone());
                stop.run_until_cancelled(serve).await;
            });
        })
        .await;
    });
    Ok(mock)
}

impl Mock {
    /// The next to come are these; after them it is the first of all again.
    pub fn queue(&self, user: User) {
        self.users.lock().expect("nothing panics under this lock").push_back(user);
    }

    /// What is done to tokens from now on.
    pub fn twist(&self, twist: Option<Twist>) {
        *self.twist.lock().expect("nothing panics under this lock") = twist;
    }

    fn id_token(&self, asked: &Asked) -> String {
        let now = self.world.clock.now_ms() / 1_000;
        let mut head = json!({ "alg": "EdDSA", "kid": "1", "typ": "JWT" });
        let mut claims = json!({
            "iss": self.issuer,
            "aud": self.options.client_id,
            "sub": asked.user.subject,
            "iat": now,
            "exp": now + self.options.access_ttl.as_secs(),
            "nonce": asked.nonce,
            "email": asked.user.email,
            "email_verified": asked.user.email_verified,
            "preferred_username": asked.user.preferred_username,
            "groups": asked.user.groups,
        });
        if let Some(twist) = &*self.twist.lock().expect("nothing panics under this lock")
            && let Some(token) = twist(&mut head, &mut claims)
        {
            return token;
        }
        self.sign(&head, &claims)
    }

    /// A token with a good signature.
    pub fn sign(&self, head: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(head), part(claims));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(text.as_bytes())))
    }
}

fn router(mock: Arc<Mock>) -> Router {
    Router::new()
        .route("/oidc/.well-known/openid-configuration", get(discovery))
        .route("/oidc/.well-known/jwks.json", get(jwks))
        .route("/oidc/authorize", get(authorize))
        .route("/oidc/token", post(token))
        .route("/oidc/userinfo", get(userinfo))
        .with_state(mock)
}

async fn discovery(State(mock): State<Arc<Mock>>) -> Json<Value> {
    let at = |path: &str| format!("{}/{path}", mock.issuer);
    Json(json!({
        "issuer": mock.issuer,
        "authorization_endpoint": at("authorize"),
        "token_endpoint": at("token"),
        "userinfo_endpoint": at("userinfo"),
        "jwks_uri": at(".well-known/jwks.json"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256", "plain"],
        "scopes_supported": ["openid", "profile", "email", "groups"],
    }))
}

async fn jwks(State(mock): State<Arc<Mock>>) -> Json<Value> {
    let x = URL_SAFE_NO_PAD.encode(mock.key.public_key().as_ref());
    Json(json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "1", "x": x }] }))
}

async fn authorize(State(mock): State<Arc<Mock>>, Query(asked): Query<BTreeMap<String, String>>) -> Response {
    let get = |name: &str| asked.get(name).cloned().unwrap_or_default();
    if get("client_id") != mock.options.client_id {
        return (StatusCode::BAD_REQUEST, "unknown client_id").into_response();
    }
    let Ok(mut back) = url::Url::parse(&get("redirect_uri")) else {
        return (StatusCode::BAD_REQUEST, "redirect_uri is no URL").into_response();
    };
    let user = {
        let mut users = mock.users.lock().expect("nothing panics under this lock");
        users.pop_front().or_else(|| mock.options.users.first().cloned()).unwrap_or_default()
    };
    let challenge = asked.get("code_challenge").map(|text| (text.clone(), get("code_challenge_method")));
    let code = keys::random_text(&mock.world.entropy, 32);
    let row = Asked { user, nonce: get("nonce"), challenge, redirect: get("redirect_uri") };
    remember(&mock.codes, code.clone(), row);
    back.query_pairs_mut().append_pair("code", &code).append_pair("state", &get("state"));
    (StatusCode::FOUND, [(header::LOCATION, back.to_string())]).into_response()
}

async fn token(State(mock): State<Arc<Mock>>, headers: HeaderMap, body: String) -> Response {
    let form: BTreeMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let refuse = |error: &str| (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    if !is_client(&mock, &headers, &form) {
        return refuse("invalid_client");
    }
    // A code is good once.
    let code = form.get("code").cloned().unwrap_or_default();
    let Some(asked) = mock.codes.lock().expect("nothing panics under this lock").remove(&code) else {
        return refuse("invalid_grant");
    };
    let proved = match &asked.challenge {
        None => true,
        Some((challenge, method)) => form.get("code_verifier").is_some_and(|verifier| match method.as_str() {
            "S256" => URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == *challenge,
            _ => verifier == challenge,
        }),
    };
    if !proved || form.get("redirect_uri") != Some(&asked.redirect) {
        return refuse("invalid_grant");
    }
    let access = keys::random_text(&mock.world.entropy, 32);
    let answer = json!({
        "access_token": access,
        "token_type": "Bearer",
        "expires_in": mock.options.access_ttl.as_secs(),
        "id_token": mock.id_token(&asked),
    });
    remember(&mock.tokens, access, asked.user);
    Json(answer).into_response()
}

async fn userinfo(State(mock): State<Arc<Mock>>, headers: HeaderMap) -> Response {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let tokens = mock.tokens.lock().expect("nothing panics under this lock");
    match bearer.and_then(|token| tokens.get(token)) {
        None => StatusCode::UNAUTHORIZED.into_response(),
        Some(user) => Json(json!({
            "sub": user.subject,
            "email": user.email,
            "email_verified": user.email_verified,
            "preferred_username": user.preferred_username,
            "groups": user.groups,
        }))
        .into_response(),
    }
}

fn is_client(mock: &Mock, headers: &HeaderMap, form: &BTreeMap<String, String>) -> bool {
    let basic = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
    let said = match basic.and_then(|text| String::from_utf8(STANDARD.decode(text).ok()?).ok()) {
        Some(pair) => pair,
        None => {
            let get = |name: &str| form.get(name).cloned().unwrap_or_default();
            format!("{}:{}", get("client_id"), get("client_secret"))
        }
    };
    said == format!("{}:{}", mock.options.client_id, mock.options.client_secret)
}

fn remember<T>(rows: &Mutex<BTreeMap<String, T>>, key: String, row: T) {
    let mut rows = rows.lock().expect("nothing panics under this lock");
    while rows.len() >= REMEMBERED_MAX {
        rows.pop_first();
    }
    rows.insert(key, row);
}

impl Options {
    /// From the variables Headscale's command reads: `MOCKOIDC_CLIENT_ID`, `_CLIENT_SECRET`, `_ADDR`, `_PORT`,
    /// `_ACCESS_TTL` and `_USERS` (JSON).
    pub fn from_env(env: &BTreeMap<String, String>) -> Result<Options, String> {
        let need = |name: &str| {
            let found = env.get(name).filter(|value| !value.is_empty());
            found.cloned().ok_or_else(|| format!("{name} is not set; hsraft help mockoidc shows an example"))
        };
        let port: u16 = need("MOCKOIDC_PORT")?.parse().map_err(|_| "MOCKOIDC_PORT is no port".to_owned())?;
        let ip = need("MOCKOIDC_ADDR")?.parse().map_err(|_| "MOCKOIDC_ADDR is no address".to_owned())?;
        let access_ttl = match env.get("MOCKOIDC_ACCESS_TTL") {
            None => Duration::from_secs(600),
            Some(text) => crate::config::span(text).ok_or("MOCKOIDC_ACCESS_TTL is no span such as 10m")?,
        };
        let users = match env.get("MOCKOIDC_USERS") {
            None => Vec::new(),
            Some(text) => serde_json::from_str(text).map_err(|error| format!("MOCKOIDC_USERS: {error}"))?,
        };
        Ok(Options {
            address: SocketAddr::new(ip, port),
            client_id: need("MOCKOIDC_CLIENT_ID")?,
            client_secret: need("MOCKOIDC_CLIENT_SECRET")?,
            access_ttl,
            users,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_what_headscale_tells_its_own() {
        let mut env = BTreeMap::from(
            [
                ("MOCKOIDC_CLIENT_ID", "superclient"),
                ("MOCKOIDC_CLIENT_SECRET", "hunter2"),
                ("MOCKOIDC_ADDR", "127.0.0.1"),
                ("MOCKOIDC_PORT", "10000"),
                ("MOCKOIDC_ACCESS_TTL", "30s"),
                (
                    "MOCKOIDC_USERS",
                    r#"[{"Subject":"user1","Email":"user1@headscale.net","EmailVerified":true,
                "PreferredUsername":"user1","Phone":"","Address":"","Groups":null}]"#,
                ),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let options = Options::from_env(&env).unwrap();
        assert_eq!((options.access_ttl.as_secs(), options.users[0].subject.as_str()), (30, "user1"));
        env.remove("MOCKOIDC_CLIENT_ID");
        assert!(Options::from_env(&env).unwrap_err().contains("MOCKOIDC_CLIENT_ID"));
    }
}
