//! `/api/v1/policy`: the text that says who may reach whom, and the texts before it.

use axum::{Extension, Json as Reply, extract::State as Shared};
use serde::Deserialize;
use state_machine::Command;

use super::types::{Policy, PolicyHistory, PolicyVersion};
use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query},
    status::ApiError,
};

/// `GET /policy`; ours: `?number=` for an older one.
pub(crate) async fn latest(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Policy>, ApiError> {
    let state = api.read(&query).await?;
    let version = match query.get("number") {
        Some(text) => {
            let number = crate::request::number("policy", text)?;
            let version = state.policy_history().get(&number);
            version
                .ok_or_else(|| ApiError::not_found(format!("policy {number} not found; see: hsraft policy history")))?
        }
        // Consoles look for these words, and for status 500, to tell "none yet" from trouble.
        None => state.policy().ok_or_else(|| ApiError::internal("acl policy not found"))?,
    };
    Ok(Reply(Policy { policy: version.text.to_string(), updated_at: Some(version.set_at) }))
}

/// `GET /policy/history`: newest first, without the texts.
pub(crate) async fn history(Shared(api): Shared<Api>, query: Query) -> Result<Reply<PolicyHistory>, ApiError> {
    let state = api.read(&query).await?;
    let with_text = query.is_true("text");
    let history = state.policy_history().values().rev().map(|version| PolicyVersion {
        number: version.number,
        author: version.author.clone(),
        set_at: Some(version.set_at),
        size: version.text.len() as u64,
        policy: if with_text { version.text.to_string() } else { String::new() },
    });
    Ok(Reply(PolicyHistory { history: history.collect() }))
}

/// The new text.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Set {
    policy: String,
}

/// `PUT /policy`.
pub(crate) async fn set(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Set>,
) -> Result<Reply<Policy>, ApiError> {
    read(&wish.policy)?;
    api.propose(&caller, Command::SetPolicy { text: wish.policy.into(), author: caller.by.clone() }).await?;
    let state = api.backend.latest();
    let version = state.policy().ok_or_else(|| ApiError::internal("acl policy not found"))?;
    Ok(Reply(Policy { policy: version.text.to_string(), updated_at: Some(version.set_at) }))
}

/// `POST /policy/check`: whether [`set`] would take it.
pub(crate) async fn check(Json(wish): Json<Set>) -> Result<Reply<Empty>, ApiError> {
    read(&wish.policy)?;
    Ok(Reply(Empty {}))
}

/// Texts that mean nothing do not enter the log. The first words are Headscale's; consoles look for them.
fn read(text: &str) -> Result<::policy::Policy, ApiError> {
    let parsed = ::policy::Policy::parse(text)
        .map_err(|error| ApiError::invalid(format!("parsing policy from bytes: {error}")))?;
    Ok(parsed.policy)
}
