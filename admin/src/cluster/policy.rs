//! `/api/v1/cluster/policy`: questions about policies that Headscale has no path for.

mod impact;
mod why;

use axum::{Extension, Json as Reply, extract::State as Shared};
use serde::{Deserialize, Serialize};
use state_machine::Command;

pub use impact::{Impact, Kind};
pub use why::{Answer, End};

use crate::{
    Api,
    auth::Caller,
    request::{Json, Query},
    status::ApiError,
    v1::{self, types::Policy},
};

/// A policy somebody thinks of setting.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Proposed {
    policy: String,
}

/// What can be said of a policy that could be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checked {
    /// What is taken, but written in a way that will not last or does nothing.
    pub warnings: Vec<String>,
}

/// `POST /policy/check`: as `/api/v1/policy/check`, with warnings.
pub(crate) async fn check(Shared(api): Shared<Api>, Json(wish): Json<Proposed>) -> Result<Reply<Checked>, ApiError> {
    let parsed = v1::policy::judge(&wish.policy, &*api.current().await?)?;
    Ok(Reply(Checked { warnings: parsed.warnings.iter().map(ToString::to_string).collect() }))
}

/// `GET /policy/why?src=&dst=&proto=`.
pub(crate) async fn why(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Answer>, ApiError> {
    let state = api.read(&query).await?;
    let asked = |name: &str| {
        query.get(name).ok_or_else(|| ApiError::invalid(format!("{name} is missing: who reaches whom? src=…&dst=…")))
    };
    why::answer(&state, asked("src")?, asked("dst")?, query.get("proto")).map(Reply).map_err(ApiError::invalid)
}

/// `POST /policy/impact`: who would gain and lose what against the policy in force.
pub(crate) async fn impact(Shared(api): Shared<Api>, Json(wish): Json<Proposed>) -> Result<Reply<Impact>, ApiError> {
    let state = api.current().await?;
    let parsed = v1::policy::judge(&wish.policy, &state)?;
    impact::of(&state, &parsed.policy).map(Reply).map_err(ApiError::invalid)
}

/// Which of the older texts.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Back {
    /// Absent: the one before the one in force.
    number: Option<u64>,
}

/// `POST /policy/rollback`: an older text is set again, as a new version.
pub(crate) async fn rollback(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Back>,
) -> Result<Reply<Policy>, ApiError> {
    let state = api.current().await?;
    let history = state.policy_history();
    let number = match wish.number {
        Some(number) => number,
        None => {
            let before = history.values().rev().nth(1).map(|version| version.number);
            before.ok_or_else(|| ApiError::invalid("there is no policy before the one in force"))?
        }
    };
    let version = history
        .get(&number)
        .ok_or_else(|| ApiError::not_found(format!("policy {number} not found; see: hsraft policy history")))?;
    v1::policy::refuse_in_file_mode(&api)?;
    v1::policy::judge(&version.text, &state)?;
    let author = format!("{} (back to {number})", caller.by);
    api.propose(&caller, Command::SetPolicy { text: version.text.clone(), author }).await?;
    v1::policy::in_force(&api)
}
