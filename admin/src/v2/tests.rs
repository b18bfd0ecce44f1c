//! The requests programs for Tailscale's API make, in their shapes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{HeaderMap, Request, StatusCode},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use state_machine::{Command, PreAuthKey, Registration};
use tower::ServiceExt;

use crate::lone::Lone;

/// One who calls: headers besides the usual.
#[derive(Clone, Copy)]
enum By<'a> {
    Socket,
    Nobody,
    Bearer(&'a str),
    Basic(&'a str, &'a str),
}

async fn send(
    lone: &Arc<Lone>,
    by: By<'_>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request = match by {
        By::Socket | By::Nobody => request,
        By::Bearer(text) => request.header("authorization", format!("Bearer {text}")),
        By::Basic(name, word) => {
            let both = BASE64_STANDARD.encode(format!("{name}:{word}"));
            request.header("authorization", format!("Basic {both}"))
        }
    };
    let mut request = request.body(Body::from(body)).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 1))));
    let answer = lone.router(matches!(by, By::Socket)).oneshot(request).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
}

async fn call(lone: &Arc<Lone>, by: By<'_>, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, _, text) = send(lone, by, method, path, &[], body).await;
    (status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn ok(lone: &Arc<Lone>, by: By<'_>, method: &str, path: &str, body: Value) -> Value {
    let (status, value) = call(lone, by, method, path, body).await;
    assert_eq!(status, 200, "{method} {path}: {value}");
    value
}

/// Refused, in the form programs read.
async fn no(lone: &Arc<Lone>, by: By<'_>, method: &str, path: &str, body: Value, expected: u16) -> String {
    let (status, value) = call(lone, by, method, path, body).await;
    assert_eq!((status, &value["status"]), (expected, &json!(expected)), "{method} {path}: {value}");
    value["message"].as_str().unwrap().to_owned()
}

/// Two nodes of tags, and a user.
fn tailnet() -> Arc<Lone> {
    let lone = Lone::new();
    let user = Command::CreateUser {
        name: "ann".into(),
        display_name: "Ann".into(),
        email: "ann@example.com".into(),
        profile_pic_url: String::new(),
    };
    lone.apply(user).unwrap();
    let key = PreAuthKey {
        prefix: "k".repeat(12),
        reusable: true,
        tags: ["tag:k8s".to_owned()].into(),
        ..PreAuthKey::default()
    };
    lone.apply(Command::CreatePreAuthKey { key }).unwrap();
    for number in [1, 2] {
        let client = Registration {
            machine_key: tailcfg::MachineKey([number; 32]),
            node_key: tailcfg::NodeKey([number; 32]),
            hostname: format!("node{number}"),
            ..Registration::default()
        };
        let prefix = "k".repeat(12);
        lone.apply(Command::RegisterWithKey { client, prefix, secret_sha256: [0; 32] }).unwrap();
    }
    lone
}

/// Id and secret of a new client.
async fn client(lone: &Arc<Lone>, scopes: &[&str]) -> (String, String) {
    let wish = json!({ "keyType": "client", "scopes": scopes, "tags": ["tag:k8s"], "description": "operator" });
    let made = ok(lone, By::Socket, "POST", "/api/v2/tailnet/-/keys", wish).await;
    assert_eq!((&made["keyType"], &made["description"]), (&json!("client"), &json!("operator")));
    let secret = made["key"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("hskey-client-"));
    (made["id"].as_str().unwrap().to_owned(), secret)
}

async fn token(lone: &Arc<Lone>, form: &str, by: By<'_>) -> (u16, Value) {
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let (status, _, text) = send(lone, by, "POST", "/api/v2/oauth/token", &headers, form.to_owned()).await;
    (status.as_u16(), serde_json::from_str(&text).unwrap())
}

async fn token_of(lone: &Arc<Lone>, scopes: &[&str]) -> String {
    let (id, secret) = client(lone, scopes).await;
    let (status, told) = token(lone, "grant_type=client_credentials", By::Basic(&id, &secret)).await;
    assert_eq!((status, &told["token_type"], &told["expires_in"]), (200, &json!("Bearer"), &json!(3600)), "{told}");
    told["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_reaches_as_far_as_its_scopes() {
    let lone = tailnet();
    let token = token_of(&lone, &["devices:core:read", "dns"]).await;
    let by = By::Bearer(&token);
    assert_eq!(
        ok(&lone, by, "GET", "/api/v2/tailnet/-/devices", Value::Null).await["devices"][1]["name"],
        "node2.tail.example.net"
    );
    ok(&lone, by, "POST", "/api/v2/tailnet/-/dns/searchpaths", json!({ "searchPaths": ["corp.example.com"] })).await;
    for (method, path, body) in [
        ("DELETE", "/api/v2/device/1", Value::Null),
        ("POST", "/api/v2/device/1/name", json!({ "name": "desk" })),
        ("GET", "/api/v2/device/1/routes", Value::Null),
        ("GET", "/api/v2/tailnet/-/acl", Value::Null),
        ("GET", "/api/v2/tailnet/-/keys", Value::Null),
        ("POST", "/api/v2/tailnet/-/keys", json!({})),
        ("GET", "/api/v2/tailnet/-/users", Value::Null),
        ("PATCH", "/api/v2/tailnet/-/settings", json!({})),
    ] {
        let why = no(&lone, by, method, path, body, 403).await;
        assert!(why.contains("scope"), "{why}");
    }
    let (_, told) = call(&lone, by, "GET", "/api/v1/node", Value::Null).await;
    assert_eq!(told, "Unauthorized", "a token is for /api/v2 alone");
}

#[tokio::test]
async fn tokens_end_and_cannot_be_made_up() {
    let lone = tailnet();
    let (id, secret) = client(&lone, &["devices:core:read"]).await;
    let form = |more: &str| format!("grant_type=client_credentials&client_id={id}&client_secret={secret}{more}");
    let (status, told) = token(&lone, &form("&scope=devices:read"), By::Nobody).await;
    assert_eq!((status, &told["scope"]), (200, &json!("devices:core:read")), "an older name for it: {told}");
    let good = told["access_token"].as_str().unwrap().to_owned();
    for (form, error, status) in [
        (form("&scope=all"), "invalid_scope", 400),
        (form("&scope=nonsense"), "invalid_scope", 400),
        (form("x"), "invalid_client", 401),
        (form("").replace(&id, "other-client"), "invalid_client", 401),
        ("grant_type=password".to_owned(), "unsupported_grant_type", 400),
        (String::new(), "invalid_client", 401),
    ] {
        let (told_status, told) = token(&lone, &form, By::Nobody).await;
        assert_eq!((told_status, &told["error"]), (status, &json!(error)), "{form}");
    }
    let devices = "/api/v2/tailnet/-/devices";
    // Another end or another scope under the same signature, and other nonsense.
    let (claims, mac) = good.rsplit_once('.').unwrap();
    let wider = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .encode(format!(r#"{{"k":"{id}","e":99999999999999,"s":["all"]}}"#));
    for bad in [
        format!("{}{wider}.{mac}", super::oauth::TOKEN),
        format!("{claims}."),
        format!("{claims}.{}", "A".repeat(43)),
        super::oauth::TOKEN.to_owned(),
        format!("{}{}", super::oauth::TOKEN, "x".repeat(9000)),
    ] {
        no(&lone, By::Bearer(&bad), "GET", devices, Value::Null, 401).await;
    }
    // The secret of a client is no key for anything else, under no name.
    let as_key = secret.replace("hskey-client-", "hskey-api-");
    for text in [&secret, &as_key] {
        for path in ["/api/v1/node", "/api/v1/cluster/members"] {
            let (status, _) = call(&lone, By::Bearer(text), "GET", path, Value::Null).await;
            assert!(status == 401 || status == 403, "{path}: {status}");
        }
    }
    no(&lone, By::Basic(&as_key, ""), "GET", "/api/v2/tailnet/-/users", Value::Null, 403).await;
    ok(&lone, By::Bearer(&good), "GET", devices, Value::Null).await;
    lone.advance(Duration::from_secs(3601));
    no(&lone, By::Bearer(&good), "GET", devices, Value::Null, 401).await;
    let (_, told) = token(&lone, &form(""), By::Nobody).await;
    let next = told["access_token"].as_str().unwrap().to_owned();
    ok(&lone, By::Bearer(&next), "GET", devices, Value::Null).await;
    ok(&lone, By::Socket, "DELETE", &format!("/api/v2/tailnet/-/keys/{id}"), Value::Null).await;
    no(&lone, By::Bearer(&next), "GET", devices, Value::Null, 401).await;
}

#[tokio::test]
async fn keys_come_and_go() {
    let lone = tailnet();
    let keys = "/api/v2/tailnet/example.com/keys";
    let token = token_of(&lone, &["auth_keys"]).await;
    let by = By::Bearer(&token);
    let create = |tags: Value| json!({ "capabilities": { "devices": { "create": { "reusable": true, "ephemeral": false, "preauthorized": true, "tags": tags } } }, "expirySeconds": 3600, "description": "ci" });
    let made = ok(&lone, by, "POST", keys, create(json!(["tag:k8s"]))).await;
    let id = made["id"].as_str().unwrap();
    assert!(made["key"].as_str().unwrap().starts_with("hskey-auth-"), "{made}");
    let shown = ok(&lone, by, "GET", &format!("{keys}/{id}"), Value::Null).await;
    assert!(shown.get("key").is_none());
    assert_eq!(
        (&shown["description"], &shown["expirySeconds"], &shown["invalid"]),
        (&json!("ci"), &json!(3600), &json!(false))
    );
    assert_eq!(shown["capabilities"]["devices"]["create"]["tags"], json!(["tag:k8s"]));
    // What the client does not carry it cannot give; what is not said is what it carries.
    no(&lone, by, "POST", keys, create(json!(["tag:prod"])), 400).await;
    let made = ok(&lone, by, "POST", keys, create(Value::Null)).await;
    assert_eq!(made["tags"], json!(["tag:k8s"]));
    no(&lone, By::Socket, "POST", keys, create(json!([])), 400).await;
    // It sees keys for nodes alone, and makes no clients.
    let listed = ok(&lone, by, "GET", keys, Value::Null).await;
    assert!(listed["keys"].as_array().unwrap().iter().all(|key| key["keyType"] == "auth"), "{listed}");
    no(&lone, by, "POST", keys, json!({ "keyType": "client", "scopes": ["auth_keys"], "tags": ["tag:k8s"] }), 403)
        .await;
    ok(&lone, by, "DELETE", &format!("{keys}/{id}"), Value::Null).await;
    no(&lone, by, "GET", &format!("{keys}/{id}"), Value::Null, 404).await;
    no(&lone, by, "DELETE", &format!("{keys}/{id}"), Value::Null, 404).await;
    no(&lone, By::Socket, "POST", keys, json!({ "keyType": "federated" }), 501).await;
    no(
        &lone,
        By::Socket,
        "POST",
        keys,
        json!({ "expirySeconds": -1, "capabilities": create(json!(["tag:k8s"]))["capabilities"] }),
        400,
    )
    .await;
    // Nobody gives away more than there is.
    let lesser = token_of(&lone, &["oauth_keys"]).await;
    let wish = json!({ "keyType": "client", "scopes": ["all"], "tags": ["tag:k8s"] });
    no(&lone, By::Bearer(&lesser), "POST", keys, wish, 403).await;
}

#[tokio::test]
async fn a_policy_is_written_over_the_one_that_was_seen() {
    let lone = tailnet();
    let acl = "/api/v2/tailnet/-/acl";
    let read = async |accept: &str| {
        let (status, headers, text) = send(&lone, By::Socket, "GET", acl, &[("accept", accept)], String::new()).await;
        assert_eq!(status, 200);
        (headers["etag"].to_str().unwrap().to_owned(), text)
    };
    let write = async |tag: &str, text: &str| {
        let headers = [("if-match", tag), ("content-type", "application/hujson")];
        send(&lone, By::Socket, "POST", acl, &headers, text.to_owned()).await.0.as_u16()
    };
    let (tag, text) = read("application/json").await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["acls"][0]["dst"], json!(["*:*"]), "nothing was set");
    let ours = "{\n  // ours\n  \"acls\": [],\n}";
    assert_eq!(write("\"other\"", ours).await, 412);
    assert_eq!(write(&tag, ours).await, 200);
    assert_eq!(write("\"ts-default\"", "{}").await, 412, "there is one now");
    assert_eq!(write(&tag, "{}").await, 412, "it was replaced");
    let (tag, text) = read("application/hujson").await;
    assert_eq!(text, ours);
    let (_, json_text) = read("application/json").await;
    assert_eq!(serde_json::from_str::<Value>(&json_text).unwrap(), json!({ "acls": [] }));
    assert_eq!(write(&tag, "{").await, 400);
    assert_eq!(write("", "{}").await, 200, "without a tag the last one wins");
    let validate = "/api/v2/tailnet/-/acl/validate";
    assert_eq!(ok(&lone, By::Socket, "POST", validate, json!({ "acls": [] })).await, json!({}));
    let told = ok(&lone, By::Socket, "POST", validate, json!({ "acls": [{ "action": "deny" }] })).await;
    assert!(told["message"].is_string(), "{told}");
    let fails = json!([{ "src": "tag:k8s", "accept": ["tag:k8s:22"] }]);
    assert!(ok(&lone, By::Socket, "POST", validate, fails).await.get("message").is_some());
}

#[tokio::test]
async fn devices_are_changed() {
    let lone = tailnet();
    let by = By::Socket;
    ok(&lone, by, "POST", "/api/v2/device/1/name", json!({ "name": "desk.tail.example.net" })).await;
    ok(&lone, by, "POST", "/api/v2/device/1/name", json!({ "name": "desk" })).await;
    ok(&lone, by, "POST", "/api/v2/device/1/tags", json!({ "tags": ["tag:web"] })).await;
    ok(&lone, by, "POST", "/api/v2/device/1/authorized", json!({ "authorized": true })).await;
    ok(&lone, by, "POST", "/api/v2/device/1/authorized", json!({ "authorized": false })).await;
    assert_eq!(ok(&lone, by, "GET", "/api/v2/device/1", Value::Null).await["authorized"], false);
    ok(&lone, by, "POST", "/api/v2/device/1/authorized", json!({ "authorized": true })).await;
    ok(&lone, by, "POST", "/api/v2/device/1/ip", json!({ "ipv4": "100.64.0.77" })).await;
    assert_eq!(ok(&lone, by, "GET", "/api/v2/device/1", Value::Null).await["addresses"][0], "100.64.0.77");
    no(&lone, by, "POST", "/api/v2/device/1/ip", json!({ "ipv4": "100.64.0" }), 400).await;
    ok(&lone, by, "POST", "/api/v2/device/1/key", json!({ "keyExpiryDisabled": false })).await;
    let routes = ok(&lone, by, "POST", "/api/v2/device/1/routes", json!({ "routes": ["10.0.0.0/24"] })).await;
    assert_eq!(routes, json!({ "advertisedRoutes": [], "enabledRoutes": ["10.0.0.0/24"] }));
    let desk = ok(&lone, by, "GET", "/api/v2/device/1?fields=all", Value::Null).await;
    assert_eq!(
        (&desk["name"], &desk["tags"], &desk["keyExpiryDisabled"]),
        (&json!("desk.tail.example.net"), &json!(["tag:web"]), &json!(false))
    );
    assert_eq!((&desk["enabledRoutes"], &desk["user"]), (&json!(["10.0.0.0/24"]), &json!("tagged-devices")));
    ok(&lone, by, "POST", "/api/v2/device/1/key", json!({ "keyExpiryDisabled": true })).await;
    ok(&lone, by, "POST", "/api/v2/device/2/expire", Value::Null).await;
    let names = async |query: &str| {
        let listed = ok(&lone, by, "GET", &format!("/api/v2/tailnet/-/devices?{query}"), Value::Null).await;
        listed["devices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["hostname"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("tags=tag:web&tags=tag:none").await, ["node1"]);
    assert_eq!(names("tags=tag:web&isEphemeral=true").await, [""; 0]);
    assert_eq!(names("name=node2").await, ["node2"]);
    no(&lone, by, "GET", "/api/v2/tailnet/-/devices?colour=red", Value::Null, 400).await;
    ok(&lone, by, "GET", "/api/v2/device/1/attributes", Value::Null).await;
    ok(&lone, by, "DELETE", "/api/v2/device/1", Value::Null).await;
    no(&lone, by, "GET", "/api/v2/device/1", Value::Null, 404).await;
    no(&lone, by, "GET", "/api/v2/tailnet/-/webhooks", Value::Null, 501).await;
    no(&lone, by, "GET", "/api/v2/nothing", Value::Null, 404).await;
}

#[tokio::test]
async fn dns_and_settings_are_shared() {
    let lone = tailnet();
    let by = By::Socket;
    let dns = |what: &str| format!("/api/v2/tailnet/-/dns/{what}");
    // What was left out is not taken for emptiness.
    for what in ["nameservers", "searchpaths", "preferences", "configuration"] {
        no(&lone, by, "POST", &dns(what), Value::Null, 400).await;
    }
    for what in ["nameservers", "searchpaths", "preferences"] {
        no(&lone, by, "POST", &dns(what), json!({}), 400).await;
    }
    no(&lone, by, "PUT", &dns("split-dns"), Value::Null, 400).await;
    let told =
        ok(&lone, by, "POST", &dns("nameservers"), json!({ "dns": ["1.1.1.1", "https://dns.example.com/q"] })).await;
    assert_eq!(told, json!({ "dns": ["1.1.1.1", "https://dns.example.com/q"], "magicDNS": true }));
    no(&lone, by, "POST", &dns("nameservers"), json!({ "dns": ["one"] }), 400).await;
    ok(&lone, by, "PUT", &dns("split-dns"), json!({ "a.example.com": ["10.0.0.1"], "b.example.com": ["10.0.0.2"] }))
        .await;
    let split =
        ok(&lone, by, "PATCH", &dns("split-dns"), json!({ "a.example.com": null, "c.example.com": ["10.0.0.3"] }))
            .await;
    assert_eq!(split, json!({ "b.example.com": ["10.0.0.2"], "c.example.com": ["10.0.0.3"] }));
    no(&lone, by, "PATCH", &dns("split-dns"), json!({ "no domain": ["10.0.0.3"] }), 400).await;
    assert_eq!(
        ok(&lone, by, "POST", &dns("preferences"), json!({ "magicDNS": false })).await,
        json!({ "magicDNS": false })
    );
    ok(&lone, by, "POST", &dns("searchpaths"), json!({ "searchPaths": ["corp.example.com"] })).await;
    let all = ok(&lone, by, "GET", &dns("configuration"), Value::Null).await;
    assert_eq!(
        (&all["nameservers"][0]["address"], &all["searchPaths"]),
        (&json!("1.1.1.1"), &json!(["corp.example.com"]))
    );
    assert_eq!(ok(&lone, by, "POST", &dns("configuration"), all.clone()).await, all);
    no(&lone, by, "POST", &dns("configuration"), json!({ "preferences": { "overrideLocalDNS": true } }), 400).await;
    let settings = "/api/v2/tailnet/-/settings";
    let told = ok(
        &lone,
        by,
        "PATCH",
        settings,
        json!({ "devicesKeyDurationDays": 30, "httpsEnabled": false, "aclsExternalLink": null }),
    )
    .await;
    assert_eq!(told["devicesKeyDurationDays"], 30);
    assert_eq!(ok(&lone, by, "PATCH", settings, json!({ "devicesApprovalOn": true })).await["devicesApprovalOn"], true);
    no(&lone, by, "PATCH", settings, json!({ "networkFlowLoggingOn": true }), 501).await;
    no(&lone, by, "PATCH", settings, json!({ "devicesKeyDurationDays": -1 }), 400).await;
    no(&lone, by, "PATCH", settings, json!({ "colour": "red" }), 400).await;
    let users = ok(&lone, by, "GET", "/api/v2/tailnet/-/users", Value::Null).await;
    assert_eq!(
        (&users["users"][0]["loginName"], &users["users"][0]["deviceCount"]),
        (&json!("ann@example.com"), &json!(0))
    );
    assert_eq!(ok(&lone, by, "GET", "/api/v2/users/1", Value::Null).await["displayName"], "Ann");
    no(&lone, by, "GET", "/api/v2/users/9", Value::Null, 404).await;
}

/// Who has no key, or a user's, gets nothing; every row of the table leads somewhere.
#[tokio::test]
async fn strangers_are_told_nothing() {
    let lone = tailnet();
    no(&lone, By::Nobody, "GET", "/api/v2/tailnet/-/devices", Value::Null, 401).await;
    let made = ok(&lone, By::Socket, "POST", "/api/v1/apikey", json!({ "role": "user", "user": "ann" })).await;
    let key = made["apiKey"].as_str().unwrap().to_owned();
    no(&lone, By::Basic(&key, ""), "GET", "/api/v2/tailnet/-/devices", Value::Null, 403).await;
    let made = ok(&lone, By::Socket, "POST", "/api/v1/apikey", json!({ "role": "read_only" })).await;
    let key = made["apiKey"].as_str().unwrap().to_owned();
    ok(&lone, By::Basic(&key, ""), "GET", "/api/v2/tailnet/-/devices", Value::Null).await;
    no(&lone, By::Basic(&key, ""), "DELETE", "/api/v2/device/1", Value::Null, 403).await;
    ok(&lone, By::Basic(&key, ""), "POST", "/api/v2/tailnet/-/acl/validate", json!({})).await;
}
