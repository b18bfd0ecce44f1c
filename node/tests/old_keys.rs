//! Pre-auth keys that came with another server's database open the door, slowly once and quickly ever after.

mod common;

use common::{Machine, Member};
use serde_json::json;
use state_machine::{Command, Import, Outcome, PreAuthKey, PreAuthKeyId, Timestamp, User, UserId};

/// Sixty-four times the letter s, at the lowest cost.
const HASH: &str = "$2a$04$w6dY61Ln5n96R8SrzGUJkuqKnIA6JZZ2b72CXZVkxG1VkgR2mEsgm";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hashed_key_lets_in() {
    let member = Member::start().await;
    let user = User { id: UserId(7), name: "ann".into(), created_at: Timestamp(1), ..User::default() };
    // Dashes and underscores may stand anywhere in keys of Headscale's.
    let key = PreAuthKey {
        id: PreAuthKeyId(3),
        prefix: "a-b_c-d_e-f_".into(),
        bcrypt: Some(HASH.into()),
        user: Some(UserId(7)),
        reusable: true,
        ..PreAuthKey::default()
    };
    let batch = Import { users: vec![user], pre_auth_keys: vec![key], ..Import::default() };
    assert_eq!(member.done(Command::Import { batch }).await, Outcome::Changed(2));

    let refused = Machine::new(1, "stranger");
    let mut registration = refused.registration();
    registration["Auth"] = json!({"AuthKey": format!("hskey-auth-a-b_c-d_e-f_-{}", "t".repeat(64))});
    let answer = refused.dial(&member).await.register(&registration).await;
    assert_eq!(answer["Error"], "invalid pre auth key [HSR-1005]", "{answer}");
    let known = || member.server.cluster().latest().pre_auth_key(PreAuthKeyId(3)).unwrap().clone();
    assert_eq!(known().secret_sha256, [0; 32]);

    let text = format!("hskey-auth-a-b_c-d_e-f_-{}", "s".repeat(64));
    for number in 2..=3 {
        let machine = Machine::new(number, "laptop");
        let mut connection = machine.dial(&member).await;
        machine.enter(&mut connection, &text).await;
        assert_eq!(known().secret_sha256, admin::secret_text::hash(&"s".repeat(64)));
    }
    assert_eq!(member.server.cluster().latest().nodes().len(), 2);
    member.server.drain().await;
}
