//! People.

use axum::{
    Json as Reply,
    extract::{Path, State as Shared},
};
use serde::Serialize;
use state_machine::State;

use crate::{Api, request::Query, status::ApiError, v1};

/// Somebody who owns nodes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    id: String,
    display_name: String,
    login_name: String,
    profile_pic_url: String,
    tailnet_id: String,
    created: String,
    /// There are no shared users here.
    r#type: &'static str,
    /// Who administers is told by keys, not by users.
    role: &'static str,
    status: &'static str,
    device_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
    currently_connected: bool,
}

/// What a person is called at sign-in: the mail address where there is one.
pub fn login_name(user: &state_machine::User) -> String {
    if user.email.is_empty() { v1::users::view(user).name } else { user.email.clone() }
}

fn view(state: &State, user: &state_machine::User) -> User {
    let (mut count, mut last_seen, mut online) = (0, None, false);
    for node in state.nodes_of_user(user.id).filter(|node| !node.is_tagged()) {
        count += 1;
        last_seen = last_seen.max(state.presence(node.id).and_then(|presence| presence.last_seen));
        online |= state.is_online(node.id);
    }
    let login_name = login_name(user);
    User {
        id: user.id.to_string(),
        display_name: if user.display_name.is_empty() { login_name.clone() } else { user.display_name.clone() },
        login_name,
        profile_pic_url: user.profile_pic_url.clone(),
        tailnet_id: state.cluster_id().to_owned(),
        created: user.created_at.to_string(),
        r#type: "member",
        role: "member",
        status: if online { "active" } else { "idle" },
        device_count: count,
        last_seen: last_seen.map(|at| at.to_string()),
        currently_connected: online,
    }
}

/// Users in a list.
#[derive(Serialize)]
pub struct Users {
    users: Vec<User>,
}

/// `GET users?type=&role=`.
pub async fn list(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Users>, ApiError> {
    let state = api.read(&query).await?;
    let fits = |name: &str| query.get(name).is_none_or(|wanted| matches!(wanted, "member" | "all"));
    if !(fits("type") && fits("role")) {
        return Ok(Reply(Users { users: Vec::new() }));
    }
    Ok(Reply(Users { users: state.users().values().map(|user| view(&state, user)).collect() }))
}

/// `GET users/{id}`.
pub async fn one(Shared(api): Shared<Api>, Path(id): Path<String>, query: Query) -> Result<Reply<User>, ApiError> {
    let state = api.read(&query).await?;
    let user = v1::users::find(&state, &id)?;
    Ok(Reply(view(&state, user)))
}
