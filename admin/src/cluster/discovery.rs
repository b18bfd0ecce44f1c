//! `/api/v1/cluster/prometheus`: what there is to scrape, in the form of Prometheus' `http_sd_configs`.
//!
//! Labels begin with `__meta_`, so that nothing of them stays unless a rule takes it over.

use std::{collections::BTreeMap, net::SocketAddr};

use axum::{Json as Reply, extract::State as Shared};
use serde::Serialize;
use state_machine::{JoinRole, MemberState};

use crate::{
    Api,
    request::{Query, number},
    status::ApiError,
    v1::users,
};

/// One target and what is known of it.
#[derive(Debug, Serialize)]
pub struct Target {
    targets: Vec<String>,
    labels: BTreeMap<&'static str, String>,
}

fn port(query: &Query, usual: u16) -> Result<u16, ApiError> {
    let Some(text) = query.get("port") else { return Ok(usual) };
    let port = u16::try_from(number("port", text)?).ok().filter(|port| *port > 0);
    port.ok_or_else(|| ApiError::invalid(format!("{text} is not a port")))
}

/// `GET /prometheus/nodes?port=9100&user=&tag=&online=`: each node by its address in the tailnet.
pub(crate) async fn nodes(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Vec<Target>>, ApiError> {
    let (state, port) = (api.read(&query).await?, port(&query, 9100)?);
    let owner = query.get("user").map(|text| users::find(&state, text)).transpose()?.map(|user| user.id);
    let online = match query.get("online") {
        None => None,
        Some("true" | "1") => Some(true),
        Some("false" | "0") => Some(false),
        Some(other) => return Err(ApiError::invalid(format!("online is {other:?}; it can be true or false"))),
    };
    let mut targets = Vec::new();
    for node in state.nodes().values() {
        let is_online = state.is_online(node.id);
        let mine = owner.is_none() || (!node.is_tagged() && node.user == owner);
        let tagged = query.get("tag").is_none_or(|tag| node.tags.contains(tag));
        if !mine || !tagged || online.is_some_and(|wanted| wanted != is_online) {
            continue;
        }
        let address = node.ipv4.map(Into::into).or(node.ipv6.map(Into::into));
        let Some(address) = address else { continue };
        let user = match node.is_tagged() {
            true => users::tagged_devices().name,
            false => node.user.and_then(|id| state.user(id)).map(|user| users::view(user).name).unwrap_or_default(),
        };
        // Commas at both ends, as Prometheus' own discoveries have it: a rule can look for `,tag:web,`.
        let tags = match node.tags.is_empty() {
            true => String::new(),
            false => format!(",{},", node.tags.iter().cloned().collect::<Vec<_>>().join(",")),
        };
        targets.push(Target {
            targets: vec![SocketAddr::new(address, port).to_string()],
            labels: BTreeMap::from([
                ("__meta_hsraft_node_id", node.id.to_string()),
                ("__meta_hsraft_node_name", node.given_name.clone()),
                ("__meta_hsraft_node_hostname", node.hostname.clone()),
                ("__meta_hsraft_node_online", is_online.to_string()),
                ("__meta_hsraft_node_os", node.hostinfo.os.clone()),
                ("__meta_hsraft_node_tags", tags),
                ("__meta_hsraft_node_user", user),
            ]),
        });
    }
    Ok(Reply(targets))
}

/// `GET /prometheus/members?port=9090`: each member by the host other members dial.
pub(crate) async fn members(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Vec<Target>>, ApiError> {
    let (state, port) = (api.read(&query).await?, port(&query, 9090)?);
    let active = state.members().values().filter(|member| member.state == MemberState::Active);
    let target = |member: &state_machine::Member| {
        let host = member.peer_address.rsplit_once(':').map_or(member.peer_address.as_str(), |(host, _)| host);
        let role = match member.role {
            JoinRole::Voter => "voter",
            JoinRole::Learner => "learner",
        };
        Target {
            targets: vec![format!("{host}:{port}")],
            labels: BTreeMap::from([
                ("__meta_hsraft_member_id", member.id.to_string()),
                ("__meta_hsraft_member_name", member.name.clone()),
                ("__meta_hsraft_member_role", role.to_owned()),
                ("__meta_hsraft_member_version", member.version.clone()),
            ]),
        }
    };
    Ok(Reply(active.map(|member| target(member)).collect()))
}
