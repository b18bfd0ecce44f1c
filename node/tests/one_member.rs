//! One member in this process and clients that speak the real protocol to it.

mod common;

use base64::{Engine, prelude::BASE64_STANDARD};
use common::{Machine, Member, within};
use http::StatusCode;
use node::control::noise;
use serde_json::{Value, json};
use state_machine::{Command, LoginId, RegisterMethod};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn names(list: &Value) -> Vec<String> {
    let list = list.as_array().cloned().unwrap_or_default();
    list.iter().map(|node| node["Name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_meet() {
    let member = Member::start().await;
    let key = member.auth_key().await;
    let (ann, bob) = (Machine::new(1, "laptop"), Machine::new(2, "desk"));

    let mut of_ann = ann.dial(&member).await;
    ann.enter(&mut of_ann, &key).await;
    let mut anns = of_ann.stream(&ann, "zstd").await;
    let first = anns.next().await.unwrap();
    assert_eq!(first["Node"]["Name"], "laptop.example.ts.net.");
    assert_eq!(first["Node"]["Addresses"].as_array().unwrap().len(), 2);
    assert!(first.get("Peers").is_none(), "an empty list would delete all peers of a Rust client");

    // The second one sees the first, and the first hears of the second.
    let mut of_bob = bob.dial(&member).await;
    bob.enter(&mut of_bob, &key).await;
    let mut bobs = of_bob.stream(&bob, "").await;
    let first = bobs.next().await.unwrap();
    assert_eq!(names(&first["Peers"]), ["laptop.example.ts.net."]);
    anns.until(|frame| names(&frame["PeersChanged"]) == ["desk.example.ts.net."]).await;

    // A report is committed when it is answered, and reaches the peer.
    let endpoints = [("Endpoints", json!(["192.0.2.1:41641"])), ("EndpointTypes", json!([2]))];
    assert_eq!(of_bob.update(&bob, &endpoints).await, (StatusCode::OK, String::new()));
    let node = member.server.cluster().latest().node_by_key(&bob.node_key).unwrap().clone();
    assert_eq!(node.endpoints[0].addr.to_string(), "192.0.2.1:41641");
    anns.until(|frame| frame.to_string().contains("192.0.2.1:41641")).await;

    // The same again is no news, and nothing is written.
    let revision = member.revision();
    assert_eq!(of_bob.update(&bob, &endpoints).await, (StatusCode::OK, String::new()));
    assert_eq!(member.revision(), revision);

    // A client that presents its key again is still in, and again nothing is written.
    bob.enter(&mut of_bob, &key).await;
    assert_eq!(member.revision(), revision);

    // A newer stream of the same node ends the older one.
    let mut newer = of_bob.stream(&bob, "").await;
    newer.next().await.unwrap();
    within(async { while bobs.next().await.is_some() {} }).await;

    // Logging out: the peer hears that the key is over.
    let mut goodbye = bob.registration();
    goodbye["Expiry"] = json!("1970-01-01T00:02:03Z");
    let answer = of_bob.register(&goodbye).await;
    assert_eq!(answer["NodeKeyExpired"], true, "{answer}");
    anns.until(|frame| frame.to_string().contains("KeyExpiry") || frame.get("PeersRemoved").is_some()).await;
    let answer = of_bob.register(&bob.registration()).await;
    assert_eq!((&answer["NodeKeyExpired"], &answer["MachineAuthorized"]), (&json!(true), &json!(false)));

    member.server.drain().await;
    within(async { while anns.next().await.is_some() {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_lets_a_node_in() {
    let member = Member::start().await;
    member.auth_key().await;
    let ann = Machine::new(1, "laptop");
    let mut connection = ann.dial(&member).await;
    let answer = connection.register(&ann.registration()).await;
    let url = answer["AuthURL"].as_str().unwrap().to_owned();
    let id = url.strip_prefix("http://127.0.0.1/register/").expect("the server's URL").to_owned();
    assert_eq!(answer["MachineAuthorized"], false);
    assert!(member.get(&format!("/register/{id}")).await.contains(&format!("hsraft nodes register --key {id} --user")));

    // Asking again begins nothing new.
    assert_eq!(connection.register(&ann.registration()).await["AuthURL"], url.as_str());

    let mut follow = ann.registration();
    follow["Followup"] = json!(url);
    let user = member.server.cluster().latest().user_by_name("ann").unwrap().id;
    let finish = Command::FinishLogin { id: LoginId(id), user, method: RegisterMethod::Cli, expiry: None, seed: 1 };
    let (answer, _) = tokio::join!(connection.register(&follow), async {
        // The follow-up is held; nothing tells us when it is, and it need not be for the test to hold.
        tokio::task::yield_now().await;
        member.done(finish).await
    });
    assert_eq!(answer["MachineAuthorized"], true, "{answer}");
    assert_eq!(answer["Login"]["LoginName"], "ann");

    // An unknown login starts over with another URL.
    let bob = Machine::new(2, "desk");
    let mut follow = bob.registration();
    follow["Followup"] = json!("http://127.0.0.1/register/nobodyknowsthisone");
    let answer = bob.dial(&member).await.register(&follow).await;
    assert!(answer["AuthURL"].as_str().unwrap().starts_with("http://127.0.0.1/register/"), "{answer}");
    member.server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_change_nothing() {
    let member = Member::start().await;
    let key = member.auth_key().await;
    let ann = Machine::new(1, "laptop");
    let mut connection = ann.dial(&member).await;
    ann.enter(&mut connection, &key).await;
    let revision = member.revision();

    // Another machine with the same node key: no map, no update, no logout, no registration.
    let thief = Machine { private: [9; 32], ..ann.clone() };
    let mut of_thief = thief.dial(&member).await;
    let (status, _) = of_thief.update(&thief, &[("Endpoints", json!(["192.0.2.66:1"]))]).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = of_thief.post("/machine/register", &thief.registration()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let mut goodbye = thief.registration();
    goodbye["Expiry"] = json!("1970-01-01T00:02:03Z");
    let (status, _) = of_thief.post("/machine/register", &goodbye).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let mut request = thief.registration();
    request["Auth"] = json!({"AuthKey": key});
    let (status, _) = of_thief.post("/machine/register", &request).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);

    // Keys that are none.
    let bob = Machine::new(2, "desk");
    let mut of_bob = bob.dial(&member).await;
    let mut request = bob.registration();
    request["Auth"] = json!({"AuthKey": "letmein"});
    let answer = of_bob.register(&request).await;
    assert_eq!(
        (&answer["Error"], &answer["MachineAuthorized"]),
        (&json!("invalid pre auth key [HSR-1005]"), &json!(false))
    );

    // Bodies that are no messages.
    assert_eq!(of_bob.send("/machine/map", "not json".into()).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(of_bob.send("/machine/register", "{}".into()).await.0, StatusCode::BAD_REQUEST);
    let (status, told) = of_bob.post("/machine/map", &json!({"Version": 90})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(told.contains("unsupported client version"), "{told}");
    let huge = json!({"NodeKey": "x".repeat(2 << 20)});
    let request = http::Request::post("https://unused/machine/map").body(()).unwrap();
    let (answer, mut body) = of_bob.requests.send_request(request, false).unwrap();
    // The member may stop reading before all of it is sent.
    let _ = body.send_data(huge.to_string().into(), true);
    assert_eq!(within(answer).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(of_bob.post("/machine/set-dns", &json!({})).await.0, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(of_bob.post("/machine/else", &json!({})).await.0, StatusCode::NOT_FOUND);

    assert_eq!(member.revision(), revision, "nothing was written");
    member.server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bent_bytes_end_their_connection_and_are_counted() {
    let member = Member::start().await;
    let revision = member.revision();
    let upgrade = |handshake: &str| {
        format!(
            "POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: {}\r\nConnection: upgrade, close\r\n\
             X-Tailscale-Handshake: {handshake}\r\nContent-Length: 0\r\n\r\n",
            noise::PROTOCOL
        )
    };

    // No handshake, or something else in its place.
    let answer = member.http("POST /ts2021 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("missing next protocol"), "{answer}");
    assert!(member.http(&upgrade("not base64")).await.starts_with("HTTP/1.1 400 "));
    assert_eq!(member.metric("hsraft_noise_handshakes_total{result=\"refused\"}"), 2.0);

    // The right length, and yet no handshake: an error frame, then the end.
    let answer = member.http(&upgrade(&BASE64_STANDARD.encode([0; 101]))).await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("malformed handshake"), "{answer}");
    member.metric_reaches("hsraft_noise_handshakes_total{result=\"malformed\"}", 1.0).await;
    let other_key = noise::public_key(&[77; 32]);
    let (_, message) = noise::handshake::initiate(&[1; 32], &other_key, 130, &member.world.entropy).unwrap();
    member.http(&upgrade(&BASE64_STANDARD.encode(message))).await;
    member.metric_reaches("hsraft_noise_handshakes_total{result=\"undecipherable\"}", 1.0).await;

    // A record cut short, and one that does not decrypt.
    for record in [
        &[4, 0, 100, 1, 2, 3][..],
        &[4, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
        &[9, 9, 9],
    ] {
        let before = member.metric("hsraft_noise_connections_broken_total");
        let addr = member.server.client_addr().to_string();
        let mut stream = member.world.net.connect(&addr).await.unwrap();
        let (waiting, message) =
            noise::handshake::initiate(&[1; 32], &member.server.noise_key(), 130, &member.world.entropy).unwrap();
        stream.write_all(upgrade(&BASE64_STANDARD.encode(message)).as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(stream.read_u8()).await.unwrap());
        }
        let mut answer = [0; noise::handshake::RESPONSE_BYTES];
        within(stream.read_exact(&mut answer)).await.unwrap();
        waiting.finish(&answer).unwrap();
        stream.write_all(record).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // Whether it ends by FIN or RST is the kernel's business.
        let _ = within(stream.read_to_end(&mut rest)).await;
        member.metric_reaches("hsraft_noise_connections_broken_total", before + 1.0).await;
    }
    assert_eq!(member.revision(), revision, "nothing was written");
    member.server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_paths_answer() {
    let member = Member::start_with(|options| options.metrics_listen = Some("127.0.0.1:0".parse().unwrap())).await;
    let key = member.get("/key?v=130").await;
    assert!(key.contains(&member.server.noise_key().to_string()), "{key}");
    assert!(member.get("/key").await.starts_with("HTTP/1.1 400 "));
    assert!(member.get("/health").await.contains("pass"));
    assert!(member.get("/version").await.starts_with("HTTP/1.1 200 "));
    assert!(member.get("/derp/latency-check").await.starts_with("HTTP/1.1 200 "));
    assert!(member.get("/generate_204").await.starts_with("HTTP/1.1 204 "));
    assert!(member.get("/robots.txt").await.contains("Disallow: /"));
    assert!(member.get("/api/v1/user").await.starts_with("HTTP/1.1 401 "));
    let question = json!({"NodePublic": Machine::new(1, "x").node_key, "Source": "192.0.2.1"}).to_string();
    let verify = |body: &str| {
        format!("POST /verify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    assert!(member.http(&verify(&question)).await.contains(r#"{"Allow":false}"#));
    assert!(member.http(&verify("?")).await.starts_with("HTTP/1.1 400 "));
    assert!(member.http(&verify(&"x".repeat(5000))).await.starts_with("HTTP/1.1 413 "));

    let metrics = member.server.metrics_addr().unwrap().to_string();
    for (path, expected) in [("/livez", "ok"), ("/readyz", "ok"), ("/metrics", "hsraft_client_connections_total")] {
        let mut stream = member.world.net.connect(&metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.contains(expected), "{path}: {answer}");
    }
    member.server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_approval_sees_nobody_and_is_seen_by_nobody() {
    let member = Member::start().await;
    let key = member.auth_key().await;
    let (ann, bob) = (Machine::new(1, "laptop"), Machine::new(2, "desk"));
    let (mut of_ann, mut of_bob) = (ann.dial(&member).await, bob.dial(&member).await);
    ann.enter(&mut of_ann, &key).await;
    bob.enter(&mut of_bob, &key).await;
    let id = member.server.cluster().latest().node_by_key(&bob.node_key).unwrap().id;
    member.done(Command::SetNodeApproval { node: id, approved: false }).await;

    // A client in Rust takes anything else for a failure, and registers for ever.
    let answer = of_bob.register(&bob.registration()).await;
    assert_eq!(answer["MachineAuthorized"], true, "{answer}");
    let mut anns = of_ann.stream(&ann, "").await;
    let first = anns.next().await.unwrap();
    assert_eq!((&first["Node"]["MachineAuthorized"], first.get("Peers")), (&json!(true), None));
    let mut bobs = of_bob.stream(&bob, "").await;
    let first = bobs.next().await.unwrap();
    assert_eq!((&first["Node"]["MachineAuthorized"], first.get("Peers")), (&json!(false), None));
    assert_eq!(first["PacketFilters"], json!({ "base": [] }));

    member.done(Command::SetNodeApproval { node: id, approved: true }).await;
    anns.until(|frame| names(&frame["PeersChanged"]) == ["desk.example.ts.net."]).await;
    bobs.until(|frame| {
        frame["Node"]["MachineAuthorized"] == true
            && names(&frame["PeersChanged"]) == ["laptop.example.ts.net."]
            && frame["PacketFilters"]["base"].as_array().is_some_and(|rules| !rules.is_empty())
    })
    .await;

    member.done(Command::SetNodeApproval { node: id, approved: false }).await;
    anns.until(|frame| frame["PeersRemoved"] == json!([id.0])).await;
    bobs.until(|frame| frame["Node"]["MachineAuthorized"] == false && frame.get("PeersRemoved").is_some()).await;
    drop((of_ann, of_bob));
    within(member.server.drain()).await;
}

/// Answers one request on each connection, with these statuses in turn, and hands on what it heard.
async fn receiver(statuses: Vec<u16>) -> (String, tokio::sync::mpsc::Receiver<(String, String)>) {
    let mut listener = world::real::world().net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, requests) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        for status in statuses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = String::new();
            loop {
                let mut bytes = [0; 4096];
                let count = stream.read(&mut bytes).await.unwrap();
                text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length =
                    head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if length == Some(body.len()) {
                    heard.send((head.to_owned(), body.to_owned())).await.unwrap();
                    break;
                }
            }
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (format!("http://{address}/hook"), requests)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_fails_first_hears_everything_in_the_end() {
    use ring::hmac;

    let member = Member::start().await;
    let (url, mut requests) = receiver(vec![500, 200, 200, 202, 404]).await;
    let id = "0a1b2c3d".to_owned();
    let cluster = member.server.cluster().clone();
    let secret = cluster.seal(&state_machine::Webhook::secret(&id), b"hswhsec-test");
    let events = ["nodeCreated".to_owned(), "userCreated".to_owned()].into();
    let webhook = state_machine::Webhook { id: id.clone(), url, events, ..state_machine::Webhook::default() };
    member.done(Command::CreateWebhook { webhook, secret }).await;
    let key = member.auth_key().await;
    let made_at = member.server.cluster().latest().audit_log().values().find_map(|row| {
        let row: Value = serde_json::from_str(&row.text).unwrap();
        (row["what"] == "create user").then(|| row["index"].clone())
    });

    let (_, failed) = within(requests.recv()).await.unwrap();
    let (head, told) = within(requests.recv()).await.unwrap();
    let (failed, events): (Value, Value) =
        (serde_json::from_str(&failed).unwrap(), serde_json::from_str(&told).unwrap());
    assert_eq!(failed[0], events[0], "what failed is told again, under the same id");
    assert_eq!((&events[0]["type"], &events[0]["data"]["user"]), (&json!("userCreated"), &json!("ann")));
    assert_eq!(Some(&events[0]["index"]), made_at.as_ref());

    // As a receiver checks it.
    let header = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("tailscale-webhook-signature: ").map(str::to_owned));
    let header = header.unwrap();
    let (time, tag) = header.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let key_of_hook = hmac::Key::new(hmac::HMAC_SHA256, b"hswhsec-test");
    hmac::verify(&key_of_hook, format!("{time}.{told}").as_bytes(), &hex::decode(tag).unwrap()).unwrap();

    // Written down, so that another leader goes on behind it.
    let mut states = cluster.watch();
    within(states.wait_for(|state| state.webhooks()[&id].delivered > 0)).await.unwrap();
    let ann = Machine::new(1, "laptop");
    let mut of_ann = ann.dial(&member).await;
    ann.enter(&mut of_ann, &key).await;
    let (_, next) = within(requests.recv()).await.unwrap();
    let next: Value = serde_json::from_str(&next).unwrap();
    let kinds: Vec<&Value> = next.as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["nodeCreated"], "nothing twice");
    assert_eq!(next[0]["data"]["deviceName"], "laptop");
    member.metric_reaches("hsraft_webhook_requests_total{result=\"told\"}", 2.0).await;
    assert_eq!(member.metric("hsraft_webhook_requests_total{result=\"failed\"}"), 1.0);
    assert_eq!(member.metric("hsraft_webhooks_failing"), 0.0);

    // Tried by hand: whatever it wants otherwise, and once.
    let secret = "k".repeat(64);
    let key = state_machine::ApiKey {
        prefix: "hooktester01".into(),
        secret_sha256: admin::secret_text::hash(&secret),
        ..state_machine::ApiKey::default()
    };
    member.done(Command::CreateApiKey { key }).await;
    let ask = format!(
        "POST /api/v1/cluster/webhooks/{id}/test HTTP/1.1\r\nhost: x\r\nauthorization: Bearer hskey-api-hooktester01-{secret}\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n"
    );
    let taken = member.http(&ask).await;
    assert!(taken.starts_with("HTTP/1.1 200") && taken.ends_with(r#"{"status":202}"#), "{taken}");
    let (_, event) = within(requests.recv()).await.unwrap();
    assert!(event.contains(r#""type":"test""#), "{event}");
    let refused = member.http(&ask).await;
    assert!(refused.starts_with("HTTP/1.1 409") && refused.contains("HSR-2401"), "{refused}");
    drop((of_ann, states, cluster));
    within(member.server.drain()).await;
}
