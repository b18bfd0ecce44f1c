//! `policy.mode: file`: the founder's file goes into the log, others are compared with it, and nobody else sets it.

mod common;

use common::{Member, within};
use state_machine::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_taken_over_once_and_compared_ever_after() {
    let text = "// ours\n{\"acls\": []}";
    let member = Member::start_with(|options| options.policy = Some(text.to_owned())).await;
    let mut states = member.server.cluster().watch();
    let state = within(states.wait_for(|state| state.policy().is_some())).await.unwrap().clone();
    assert_eq!((&*state.policy().unwrap().text, &*state.policy().unwrap().author), (text, "file of hs1"));
    assert_eq!(member.metric("hsraft_policy_file_differs"), 0.0);

    // Whoever sets another one (a member without a file) makes the file stale, and that is told.
    member.done(Command::SetPolicy { text: "{}".into(), author: "somebody".to_owned() }).await;
    member.metric_reaches("hsraft_policy_file_differs", 1.0).await;
    let told = member.server.reload(&reloaded(text)).await;
    assert!(told.taken.contains(&"policy.path".to_owned()), "{told:?}");
    assert_eq!(&*member.server.cluster().latest().policy().unwrap().text, text);
    within(async {
        while member.metric("hsraft_policy_file_differs") > 0.0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;

    // A file that means nothing is refused, and the one in force stays.
    let told = member.server.reload(&reloaded("{\"acls\": [{\"action\": \"deny\", \"src\": [], \"dst\": []}]}")).await;
    assert!(told.refused.iter().any(|refused| refused.contains("action=\"deny\" is not supported")), "{told:?}");
    assert_eq!(&*member.server.cluster().latest().policy().unwrap().text, text);
    member.server.drain().await;
}

fn reloaded(text: &str) -> node::Options {
    node::Options { policy: Some(text.to_owned()), ..node::Options::new("hs1", "/nowhere") }
}
