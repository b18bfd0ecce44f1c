//! `/api/v1/cluster/nodes` and `/users`: addresses and ranges that people choose, and nodes that wait for an approval.

use std::{collections::BTreeSet, net::IpAddr};

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use state_machine::{Command, State};

use crate::{
    Api,
    auth::Caller,
    request::{Json, Query},
    status::ApiError,
    v1::{
        nodes,
        types::{Nodes, OneNode},
        users,
    },
};

/// Where the addresses of somebody's new nodes come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserRanges {
    pub user: String,
    /// `100.64.8.0/24`, …; empty: from everywhere.
    pub ranges: Vec<String>,
}

/// Reply around users that have ranges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AllRanges {
    pub users: Vec<UserRanges>,
}

/// The addresses that shall be, one of each family at most; a family that is not there stays as it is.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Addresses {
    addresses: Vec<String>,
}

/// `POST /cluster/nodes/{id}/addresses`.
pub(crate) async fn set_addresses(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Addresses>,
) -> Result<Reply<OneNode>, ApiError> {
    let (mut ipv4, mut ipv6) = (None, None);
    for text in &wish.addresses {
        let address: IpAddr = text
            .trim()
            .parse()
            .map_err(|_| ApiError::invalid(format!("{text:?} is no address; write for example 100.64.0.7")))?;
        let twice = match address {
            IpAddr::V4(address) => ipv4.replace(address).is_some(),
            IpAddr::V6(address) => ipv6.replace(address).is_some(),
        };
        if twice {
            return Err(ApiError::invalid("a node has one address of each family"));
        }
    }
    let node = nodes::find(&*api.current().await?, &id)?.id;
    api.propose(&caller, Command::SetNodeAddresses { node, ipv4, ipv6 }).await?;
    nodes::reply(&api.backend.latest(), node)
}

/// Whether the node may come in.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Approval {
    /// Absent: nothing is said, and that is refused.
    approved: Option<bool>,
}

/// `POST /cluster/nodes/{id}/approval`.
pub(crate) async fn approve(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Approval>,
) -> Result<Reply<OneNode>, ApiError> {
    let approved = wish.approved.ok_or_else(|| ApiError::invalid("approved is missing; it can be true or false"))?;
    let node = nodes::find(&*api.current().await?, &id)?.id;
    api.propose(&caller, Command::SetNodeApproval { node, approved }).await?;
    nodes::reply(&api.backend.latest(), node)
}

/// `GET /cluster/nodes/waiting`: those that wait for an approval.
pub(crate) async fn waiting(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Nodes>, ApiError> {
    let state = api.read(&query).await?;
    let waiting = state.nodes().values().filter(|node| node.unapproved);
    Ok(Reply(Nodes { nodes: waiting.map(|node| nodes::view(&state, node)).collect(), next: None }))
}

/// `GET /cluster/users/ranges`.
pub(crate) async fn ranges(Shared(api): Shared<Api>, query: Query) -> Result<Reply<AllRanges>, ApiError> {
    let state = api.read(&query).await?;
    let users = state.users().values().filter(|user| !user.ranges.is_empty());
    Ok(Reply(AllRanges { users: users.map(|user| view(user)).collect() }))
}

/// The ranges that shall be, all of them.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Ranges {
    ranges: Vec<String>,
}

/// `POST /cluster/users/{id}/ranges`.
pub(crate) async fn set_ranges(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Ranges>,
) -> Result<Reply<UserRanges>, ApiError> {
    let read = |text: &String| {
        let alone = || text.trim().parse::<IpAddr>().ok().map(IpNet::from);
        let range = text.trim().parse::<IpNet>().ok().or_else(alone);
        range.ok_or_else(|| ApiError::invalid(format!("{text:?} is no range; write for example 100.64.8.0/24")))
    };
    let ranges = wish.ranges.iter().map(read).collect::<Result<BTreeSet<IpNet>, ApiError>>()?;
    let user = users::find(&*api.current().await?, &id)?.id;
    api.propose(&caller, Command::SetUserRanges { user, ranges }).await?;
    let state: std::sync::Arc<State> = api.backend.latest();
    let user = state.user(user).ok_or_else(|| ApiError::not_found("the user is gone again"))?;
    Ok(Reply(view(user)))
}

fn view(user: &state_machine::User) -> UserRanges {
    UserRanges { user: user.name.clone(), ranges: user.ranges.iter().map(ToString::to_string).collect() }
}
