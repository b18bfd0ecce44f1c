//! Keys that let nodes in, and OAuth clients.

use std::{collections::BTreeSet, time::Duration};

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
    response::Response,
};
use serde::{Deserialize, Serialize};
use state_machine::{ApiKey, Command, Outcome, PreAuthKey, Role, State, Timestamp};

use super::{
    done,
    oauth::CLIENT,
    scope::{self, Grant},
};
use crate::{
    Api,
    auth::Caller,
    request::{Json, Query},
    secret_text::{self, API, AUTH},
    status::ApiError,
};

/// How long a key for nodes lives when nobody said: 90 days, as Tailscale's.
const LIFE_SECS: u64 = 90 * 24 * 3600;

/// A key of either kind.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    id: String,
    /// `auth`, `client` or `api`.
    key_type: &'static str,
    /// Whole in the answer to its making, and nowhere else.
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry_seconds: Option<u64>,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    /// Used up, or over.
    invalid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Capabilities>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    scopes: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    tags: BTreeSet<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    user_id: String,
}

/// What a key for nodes does.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Capabilities {
    devices: Devices,
}

/// Below `devices`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Devices {
    create: Create,
}

/// Below `create`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Create {
    reusable: bool,
    ephemeral: bool,
    preauthorized: bool,
    #[serde(deserialize_with = "or_none")]
    tags: BTreeSet<String>,
}

/// Programs write `null` for an empty list.
fn or_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// How long a key was asked to live. The log stamps its making a little after its end was reckoned, so that the span is
/// short of that; programs that compare it with what they asked for would make the key anew.
fn life_secs(span: Duration) -> u64 {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX - MOMENT_MS);
    let minutes = (millis + MOMENT_MS) / 60_000 * 60;
    if minutes * 1000 >= millis { minutes } else { millis.div_ceil(1000) }
}

/// Longer than a change takes.
const MOMENT_MS: u64 = 10_000;

fn of_auth(key: &PreAuthKey, now: Timestamp) -> Key {
    let create =
        Create { reusable: key.reusable, ephemeral: key.ephemeral, preauthorized: true, tags: key.tags.clone() };
    Key {
        id: key.prefix.clone(),
        key_type: "auth",
        description: key.description.clone(),
        expiry_seconds: key.expiration.map(|expiration| life_secs(expiration.since(key.created_at))),
        created: key.created_at.to_string(),
        expires: key.expiration.map(|expiration| expiration.to_string()),
        invalid: is_over(key.expiration, now) || (key.used && !key.reusable),
        capabilities: Some(Capabilities { devices: Devices { create } }),
        tags: key.tags.clone(),
        user_id: key.user.map(|user| user.to_string()).unwrap_or_default(),
        ..Key::default()
    }
}

fn of_api(key: &ApiKey, now: Timestamp) -> Key {
    Key {
        id: key.prefix.clone(),
        key_type: if key.scopes.is_empty() { "api" } else { "client" },
        description: key.description.clone(),
        created: key.created_at.to_string(),
        expires: key.expiration.map(|expiration| expiration.to_string()),
        invalid: is_over(key.expiration, now),
        scopes: key.scopes.clone(),
        tags: key.tags.clone(),
        user_id: key.user.map(|user| user.to_string()).unwrap_or_default(),
        ..Key::default()
    }
}

fn is_over(expiration: Option<Timestamp>, now: Timestamp) -> bool {
    expiration.is_some_and(|expiration| expiration <= now)
}

/// What is needed to see or change a key of this kind.
fn needs(key_type: &str) -> &'static str {
    match key_type {
        "auth" => "auth_keys",
        "client" => "oauth_keys",
        _ => "api_access_tokens",
    }
}

fn find(state: &State, id: &str, now: Timestamp) -> Option<Key> {
    let auth = state.pre_auth_key_by_prefix(id).map(|key| of_auth(key, now));
    auth.or_else(|| state.api_key_by_prefix(id).map(|key| of_api(key, now)))
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format!("key not found: {id:?}"))
}

/// Keys in a list.
#[derive(Serialize)]
pub struct Keys {
    keys: Vec<Key>,
}

/// `GET keys`; `?all=true`: also those that are over.
pub async fn list(
    Shared(api): Shared<Api>,
    Extension(grant): Extension<Grant>,
    query: Query,
) -> Result<Reply<Keys>, ApiError> {
    let (state, now) = (api.read(&query).await?, api.now());
    let auth = state.pre_auth_keys().values().map(|key| of_auth(key, now));
    let keys = auth.chain(state.api_keys().values().map(|key| of_api(key, now)));
    let shown = |key: &Key| grant.allows(needs(key.key_type), false) && (query.is_true("all") || !key.invalid);
    Ok(Reply(Keys { keys: keys.filter(shown).collect() }))
}

/// `GET keys/{id}`.
pub async fn one(
    Shared(api): Shared<Api>,
    Extension(grant): Extension<Grant>,
    Path((_, id)): Path<(String, String)>,
    query: Query,
) -> Result<Reply<Key>, ApiError> {
    let key = find(&*api.read(&query).await?, &id, api.now());
    key.filter(|key| grant.allows(needs(key.key_type), false)).map(Reply).ok_or_else(|| missing(&id))
}

/// `DELETE keys/{id}`.
pub async fn delete(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Extension(grant): Extension<Grant>,
    Path((_, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let state = api.current().await?;
    let key = find(&state, &id, api.now()).filter(|key| grant.allows(needs(key.key_type), false));
    let key = key.ok_or_else(|| missing(&id))?;
    if !grant.allows(needs(key.key_type), true) {
        return Err(ApiError::forbidden(format!("this needs the scope {}", needs(key.key_type))));
    }
    let command = match state.pre_auth_key_by_prefix(&id) {
        Some(key) => Command::DeletePreAuthKey { id: key.id },
        None => Command::DeleteApiKey { prefix: id },
    };
    api.propose(&caller, command).await?;
    Ok(done())
}

/// What a new key shall be.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wish {
    /// `auth`, which is also meant when it is empty, or `client`.
    key_type: String,
    capabilities: Capabilities,
    expiry_seconds: i64,
    description: String,
    #[serde(deserialize_with = "or_none")]
    scopes: BTreeSet<String>,
    #[serde(deserialize_with = "or_none")]
    tags: BTreeSet<String>,
}

/// `POST keys`.
pub async fn create(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Extension(grant): Extension<Grant>,
    Json(wish): Json<Wish>,
) -> Result<Reply<Key>, ApiError> {
    match wish.key_type.as_str() {
        "" | "auth" => create_auth(&api, &caller, &grant, wish).await,
        "client" => create_client(&api, &caller, &grant, wish).await,
        "federated" => Err(ApiError::not_implemented("federated identities are not known here; make a client")),
        other => Err(ApiError::invalid(format!("keyType is {other:?}; it can be auth or client"))),
    }
}

/// What is asked for, or what the client that asks carries; never more than that.
fn tags(grant: &Grant, wished: BTreeSet<String>) -> Result<BTreeSet<String>, ApiError> {
    let tags = if wished.is_empty() { grant.tags.clone() } else { wished };
    if grant.tags.is_empty() || tags.is_subset(&grant.tags) {
        return Ok(tags);
    }
    let beyond: Vec<&str> = tags.difference(&grant.tags).map(String::as_str).collect();
    Err(ApiError::invalid(format!("requested tags [{}] are invalid or not permitted", beyond.join(", "))))
}

fn forbid_unless(grant: &Grant, scope: &str) -> Result<(), ApiError> {
    match grant.allows(scope, true) {
        true => Ok(()),
        false => Err(ApiError::forbidden(format!("this needs the scope {scope}"))),
    }
}

async fn create_auth(api: &Api, caller: &Caller, grant: &Grant, wish: Wish) -> Result<Reply<Key>, ApiError> {
    forbid_unless(grant, needs("auth"))?;
    let create = wish.capabilities.devices.create;
    let tags = tags(grant, create.tags)?;
    if tags.is_empty() {
        return Err(ApiError::invalid(
            "tailnet-owned auth key must have tags set: a key made here has no person behind it; for a key of a user: \
             hsraft preauthkeys create --user NAME",
        ));
    }
    let secs = match wish.expiry_seconds {
        0 => LIFE_SECS,
        secs => u64::try_from(secs).map_err(|_| ApiError::invalid("expirySeconds is below 0"))?,
    };
    let fresh = secret_text::fresh(AUTH, &*api.options.random);
    let key = PreAuthKey {
        prefix: fresh.prefix.clone(),
        secret_sha256: fresh.secret_sha256,
        reusable: create.reusable,
        ephemeral: create.ephemeral,
        tags,
        expiration: Some(api.now().after(Duration::from_secs(secs))),
        description: wish.description,
        ..PreAuthKey::default()
    };
    match api.propose(caller, Command::CreatePreAuthKey { key }).await? {
        Outcome::PreAuthKey(_) => shown(api, &fresh.prefix, fresh.text),
        other => Err(crate::v1::odd(other)),
    }
}

async fn create_client(api: &Api, caller: &Caller, grant: &Grant, wish: Wish) -> Result<Reply<Key>, ApiError> {
    forbid_unless(grant, needs("client"))?;
    let scopes = wish.scopes.iter().map(|name| scope::known(name)).collect::<Result<BTreeSet<String>, _>>()?;
    if scopes.is_empty() {
        return Err(ApiError::invalid("scopes is empty; a client without any could do nothing"));
    }
    if let Some(beyond) = scopes.iter().find(|scope| !grant.covers(scope)) {
        return Err(ApiError::forbidden(format!("you have no scope {beyond}, so you cannot give it away")));
    }
    let tags = tags(grant, wish.tags)?;
    if tags.is_empty() && ["auth_keys", "devices:core"].iter().any(|name| scopes.contains(*name)) {
        return Err(ApiError::invalid(
            "scopes auth_keys and devices:core need at least one tag: what keys made by it carry",
        ));
    }
    let fresh = secret_text::fresh(API, &*api.options.random);
    let key = ApiKey {
        prefix: fresh.prefix.clone(),
        secret_sha256: fresh.secret_sha256,
        role: if scopes.iter().all(|scope| scope.ends_with(":read")) { Role::ReadOnly } else { Role::Admin },
        scopes,
        tags,
        description: wish.description,
        ..ApiKey::default()
    };
    let text = fresh.text.replacen(API, CLIENT, 1);
    match api.propose(caller, Command::CreateApiKey { key }).await? {
        Outcome::ApiKey(_) => shown(api, &fresh.prefix, text),
        other => Err(crate::v1::odd(other)),
    }
}

fn shown(api: &Api, id: &str, text: String) -> Result<Reply<Key>, ApiError> {
    let key = find(&api.backend.latest(), id, api.now()).ok_or_else(|| missing(id))?;
    Ok(Reply(Key { key: text, ..key }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_what_was_asked_for() {
        for (millis, secs) in [(7_775_999_980, 7_776_000), (7_775_991_000, 7_776_000), (3_600_000, 3_600)] {
            assert_eq!(life_secs(Duration::from_millis(millis)), secs);
        }
        for (millis, secs) in [(89_990, 90), (90_000, 90), (29_001, 30), (0, 0)] {
            assert_eq!(life_secs(Duration::from_millis(millis)), secs);
        }
    }
}
