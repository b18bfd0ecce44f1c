//! `/api/v1/cluster/ssh-checks`: connections by SSH that wait for a person.

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
};
use serde::{Deserialize, Serialize};
use state_machine::{Command, NodeId, SshCheckResult, State, Timestamp};

use crate::{
    Api,
    auth::Caller,
    request::{Empty, Query},
    status::ApiError,
    v1::types::moment,
};

/// One question.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Check {
    pub id: String,
    /// The node that connects, and whose it is.
    pub source: String,
    pub source_user: String,
    /// The node it connects to, and under which name.
    pub destination: String,
    pub local_user: String,
    /// `waiting`, `approved` or `rejected`.
    pub state: String,
    /// Who decided.
    pub by: String,
    #[serde(with = "moment")]
    pub created_at: Option<Timestamp>,
    #[serde(with = "moment")]
    pub decided_at: Option<Timestamp>,
}

/// Reply around checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checks {
    pub checks: Vec<Check>,
}

fn view(state: &State) -> Vec<Check> {
    let now = state.now();
    let name = |id: NodeId| state.node(id).map(|node| node.given_name.clone()).unwrap_or_default();
    let user = |id: NodeId| {
        let node = state.node(id)?;
        match node.is_tagged() {
            true => Some(node.tags.iter().cloned().collect::<Vec<_>>().join(", ")),
            false => Some(state.user(node.user?)?.name.clone()),
        }
    };
    let mut checks: Vec<Check> = state
        .ssh_checks()
        .values()
        .filter(|check| check.expires_at > now)
        .map(|check| {
            let (word, by, decided_at) = match &check.result {
                SshCheckResult::Waiting => ("waiting", String::new(), None),
                SshCheckResult::Approved { at, by } => ("approved", by.clone(), Some(*at)),
                SshCheckResult::Rejected { at, by } => ("rejected", by.clone(), Some(*at)),
            };
            Check {
                id: check.id.clone(),
                source: name(check.source),
                source_user: user(check.source).unwrap_or_default(),
                destination: name(check.target),
                local_user: check.local_user.clone(),
                state: word.to_owned(),
                by,
                created_at: Some(check.created_at),
                decided_at,
            }
        })
        .collect();
    checks.sort_by(|a, b| (b.created_at, &a.id).cmp(&(a.created_at, &b.id)));
    checks
}

/// `GET /ssh-checks`: newest first.
pub(crate) async fn list(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Checks>, ApiError> {
    Ok(Reply(Checks { checks: view(&*api.read(&query).await?) }))
}

/// `POST /ssh-checks/{id}/approve`.
pub(crate) async fn approve(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Reply<Empty>, ApiError> {
    decide(&api, &caller, &id, true).await
}

/// `POST /ssh-checks/{id}/reject`.
pub(crate) async fn reject(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Reply<Empty>, ApiError> {
    decide(&api, &caller, &id, false).await
}

/// Says yes or no. `id` may be the whole URL the connecting person was shown.
pub(crate) async fn decide(api: &Api, caller: &Caller, id: &str, yes: bool) -> Result<Reply<Empty>, ApiError> {
    let id = id.trim().rsplit('/').next().unwrap_or_default();
    let state = api.current().await?;
    let Some(check) = state.ssh_check(id) else {
        return Err(ApiError::not_found("no connection waits under that id; see: hsraft ssh list"));
    };
    let (id, by) = (check.id.clone(), caller.by.clone());
    let command = match yes {
        true => Command::ApproveSshCheck { id, by },
        false => Command::RejectSshCheck { id, by },
    };
    api.propose(caller, command).await?;
    Ok(Reply(Empty {}))
}
