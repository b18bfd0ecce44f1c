//! `/api/v1/policy`: the text that says who may reach whom, and the texts before it.

use ::policy::Parsed;
use axum::{Extension, Json as Reply, extract::State as Shared};
use serde::Deserialize;
use state_machine::{Command, State};

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
    pub policy: String,
}

/// `PUT /policy`.
pub(crate) async fn set(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Set>,
) -> Result<Reply<Policy>, ApiError> {
    refuse_in_file_mode(&api)?;
    judge(&wish.policy, &*api.current().await?)?;
    api.propose(&caller, Command::SetPolicy { text: wish.policy.into(), author: caller.by.clone() }).await?;
    in_force(&api)
}

/// `POST /policy/check`: whether [`set`] would take it.
pub(crate) async fn check(Shared(api): Shared<Api>, Json(wish): Json<Set>) -> Result<Reply<Empty>, ApiError> {
    judge(&wish.policy, &*api.current().await?)?;
    Ok(Reply(Empty {}))
}

/// Texts that mean nothing, and those whose own tests fail in this tailnet, do not enter the log; it would refuse them
/// too. The first words are Headscale's; consoles look for them.
pub(crate) fn judge(text: &str, state: &State) -> Result<Parsed, ApiError> {
    let parsed = ::policy::Policy::parse(text)
        .map_err(|error| ApiError::invalid(format!("parsing policy from bytes: {error}")))?;
    parsed.policy.check(&state.inventory()).map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(parsed)
}

/// The first words are Headscale's.
pub(crate) fn refuse_in_file_mode(api: &Api) -> Result<(), ApiError> {
    match api.options.policy_file {
        true => Err(ApiError::invalid(
            "update is disabled for modes other than 'database': this member takes the policy from policy.path; change \
             that file and send the member SIGHUP, or set policy.mode to database",
        )),
        false => Ok(()),
    }
}

/// What [`set`] shows.
pub(crate) fn in_force(api: &Api) -> Result<Reply<Policy>, ApiError> {
    let state = api.backend.latest();
    let version = state.policy().ok_or_else(|| ApiError::internal("acl policy not found"))?;
    Ok(Reply(Policy { policy: version.text.to_string(), updated_at: Some(version.set_at) }))
}
