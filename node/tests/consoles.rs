//! The requests of the consoles and providers people have, in their own shapes, each to another of three members.

mod common;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use common::{Machine, Member};
use node::options::{Start, Token};
use serde_json::{Value, json};
use state_machine::JoinRole;

/// Three members and somebody who never asks the same one twice in a row.
struct Console {
    members: Vec<Member>,
    next: AtomicUsize,
    key: String,
}

impl Console {
    async fn start() -> Console {
        let first = Member::start().await;
        let mut members = vec![first];
        for number in 2..=3 {
            let cluster = members[0].server.cluster();
            let token = cluster.create_join_token(Duration::from_secs(60), "", JoinRole::Voter, "test").await.unwrap();
            let address = cluster.latest().member(cluster.me()).unwrap().peer_address.clone();
            let joined = Member::start_with(|options| {
                options.name = format!("hs{number}");
                options.start = Start::Join { addresses: vec![address], token: Token(token), replaces: String::new() };
            });
            members.push(joined.await);
        }
        let secret = "k".repeat(64);
        let key = state_machine::ApiKey {
            prefix: "consoleskey1".into(),
            secret_sha256: admin::secret_text::hash(&secret),
            ..state_machine::ApiKey::default()
        };
        members[0].done(state_machine::Command::CreateApiKey { key }).await;
        Console { members, next: AtomicUsize::new(0), key: format!("hskey-api-consoleskey1-{secret}") }
    }

    /// One request; the body goes as it is, under the type a browser gives it.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let head = format!("authorization: Bearer {}\r\ncontent-type: text/plain;charset=UTF-8\r\n", self.key);
        self.ask_with(&head, method, path, body).await
    }

    /// The same with headers of the caller's.
    async fn ask_with(&self, head: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        let member = &self.members[self.next.fetch_add(1, Ordering::Relaxed) % self.members.len()];
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: hs.example.com\r\n{head}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = member.http(&request).await;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        (status, body)
    }

    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = self.ask(method, path, &text).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        let value: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"));
        assert!(value.get("code").is_none(), "one console takes any code for an error: {value}");
        value
    }

    /// A request that must fail, and what every console reads of it.
    async fn refused(&self, method: &str, path: &str, body: Value, status: u16) -> String {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (told, answer) = self.ask(method, path, &text).await;
        assert_eq!(told, status, "{method} {path}: {answer}");
        let value: Value = serde_json::from_str(&answer).unwrap();
        assert!(
            value["code"].is_u64() && value["details"].is_array() && value["detail"] == value["message"],
            "{value}"
        );
        value["message"].as_str().unwrap().to_owned()
    }

    /// A machine that waits to be let in; the key its page shows.
    async fn knock(&self, number: u8, name: &'static str) -> String {
        let machine = Machine::new(number, name);
        let answer = machine.dial(&self.members[0]).await.register(&machine.registration()).await;
        answer["AuthURL"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_console_finds_what_it_wrote() {
    let console = Console::start().await;
    headplane(&console).await;
    headscale_ui(&console).await;
    headscale_admin(&console).await;
    terraform(&console).await;
    terraform_for_tailscale(&console).await;
    strangers(&console).await;
    // The last to go has nobody to hand over to.
    for member in console.members.into_iter().rev() {
        member.server.drain().await;
    }
}

async fn headplane(console: &Console) {
    let version = console.ok("GET", "/version", Value::Null).await;
    assert!(version["version"].as_str().unwrap().starts_with("v0.29."), "{version}");
    let health = console.ask("GET", "/health", "").await;
    assert_eq!((health.0, health.1.as_str()), (200, r#"{"status":"pass"}"#));

    let wish = json!({"name": "alice", "email": "a@example.com", "displayName": "Alice", "pictureUrl": ""});
    let alice = console.ok("POST", "/api/v1/user", wish).await["user"].clone();
    assert_eq!(console.ok("GET", "/api/v1/user", Value::Null).await["users"], json!([alice]));
    assert_eq!(console.ok("GET", "/api/v1/user?name=alice", Value::Null).await["users"], json!([alice]));
    assert!(alice["id"].is_string() && alice["createdAt"].as_str().unwrap().ends_with('Z'), "{alice}");

    let key = console.knock(10, "laptop").await;
    let path = format!("/api/v1/node/register?user=alice&key={key}");
    let node = console.ok("POST", &path, json!({"user": "alice", "key": key})).await["node"].clone();
    let id = node["id"].as_str().unwrap().to_owned();
    assert_eq!(console.ok("GET", &format!("/api/v1/node/{id}"), Value::Null).await["node"]["name"], "laptop");
    console.ok("POST", &format!("/api/v1/node/{id}/rename/desk"), Value::Null).await;
    let routes = json!({"routes": ["10.0.0.0/24", "0.0.0.0/0"]});
    let node = console.ok("POST", &format!("/api/v1/node/{id}/approve_routes"), routes).await["node"].clone();
    assert_eq!(node["approvedRoutes"], json!(["0.0.0.0/0", "10.0.0.0/24", "::/0"]));
    let listed = console.ok("GET", "/api/v1/node", Value::Null).await["nodes"].clone();
    assert_eq!((listed[0]["givenName"].as_str(), &listed[0]["expiry"]), (Some("desk"), &Value::Null));
    console.ok("POST", &format!("/api/v1/node/{id}/expire"), Value::Null).await;
    assert!(console.ok("GET", "/api/v1/node", Value::Null).await["nodes"][0]["expiry"].is_string());

    let wish = json!({"user": alice["id"], "ephemeral": false, "reusable": true, "expiration": null, "aclTags": []});
    let key = console.ok("POST", "/api/v1/preauthkey", wish).await["preAuthKey"].clone();
    assert!(key["key"].as_str().unwrap().len() > 80 && key["user"]["id"] == alice["id"], "{key}");
    let shown = console.ok("GET", "/api/v1/preauthkey", Value::Null).await["preAuthKeys"][0].clone();
    assert!(shown["key"].as_str().unwrap().ends_with("-***"), "{shown}");
    console.ok("POST", "/api/v1/preauthkey/expire", json!({"id": key["id"]})).await;

    // "None yet" is told by these words.
    assert!(console.refused("GET", "/api/v1/policy", Value::Null, 500).await.contains("acl policy not found"));
    let policy = "{\"tagOwners\":{\"tag:web\":[\"alice@\"],\"tag:ci\":[\"alice@\"]},\"acls\":[{\"action\":\"accept\",\"src\":[\"*\"],\"dst\":[\"*:*\"]}]} // ours";
    console.ok("PUT", "/api/v1/policy", json!({"policy": policy})).await;
    let told = console.ok("GET", "/api/v1/policy", Value::Null).await;
    assert!(told["policy"] == policy && told["updatedAt"].is_string(), "{told}");
    let why = console.refused("PUT", "/api/v1/policy", json!({"policy": "{"}), 400).await;
    assert!(why.contains("parsing policy from bytes"), "{why}");
    console.refused("GET", "/api/v1/node/999", Value::Null, 404).await;
}

async fn headscale_ui(console: &Console) {
    let bob = console.ok("POST", "/api/v1/user", json!({"name": "bob"})).await["user"]["id"].clone();
    let id = bob.as_str().unwrap();
    console.ok("POST", &format!("/api/v1/user/{id}/rename/robert"), Value::Null).await;
    let key = console.knock(11, "phone").await;
    let path = format!("/api/v1/node/register?user={id}&key={key}");
    let phone = console.ok("POST", &path, Value::Null).await["node"]["id"].clone();
    let node = phone.as_str().unwrap();
    // A number where others write a text.
    let moved = console.ok("POST", &format!("/api/v1/node/{node}/user"), json!({"user": 1})).await;
    assert_eq!(moved["node"]["user"]["name"], "alice");
    let tagged = console.ok("POST", &format!("/api/v1/node/{node}/tags"), json!({"tags": ["tag:web"]})).await;
    assert_eq!((&tagged["node"]["tags"], &tagged["node"]["forcedTags"]), (&json!(["tag:web"]), &json!(["tag:web"])));
    let keys = console.ok("GET", &format!("/api/v1/preauthkey?user={id}"), Value::Null).await;
    assert_eq!(keys["preAuthKeys"], json!([]));
    let wish = json!({"user": id, "reusable": false, "ephemeral": true, "expiration": "2099-01-01T00:00:00.000Z"});
    let key = console.ok("POST", "/api/v1/preauthkey", wish).await["preAuthKey"]["key"].clone();
    console.ok("POST", "/api/v1/preauthkey/expire", json!({"user": id, "key": key})).await;
    console.ok("DELETE", &format!("/api/v1/node/{node}"), Value::Null).await;
    console.ok("DELETE", &format!("/api/v1/user/{id}"), Value::Null).await;
    let why = console.refused("DELETE", "/api/v1/user/1", Value::Null, 400).await;
    assert!(why.contains("still has"), "{why}");
    // It rolls its key over.
    let fresh = console.ok("POST", "/api/v1/apikey", json!({"expiration": "2099-01-01T00:00:00.000Z"})).await;
    let prefix = &fresh["apiKey"].as_str().unwrap()[..22];
    console.ok("POST", "/api/v1/apikey/expire", json!({"prefix": prefix})).await;
}

async fn headscale_admin(console: &Console) {
    let keys = console.ok("GET", "/api/v1/apikey", Value::Null).await["apiKeys"].clone();
    let ours = keys.as_array().unwrap().iter().find(|key| console.key.starts_with(key["prefix"].as_str().unwrap()));
    assert!(ours.is_some(), "it finds its own key by its prefix: {keys}");
    let key = console.knock(12, "server").await;
    console.ok("POST", &format!("/api/v1/node/register?user=alice&key={key}"), Value::Null).await;
    let node = console.ok("GET", "/api/v1/node?user=alice", Value::Null).await["nodes"][1].clone();
    let id = node["id"].as_str().unwrap();
    console.ok("POST", &format!("/api/v1/node/{id}/approve_routes"), json!({"routes": ["10.9.0.0/16"]})).await;
    let routes = console.ok("GET", "/api/v1/routes", Value::Null).await["routes"].clone();
    let mine = routes.as_array().unwrap().iter().find(|route| route["prefix"] == "10.9.0.0/16").unwrap().clone();
    assert_eq!((&mine["enabled"], &mine["node"]["id"]), (&json!(true), &json!(id)));
    console.ok("POST", &format!("/api/v1/routes/{}/disable", mine["id"].as_str().unwrap()), Value::Null).await;
    let after = console.ok("GET", &format!("/api/v1/node/{id}/routes"), Value::Null).await["routes"].clone();
    assert_eq!(after, json!([]), "neither offered nor approved");
    console.refused("POST", &format!("/api/v1/routes/{}/enable", mine["id"].as_str().unwrap()), Value::Null, 404).await;
    let machines = console.ok("GET", "/api/v1/machine", Value::Null).await["machines"].clone();
    assert_eq!(machines.as_array().unwrap().len(), 2);
    assert_eq!(console.ok("GET", "/api/v1/user/alice", Value::Null).await["user"]["id"], "1");
}

async fn terraform(console: &Console) {
    let before = console.ok("GET", "/api/v1/apikey", Value::Null).await["apiKeys"].as_array().unwrap().len();
    console.ok("POST", "/api/v1/apikey", json!({"expiration": "2099-01-01T00:00:00Z"})).await;
    let keys = console.ok("GET", "/api/v1/apikey", Value::Null).await["apiKeys"].clone();
    assert_eq!(keys.as_array().unwrap().len(), before + 1, "it finds the new key by comparing two lists");
    let id = keys[before]["id"].as_str().unwrap();
    console.ok("POST", "/api/v1/apikey/expire", json!({"id": id})).await;
    console.ok("DELETE", &format!("/api/v1/apikey/-?id={id}"), Value::Null).await;
    console.refused("POST", "/api/v1/apikey/expire", json!({"id": id}), 404).await;
    let wish = json!({"user": "1", "reusable": true, "ephemeral": false, "expiration": "2099-01-01T00:00:00.000Z", "aclTags": ["tag:ci"]});
    let key = console.ok("POST", "/api/v1/preauthkey", wish).await["preAuthKey"]["id"].clone();
    console.ok("POST", "/api/v1/preauthkey/expire", json!({"id": key})).await;
    console.ok("DELETE", &format!("/api/v1/preauthkey?id={}", key.as_str().unwrap()), Value::Null).await;
    let missing = console.refused("GET", "/api/v1/node/404", Value::Null, 404).await;
    assert!(missing.contains("node not found"), "{missing}");
}

/// `tailscale/terraform-provider-tailscale` and `tscli`: an OAuth client, whose token was made at another member than each
/// that is asked with it.
async fn terraform_for_tailscale(console: &Console) {
    let wish = json!({"keyType": "client", "scopes": ["all"], "tags": ["tag:ci"], "description": "terraform"});
    let client = console.ok("POST", "/api/v2/tailnet/-/keys", wish).await;
    let form = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}",
        client["id"].as_str().unwrap(),
        client["key"].as_str().unwrap()
    );
    let head = "content-type: application/x-www-form-urlencoded\r\n";
    let (status, answer) = console.ask_with(head, "POST", "/api/v2/oauth/token", &form).await;
    assert_eq!(status, 200, "{answer}");
    let token = serde_json::from_str::<Value>(&answer).unwrap()["access_token"].as_str().unwrap().to_owned();
    let head = format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
    let ask = async |method: &str, path: &str, body: Value| {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = console.ask_with(&head, method, path, &text).await;
        (status, serde_json::from_str::<Value>(&answer).unwrap_or_else(|_| panic!("{method} {path}: {answer}")))
    };
    let ok = async |method: &str, path: &str, body: Value| {
        let (status, answer) = ask(method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    };
    // resource tailscale_tailnet_key: made, read back as it was written, deleted, gone.
    let wish = json!({
        "capabilities": {"devices": {"create": {"reusable": true, "ephemeral": true, "preauthorized": true, "tags": ["tag:ci"]}}},
        "expirySeconds": 7776000, "description": "runner",
    });
    let key = ok("POST", "/api/v2/tailnet/-/keys", wish).await;
    let path = format!("/api/v2/tailnet/-/keys/{}", key["id"].as_str().unwrap());
    let read = ok("GET", &path, Value::Null).await;
    let told = (&read["description"], &read["expirySeconds"], &read["invalid"], &read["tags"]);
    assert_eq!(told, (&json!("runner"), &json!(7776000), &json!(false), &json!(["tag:ci"])));
    assert!(read["created"].as_str().unwrap().ends_with('Z') && read["expires"].as_str().unwrap().ends_with('Z'));
    ok("DELETE", &path, Value::Null).await;
    assert_eq!(ask("GET", &path, Value::Null).await.0, 404);
    // data tailscale_devices, resources tailscale_device_key, _tags, _subnet_routes, _authorization.
    let devices = ok("GET", "/api/v2/tailnet/-/devices", Value::Null).await["devices"].clone();
    let device = devices.as_array().unwrap().iter().find(|device| device["hostname"] == "server").unwrap().clone();
    let id = device["nodeId"].as_str().unwrap();
    ok("POST", &format!("/api/v2/device/{id}/authorized"), json!({"authorized": true})).await;
    ok("POST", &format!("/api/v2/device/{id}/key"), json!({"keyExpiryDisabled": true})).await;
    ok("POST", &format!("/api/v2/device/{id}/routes"), json!({"routes": ["10.3.0.0/16"]})).await;
    let routes = ok("GET", &format!("/api/v2/device/{id}/routes"), Value::Null).await;
    assert_eq!(routes["enabledRoutes"], json!(["10.3.0.0/16"]));
    ok("POST", &format!("/api/v2/device/{id}/tags"), json!({"tags": ["tag:ci"]})).await;
    assert_eq!(ok("GET", &format!("/api/v2/device/{id}?fields=all"), Value::Null).await["tags"], json!(["tag:ci"]));
    // resource tailscale_acl: read, checked, written over what was read.
    let acl = ok("GET", "/api/v2/tailnet/-/acl", Value::Null).await;
    assert_eq!(ok("POST", "/api/v2/tailnet/-/acl/validate", acl.clone()).await, json!({}));
    let old = format!("{head}if-match: \"0000\"\r\n");
    let (status, answer) = console.ask_with(&old, "POST", "/api/v2/tailnet/-/acl", &acl.to_string()).await;
    assert!(status == 412 && answer.contains("invalid old hash"), "{answer}");
    // resources tailscale_dns_nameservers, _split_nameservers, _search_paths, _preferences.
    ok("POST", "/api/v2/tailnet/-/dns/nameservers", json!({"dns": ["9.9.9.9"]})).await;
    assert_eq!(ok("GET", "/api/v2/tailnet/-/dns/nameservers", Value::Null).await["dns"], json!(["9.9.9.9"]));
    ok("PATCH", "/api/v2/tailnet/-/dns/split-dns", json!({"corp.example.com": ["10.0.0.53"]})).await;
    let split = ok("GET", "/api/v2/tailnet/-/dns/split-dns", Value::Null).await;
    assert_eq!(split, json!({"corp.example.com": ["10.0.0.53"]}));
    ok("POST", "/api/v2/tailnet/-/dns/searchpaths", json!({"searchPaths": ["corp.example.com"]})).await;
    ok("POST", "/api/v2/tailnet/-/dns/preferences", json!({"magicDNS": true})).await;
    // resource tailscale_tailnet_settings, data tailscale_users.
    let settings = ok("PATCH", "/api/v2/tailnet/-/settings", json!({"devicesKeyDurationDays": 90})).await;
    assert_eq!(settings["devicesKeyDurationDays"], 90);
    let users = ok("GET", "/api/v2/tailnet/-/users", Value::Null).await["users"].clone();
    assert_eq!(users[0]["loginName"], "a@example.com");
    // A client that is deleted takes its tokens along, everywhere.
    let path = format!("/api/v2/tailnet/-/keys/{}", client["id"].as_str().unwrap());
    console.ok("DELETE", &path, Value::Null).await;
    for _ in &console.members {
        let (status, answer) = ask("GET", "/api/v2/tailnet/-/devices", Value::Null).await;
        assert_eq!((status, &answer["status"]), (401, &json!(401)));
    }
}

async fn strangers(console: &Console) {
    for member in &console.members {
        let answer = member.http("GET /api/v1/user HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 401") && answer.ends_with("\r\n\r\nUnauthorized"), "{answer}");
    }
    // Text from people in paths: decoded once, and refused where it is no name.
    for name in ["..%2f..%2fadmin", "%2e%2e", "a%00b", "UPPER%20CASE"] {
        console.refused("POST", &format!("/api/v1/node/1/rename/{name}"), Value::Null, 400).await;
    }
    console.refused("POST", "/api/v1/user", json!({"name": {"a": 1}}), 400).await;
    console.refused("POST", "/api/v1/user", json!({"name": "alice"}), 409).await;
    console.refused("POST", "/api/v1/preauthkey", json!({"user": "1", "expiration": "tomorrow"}), 400).await;
    let (status, _) = console.ask("POST", "/api/v1/user", &"x".repeat((1 << 20) + 1)).await;
    assert_eq!(status, 413);
    let (status, _) = console.ask("POST", "/api/v1/user", "{\"name\":").await;
    assert_eq!(status, 400);
}
