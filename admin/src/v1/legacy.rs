//! Paths Headscale had once and consoles still ask for: `/machine` (until 0.22), `/routes` (until 0.25), users by name.
//!
//! Each is today's operation under yesterday's name. Answers carry a `Deprecation` header (RFC 9745), so that whoever
//! looks finds out.

use std::collections::BTreeSet;

use axum::{
    Extension, Json as Reply, Router,
    extract::{Path, Request, State as Shared},
    http::{HeaderValue, header::HeaderName},
    middleware::{self, Next},
    response::Response,
    routing::{delete, get, post},
};
use ipnet::IpNet;
use serde::Serialize;
use sha2::{Digest, Sha256};
use state_machine::{Command, NodeId, State};

use super::{
    logins, nodes,
    types::{self, Node, OneUser},
    users,
};
use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query, number},
    status::ApiError,
};

/// Every path that is gone elsewhere.
pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/machine", get(machines))
        .route("/machine/register", post(register))
        .route("/machine/{id}", get(machine).delete(nodes::delete))
        .route("/machine/{id}/tags", post(tags))
        .route("/machine/{id}/expire", post(expire))
        .route("/machine/{id}/rename/{name}", post(rename))
        .route("/machine/{id}/user", post(give))
        .route("/machine/{id}/routes", get(routes_of))
        .route("/node/{id}/routes", get(routes_of))
        .route("/routes", get(all_routes))
        .route("/routes/{id}/enable", post(enable))
        .route("/routes/{id}/disable", post(disable))
        .route("/routes/{id}", delete(forget))
        .layer(middleware::from_fn(mark))
}

/// 2023-09-01, when Headscale took the first of them away, as RFC 9745 writes it.
const GONE_SINCE: HeaderValue = HeaderValue::from_static("@1693526400");

async fn mark(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    tracing::debug!(path, "a path of old consoles was used");
    let mut response = next.run(request).await;
    response.headers_mut().insert(HeaderName::from_static("deprecation"), GONE_SINCE);
    response
}

/// Reply around one node, under the name it had.
#[derive(Serialize)]
pub(crate) struct Machine {
    machine: Node,
}

type OneMachine = Result<Reply<Machine>, ApiError>;

fn renamed(Reply(reply): Reply<types::OneNode>) -> Reply<Machine> {
    Reply(Machine { machine: reply.node })
}

async fn machines(Shared(api): Shared<Api>, query: Query) -> Result<Response, ApiError> {
    Ok(nodes::pages::asked(api.read(&query).await?, &query)?.written("machines"))
}

async fn machine(shared: Shared<Api>, id: Path<String>, query: Query) -> OneMachine {
    nodes::one(shared, id, query).await.map(renamed)
}

async fn register(
    shared: Shared<Api>,
    caller: Extension<Caller>,
    query: Query,
    wish: Json<logins::Wish>,
) -> OneMachine {
    logins::register_by_key(shared, caller, query, wish).await.map(renamed)
}

async fn tags(shared: Shared<Api>, caller: Extension<Caller>, id: Path<String>, wish: Json<nodes::Tags>) -> OneMachine {
    nodes::set_tags(shared, caller, id, wish).await.map(renamed)
}

async fn expire(
    shared: Shared<Api>,
    caller: Extension<Caller>,
    id: Path<String>,
    query: Query,
    wish: Json<nodes::Expire>,
) -> OneMachine {
    nodes::expire(shared, caller, id, query, wish).await.map(renamed)
}

async fn rename(shared: Shared<Api>, caller: Extension<Caller>, names: Path<(String, String)>) -> OneMachine {
    nodes::rename(shared, caller, names).await.map(renamed)
}

async fn give(
    shared: Shared<Api>,
    caller: Extension<Caller>,
    id: Path<String>,
    query: Query,
    wish: Json<nodes::Give>,
) -> OneMachine {
    nodes::give(shared, caller, id, query, wish).await.map(renamed)
}

/// `GET /user/{name}`, until 0.23.
pub(crate) async fn user(
    Shared(api): Shared<Api>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Reply<OneUser>, ApiError> {
    let state = api.read(&query).await?;
    Ok(Reply(OneUser { user: users::view(users::find(&state, &name)?) }))
}

/// One prefix at one node, as a row of its own.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    #[serde(with = "types::id")]
    id: u64,
    node: Node,
    /// The same, for consoles before 0.23.
    machine: Node,
    prefix: String,
    advertised: bool,
    enabled: bool,
    is_primary: bool,
    #[serde(with = "types::moment")]
    created_at: Option<state_machine::Timestamp>,
    #[serde(with = "types::moment")]
    updated_at: Option<state_machine::Timestamp>,
    #[serde(with = "types::moment")]
    deleted_at: Option<state_machine::Timestamp>,
}

/// Reply around routes.
#[derive(Serialize)]
pub(crate) struct Routes {
    routes: Vec<Route>,
}

/// A route's number: the same at every member and after every restart, as long as node and prefix are. 48 bits, so that
/// JavaScript keeps it.
pub(crate) fn route_id(node: NodeId, prefix: &IpNet) -> u64 {
    let hash = Sha256::digest(format!("{node} {prefix}"));
    hash[..6].iter().fold(0, |id, byte| id << 8 | u64::from(*byte)).max(1)
}

fn of_node(state: &State, node: &state_machine::Node) -> Vec<Route> {
    let shown = nodes::view(state, node);
    let known: BTreeSet<IpNet> = node.hostinfo.routable_ips.union(&node.approved_routes).copied().collect();
    let row = |prefix: IpNet| {
        let served = shown.subnet_routes.contains(&prefix.to_string());
        Route {
            id: route_id(node.id, &prefix),
            node: shown.clone(),
            machine: shown.clone(),
            prefix: prefix.to_string(),
            advertised: node.hostinfo.routable_ips.contains(&prefix),
            enabled: node.approved_routes.contains(&prefix),
            // Exit routes have no primary.
            is_primary: served && prefix.prefix_len() > 0,
            created_at: Some(node.created_at),
            updated_at: Some(node.created_at),
            deleted_at: None,
        }
    };
    known.into_iter().map(row).collect()
}

async fn all_routes(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Routes>, ApiError> {
    let state = api.read(&query).await?;
    Ok(Reply(Routes { routes: state.nodes().values().flat_map(|node| of_node(&state, node)).collect() }))
}

async fn routes_of(Shared(api): Shared<Api>, Path(id): Path<String>, query: Query) -> Result<Reply<Routes>, ApiError> {
    let state = api.read(&query).await?;
    let node = nodes::find(&state, &id)?;
    Ok(Reply(Routes { routes: of_node(&state, node) }))
}

async fn enable(shared: Shared<Api>, caller: Extension<Caller>, id: Path<String>) -> Result<Reply<Empty>, ApiError> {
    change(shared, caller, id, |approved, prefix| approved.insert(prefix)).await
}

async fn disable(shared: Shared<Api>, caller: Extension<Caller>, id: Path<String>) -> Result<Reply<Empty>, ApiError> {
    change(shared, caller, id, |approved, prefix| approved.remove(&prefix)).await
}

/// A route its node still offers comes back by itself; what can be taken away is the approval.
async fn forget(shared: Shared<Api>, caller: Extension<Caller>, id: Path<String>) -> Result<Reply<Empty>, ApiError> {
    disable(shared, caller, id).await
}

async fn change(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    verb: impl Fn(&mut BTreeSet<IpNet>, IpNet) -> bool,
) -> Result<Reply<Empty>, ApiError> {
    let id = number("route", &id)?;
    let state = api.current().await?;
    let found = state.nodes().values().find_map(|node| {
        let known = node.hostinfo.routable_ips.union(&node.approved_routes);
        known.copied().find(|prefix| route_id(node.id, prefix) == id).map(|prefix| (node, prefix))
    });
    let (node, prefix) =
        found.ok_or_else(|| ApiError::not_found(format!("route {id} not found; see: hsraft nodes list-routes")))?;
    let mut routes = node.approved_routes.clone();
    // Both halves of an exit node, or none.
    let pair = ["0.0.0.0/0", "::/0"].map(|text| text.parse::<IpNet>().expect("a prefix"));
    let both = if prefix.prefix_len() == 0 { pair.to_vec() } else { vec![prefix] };
    for prefix in both {
        verb(&mut routes, prefix);
    }
    api.propose(&caller, Command::ApproveRoutes { node: node.id, routes }).await?;
    Ok(Reply(Empty {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_routes_stay() {
        let prefix: IpNet = "10.0.0.0/24".parse().unwrap();
        assert_eq!(route_id(NodeId(7), &prefix), route_id(NodeId(7), &prefix));
        assert_ne!(route_id(NodeId(7), &prefix), route_id(NodeId(8), &prefix));
        assert!(route_id(NodeId(7), &prefix) < 1 << 48);
    }
}
