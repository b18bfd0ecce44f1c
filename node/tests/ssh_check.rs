//! SSH check mode: a node asks at one member, a person answers at another.

mod common;

use std::time::Duration;

use common::{Connection, Machine, Member};
use http::StatusCode;
use node::options::{Start, Token};
use serde_json::Value;
use state_machine::{Command, JoinRole};

const POLICY: &str = r#"{
  "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
  "ssh": [{"action": "check", "checkPeriod": "1h", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}],
}"#;

async fn ask(connection: &mut Connection, path: &str) -> Value {
    let (status, body) = connection.get(path).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The path the node is told to ask at, and the check in it.
fn delegated(action: &Value) -> (String, String) {
    let url = action["holdAndDelegate"].as_str().unwrap_or_else(|| panic!("not delegated: {action}"));
    let path = url.strip_prefix("https://unused").unwrap().to_owned();
    let id = path.split("auth_id=").nth(1).unwrap().to_owned();
    (path, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_answers_at_another_member() {
    let first = Member::start().await;
    let cluster = first.server.cluster();
    let token = cluster.create_join_token(Duration::from_secs(60), "", JoinRole::Voter, "test").await.unwrap();
    let address = cluster.latest().member(cluster.me()).unwrap().peer_address.clone();
    let second = Member::start_with(|options| {
        options.name = "hs2".to_owned();
        options.start = Start::Join { addresses: vec![address], token: Token(token), replaces: String::new() };
        // Questions are held for a moment only, so that the node has to ask again.
        options.limits.followup_hold = Duration::from_millis(100);
    })
    .await;

    let key = first.auth_key().await;
    let (laptop, server) = (Machine::new(1, "laptop"), Machine::new(2, "server"));
    laptop.enter(&mut laptop.dial(&first).await, &key).await;
    server.enter(&mut server.dial(&first).await, &key).await;
    first.done(Command::SetPolicy { text: POLICY.into(), author: "test".to_owned() }).await;
    let question = "/machine/ssh/action/1/to/2?local_user=root";

    // Nobody but the node that is connected to may ask.
    let (status, _) = laptop.dial(&first).await.get(question).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // A user the policy does not let in.
    let mut at_first = server.dial(&first).await;
    let other = ask(&mut at_first, "/machine/ssh/action/1/to/2?local_user=ann").await;
    assert_eq!(other["reject"], true, "{other}");

    let held = ask(&mut at_first, question).await;
    let (path, id) = delegated(&held);
    assert!(held["message"].as_str().unwrap().contains(&format!("hsraft ssh approve {id}")), "{held}");
    assert!(first.get(&format!("/auth/{id}")).await.contains(&format!("hsraft ssh approve {id}")));
    // Asked again at another member: the same question, and the same way to ask it.
    let mut at_second = server.dial(&second).await;
    assert_eq!(delegated(&ask(&mut at_second, question).await).1, id);
    assert_eq!(delegated(&ask(&mut at_second, &path).await), (path.clone(), id.clone()), "held, then asked again");

    // While the node waits at one member, somebody says yes at the other.
    let (answer, _) = tokio::join!(ask(&mut at_first, &path), async {
        second.done(Command::ApproveSshCheck { id: id.clone(), by: "ann".to_owned() }).await
    });
    assert_eq!(answer["accept"], true, "{answer}");
    assert!(answer.get("holdAndDelegate").is_none(), "{answer}");
    // The next connection of the same two follows without a question, at any member.
    assert_eq!(ask(&mut at_second, question).await["accept"], true);

    // Another policy makes approvals void, and somebody may say no.
    first.done(Command::SetPolicy { text: format!("{POLICY}\n").into(), author: "test".to_owned() }).await;
    let (path, id) = delegated(&ask(&mut at_first, question).await);
    first.done(Command::RejectSshCheck { id, by: "ann".to_owned() }).await;
    assert_eq!(ask(&mut at_first, &path).await["reject"], true);

    for bad in ["/machine/ssh/action/x/to/2", "/machine/ssh/action/1"] {
        assert_eq!(at_first.get(bad).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
    second.server.drain().await;
    first.server.drain().await;
}
