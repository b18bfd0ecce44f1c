//! The rest of `/machine/…`: short answers.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use state_machine::codes;
use tailcfg::{HealthChangeRequest, from_client_json};

use super::{
    Control, Peer,
    body::{Answer, empty, json as json_answer, no},
};

/// Answers what is neither a registration nor a map request.
pub async fn answer(
    control: &Arc<Control>,
    peer: Peer,
    method: Method,
    path: &str,
    request: Request<Incoming>,
) -> Answer {
    match (method, path) {
        (Method::GET, "/machine/whoami") => {
            let nodes: Vec<_> = control
                .cluster
                .latest()
                .nodes_of_machine(&peer.machine_key)
                .iter()
                .map(|node| json!({"ID": node.id.0, "Name": node.given_name}))
                .collect();
            json_answer(&json!({"MachineKey": peer.machine_key, "Version": peer.version, "Nodes": nodes}))
        }
        // Clients up to 1.88 tell how they feel; nobody reads it here.
        (Method::POST, "/machine/update-health") => {
            let body = match control.read_body(request).await {
                Ok(body) => body,
                Err(answer) => return answer,
            };
            let Ok(told) = from_client_json::<HealthChangeRequest>(&body) else {
                return no(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, "malformed health report");
            };
            let state = control.state_with(|state| state.node_by_key(&told.node_key).is_some()).await;
            match state.node_by_key(&told.node_key) {
                Some(node) if node.machine_key == peer.machine_key => empty(StatusCode::NO_CONTENT),
                _ => no(StatusCode::NOT_FOUND, &codes::NOT_FOUND, "node not found"),
            }
        }
        (
            _,
            "/machine/id-token"
            | "/machine/feature/query"
            | "/machine/audit-log"
            | "/machine/set-device-attr"
            | "/machine/c2n",
        ) => no(StatusCode::NOT_IMPLEMENTED, &codes::NOT_SERVED, "not implemented by this server"),
        (_, path) if path.starts_with("/machine/tka/") || path.starts_with("/machine/webclient/") => {
            no(StatusCode::NOT_IMPLEMENTED, &codes::NOT_SERVED, "not implemented by this server")
        }
        _ => no(StatusCode::NOT_FOUND, &codes::NOT_SERVED, "no such path"),
    }
}
