//! Which key may do what: one table over the routes of REST and the methods of gRPC.
//!
//! A route without a row is for administrators only; a test finds it. What a user's key may see is cut out of the
//! request before a handler reads it: lists are asked for its user alone, a node must be its user's.

use axum::{
    extract::Request,
    http::{Uri, uri::PathAndQuery},
};
use state_machine::{Role, State, UserId};

use crate::{status::ApiError, v1::nodes};

/// What a key must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Any key at all.
    Key,
    /// Administrators and keys that may read everything.
    Look,
    /// Administrators.
    Change,
    /// Everybody reads; a user's key gets its own, because this parameter of the query is set to its user.
    LookOwn(&'static str),
    /// Everybody reads; a user's key only a node of its user.
    LookOwnNode,
    /// Administrators, and a user's key on a node of its user.
    ChangeOwnNode,
    /// Administrators, and a user's key on what the handler finds to be its user's.
    ChangeOwn,
}

use Need::{Change, ChangeOwn, ChangeOwnNode, Key, Look, LookOwn, LookOwnNode};

/// REST, below `/api/v1`.
#[rustfmt::skip]
const ROUTES: &[(&str, &str, Need)] = &[
    ("GET", "/user", LookOwn("id")),
    ("POST", "/user", Change),
    ("GET", "/user/{id}", Look),
    ("DELETE", "/user/{id}", Change),
    ("POST", "/user/{id}/rename/{name}", Change),
    ("GET", "/preauthkey", LookOwn("user")),
    ("POST", "/preauthkey", ChangeOwn),
    ("DELETE", "/preauthkey", ChangeOwn),
    ("POST", "/preauthkey/expire", ChangeOwn),
    ("GET", "/node", LookOwn("user")),
    ("POST", "/node/register", Change),
    ("POST", "/node/backfillips", Change),
    ("GET", "/node/{id}", LookOwnNode),
    ("DELETE", "/node/{id}", ChangeOwnNode),
    ("POST", "/node/{id}/tags", Change),
    ("POST", "/node/{id}/approve_routes", Change),
    ("POST", "/node/{id}/expire", ChangeOwnNode),
    ("POST", "/node/{id}/rename/{name}", ChangeOwnNode),
    ("POST", "/node/{id}/user", Change),
    ("GET", "/node/{id}/routes", LookOwnNode),
    ("POST", "/auth/register", Change),
    ("POST", "/auth/approve", Change),
    ("POST", "/auth/reject", Change),
    ("POST", "/debug/node", Change),
    ("GET", "/apikey", Look),
    ("POST", "/apikey", Change),
    ("POST", "/apikey/expire", Change),
    ("DELETE", "/apikey/{prefix}", Change),
    ("GET", "/policy", Look),
    ("PUT", "/policy", Change),
    // Asks and changes nothing, but at length.
    ("POST", "/policy/check", Look),
    ("GET", "/policy/history", Look),
    ("GET", "/health", Key),
    // Before 0.23.
    ("GET", "/machine", Look),
    ("POST", "/machine/register", Change),
    ("GET", "/machine/{id}", LookOwnNode),
    ("DELETE", "/machine/{id}", ChangeOwnNode),
    ("POST", "/machine/{id}/tags", Change),
    ("POST", "/machine/{id}/expire", ChangeOwnNode),
    ("POST", "/machine/{id}/rename/{name}", ChangeOwnNode),
    ("POST", "/machine/{id}/user", Change),
    ("GET", "/machine/{id}/routes", LookOwnNode),
    ("GET", "/routes", Look),
    ("POST", "/routes/{id}/enable", Change),
    ("POST", "/routes/{id}/disable", Change),
    ("DELETE", "/routes/{id}", Change),
    // Ours.
    ("GET", "/cluster/members", Look),
    ("DELETE", "/cluster/members/{id}", Change),
    ("POST", "/cluster/members/{id}/role", Change),
    ("POST", "/cluster/members/{id}/draining", Change),
    ("GET", "/cluster/status", Look),
    ("GET", "/cluster/audit", Look),
    ("GET", "/cluster/events", Look),
    ("GET", "/cluster/prometheus/nodes", Look),
    ("GET", "/cluster/prometheus/members", Look),
    // Holds hashes of every secret.
    ("GET", "/cluster/backup", Change),
    ("POST", "/cluster/recovery-key", Change),
    ("POST", "/cluster/recovery-key/confirm", Change),
    ("GET", "/cluster/drill", Look),
    ("POST", "/cluster/drill", Change),
    ("DELETE", "/cluster/drill", Change),
    ("DELETE", "/cluster/drill/{id}", Change),
    ("POST", "/cluster/drill/{id}/faults", Change),
    ("DELETE", "/cluster/drill/{id}/faults", Change),
    ("GET", "/cluster/certificates", Look),
    ("POST", "/cluster/certificates/renew", Change),
    ("POST", "/cluster/certificates/rotate", Change),
    ("POST", "/cluster/secrets/reseal", Change),
    ("POST", "/cluster/secrets/sealing-key", Change),
    ("GET", "/cluster/upgrade", Look),
    ("POST", "/cluster/upgrade/finalize", Change),
    ("POST", "/cluster/transfer-leader", Change),
    ("POST", "/cluster/verify", Change),
    ("GET", "/cluster/scrub", Look),
    ("POST", "/cluster/scrub", Change),
    ("GET", "/cluster/tokens", Look),
    ("POST", "/cluster/tokens", Change),
    ("DELETE", "/cluster/tokens/{id}", Change),
    ("POST", "/cluster/policy/check", Look),
    ("GET", "/cluster/policy/why", Look),
    ("POST", "/cluster/policy/impact", Look),
    ("POST", "/cluster/policy/rollback", Change),
    ("GET", "/cluster/ssh-checks", Look),
    ("POST", "/cluster/ssh-checks/{id}/approve", Change),
    ("POST", "/cluster/ssh-checks/{id}/reject", Change),
    ("GET", "/cluster/nodes/waiting", Look),
    ("POST", "/cluster/nodes/{id}/addresses", Change),
    ("POST", "/cluster/nodes/{id}/approval", Change),
    ("GET", "/cluster/users/ranges", Look),
    ("POST", "/cluster/users/{id}/ranges", Change),
    // URLs of receivers may be secrets.
    ("GET", "/cluster/webhooks", Change),
    ("POST", "/cluster/webhooks", Change),
    ("DELETE", "/cluster/webhooks/{id}", Change),
    ("POST", "/cluster/webhooks/{id}/test", Change),
    ("GET", "/cluster/import", Look),
    ("POST", "/cluster/import", Change),
    ("POST", "/cluster/export", Change),
];

/// gRPC, by method.
#[rustfmt::skip]
const METHODS: &[(&str, Need)] = &[
    ("CreateUser", Change), ("RenameUser", Change), ("DeleteUser", Change), ("ListUsers", Look),
    ("CreatePreAuthKey", Change), ("ExpirePreAuthKey", Change), ("DeletePreAuthKey", Change), ("ListPreAuthKeys", Look),
    ("DebugCreateNode", Change), ("GetNode", Look), ("SetTags", Change), ("SetApprovedRoutes", Change),
    ("RegisterNode", Change), ("DeleteNode", Change), ("ExpireNode", Change), ("RenameNode", Change),
    ("ListNodes", Look), ("BackfillNodeIPs", Change),
    ("AuthRegister", Change), ("AuthApprove", Change), ("AuthReject", Change),
    ("CreateApiKey", Change), ("ExpireApiKey", Change), ("ListApiKeys", Look), ("DeleteApiKey", Change),
    ("GetPolicy", Look), ("SetPolicy", Change), ("CheckPolicy", Look), ("Health", Key),
];

/// What a route needs. `path` is its template, with `/api/v1` or without.
pub fn of_route(method: &str, path: &str) -> Need {
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let method = if method == "HEAD" { "GET" } else { method };
    let row = ROUTES.iter().find(|(of, at, _)| *of == method && *at == path);
    row.map_or(Change, |(_, _, need)| *need)
}

/// What a method of gRPC needs.
pub fn of_method(name: &str) -> Need {
    METHODS.iter().find(|(of, _)| *of == name).map_or(Change, |(_, need)| *need)
}

/// Whether a role reaches so far; otherwise what its bearer is told.
pub fn check(role: Role, need: Need) -> Result<(), &'static str> {
    match (role, need) {
        (Role::Admin, _) | (_, Key) => Ok(()),
        (Role::ReadOnly, Look | LookOwn(_) | LookOwnNode) => Ok(()),
        (Role::ReadOnly, _) => Err("this API key may read only; use one made with role admin"),
        (Role::User, LookOwn(_) | LookOwnNode | ChangeOwnNode | ChangeOwn) => Ok(()),
        (Role::User, _) => Err("this API key reaches only what is its user's; use one made with role admin"),
    }
}

/// The request of a user's key, cut down to what is its user's. To it, nodes of others do not exist.
pub fn narrow(state: &State, user: UserId, need: Need, mut request: Request) -> Result<Request, ApiError> {
    match need {
        LookOwn(name) => {
            let given = request.uri().query().unwrap_or_default();
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair(name, &user.to_string());
            // Other ways to name a user would widen it again.
            let kept = url::form_urlencoded::parse(given.as_bytes());
            query.extend_pairs(kept.filter(|(key, _)| !matches!(key.as_ref(), "user" | "id" | "name" | "email")));
            let target = format!("{}?{}", request.uri().path(), query.finish());
            let mut parts = request.uri().clone().into_parts();
            let fits = |_| ApiError::invalid("the query cannot be read");
            parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(fits)?);
            *request.uri_mut() = Uri::from_parts(parts).map_err(|_| ApiError::invalid("the query cannot be read"))?;
            Ok(request)
        }
        LookOwnNode | ChangeOwnNode => {
            let path = request.uri().path();
            let mut parts = path.split('/').skip_while(|part| !matches!(*part, "node" | "machine")).skip(1);
            let named = parts.next().unwrap_or_default();
            let named: String = url::form_urlencoded::parse(format!("x={}", named.replace('+', "%2B")).as_bytes())
                .next()
                .map(|(_, value)| value.into_owned())
                .unwrap_or_default();
            let node = nodes::find(state, &named)?;
            match node.user == Some(user) && !node.is_tagged() {
                true => Ok(request),
                false => Err(ApiError::not_found(format!("node not found: {named:?}; see: hsraft nodes list"))),
            }
        }
        Key | Look | Change | ChangeOwn => Ok(request),
    }
}

#[cfg(test)]
pub use tests::routes_in;

#[cfg(test)]
mod tests {
    use super::*;

    /// `.route("/path", get(…).post(…))` in the sources, as method and path.
    pub fn routes_in(source: &str, below: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for piece in source.split(".route(").skip(1) {
            let piece = piece.trim_start();
            let Some(rest) = piece.strip_prefix('"') else { continue };
            let (path, rest) = rest.split_once('"').unwrap();
            let mut depth = 1;
            let end = rest.find(|c| {
                depth += match c {
                    '(' => 1,
                    ')' => -1,
                    _ => 0,
                };
                depth == 0
            });
            let handlers = &rest[..end.unwrap()];
            for method in ["get", "post", "put", "delete", "patch"] {
                let words = handlers.split(|c: char| !c.is_ascii_alphanumeric() && c != '(' && c != '_');
                if words.into_iter().any(|word| word.starts_with(&format!("{method}("))) {
                    found.push((method.to_uppercase(), format!("{below}{path}")));
                }
            }
        }
        found
    }

    fn all_routes() -> Vec<(String, String)> {
        let mut routes = routes_in(include_str!("v1.rs"), "");
        routes.extend(routes_in(include_str!("v1/legacy.rs"), ""));
        routes.extend(routes_in(include_str!("headscale/endpoint.rs"), ""));
        routes.extend(routes_in(include_str!("cluster.rs"), "/cluster"));
        routes
    }

    #[test]
    fn every_route_has_a_row() {
        let routes = all_routes();
        assert!(routes.len() >= 65, "{} routes were found", routes.len());
        for (method, path) in &routes {
            let rows = ROUTES.iter().filter(|(of, at, _)| of == method && at == path).count();
            assert_eq!(rows, 1, "{method} {path} needs one row in the table of admin/src/access.rs");
        }
        for (method, path, _) in ROUTES {
            let known = routes.iter().any(|(of, at)| of == method && at == path);
            assert!(known, "{method} {path} stands in the table and nowhere else");
        }
    }

    #[test]
    fn every_method_has_a_row() {
        let proto = include_str!("../proto/headscale/v1/headscale.proto");
        let methods: Vec<&str> =
            proto.split("rpc ").skip(1).map(|rest| rest.split('(').next().unwrap().trim()).collect();
        assert!(methods.len() >= 28, "{methods:?}");
        for method in methods {
            assert_eq!(METHODS.iter().filter(|(of, _)| *of == method).count(), 1, "{method}");
        }
    }

    #[test]
    fn roles_reach_so_far_and_no_further() {
        for (method, path, need) in ROUTES {
            assert_eq!(check(Role::Admin, *need), Ok(()), "{method} {path}");
            let asks = *method == "GET" || path.ends_with("/check") || path.ends_with("/impact");
            let may_read = asks && !["/cluster/backup", "/cluster/webhooks"].contains(path);
            assert_eq!(check(Role::ReadOnly, *need).is_ok(), may_read, "{method} {path}");
            if path.starts_with("/cluster") || path.starts_with("/apikey") || path.starts_with("/policy") {
                assert!(check(Role::User, *need).is_err(), "{method} {path}");
            }
        }
        assert_eq!(of_route("POST", "/api/v1/not/known"), Change);
        assert_eq!(of_method("NotKnown"), Change);
    }

    use std::{net::SocketAddr, sync::Arc};

    use axum::{
        body::Body,
        extract::ConnectInfo,
        http::{Request as HttpRequest, StatusCode},
    };
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use state_machine::{Command, PreAuthKey, Registration, UserId};
    use tower::ServiceExt;

    use crate::{cluster::Lines, lone::Lone};

    /// A call from 192.0.2.7 with a key, or by the socket without one.
    async fn call(lone: &Arc<Lone>, key: &str, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let mut request = HttpRequest::builder().method(method).uri(path);
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut request = request.body(Body::from(body.to_string())).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 1))));
        let answer = lone.router(key.is_empty()).oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Users ann and bob with a node each, one of tags, and a key of ann's.
    async fn tailnet() -> (Arc<Lone>, String) {
        let lone = Lone::new();
        for (number, name) in [(1u8, "ann"), (2, "bob"), (3, "web")] {
            let user = Command::CreateUser {
                name: name.into(),
                display_name: String::new(),
                email: String::new(),
                profile_pic_url: String::new(),
            };
            lone.apply(user).unwrap();
            let key = PreAuthKey {
                prefix: format!("{number}").repeat(12),
                secret_sha256: [number; 32],
                user: Some(UserId(number.into())),
                tags: if name == "web" { ["tag:web".to_owned()].into() } else { Default::default() },
                ..PreAuthKey::default()
            };
            let prefix = key.prefix.clone();
            lone.apply(Command::CreatePreAuthKey { key }).unwrap();
            let client = Registration {
                machine_key: tailcfg::MachineKey([number; 32]),
                node_key: tailcfg::NodeKey([number; 32]),
                hostname: format!("{name}s"),
                ..Registration::default()
            };
            lone.apply(Command::RegisterWithKey { client, prefix, secret_sha256: [number; 32] }).unwrap();
        }
        let (status, made) = call(&lone, "", "POST", "/api/v1/apikey", json!({ "role": "user", "user": "ann" })).await;
        assert_eq!(status, 200, "{made}");
        (lone, made["apiKey"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_users_key_reaches_what_is_the_users() {
        let (lone, key) = tailnet().await;
        let names = |nodes: &Value| {
            let nodes = nodes["nodes"].as_array().unwrap().iter();
            nodes.map(|node| node["givenName"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for query in ["", "?user=bob", "?user=2&user=bob", "?consistency=local&user="] {
            let (status, nodes) = call(&lone, &key, "GET", &format!("/api/v1/node{query}"), json!({})).await;
            assert_eq!((status.as_u16(), names(&nodes)), (200, vec!["anns".to_owned()]), "{query}");
        }
        let (_, users) = call(&lone, &key, "GET", "/api/v1/user?name=bob", json!({})).await;
        assert_eq!((users["users"].as_array().unwrap().len(), &users["users"][0]["name"]), (1, &json!("ann")));
        let (_, keys) = call(&lone, &key, "GET", "/api/v1/preauthkey", json!({})).await;
        assert_eq!(keys["preAuthKeys"].as_array().unwrap().len(), 1, "{keys}");

        let table = [
            ("GET", "/api/v1/node/1", json!({}), 200),
            ("GET", "/api/v1/node/2", json!({}), 404),
            ("GET", "/api/v1/node/bobs", json!({}), 404),
            ("GET", "/api/v1/node/%62obs", json!({}), 404),
            ("GET", "/api/v1/node/3", json!({}), 404),
            ("POST", "/api/v1/node/2/expire", json!({}), 404),
            ("DELETE", "/api/v1/node/3", json!({}), 404),
            ("DELETE", "/api/v1/machine/2", json!({}), 404),
            ("POST", "/api/v1/node/1/rename/desk", json!({}), 200),
            ("POST", "/api/v1/node/1/tags", json!({ "tags": ["tag:x"] }), 403),
            ("POST", "/api/v1/node/1/approve_routes", json!({ "routes": ["0.0.0.0/0"] }), 403),
            ("POST", "/api/v1/node/1/user", json!({ "user": "bob" }), 403),
            ("POST", "/api/v1/user", json!({ "name": "eve" }), 403),
            ("POST", "/api/v1/preauthkey", json!({ "user": "2" }), 403),
            ("POST", "/api/v1/preauthkey", json!({ "aclTags": ["tag:x"] }), 403),
            ("POST", "/api/v1/preauthkey", json!({ "user": "1", "aclTags": ["tag:x"] }), 403),
            ("POST", "/api/v1/preauthkey", json!({ "user": "ann" }), 200),
            ("POST", "/api/v1/preauthkey/expire", json!({ "id": "2" }), 404),
            ("DELETE", "/api/v1/preauthkey?id=3", json!({}), 404),
            ("POST", "/api/v1/preauthkey/expire", json!({ "id": "1" }), 200),
            ("GET", "/api/v1/apikey", json!({}), 403),
            ("POST", "/api/v1/apikey", json!({}), 403),
            ("GET", "/api/v1/policy", json!({}), 403),
            ("GET", "/api/v1/cluster/audit", json!({}), 403),
            ("GET", "/api/v1/health", json!({}), 200),
            ("GET", "/api/v1/nothing", json!({}), 404),
        ];
        for (method, path, body, expected) in table {
            let (status, said) = call(&lone, &key, method, path, body).await;
            assert_eq!(status.as_u16(), expected, "{method} {path}: {said}");
        }
        lone.apply(Command::DeleteNode { node: state_machine::NodeId(1) }).unwrap();
        lone.apply(Command::DeleteUser { user: UserId(1) }).unwrap();
        assert_eq!(call(&lone, &key, "GET", "/api/v1/node", json!({})).await.0, 401, "the key goes with its user");
    }

    #[tokio::test]
    async fn the_audit_log_says_who_and_holds_no_secret() {
        let (lone, key) = tailnet().await;
        call(&lone, &key, "POST", "/api/v1/node/1/rename/desk", json!({})).await;
        let (_, made) = call(&lone, &key, "POST", "/api/v1/preauthkey", json!({ "user": "ann" })).await;
        let secret = made["preAuthKey"]["key"].as_str().unwrap().rsplit('-').next().unwrap().to_owned();
        let (status, log) = call(&lone, "", "GET", "/api/v1/cluster/audit", json!({})).await;
        assert_eq!(status, 200);
        let lines: Lines = serde_json::from_value(log.clone()).unwrap();
        let own = &key["hskey-api-".len() + 13..];
        for text in [secret.as_str(), own, "secret_sha256"] {
            assert!(!log.to_string().contains(text), "{log}");
        }
        let renamed =
            log["rows"].as_array().unwrap().iter().find(|row| row["record"]["what"] == "rename node").unwrap();
        let by = renamed["record"]["by"].as_str().unwrap();
        assert!(by.starts_with("api key ") && renamed["record"]["from"] == "192.0.2.7", "{renamed}");
        assert_eq!(renamed["record"]["changes"][0]["before"]["name"], "anns");
        assert_eq!((lines.first, lines.last), (1, lines.rows.len() as u64));
        // Pages and filters.
        let (_, page) = call(&lone, "", "GET", "/api/v1/cluster/audit?after=2&limit=2", json!({})).await;
        assert_eq!(page["rows"].as_array().unwrap().len(), 2);
        assert_eq!(page["rows"][0]["record"]["number"], 3);
        let (_, found) = call(&lone, "", "GET", "/api/v1/cluster/audit?by=api%20key&object=node", json!({})).await;
        assert_eq!(found["rows"].as_array().unwrap().len(), 1, "{found}");
        let (status, _) = call(&lone, "", "GET", "/api/v1/cluster/audit?after=x", json!({})).await;
        assert_eq!(status, 400);
    }
}
