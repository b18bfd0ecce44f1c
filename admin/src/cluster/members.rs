//! Members: list, remove, who leads, how it goes.

use std::time::Duration;

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
};
use serde::Deserialize;
use state_machine::{Command, JoinRole, MemberId, MemberState, State};

use super::view::{self, Members, Status};
use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query},
    status::ApiError,
    v1::types,
};

/// How long `status` waits for proof of a quorum.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /cluster/members`; `?all=true` shows the removed ones too.
pub(crate) async fn list(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Members>, ApiError> {
    let state = api.read(&query).await?;
    Ok(Reply(view::members(&state, &api.backend.standing(), query.is_true("all"))))
}

/// `GET /cluster/status`: always an answer, also without a quorum.
pub(crate) async fn status(Shared(api): Shared<Api>) -> Reply<Status> {
    let confirmed = tokio::time::timeout(PATIENCE, api.backend.confirm()).await;
    let state = api.backend.latest();
    Reply(view::status(&state, &api.backend.standing(), matches!(confirmed, Ok(Ok(_)))))
}

/// Who shall lead.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Transfer {
    /// Name or id; empty: the one that is furthest.
    #[serde(deserialize_with = "types::name::deserialize")]
    to: String,
}

/// `POST /cluster/transfer-leader`.
pub(crate) async fn transfer_leader(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Transfer>,
) -> Result<Reply<Empty>, ApiError> {
    let to = match wish.to.as_str() {
        "" => None,
        text => Some(find(&*api.current().await?, text)?),
    };
    tracing::info!(by = caller.by, ?to, "leadership shall move");
    api.backend.transfer_leader(to).await?;
    Ok(Reply(Empty {}))
}

/// What a member shall be.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RoleWish {
    /// `voter` or `learner`.
    role: String,
    /// Also when the number of voters becomes even.
    force: bool,
}

/// `POST /cluster/members/{id}/role`: the leader makes it so when it is safe.
pub(crate) async fn set_role(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<RoleWish>,
) -> Result<Reply<Empty>, ApiError> {
    let id = find(&*api.current().await?, &id)?;
    let role = match wish.role.as_str() {
        "voter" => JoinRole::Voter,
        "learner" => JoinRole::Learner,
        other => return Err(ApiError::invalid(format!("role is {other:?}; it can be voter or learner"))),
    };
    tracing::info!(by = caller.by, member = %id, ?role, "member shall have another role");
    api.propose(&caller, Command::SetMemberRole { id, role, insist: wish.force && role == JoinRole::Voter }).await?;
    Ok(Reply(Empty {}))
}

/// Whether a member shall be left alone.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct DrainWish {
    draining: bool,
}

/// `POST /cluster/members/{id}/draining`.
pub(crate) async fn set_draining(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<DrainWish>,
) -> Result<Reply<Empty>, ApiError> {
    let id = find(&*api.current().await?, &id)?;
    tracing::info!(by = caller.by, member = %id, draining = wish.draining, "member shall be drained, or used again");
    api.propose(&caller, Command::SetMemberDraining { id, draining: wish.draining }).await?;
    Ok(Reply(Empty {}))
}

/// `DELETE /cluster/members/{id}`: for ever; the id never comes back. `?riskQuorum=true`: also when the rest could not
/// go on.
pub(crate) async fn remove(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Reply<Empty>, ApiError> {
    let id = find(&*api.current().await?, &id)?;
    let standing = api.backend.standing();
    if standing.voters.len() == 1 && standing.voters.contains(&id) {
        return Err(ApiError::invalid("this is the last voter; a cluster needs one"));
    }
    tracing::info!(by = caller.by, member = %id, "member shall be removed");
    api.backend.remove_member(id, query.is_true("riskQuorum"), &caller.by).await?;
    Ok(Reply(Empty {}))
}

/// The active member somebody named by name or id.
pub(crate) fn find(state: &State, text: &str) -> Result<MemberId, ApiError> {
    let active = || state.members().values().filter(|member| member.state == MemberState::Active);
    let by_id = || text.parse().ok().and_then(|id| active().find(|member| member.id == MemberId(id)));
    active()
        .find(|member| member.name == text)
        .or_else(by_id)
        .map(|member| member.id)
        .ok_or_else(|| ApiError::not_found(format!("member not found: {text:?}; see: hsraft members")))
}
