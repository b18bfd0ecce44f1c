//! Malformed, hostile and huge policies: refused with a clear complaint, or taken; never a panic, never unbounded.

#[path = "common/dice.rs"]
mod dice;
#[path = "common/fuzz.rs"]
mod fuzz;

use policy::{Policy, Tailnet};

fn complaint(text: &str) -> String {
    Policy::parse(text).expect_err("it must be refused").to_string()
}

#[test]
fn mutated_policies_are_survived() {
    let mut taken = 0;
    for seed in 1..=1500 {
        let bytes = fuzz::mutated(seed);
        let outcome = std::panic::catch_unwind(|| fuzz::survive(&bytes, seed));
        taken += usize::from(outcome.unwrap_or_else(|_| panic!("seed {seed}: {}", String::from_utf8_lossy(&bytes))));
    }
    assert!((200..1400).contains(&taken), "both outcomes are exercised: {taken} of 1500 taken");
}

#[test]
fn sizes_are_bounded() {
    let rule = "{\"action\":\"accept\",\"src\":[\"*\"],\"dst\":[\"*:*\"]},";
    assert!(complaint(&format!("{{\"acls\":[{}]}}", rule.repeat(100_000))).contains("bytes, at most"));
    let short = "{\"action\":\"accept\"},";
    let many = complaint(&format!("{{\"acls\":[{}]}}", short.repeat(20_000)));
    assert!(many.contains("acls has 20000 entries, at most 10000 are allowed"), "{many}");
    let comment = format!("{{ /* {} */ }}", "x".repeat(10 * 1024 * 1024));
    assert!(complaint(&comment).contains("bytes, at most"));
    assert!(complaint(&format!("{{\"acls\":{}{}}}", "[".repeat(5000), "]".repeat(5000))).contains("nest deeper"));
    let own = "{\"action\":\"accept\",\"src\":[\"autogroup:member\"],\"dst\":[\"autogroup:self:*\"]},";
    assert!(complaint(&format!("{{\"acls\":[{}]}}", own.repeat(2000))).contains("autogroup:self"));
}

#[test]
fn the_largest_policy_is_compiled() {
    let groups: String = (0..2000).map(|n| format!("\"group:g{n}\":[\"u{}@\"],", n % 4)).collect();
    let rule = |n: usize| {
        format!("{{\"action\":\"accept\",\"src\":[\"group:g{}\"],\"dst\":[\"10.{}.0.0/16:*\"]}},", n % 2000, n % 250)
    };
    let rules: String = (0..10_000).map(rule).collect();
    let text = format!("{{\"groups\":{{{groups}}},\"acls\":[{rules}]}}");
    assert!(text.len() < policy::hujson::BYTES_MAX, "{}", text.len());
    assert!(fuzz::survive(text.as_bytes(), 7));
}

#[test]
fn what_is_no_text_is_said_so() {
    let refused = Policy::parse_bytes(b"{\n  \"acls\": [\xff]}").unwrap_err();
    assert_eq!(refused.to_string(), "line 2, column 12: the text is not UTF-8 from here (save the file as UTF-8)");
}

#[test]
fn what_leads_in_circles_ends() {
    let text = r#"{"groups": {"group:a": ["group:b"], "group:b": ["group:a"]}}"#;
    assert!(complaint(text).contains("groups[\"group:a\"]: \"group:b\": group members cannot be recursive"));
    let text = r#"{"tagOwners": {"tag:a": ["tag:b"], "tag:b": ["tag:a", "tag:c"], "tag:c": ["u1@"]}}"#;
    let policy = Policy::parse(text).unwrap().policy;
    let tailnet: Tailnet = dice::Dice::new(1).tailnet();
    assert!(policy.may_own_tag(&tailnet.users[&1], "tag:a") && !policy.may_own_tag(&tailnet.users[&2], "tag:a"));
    assert!(
        policy.tags_may_own_tag(&["tag:a".into()], "tag:b") && !policy.tags_may_own_tag(&["tag:x".into()], "tag:b")
    );
}
