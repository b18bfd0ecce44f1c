//! `/api/v1/auth/…` and `/api/v1/node/register`: a person lets a waiting node in, or turns it away.

use axum::{Extension, Json as Reply, extract::State as Shared};
use serde::Deserialize;
use state_machine::{
    Command, Hostinfo, Login, LoginId, LoginResult, NodeId, Outcome, RegisterMethod, Registration, State,
};
use tailcfg::{MachineKey, NodeKey};

use super::{
    nodes,
    types::{self, Node, OneNode},
    users,
};
use crate::{
    Api,
    auth::Caller,
    cluster::ssh_checks,
    request::{Empty, Json, Query},
    secret_text::{LOGIN, LOGIN_LEN},
    status::ApiError,
};

/// Who lets which node in. `key` is what `nodes register --key` says, `authId` what `auth register` says.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Wish {
    #[serde(deserialize_with = "types::name::deserialize")]
    pub user: String,
    pub key: String,
    pub auth_id: String,
    pub reason: String,
}

/// `POST /node/register?user=&key=`, also with both in the body.
pub(crate) async fn register_by_key(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    query: Query,
    Json(wish): Json<Wish>,
) -> Result<Reply<OneNode>, ApiError> {
    let key = query.or("key", &wish.key).to_owned();
    let user = query.or("user", &wish.user).to_owned();
    finish(&api, &caller, &key, &user).await
}

/// `POST /auth/register`.
pub(crate) async fn register(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Wish>,
) -> Result<Reply<OneNode>, ApiError> {
    finish(&api, &caller, &wish.auth_id, &wish.user).await
}

/// `POST /auth/approve`: lets a connection by SSH in that the policy wants to be checked.
pub(crate) async fn approve(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Wish>,
) -> Result<Reply<Empty>, ApiError> {
    if wish.auth_id.trim().is_empty() {
        return Err(ApiError::invalid("which connection? give the id its user was shown: --auth-id …"));
    }
    ssh_checks::decide(&api, &caller, &wish.auth_id, true).await
}

/// `POST /auth/reject`: a login, or a connection by SSH.
pub(crate) async fn reject(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Wish>,
) -> Result<Reply<Empty>, ApiError> {
    let state = api.current().await?;
    if state.ssh_check(wish.auth_id.trim().rsplit('/').next().unwrap_or_default()).is_some() {
        return ssh_checks::decide(&api, &caller, &wish.auth_id, false).await;
    }
    let id = find(&state, &wish.auth_id)?.id.clone();
    let reason = if wish.reason.is_empty() { "rejected by an administrator".to_owned() } else { wish.reason };
    api.propose(&caller, Command::RejectLogin { id, reason }).await?;
    Ok(Reply(Empty {}))
}

/// A node that does not exist, for trying things out: a login under this key, as if a client had begun it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pretend {
    #[serde(deserialize_with = "types::name::deserialize")]
    pub user: String,
    pub key: String,
    pub name: String,
    pub routes: Vec<String>,
}

/// `POST /debug/node`: the login waits until somebody says `nodes register`.
pub(crate) async fn pretend(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Pretend>,
) -> Result<Reply<OneNode>, ApiError> {
    let state = api.current().await?;
    let user = users::find(&state, &wish.user)?;
    let fits = |text: &str| {
        text.len() == LOGIN_LEN && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if !wish.key.strip_prefix(LOGIN).is_some_and(fits) {
        return Err(ApiError::invalid(format!("{:?} is no login id: write {LOGIN} and {LOGIN_LEN} letters", wish.key)));
    }
    let routable_ips = nodes::parse_routes(&wish.routes)?;
    let (mut machine_key, mut node_key) = (MachineKey([0; 32]), NodeKey([0; 32]));
    (api.options.random)(&mut machine_key.0);
    (api.options.random)(&mut node_key.0);
    let client = Registration {
        machine_key,
        node_key,
        hostname: wish.name.clone(),
        hostinfo: Hostinfo { routable_ips, ..Hostinfo::default() },
        seed: api.seed(),
        ..Registration::default()
    };
    let shown = Node {
        machine_key: machine_key.to_string(),
        node_key: node_key.to_string(),
        user: Some(users::view(user)),
        name: wish.name,
        available_routes: client.hostinfo.routable_ips.iter().map(ToString::to_string).collect(),
        ..Node::default()
    };
    api.propose(&caller, Command::BeginLogin { client, id: LoginId(wish.key) }).await?;
    Ok(Reply(OneNode { node: shown }))
}

async fn finish(api: &Api, caller: &Caller, key: &str, user: &str) -> Result<Reply<OneNode>, ApiError> {
    if user.is_empty() {
        return Err(ApiError::invalid("which user? give a name or an id: --user NAME"));
    }
    // The login may have begun at another member a moment ago.
    let state = api.current().await?;
    let user = users::find(&state, user)?.id;
    let id = find(&state, key)?.id.clone();
    let command = Command::FinishLogin { id, user, method: RegisterMethod::Cli, expiry: None, seed: api.seed() };
    let node: NodeId = match api.propose(caller, command).await? {
        Outcome::Registered(node) | Outcome::Node(node) => node,
        other => return Err(super::odd(other)),
    };
    nodes::reply(&api.backend.latest(), node)
}

/// The waiting login somebody means: its id with or without `hskey-authreq-`, the whole URL, or the machine's or
/// node's key as releases before 0.23 printed it.
fn find<'a>(state: &'a State, text: &str) -> Result<&'a Login, ApiError> {
    let text = text.trim().rsplit('/').next().unwrap_or_default();
    if text.is_empty() {
        return Err(ApiError::invalid("which login? give the key the client shows: --key hskey-authreq-…"));
    }
    let bare = text.strip_prefix(LOGIN).unwrap_or(text);
    let by_id = [bare.to_owned(), format!("{LOGIN}{bare}")].into_iter().find_map(|id| state.login(&LoginId(id)));
    let by_key = || {
        let waits = |login: &&std::sync::Arc<Login>| login.result == LoginResult::Waiting;
        let is_it = |login: &&std::sync::Arc<Login>| {
            login.machine_key.to_string() == text || login.node_key.to_string() == text
        };
        // The newest: a client that was restarted has begun anew.
        state.logins().values().filter(waits).filter(is_it).max_by_key(|login| login.created_at)
    };
    by_id.or_else(by_key).map(|login| &**login).ok_or_else(|| {
        ApiError::not_found(
            "no login waits under that key: it was finished or is older than 15 minutes; run tailscale up again",
        )
    })
}
