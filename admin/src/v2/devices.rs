//! Machines, as Tailscale calls them.

use std::collections::BTreeSet;

use axum::{
    Extension, Json as Reply,
    extract::{Path, RawQuery, State as Shared},
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use state_machine::{Command, Node, NodeId, State};

use super::{done, scope::Grant, users::login_name};
use crate::{
    Api,
    auth::Caller,
    request::{Json, Query},
    status::ApiError,
    v1::nodes,
};

/// How Tailscale writes "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// How long a node key lives from now when it shall end again and no `node.expiry` is set: 180 days, as Tailscale's.
const KEY_LIFE_SECS: u64 = 180 * 24 * 3600;

/// One machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    addresses: Vec<String>,
    /// With the base domain.
    name: String,
    id: String,
    node_id: String,
    authorized: bool,
    user: String,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    tags: BTreeSet<String>,
    key_expiry_disabled: bool,
    blocks_incoming_connections: bool,
    client_version: String,
    created: String,
    expires: String,
    hostname: String,
    is_ephemeral: bool,
    is_external: bool,
    connected_to_control: bool,
    /// Not told of who is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
    machine_key: String,
    node_key: String,
    os: String,
    tailnet_lock_error: &'static str,
    tailnet_lock_key: String,
    update_available: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advertised_routes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled_routes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_connectivity: Option<Value>,
}

fn view(state: &State, node: &Node, all: bool) -> Device {
    let online = state.is_online(node.id);
    let user = match node.is_tagged() {
        true => "tagged-devices".to_owned(),
        false => node.user.and_then(|id| state.user(id)).map(|user| login_name(user)).unwrap_or_default(),
    };
    let domain = &state.settings().base_domain;
    let (v4, v6) = (node.ipv4.map(|ip| ip.to_string()), node.ipv6.map(|ip| ip.to_string()));
    Device {
        addresses: v4.into_iter().chain(v6).collect(),
        name: if domain.is_empty() { node.given_name.clone() } else { format!("{}.{domain}", node.given_name) },
        id: node.id.to_string(),
        node_id: node.id.to_string(),
        authorized: !node.unapproved,
        user,
        tags: node.tags.clone(),
        key_expiry_disabled: node.expiry.is_none(),
        blocks_incoming_connections: hostinfo(node)["ShieldsUp"] == true,
        client_version: node.hostinfo.ipn_version.clone(),
        created: node.created_at.to_string(),
        expires: node.expiry.map_or_else(|| NEVER.to_owned(), |at| at.to_string()),
        hostname: node.hostname.clone(),
        is_ephemeral: node.ephemeral,
        is_external: false,
        connected_to_control: online,
        last_seen: state.presence(node.id).and_then(|it| it.last_seen).filter(|_| !online).map(|at| at.to_string()),
        machine_key: node.machine_key.to_string(),
        node_key: node.node_key.to_string(),
        os: node.hostinfo.os.clone(),
        tailnet_lock_error: "",
        tailnet_lock_key: String::new(),
        update_available: false,
        ssh_enabled: all.then_some(node.hostinfo.ssh_server),
        advertised_routes: all.then(|| node.hostinfo.routable_ips.iter().map(ToString::to_string).collect()),
        enabled_routes: all.then(|| node.approved_routes.iter().map(ToString::to_string).collect()),
        client_connectivity: all.then(|| {
            let endpoints: Vec<String> = node.endpoints.iter().map(|endpoint| endpoint.addr.to_string()).collect();
            let derp = if node.home_derp == 0 { String::new() } else { node.home_derp.to_string() };
            json!({ "endpoints": endpoints, "derp": derp })
        }),
    }
}

fn hostinfo(node: &Node) -> Value {
    serde_json::from_str(&node.hostinfo.raw).unwrap_or_default()
}

/// What a list may be cut down by, and whether a machine has that.
fn has(device: &Device, name: &str, value: &str) -> Result<bool, ApiError> {
    let flag = |is: bool| value == if is { "true" } else { "false" };
    Ok(match name {
        "addresses" => device.addresses.iter().any(|address| address == value),
        "authorized" => flag(device.authorized),
        "connectedToControl" => flag(device.connected_to_control),
        "hostname" => device.hostname == value,
        "id" | "nodeId" => device.id == value,
        "isEphemeral" => flag(device.is_ephemeral),
        "keyExpiryDisabled" => flag(device.key_expiry_disabled),
        "name" => device.name == value || device.name.split('.').next() == Some(value),
        "os" => device.os.eq_ignore_ascii_case(value),
        "tags" => device.tags.contains(value),
        "user" => device.user == value,
        _ => {
            return Err(ApiError::invalid(format!(
                "no such filter: {name:?}; there are addresses, authorized, connectedToControl, hostname, id, \
                 isEphemeral, keyExpiryDisabled, name, nodeId, os, tags and user"
            )));
        }
    })
}

/// Machines in a list.
#[derive(Serialize)]
pub struct Devices {
    devices: Vec<Device>,
}

/// `GET devices?fields=all`, and filters: of one name any value, of several names each.
pub async fn list(Shared(api): Shared<Api>, query: Query, RawQuery(raw): RawQuery) -> Result<Reply<Devices>, ApiError> {
    let state = api.read(&query).await?;
    let raw = raw.unwrap_or_default();
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(raw.as_bytes()).into_owned().collect();
    let filters: Vec<_> = pairs.iter().filter(|(name, _)| !matches!(name.as_str(), "fields" | "consistency")).collect();
    let all = query.get("fields") == Some("all");
    let mut devices = Vec::new();
    for node in state.nodes().values() {
        let device = view(&state, node, all);
        let mut fits = true;
        for (name, _) in &filters {
            let mut any = false;
            for (_, value) in filters.iter().filter(|(other, _)| other == name) {
                any |= has(&device, name, value)?;
            }
            fits &= any;
        }
        if fits {
            devices.push(device);
        }
    }
    Ok(Reply(Devices { devices }))
}

/// `GET device/{id}?fields=all`.
pub async fn one(Shared(api): Shared<Api>, Path(id): Path<String>, query: Query) -> Result<Reply<Device>, ApiError> {
    let state = api.read(&query).await?;
    let node = nodes::find(&state, &id)?;
    Ok(Reply(view(&state, node, query.get("fields") == Some("all"))))
}

async fn change(
    api: &Api,
    caller: &Caller,
    id: &str,
    command: impl FnOnce(NodeId) -> Command,
) -> Result<Response, ApiError> {
    let node = nodes::find(&*api.current().await?, id)?.id;
    api.propose(caller, command(node)).await?;
    Ok(done())
}

/// `DELETE device/{id}`.
pub async fn delete(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    change(&api, &caller, &id, |node| Command::DeleteNode { node }).await
}

/// Whether a machine shall be let in.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Authorize {
    authorized: bool,
}

/// `POST device/{id}/authorized`.
pub async fn authorize(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Authorize>,
) -> Result<Response, ApiError> {
    let approved = wish.authorized;
    // A provider says at every apply what is so already.
    if nodes::find(&*api.current().await?, &id)?.unapproved != approved {
        return Ok(done());
    }
    change(&api, &caller, &id, |node| Command::SetNodeApproval { node, approved }).await
}

/// An address of the tailnet.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Address {
    ipv4: String,
}

/// `POST device/{id}/ip`.
pub async fn set_address(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Address>,
) -> Result<Response, ApiError> {
    let ipv4 = wish.ipv4.trim().parse();
    let ipv4 = ipv4.map_err(|_| ApiError::invalid(format!("{:?} is not an IPv4 address", wish.ipv4)))?;
    change(&api, &caller, &id, |node| Command::SetNodeAddresses { node, ipv4: Some(ipv4), ipv6: None }).await
}

/// A name, with the base domain or without.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Rename {
    name: String,
}

/// `POST device/{id}/name`.
pub async fn rename(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Rename>,
) -> Result<Response, ApiError> {
    let state = api.current().await?;
    let wished = wish.name.trim().trim_end_matches('.');
    let name = wished.strip_suffix(&format!(".{}", state.settings().base_domain)).unwrap_or(wished).to_owned();
    // Saying the name it has again is no change; a provider does so at every apply.
    if nodes::find(&state, &id)?.given_name == name {
        return Ok(done());
    }
    change(&api, &caller, &id, |node| Command::RenameNode { node, name }).await
}

/// All tags a machine shall have.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Tags {
    tags: Option<BTreeSet<String>>,
}

/// `POST device/{id}/tags`.
pub async fn set_tags(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Extension(grant): Extension<Grant>,
    Path(id): Path<String>,
    Json(wish): Json<Tags>,
) -> Result<Response, ApiError> {
    let tags = wish.tags.unwrap_or_default();
    let state = api.current().await?;
    let node = nodes::find(&state, &id)?;
    if tags == node.tags {
        return Ok(done());
    }
    if tags.is_empty() {
        return Err(ApiError::invalid(
            "cannot remove all tags: a tagged node has no user to fall back to; log it in again to give it one",
        ));
    }
    if !grant.tags.is_empty() && !tags.is_subset(&grant.tags) {
        return Err(ApiError::forbidden("this client may give its own tags only"));
    }
    change(&api, &caller, &id, |node| Command::SetNodeTags { node, tags }).await
}

/// Whether a machine's key ends.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Key {
    key_expiry_disabled: bool,
}

/// `POST device/{id}/key`.
pub async fn set_key(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Key>,
) -> Result<Response, ApiError> {
    let state = api.current().await?;
    if nodes::find(&state, &id)?.expiry.is_none() == wish.key_expiry_disabled {
        return Ok(done());
    }
    let life = match state.settings().node_expiry_secs {
        0 => KEY_LIFE_SECS,
        secs => secs,
    };
    let expiry = (!wish.key_expiry_disabled).then(|| api.now().after(std::time::Duration::from_secs(life)));
    change(&api, &caller, &id, |node| Command::SetNodeExpiry { node, expiry }).await
}

/// `POST device/{id}/expire`: now.
pub async fn expire(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let expiry = Some(api.now());
    change(&api, &caller, &id, |node| Command::SetNodeExpiry { node, expiry }).await
}

fn told(node: &Node) -> Value {
    let texts = |routes: &BTreeSet<ipnet::IpNet>| routes.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({ "advertisedRoutes": texts(&node.hostinfo.routable_ips), "enabledRoutes": texts(&node.approved_routes) })
}

/// `GET device/{id}/routes`.
pub async fn routes(Shared(api): Shared<Api>, Path(id): Path<String>, query: Query) -> Result<Reply<Value>, ApiError> {
    let state = api.read(&query).await?;
    Ok(Reply(told(nodes::find(&state, &id)?)))
}

/// All routes a machine shall be allowed.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Routes {
    routes: Option<Vec<String>>,
}

/// `POST device/{id}/routes`.
pub async fn set_routes(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Routes>,
) -> Result<Reply<Value>, ApiError> {
    let routes = nodes::parse_routes(&wish.routes.unwrap_or_default())?;
    change(&api, &caller, &id, |node| Command::ApproveRoutes { node, routes }).await?;
    let state = api.backend.latest();
    Ok(Reply(told(nodes::find(&state, &id)?)))
}

/// `GET device/{id}/attributes`: what is known of a machine; nothing else can be attached to one.
pub async fn attributes(
    Shared(api): Shared<Api>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Reply<Value>, ApiError> {
    let state = api.read(&query).await?;
    let node = nodes::find(&state, &id)?;
    Ok(Reply(json!({
        "attributes": { "node:os": node.hostinfo.os, "node:tsVersion": node.hostinfo.ipn_version },
        "expiries": {},
    })))
}
