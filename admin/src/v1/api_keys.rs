//! `/api/v1/apikey`: keys for programs.

use std::time::Duration;

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
};
use serde::Deserialize;
use state_machine::{ApiKeyId, Command, Outcome, Role, State, Timestamp};

use super::{
    types::{self, ApiKey, ApiKeys, OneApiKey},
    users,
};
use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query, number},
    secret_text::{self, API},
    status::ApiError,
};

/// How long a key lives when nobody said: 90 days, as Headscale's command line does.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

fn view(key: &state_machine::ApiKey) -> ApiKey {
    ApiKey {
        id: key.id.0,
        prefix: format!("{API}{}", key.prefix),
        expiration: key.expiration,
        created_at: Some(key.created_at),
        last_seen: key.last_seen,
        role: match key.role {
            Role::Admin => "admin",
            Role::ReadOnly => "read_only",
            Role::User => "user",
        }
        .into(),
    }
}

/// `GET /apikey`.
pub(crate) async fn list(Shared(api): Shared<Api>, query: Query) -> Result<Reply<ApiKeys>, ApiError> {
    let state = api.read(&query).await?;
    Ok(Reply(ApiKeys { api_keys: state.api_keys().values().map(|key| view(key)).collect() }))
}

/// What a new key may do and how long.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Create {
    #[serde(deserialize_with = "types::moment::deserialize")]
    pub expiration: Option<Timestamp>,
    /// Ours: `admin` (also when empty), `read_only` or `user`.
    pub role: String,
    /// Whose things a key of role `user` may see and change: a name or an id.
    #[serde(deserialize_with = "types::name::deserialize")]
    pub user: String,
}

/// `POST /apikey`. The answer is the only place where the whole key appears.
pub(crate) async fn create(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Create>,
) -> Result<Reply<OneApiKey>, ApiError> {
    let role = match wish.role.as_str() {
        "" | "admin" => Role::Admin,
        "read_only" | "read-only" => Role::ReadOnly,
        "user" => Role::User,
        other => return Err(ApiError::invalid(format!("role is {other:?}; it can be admin, read_only or user"))),
    };
    let user = match (role, wish.user.trim()) {
        (Role::User, "") => return Err(ApiError::invalid("a key of role user needs a user: give a name or an id")),
        (Role::User, text) => Some(users::find(&*api.current().await?, text)?.id),
        (_, "") => None,
        _ => return Err(ApiError::invalid("only a key of role user belongs to a user")),
    };
    let expiration = wish.expiration.unwrap_or_else(|| api.now().after(LIFE));
    if expiration <= api.now() {
        return Err(ApiError::invalid("the expiration lies in the past"));
    }
    let fresh = secret_text::fresh(API, &*api.options.random);
    let key = state_machine::ApiKey {
        prefix: fresh.prefix,
        secret_sha256: fresh.secret_sha256,
        role,
        user,
        expiration: Some(expiration),
        ..state_machine::ApiKey::default()
    };
    match api.propose(&caller, Command::CreateApiKey { key }).await? {
        Outcome::ApiKey(_) => Ok(Reply(OneApiKey { api_key: fresh.text })),
        other => Err(super::odd(other)),
    }
}

/// Which key is meant: by prefix in any of its forms, or by id; not both.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Which {
    pub prefix: String,
    #[serde(deserialize_with = "types::name::deserialize")]
    pub id: String,
}

/// `POST /apikey/expire`.
pub(crate) async fn expire(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(which): Json<Which>,
) -> Result<Reply<Empty>, ApiError> {
    let prefix = find(&*api.current().await?, &which.prefix, &which.id)?;
    api.propose(&caller, Command::ExpireApiKey { prefix }).await?;
    Ok(Reply(Empty {}))
}

/// `DELETE /apikey/{prefix}?id=`; a prefix of `-` stands for none.
pub(crate) async fn delete(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(prefix): Path<String>,
    query: Query,
) -> Result<Reply<Empty>, ApiError> {
    let id = query.get("id").unwrap_or_default();
    let prefix = if prefix == "-" || !id.is_empty() { "" } else { prefix.as_str() };
    remove(&api, &caller, &Which { prefix: prefix.to_owned(), id: id.to_owned() }).await
}

/// Deletes the key that is meant.
pub(crate) async fn remove(api: &Api, caller: &Caller, which: &Which) -> Result<Reply<Empty>, ApiError> {
    let prefix = find(&*api.current().await?, &which.prefix, &which.id)?;
    api.propose(caller, Command::DeleteApiKey { prefix }).await?;
    Ok(Reply(Empty {}))
}

fn find(state: &State, prefix: &str, id: &str) -> Result<String, ApiError> {
    let id = if id == "0" { "" } else { id };
    let key = match (prefix, id) {
        ("", "") => return Err(ApiError::invalid("which key? give its id or its prefix; see: hsraft apikeys list")),
        ("", id) => state.api_keys().get(&ApiKeyId(number("API key", id)?)),
        (prefix, "") => state.api_key_by_prefix(secret_text::public_prefix(API, prefix)),
        _ => return Err(ApiError::invalid("give the id or the prefix of the key, not both")),
    };
    let named = if prefix.is_empty() { id } else { prefix };
    key.map(|key| key.prefix.clone()).ok_or_else(|| ApiError::not_found(format!("API key {named:?} not found")))
}
