//! `/api/v1/node`: the machines of the tailnet.

pub(crate) mod pages;

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
    response::Response,
};
use ipnet::IpNet;
use serde::Deserialize;
use state_machine::{Command, NodeId, State, Timestamp};

use super::{
    pre_auth_keys,
    types::{self, Changes, Node, OneNode, RegisterMethod},
    users,
};
use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query},
    status::ApiError,
};

/// A node as the wire shows it.
pub(crate) fn view(state: &State, node: &state_machine::Node) -> Node {
    let primary = state.primaries().iter().filter(|(_, by)| **by == node.id).map(|(route, _)| *route);
    view_with(state, node, primary)
}

/// A node, when it is known already which routes it is primary for: a list asks once for all its nodes.
fn view_with(state: &State, node: &state_machine::Node, primary: impl Iterator<Item = IpNet>) -> Node {
    let presence = state.presence(node.id);
    let user = match node.is_tagged() {
        true => Some(users::tagged_devices()),
        false => node.user.and_then(|id| state.user(id)).map(|user| users::view(user)),
    };
    let tags: Vec<String> = node.tags.iter().cloned().collect();
    Node {
        id: node.id.0,
        machine_key: node.machine_key.to_string(),
        node_key: node.node_key.to_string(),
        disco_key: if node.disco_key.is_zero() { String::new() } else { node.disco_key.to_string() },
        ip_addresses: addresses(node),
        name: node.hostname.clone(),
        user,
        last_seen: presence.and_then(|presence| presence.last_seen),
        expiry: node.expiry,
        pre_auth_key: node
            .pre_auth_key
            .and_then(|id| state.pre_auth_keys().get(&id))
            .map(|key| pre_auth_keys::view(state, key)),
        created_at: Some(node.created_at),
        register_method: match node.register_method {
            state_machine::RegisterMethod::AuthKey => RegisterMethod::AuthKey,
            state_machine::RegisterMethod::Cli => RegisterMethod::Cli,
            state_machine::RegisterMethod::Oidc => RegisterMethod::Oidc,
        },
        given_name: node.given_name.clone(),
        online: state.is_online(node.id),
        approved_routes: texts(&node.approved_routes),
        available_routes: texts(&node.hostinfo.routable_ips),
        subnet_routes: texts(&served(node, primary)),
        forced_tags: tags.clone(),
        tags,
        valid_tags: Vec::new(),
        invalid_tags: Vec::new(),
    }
}

fn addresses(node: &state_machine::Node) -> Vec<String> {
    let v4 = node.ipv4.map(|address| address.to_string());
    let v6 = node.ipv6.map(|address| address.to_string());
    v4.into_iter().chain(v6).collect()
}

fn texts(routes: &BTreeSet<IpNet>) -> Vec<String> {
    routes.iter().map(ToString::to_string).collect()
}

/// What the node serves at the moment: subnet routes it is primary for, and its approved exit routes.
fn served(node: &state_machine::Node, primary: impl Iterator<Item = IpNet>) -> BTreeSet<IpNet> {
    primary.chain(node.enabled_routes().filter(|route| route.prefix_len() == 0)).collect()
}

/// The node somebody named by id or given name.
pub(crate) fn find<'a>(state: &'a State, text: &str) -> Result<&'a Arc<state_machine::Node>, ApiError> {
    let by_id = text.trim().parse().ok().and_then(|id| state.node(NodeId(id)));
    by_id
        .or_else(|| state.node_by_name(text.trim()))
        .ok_or_else(|| ApiError::not_found(format!("node not found: {text:?}; see: hsraft nodes list")))
}

/// One node, as every change answers.
pub(crate) fn reply(state: &State, id: NodeId) -> Result<Reply<OneNode>, ApiError> {
    let node = state.node(id).ok_or_else(|| ApiError::not_found("node not found"))?;
    Ok(Reply(OneNode { node: view(state, node) }))
}

/// `GET /node?user=`; ours: `limit=` and `after=`, a node's id, for page after page.
pub(crate) async fn list(Shared(api): Shared<Api>, query: Query) -> Result<Response, ApiError> {
    Ok(pages::asked(api.read(&query).await?, &query)?.written("nodes"))
}

/// What [`list`] writes, in one piece.
pub(crate) async fn gathered(api: &Api, query: &Query) -> Result<Vec<Node>, ApiError> {
    Ok(pages::asked(api.read(query).await?, query)?.collect())
}

/// `GET /node/{id}`.
pub(crate) async fn one(
    Shared(api): Shared<Api>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Reply<OneNode>, ApiError> {
    let state = api.read(&query).await?;
    let id = find(&state, &id)?.id;
    reply(&state, id)
}

/// `DELETE /node/{id}`.
pub(crate) async fn delete(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Reply<Empty>, ApiError> {
    let node = find(&*api.current().await?, &id)?.id;
    api.propose(&caller, Command::DeleteNode { node }).await?;
    Ok(Reply(Empty {}))
}

/// The tags that shall be, all of them.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Tags {
    pub tags: BTreeSet<String>,
}

/// `POST /node/{id}/tags`.
pub(crate) async fn set_tags(
    shared: Shared<Api>,
    caller: Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Tags>,
) -> Result<Reply<OneNode>, ApiError> {
    if wish.tags.is_empty() {
        return Err(ApiError::invalid(
            "cannot remove all tags: a tagged node has no user to fall back to; log it in again to give it one",
        ));
    }
    change(shared, caller, &id, |node| Command::SetNodeTags { node, tags: wish.tags }).await
}

/// The routes that shall be approved, all of them.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Routes {
    pub routes: Vec<String>,
}

/// `POST /node/{id}/approve_routes`.
pub(crate) async fn approve_routes(
    shared: Shared<Api>,
    caller: Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Routes>,
) -> Result<Reply<OneNode>, ApiError> {
    let routes = parse_routes(&wish.routes)?;
    change(shared, caller, &id, |node| Command::ApproveRoutes { node, routes }).await
}

/// Reads prefixes or single addresses. An exit node is offered for both families or not at all.
pub(crate) fn parse_routes(texts: &[String]) -> Result<BTreeSet<IpNet>, ApiError> {
    let mut routes = BTreeSet::new();
    for text in texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        let route = text.parse::<IpNet>().or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()));
        let route = route.map_err(|_| ApiError::invalid(format!("{text:?} is not a route, such as 10.0.0.0/24")))?;
        routes.insert(route.trunc());
    }
    if routes.iter().any(|route| route.prefix_len() == 0) {
        routes.extend(["0.0.0.0/0", "::/0"].map(|text| text.parse::<IpNet>().expect("a prefix")));
    }
    Ok(routes)
}

/// When the node key shall end.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Expire {
    #[serde(deserialize_with = "types::moment::deserialize")]
    pub expiry: Option<Timestamp>,
    pub disable_expiry: bool,
}

/// `POST /node/{id}/expire`: now, or at `expiry`, or never. In the query as 0.29 has it, in the body as 0.30.
pub(crate) async fn expire(
    shared: Shared<Api>,
    caller: Extension<Caller>,
    Path(id): Path<String>,
    query: Query,
    Json(wish): Json<Expire>,
) -> Result<Reply<OneNode>, ApiError> {
    let in_query = query.get("expiry").map(types::parse_moment).transpose().map_err(ApiError::invalid)?.flatten();
    let never = wish.disable_expiry || query.is_true("disableExpiry");
    let expiry = match (in_query.or(wish.expiry), never) {
        (Some(_), true) => return Err(ApiError::invalid("give an expiry or disable it, not both")),
        (None, true) => None,
        (at, false) => Some(at.unwrap_or_else(|| shared.now())),
    };
    change(shared, caller, &id, |node| Command::SetNodeExpiry { node, expiry }).await
}

/// `POST /node/{id}/rename/{name}`.
pub(crate) async fn rename(
    shared: Shared<Api>,
    caller: Extension<Caller>,
    Path((id, name)): Path<(String, String)>,
) -> Result<Reply<OneNode>, ApiError> {
    change(shared, caller, &id, |node| Command::RenameNode { node, name }).await
}

/// The new owner, by id or name.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Give {
    #[serde(deserialize_with = "types::name::deserialize")]
    pub user: String,
}

/// `POST /node/{id}/user`: gives the node to another user.
pub(crate) async fn give(
    shared: Shared<Api>,
    caller: Extension<Caller>,
    Path(id): Path<String>,
    query: Query,
    Json(wish): Json<Give>,
) -> Result<Reply<OneNode>, ApiError> {
    let user = users::find(&*shared.current().await?, query.or("user", &wish.user))?.id;
    change(shared, caller, &id, |node| Command::MoveNode { node, user }).await
}

/// `POST /node/backfillips?confirmed=true`: addresses for nodes that lack one.
pub(crate) async fn backfill(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    query: Query,
) -> Result<Reply<Changes>, ApiError> {
    if !query.is_true("confirmed") {
        return Err(ApiError::invalid("not confirmed, aborting; say confirmed=true"));
    }
    let before = api.current().await?;
    api.propose(&caller, Command::BackfillAddresses { seed: api.seed() }).await?;
    Ok(Reply(Changes { changes: address_changes(&before, &api.backend.latest()) }))
}

fn address_changes(before: &State, after: &State) -> Vec<String> {
    let mut changes = Vec::new();
    for (id, node) in after.nodes() {
        let had = before.node(*id).map(|node| addresses(node)).unwrap_or_default();
        let has = addresses(node);
        let name = &node.given_name;
        changes.extend(
            has.iter()
                .filter(|address| !had.contains(address))
                .map(|address| format!("assigned {address} to node {id} ({name})")),
        );
        changes.extend(
            had.iter()
                .filter(|address| !has.contains(address))
                .map(|address| format!("removed {address} from node {id} ({name})")),
        );
    }
    changes
}

async fn change(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    id: &str,
    command: impl FnOnce(NodeId) -> Command,
) -> Result<Reply<OneNode>, ApiError> {
    let node = find(&*api.current().await?, id)?.id;
    api.propose(&caller, command(node)).await?;
    reply(&api.backend.latest(), node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_routes_travel_together() {
        let routes = parse_routes(&["10.1.2.3/8".into(), " ".into(), "::/0".into(), "192.0.2.7".into()]).unwrap();
        let texts: Vec<_> = routes.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32", "::/0"]);
        assert!(parse_routes(&["everywhere".into()]).is_err());
        assert!(parse_routes(&[]).unwrap().is_empty());
    }
}
