//! A new program on one member after the other: what each runs, and the moment the cluster begins to rely on it.

use axum::{Extension, Json as Reply, extract::State as Shared};
use serde::{Deserialize, Serialize};
use state_machine::{Command, FEATURE_LEVEL, MemberState, OPERATION, State};

use super::view::Standing;
use crate::{Api, auth::Caller, request::Json, status::ApiError};

/// How the upgrade stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Upgrade {
    /// What the cluster does.
    pub feature_level: u32,
    /// What the program of the member that answers can do.
    pub answered_by_level: u32,
    /// What every program can do; absent: some member does not say.
    pub common_level: Option<u32>,
    /// For how long that has been so, as the leader saw it.
    pub common_for_secs: u64,
    /// Every program can do more than the cluster does: finalize raises it.
    pub can_finalize: bool,
    pub members: Vec<Program>,
}

/// What one member runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Program {
    pub name: String,
    pub version: String,
    /// What its program can do; absent: it does not say.
    pub feature_level: Option<u32>,
    pub leads: bool,
}

/// What is known of all programs.
pub fn view(state: &State, standing: &Standing) -> Upgrade {
    let level = state.feature_level();
    let active = state.members().values().filter(|member| member.state == MemberState::Active);
    let programs = active.map(|member| {
        let said = standing.contacts.get(&member.id).and_then(|contact| contact.feature_level);
        let said = if standing.is_fresh() { said } else { None };
        Program {
            name: member.name.clone(),
            version: member.version.clone(),
            feature_level: if member.id == standing.me { Some(FEATURE_LEVEL) } else { said },
            leads: standing.leader == Some(member.id),
        }
    });
    let able = standing.able.filter(|_| standing.is_fresh());
    let common = able.map(|(common, _)| common);
    Upgrade {
        feature_level: level,
        answered_by_level: FEATURE_LEVEL,
        common_level: common,
        common_for_secs: able.map_or(0, |(_, since)| since.as_secs()),
        can_finalize: common.is_some_and(|common| common > level && common >= OPERATION),
        members: programs.collect(),
    }
}

/// `GET /cluster/upgrade`.
pub(crate) async fn status(Shared(api): Shared<Api>) -> Reply<Upgrade> {
    Reply(view(&api.backend.latest(), &api.backend.standing()))
}

/// How a level shall be raised.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Finalize {
    /// Without waiting until all programs have run for five minutes.
    now: bool,
}

/// `POST /cluster/upgrade/finalize`: the cluster begins to do all that every program can. The leader asks them first.
pub(crate) async fn finalize(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Finalize>,
) -> Result<Reply<Upgrade>, ApiError> {
    let state = api.current().await?;
    let standing = api.backend.standing();
    let level = standing.able.map_or(FEATURE_LEVEL, |(common, _)| common).max(state.feature_level());
    if level > state.feature_level() || standing.able.is_none() {
        let level = level.max(OPERATION);
        tracing::info!(by = caller.by, level, now = wish.now, "the feature level shall rise");
        api.propose(&caller, Command::RaiseFeatureLevel { level, at_once: wish.now }).await?;
    }
    Ok(Reply(view(&api.backend.latest(), &api.backend.standing())))
}
