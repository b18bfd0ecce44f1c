//! `/api/v1/user`: people and services that own nodes.

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
};
use serde::Deserialize;
use state_machine::{Command, Outcome, State, UserId};

use super::types::{OneUser, User, Users};
use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query},
    status::ApiError,
};

/// The owner consoles show for nodes that belong to their tags (Headscale's id for it).
const TAGGED_DEVICES: u64 = 2_147_455_555;

/// A user as the wire shows it.
pub(crate) fn view(user: &state_machine::User) -> User {
    // Users from a login provider may come without a name; consoles need something to show.
    let name = [&user.name, &user.email, &user.provider_id].into_iter().find(|text| !text.is_empty()).cloned();
    User {
        id: user.id.0,
        name: name.unwrap_or_else(|| user.id.to_string()),
        created_at: Some(user.created_at),
        display_name: user.display_name.clone(),
        email: user.email.clone(),
        provider_id: user.provider_id.clone(),
        // Headscale leaves it empty for users made by hand.
        provider: if user.provider_id.is_empty() { String::new() } else { user.provider.clone() },
        profile_pic_url: user.profile_pic_url.clone(),
    }
}

/// The owner of tagged nodes.
pub(crate) fn tagged_devices() -> User {
    User { id: TAGGED_DEVICES, name: "tagged-devices".into(), display_name: "Tagged Devices".into(), ..User::default() }
}

/// The user somebody named by id, name or email; a number is an id, whatever users are called.
pub(crate) fn find<'a>(state: &'a State, text: &str) -> Result<&'a state_machine::User, ApiError> {
    let by_id = || text.parse().ok().and_then(|id| state.user(UserId(id)));
    let by_email = || state.users().values().find(|user| !user.email.is_empty() && user.email == text);
    by_id()
        .or_else(|| state.user_by_name(text))
        .or_else(by_email)
        .map(|user| &**user)
        .ok_or_else(|| ApiError::not_found(format!("user not found: {text:?}; see: hsraft users list")))
}

/// `GET /user?id=&name=&email=`: the first filter that is given counts.
pub(crate) async fn list(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Users>, ApiError> {
    let state = api.read(&query).await?;
    let users = state.users().values().map(|user| view(user));
    let users: Vec<User> = match (query.get("name"), query.get("email"), query.get("id")) {
        (Some(name), _, _) => users.filter(|user| user.name == name).collect(),
        (_, Some(email), _) => users.filter(|user| user.email == email).collect(),
        (_, _, Some(id)) => {
            let id = crate::request::number("user", id)?;
            // Headscale's own command line sends 0 for "any".
            users.filter(|user| id == 0 || user.id == id).collect()
        }
        _ => users.collect(),
    };
    Ok(Reply(Users { users }))
}

/// What a new user is called.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Create {
    pub name: String,
    pub display_name: String,
    pub email: String,
    pub picture_url: String,
}

/// `POST /user`.
pub(crate) async fn create(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Create>,
) -> Result<Reply<OneUser>, ApiError> {
    if !wish.picture_url.is_empty() && url::Url::parse(&wish.picture_url).is_err() {
        return Err(ApiError::invalid(format!("invalid picture URL: {:?}", wish.picture_url)));
    }
    let command = Command::CreateUser {
        name: wish.name,
        display_name: wish.display_name,
        email: wish.email,
        profile_pic_url: wish.picture_url,
    };
    match api.propose(&caller, command).await? {
        Outcome::User(id) => reply(&api.backend.latest(), id),
        other => Err(super::odd(other)),
    }
}

/// `POST /user/{id}/rename/{name}`.
pub(crate) async fn rename(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path((id, name)): Path<(String, String)>,
) -> Result<Reply<OneUser>, ApiError> {
    let user = find(&*api.current().await?, &id)?.id;
    api.propose(&caller, Command::RenameUser { user, name }).await?;
    reply(&api.backend.latest(), user)
}

/// `DELETE /user/{id}`.
pub(crate) async fn delete(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Reply<Empty>, ApiError> {
    let user = find(&*api.current().await?, &id)?.id;
    api.propose(&caller, Command::DeleteUser { user }).await?;
    Ok(Reply(Empty {}))
}

fn reply(state: &State, id: UserId) -> Result<Reply<OneUser>, ApiError> {
    let user = state.user(id).ok_or_else(|| ApiError::not_found(format!("user {id} is gone again")))?;
    Ok(Reply(OneUser { user: view(user) }))
}
