//! `/api/v1/preauthkey`: keys that let nodes in without a person.

use axum::{Extension, Json as Reply, extract::State as Shared};
use serde::Deserialize;
use state_machine::{Command, Outcome, PreAuthKeyId, State, Timestamp};

use super::{
    types::{self, OnePreAuthKey, PreAuthKey, PreAuthKeys},
    users,
};
use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query, number},
    secret_text::{self, AUTH},
    status::ApiError,
};

/// A key as the wire shows it, masked.
pub(crate) fn view(state: &State, key: &state_machine::PreAuthKey) -> PreAuthKey {
    PreAuthKey {
        user: key.user.and_then(|id| state.user(id)).map(|user| users::view(user)),
        id: key.id.0,
        key: secret_text::masked(AUTH, &key.prefix),
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        used: key.used,
        expiration: key.expiration,
        created_at: Some(key.created_at),
        acl_tags: key.tags.iter().cloned().collect(),
    }
}

/// `GET /preauthkey`, and `?user=` as consoles before 0.28 asked.
pub(crate) async fn list(Shared(api): Shared<Api>, query: Query) -> Result<Reply<PreAuthKeys>, ApiError> {
    let state = api.read(&query).await?;
    let owner = query.get("user").map(|text| users::find(&state, text)).transpose()?.map(|user| user.id);
    let keys = state.pre_auth_keys().values().filter(|key| owner.is_none() || key.user == owner);
    Ok(Reply(PreAuthKeys { pre_auth_keys: keys.map(|key| view(&state, key)).collect() }))
}

/// What a new key is for.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Create {
    /// Id or name; empty for a key that only tags.
    #[serde(deserialize_with = "types::name::deserialize")]
    pub user: String,
    pub reusable: bool,
    pub ephemeral: bool,
    /// Absent: never expires.
    #[serde(deserialize_with = "types::moment::deserialize")]
    pub expiration: Option<Timestamp>,
    pub acl_tags: Vec<String>,
}

/// `POST /preauthkey`. The answer is the only place where the whole key appears.
pub(crate) async fn create(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Create>,
) -> Result<Reply<OnePreAuthKey>, ApiError> {
    let state = api.current().await?;
    let user = match wish.user.as_str() {
        "" | "0" => None,
        text => Some(users::find(&state, text)?.id),
    };
    if let Some(own) = caller.own
        && (user != Some(own) || !wish.acl_tags.is_empty())
    {
        return Err(ApiError::forbidden("this API key makes pre-auth keys of its own user only, and none with tags"));
    }
    if user.is_none() && wish.acl_tags.is_empty() {
        return Err(ApiError::invalid("a pre-auth key needs a user or at least one tag: --user ID or --tags tag:name"));
    }
    if wish.expiration.is_some_and(|expiration| expiration <= api.now()) {
        return Err(ApiError::invalid("the expiration lies in the past"));
    }
    let fresh = secret_text::fresh(AUTH, &*api.options.random);
    let key = state_machine::PreAuthKey {
        prefix: fresh.prefix,
        secret_sha256: fresh.secret_sha256,
        user,
        reusable: wish.reusable,
        ephemeral: wish.ephemeral,
        tags: wish.acl_tags.into_iter().collect(),
        expiration: wish.expiration,
        ..state_machine::PreAuthKey::default()
    };
    match api.propose(&caller, Command::CreatePreAuthKey { key }).await? {
        Outcome::PreAuthKey(id) => {
            let state = api.backend.latest();
            let key = state.pre_auth_keys().get(&id).ok_or_else(|| missing(id))?;
            Ok(Reply(OnePreAuthKey { pre_auth_key: PreAuthKey { key: fresh.text, ..view(&state, key) } }))
        }
        other => Err(super::odd(other)),
    }
}

/// Which key is meant: by id, or by its text as consoles before 0.28 did.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Which {
    #[serde(deserialize_with = "types::name::deserialize")]
    pub id: String,
    pub key: String,
}

/// `POST /preauthkey/expire`.
pub(crate) async fn expire(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    query: Query,
    Json(which): Json<Which>,
) -> Result<Reply<Empty>, ApiError> {
    let id = find(&*api.current().await?, &caller, &which, &query)?;
    api.propose(&caller, Command::ExpirePreAuthKey { id }).await?;
    Ok(Reply(Empty {}))
}

/// `DELETE /preauthkey?id=`.
pub(crate) async fn delete(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    query: Query,
    Json(which): Json<Which>,
) -> Result<Reply<Empty>, ApiError> {
    let id = find(&*api.current().await?, &caller, &which, &query)?;
    api.propose(&caller, Command::DeletePreAuthKey { id }).await?;
    Ok(Reply(Empty {}))
}

/// The key that is meant. To a user's API key, keys of others do not exist.
fn find(state: &State, caller: &Caller, which: &Which, query: &Query) -> Result<PreAuthKeyId, ApiError> {
    let id = named(state, which, query)?;
    let strange = |own| state.pre_auth_key(id).is_none_or(|key| key.user != Some(own) || !key.tags.is_empty());
    match caller.own.is_some_and(strange) {
        true => Err(ApiError::not_found(format!("pre-auth key {id} not found"))),
        false => Ok(id),
    }
}

fn named(state: &State, which: &Which, query: &Query) -> Result<PreAuthKeyId, ApiError> {
    let key = query.or("key", &which.key);
    if !key.is_empty() {
        let prefix = secret_text::public_prefix(AUTH, key);
        let key = state.pre_auth_key_by_prefix(prefix);
        return key.map(|key| key.id).ok_or_else(|| ApiError::not_found(format!("pre-auth key {prefix:?} not found")));
    }
    match query.or("id", &which.id) {
        "" => Err(ApiError::invalid("which key? give its id; see: hsraft preauthkeys list")),
        text => number("pre-auth key", text).map(PreAuthKeyId),
    }
}

fn missing(id: PreAuthKeyId) -> ApiError {
    ApiError::not_found(format!("pre-auth key {id} is gone again"))
}
