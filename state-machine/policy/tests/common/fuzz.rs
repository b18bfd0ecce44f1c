//! One case of fuzzing: whatever the bytes are, they are refused or mean something, and nothing panics.
#![allow(dead_code, reason = "each test uses its own part")]

use policy::{Meaning, Policy};

use super::dice::Dice;

/// Reads bytes; where they are a policy, compiles it and asks everything.
pub fn survive(bytes: &[u8], seed: u64) -> bool {
    let parsed = match Policy::parse_bytes(bytes) {
        Ok(parsed) => parsed,
        Err(rejection) => {
            assert!(!rejection.to_string().is_empty());
            return false;
        }
    };
    assert!(parsed.warnings.len() <= 200);
    let tailnet = Dice::new(seed).tailnet();
    let _ = parsed.policy.check(&tailnet);
    let _ = parsed.policy.check(&policy::Tailnet::default());
    let meaning = Meaning::compile(&parsed.policy, tailnet.clone());
    for (id, node) in &tailnet.nodes {
        let _ = (meaning.filter(*id), meaning.ssh(*id), meaning.attributes(*id), parsed.policy.tags().count());
        for (other, peer) in &tailnet.nodes {
            let _ = (meaning.routes(*id, *other), meaning.ssh_check_period(*id, *other, "root"));
            let ends = (node.addresses().next(), peer.addresses().next());
            if let (Some(source), Some(target)) = ends {
                let _ = meaning.why(source, target, Some(22), None);
            }
        }
        for route in &node.routes {
            let user = node.user.and_then(|user| tailnet.users.get(&user));
            let _ = parsed.policy.auto_approves(node, user.map(|user| &**user), route);
        }
    }
    true
}

/// A valid policy with some bytes, words and pieces changed.
pub fn mutated(seed: u64) -> Vec<u8> {
    const PIECES: [&str; 24] = [
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "//",
        "/*",
        "*/",
        "null",
        "-1",
        "1e999",
        "\"tag:\"",
        "\"*:*\"",
        "\"autogroup:self\"",
        "\"group:a\"",
        "\"0.0.0.0/0\"",
        "\"::/0\"",
        "\"user:x\"",
        "\"\\ud800\"",
        "\u{feff}",
        "é",
        "\"checkPeriod\":\"9999999h\"",
    ];
    let mut dice = Dice::new(seed);
    let mut bytes = match dice.roll(4) {
        0 => serde_json::to_string_pretty(&dice.policy()).unwrap_or_default().into_bytes(),
        _ => dice.policy().to_string().into_bytes(),
    };
    for _ in 0..dice.roll(5) {
        let at = dice.roll(bytes.len() as u64 + 1) as usize;
        let end = (at + dice.roll(12) as usize).min(bytes.len());
        match dice.roll(5) {
            0 => _ = bytes.splice(at..end, std::iter::empty()),
            1 => _ = bytes.splice(at..at, dice.one(&PIECES).bytes()),
            2 => _ = bytes.splice(at..end, dice.one(&PIECES).bytes()),
            3 if at < bytes.len() => bytes[at] = dice.roll(256) as u8,
            _ => {
                let piece: Vec<u8> = bytes[at..end].to_vec();
                let to = dice.roll(bytes.len() as u64 + 1) as usize;
                let _ = bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}
