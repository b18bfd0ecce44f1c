//! Two members in this process: what begins at one ends at the other.

mod common;

use std::time::Duration;

use common::{Machine, Member, within};
use node::options::{Start, Token};
use serde_json::json;
use state_machine::{Command, JoinRole, LoginId, RegisterMethod};

async fn two() -> (Member, Member) {
    let first = Member::start().await;
    let cluster = first.server.cluster();
    let token = cluster.create_join_token(Duration::from_secs(60), "", JoinRole::Voter, "test").await.unwrap();
    let address = cluster.latest().member(cluster.me()).unwrap().peer_address.clone();
    let second = Member::start_with(|options| {
        options.name = "hs2".to_owned();
        options.start = Start::Join { addresses: vec![address], token: Token(token), replaces: String::new() };
    })
    .await;
    (first, second)
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
