//! Two members in this process: what begins at one ends at the other.

#[path = "two_members/acme.rs"]
mod acme;
#[path = "two_members/cert_dns.rs"]
mod cert_dns;
mod common;

use std::time::Duration;

use common::{Machine, Member, within};
use node::options::{Start, Token};
use serde_json::json;
use state_machine::{Command, JoinRole, LoginId, RegisterMethod};

async fn two() -> (Member, Member) {
    two_with(|_| {}).await
}

async fn two_with(change: impl Fn(&mut node::Options)) -> (Member, Member) {
    let first = Member::start_with(|options| change(options)).await;
    let second = joined(&first, "hs2", &change).await;
    (first, second)
}

async fn joined(first: &Member, name: &str, change: impl Fn(&mut node::Options)) -> Member {
    let cluster = first.server.cluster();
    let token = cluster.create_join_token(Duration::from_secs(60), "", JoinRole::Voter, "test").await.unwrap();
    let address = cluster.latest().member(cluster.me()).unwrap().peer_address.clone();
    Member::start_with(|options| {
        options.name = name.to_owned();
        options.start = Start::Join { addresses: vec![address], token: Token(token), replaces: String::new() };
        change(options);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_may_change_members() {
    let (first, second) = two().await;
    assert_eq!(first.server.noise_key(), second.server.noise_key(), "one key for the whole cluster");
    let key = first.auth_key().await;
    let (ann, bob) = (Machine::new(1, "laptop"), Machine::new(2, "desk"));

    // Registered at one, served at the other.
    let mut at_first = ann.dial(&first).await;
    ann.enter(&mut at_first, &key).await;
    let mut at_second = ann.dial(&second).await;
    let mut anns = at_second.stream(&ann, "zstd").await;
    assert_eq!(anns.next().await.unwrap()["Node"]["Name"], "laptop.example.ts.net.");

    // News from the one reach streams at the other.
    let mut bob_at_first = bob.dial(&first).await;
    bob.enter(&mut bob_at_first, &key).await;
    anns.until(|frame| frame.to_string().contains("desk.example.ts.net.")).await;

    // A newer stream at the other member ends the older one.
    let mut moved = at_first.stream(&ann, "").await;
    assert!(moved.next().await.unwrap().get("Node").is_some());
    within(async { while anns.next().await.is_some() {} }).await;

    // A login begun here, waited for there, finished here.
    let eve = Machine::new(3, "phone");
    let answer = eve.dial(&first).await.register(&eve.registration()).await;
    let url = answer["AuthURL"].as_str().unwrap().to_owned();
    let id = LoginId(url.rsplit('/').next().unwrap().to_owned());
    let mut follow = eve.registration();
    follow["Followup"] = json!(url);
    let user = first.server.cluster().latest().user_by_name("ann").unwrap().id;
    let finish = Command::FinishLogin { id, user, method: RegisterMethod::Cli, expiry: None, seed: 1 };
    let mut eve_at_second = eve.dial(&second).await;
    let (answer, _) = tokio::join!(eve_at_second.register(&follow), async { first.done(finish).await });
    assert_eq!(answer["MachineAuthorized"], true, "{answer}");

    // One leaves; its client finds the other, and everything is there.
    within(first.server.drain()).await;
    within(async { while moved.next().await.is_some() {} }).await;
    let mut again = ann.dial(&second).await;
    let mut stream = again.stream(&ann, "").await;
    let map = stream.next().await.unwrap();
    assert_eq!(map["Peers"].as_array().unwrap().len(), 2, "{map}");
    drop((again, stream));
    within(second.server.drain()).await;
}

/// Whether the client port takes a connection.
async fn is_open(member: &Member) -> bool {
    member.world.net.connect(&member.server.client_addr().to_string()).await.is_ok()
}

async fn until_open(member: &Member, open: bool) {
    within(async {
        while is_open(member).await != open {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn addresses(frame: &serde_json::Value) -> Option<Vec<String>> {
    let candidates = frame["ControlDialPlan"]["Candidates"].as_array()?;
    Some(candidates.iter().map(|one| one["IP"].as_str().unwrap().to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_member_closes_its_port_and_leaves_the_dial_plan() {
    let number = std::sync::atomic::AtomicU8::new(0);
    let (first, second) = two_with(|options| {
        // Ports differ here, so nothing follows from the URLs.
        let last = 1 + number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        options.client_addresses = vec![std::net::IpAddr::from([192, 0, 2, last])];
    })
    .await;
    let key = first.auth_key().await;
    let (ann, bob) = (Machine::new(1, "laptop"), Machine::new(2, "desk"));
    let mut at_first = ann.dial(&first).await;
    ann.enter(&mut at_first, &key).await;
    let mut anns = at_first.stream(&ann, "").await;
    assert_eq!(addresses(&anns.next().await.unwrap()), Some(vec![]), "off until somebody turns it on");

    let settings = (**first.server.cluster().latest().settings()).clone();
    let with_plan =
        |dial_plan| Command::ApplySettings { settings: state_machine::Settings { dial_plan, ..settings.clone() } };
    first.done(with_plan(true)).await;
    let both = |frame: &serde_json::Value| addresses(frame).is_some_and(|list| list.len() == 2);
    anns.until(both).await;

    let mut at_second = bob.dial(&second).await;
    bob.enter(&mut at_second, &key).await;
    let mut bobs = at_second.stream(&bob, "").await;
    assert!(both(&bobs.next().await.unwrap()), "whole maps carry the plan");

    let id = second.server.cluster().me();
    first.done(Command::SetMemberDraining { id, draining: true }).await;
    anns.until(|frame| addresses(frame) == Some(vec!["192.0.2.1".to_owned()])).await;
    within(async { while bobs.next().await.is_some() {} }).await;
    until_open(&second, false).await;
    assert!(is_open(&first).await);

    // Nobody else would be left: the last one stays open.
    let other = first.server.cluster().me();
    first.done(Command::SetMemberDraining { id: other, draining: true }).await;
    until_open(&second, true).await;
    assert!(is_open(&first).await);
    for id in [id, other] {
        first.done(Command::SetMemberDraining { id, draining: false }).await;
    }
    // The first one's clients were sent away as well.
    let mut again = ann.dial(&first).await;
    let mut anns = again.stream(&ann, "").await;
    anns.until(both).await;
    first.done(with_plan(false)).await;
    anns.until(|frame| addresses(frame) == Some(vec![])).await;
    within(first.server.drain()).await;
    within(second.server.drain()).await;
}

/// Without a quorum: streams stay open and new ones are served, reads say that they are stale, changes are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_maps_are_served() {
    let (first, second) = two_with(|options| options.limits.keep_alive = Duration::from_secs(1)).await;
    let key = first.auth_key().await;
    let secret = "k".repeat(64);
    let api_key = state_machine::ApiKey {
        prefix: "withoutquor1".into(),
        secret_sha256: admin::secret_text::hash(&secret),
        ..state_machine::ApiKey::default()
    };
    first.done(Command::CreateApiKey { key: api_key }).await;
    let ann = Machine::new(1, "laptop");
    let mut at_first = ann.dial(&first).await;
    ann.enter(&mut at_first, &key).await;
    let mut anns = at_first.stream(&ann, "").await;
    assert!(anns.next().await.unwrap().get("Node").is_some());
    let ask = async |member: &Member, method: &str, path: &str, body: &str| {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hskey-api-withoutquor1-{secret}");
        let length = body.len();
        member.http(&format!("{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")).await
    };
    let mut statuses = first.server.cluster().watch_status();
    within(statuses.wait_for(|status| status.voters.len() == 2 && !status.joint)).await.unwrap();
    let read = ask(&first, "GET", "/api/v1/user", "").await;
    assert!(read.starts_with("HTTP/1.1 200 ") && !read.contains("x-hsraft-stale"), "{read}");

    within(second.server.drain()).await;
    let read = ask(&first, "GET", "/api/v1/user", "").await;
    assert!(read.starts_with("HTTP/1.1 200 ") && read.contains("x-hsraft-stale: true"), "{read}");
    let write = ask(&first, "POST", "/api/v1/user", "{\"name\": \"eve\"}").await;
    assert!(write.starts_with("HTTP/1.1 503 ") && write.to_lowercase().contains("retry-after: "), "{write}");
    anns.until(|frame| frame["KeepAlive"] == true).await;
    assert!(is_open(&first).await, "it is no reason to close the port");
    let mut again = ann.dial(&first).await;
    let mut stream = again.stream(&ann, "").await;
    assert!(stream.next().await.unwrap().get("Node").is_some(), "and new streams are served");
    stream.until(|frame| frame["KeepAlive"] == true).await;
    drop((anns, stream));
    within(first.server.drain()).await;
}

/// A member dies with a client on it: its node is told online all along, and is still when its client is back elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_dead_member_stay_online() {
    let (first, second) = two().await;
    let third = joined(&first, "hs3", |options| options.drills = true).await;
    let mut statuses = first.server.cluster().watch_status();
    within(statuses.wait_for(|status| status.voters.len() == 3 && !status.joint)).await.unwrap();
    let key = first.auth_key().await;
    let (ann, bob) = (Machine::new(1, "laptop"), Machine::new(2, "desk"));
    let mut at_first = ann.dial(&first).await;
    ann.enter(&mut at_first, &key).await;
    let mut at_third = bob.dial(&third).await;
    bob.enter(&mut at_third, &key).await;
    let mut anns = at_first.stream(&ann, "").await;
    let mut bobs = at_third.stream(&bob, "").await;
    assert!(bobs.next().await.unwrap().get("Node").is_some());
    let state = first.server.cluster().latest();
    let node = state.nodes().values().find(|node| node.hostname == "desk").unwrap().id;
    anns.until(|frame| frame.to_string().contains("\"Online\":true")).await;

    let mut states = first.server.cluster().watch();
    let known = states.wait_for(|state| state.presence(node).is_some_and(|presence| presence.online));
    within(known).await.unwrap();

    // Gone without a word: nobody says that its streams have ended.
    let dead = third.server.cluster().me();
    third.die().await;
    let noticed = states.wait_for(|state| {
        assert!(state.presence(node).is_some_and(|presence| presence.online), "told offline within the grace");
        state.member(dead).is_some_and(|member| member.silent)
    });
    tokio::time::timeout(Duration::from_secs(60), noticed).await.expect("the death is noticed").unwrap();
    let mut at_second = bob.dial(&second).await;
    let mut bobs = at_second.stream(&bob, "").await;
    assert!(bobs.next().await.unwrap().get("Node").is_some());
    let mut states = second.server.cluster().watch();
    let me = second.server.cluster().me();
    let back = states.wait_for(|state| {
        let presence = state.presence(node).expect("it is known");
        assert!(presence.online, "told offline within the grace");
        presence.session.is_some_and(|session| session.member == me)
    });
    within(back).await.unwrap();
    within(first.server.drain()).await;
    within(second.server.drain()).await;
}
