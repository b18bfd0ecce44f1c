//! Keys as text: `hskey-auth-<prefix>-<secret>` and its siblings.
//!
//! The prefix is public and finds the row; the secret is shown once and known to the log only as SHA-256. A secret
//! has 64 characters of 62 kinds, more than 380 bits, so that a slow hash would add nothing.

use sha2::{Digest, Sha256};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
};

/// What an API key starts with.
pub const API: &str = "hskey-api-";
/// What a pre-auth key starts with.
pub const AUTH: &str = "hskey-auth-";
/// What the id of a pending login starts with.
pub const LOGIN: &str = "hskey-authreq-";

/// Characters of a login id behind [`LOGIN`].
pub const LOGIN_LEN: usize = 24;
/// Characters of a public prefix.
pub const PREFIX_LEN: usize = 12;
/// Characters of the public part of an API key before Headscale 0.28.
const OLD_PREFIX_LEN: usize = 7;
/// Characters of a pre-auth key before Headscale 0.28.
const OLD_AUTH_LEN: usize = 48;
/// Characters of a secret.
pub const SECRET_LEN: usize = 64;

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A key that was just made. The text leaves the program once; the rest goes into the log.
pub struct Fresh {
    /// The public part.
    pub prefix: String,
    /// The whole key, for its owner's eyes.
    pub text: String,
    /// What the log keeps of the secret.
    pub secret_sha256: [u8; 32],
}

/// Makes a key of the given kind ([`API`] or [`AUTH`]) from `random`.
pub fn fresh(kind: &str, random: &dyn Fn(&mut [u8])) -> Fresh {
    let prefix = letters(PREFIX_LEN, random);
    let secret = letters(SECRET_LEN, random);
    let text = format!("{kind}{prefix}-{secret}");
    Fresh { secret_sha256: hash(&secret), prefix, text }
}

/// Takes a key of the given kind apart into prefix and secret; `None` when it has another form.
///
/// Headscale's keys may hold dashes and underscores anywhere, so that only lengths tell the parts.
pub fn split<'a>(kind: &str, text: &'a str) -> Option<(&'a str, &'a str)> {
    let Some(rest) = text.strip_prefix(kind) else { return split_old(kind, text) };
    let (prefix, rest) = rest.split_at_checked(PREFIX_LEN)?;
    let secret = rest.strip_prefix('-')?;
    (is_word(prefix) && is_word(secret) && secret.len() == SECRET_LEN).then_some((prefix, secret))
}

/// Keys of Headscale before 0.28: API keys `<7>.<secret>`, pre-auth keys 48 hex digits, whose first twelve serve as
/// prefix.
fn split_old<'a>(kind: &str, text: &'a str) -> Option<(&'a str, &'a str)> {
    match kind {
        API => {
            let (prefix, secret) = text.split_once('.')?;
            let fits = prefix.len() == OLD_PREFIX_LEN && (20..=72).contains(&secret.len());
            (fits && is_word(prefix) && is_word(secret)).then_some((prefix, secret))
        }
        AUTH if text.len() == OLD_AUTH_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            text.split_at_checked(PREFIX_LEN)
        }
        _ => None,
    }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// One at a time: each takes a tenth of a second of a core.
static SLOW_PROOFS: Semaphore = Semaphore::const_new(1);

/// Whether a secret is the one of a bcrypt hash, as keys of other servers are kept. Takes a tenth of a second.
pub async fn proves_slowly(secret: &str, hash: &str) -> bool {
    let Ok(_turn) = SLOW_PROOFS.acquire().await else { return false };
    let prove = || bcrypt::verify(secret, hash).unwrap_or(false);
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(prove),
        _ => prove(),
    }
}

/// What the log keeps of a secret.
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The public prefix somebody meant: `<12>`, `hskey-api-<12>`, the masked `hskey-api-<12>-***` or the whole key.
pub fn public_prefix<'a>(kind: &str, text: &'a str) -> &'a str {
    let rest = text.trim().strip_prefix(kind).unwrap_or(text.trim());
    match rest.split_at_checked(PREFIX_LEN) {
        Some((prefix, more)) if more.starts_with('-') => prefix,
        // `<7>.<secret>` and the masked `<7>***`.
        _ => rest.split(['*', '.']).next().unwrap_or(rest).trim_end_matches('-'),
    }
}

/// A key as lists show it.
pub fn masked(kind: &str, prefix: &str) -> String {
    format!("{kind}{prefix}-***")
}

pub(crate) fn letters(count: usize, random: &dyn Fn(&mut [u8])) -> String {
    let mut text = String::with_capacity(count);
    let mut pool = [0; 64];
    while text.len() < count {
        random(&mut pool);
        // 248 = 4 * 62: bytes above would make some letters likelier than others.
        let fair = pool.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALPHABET[usize::from(*byte) % 62]));
        text.extend(fair.take(count - text.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn dice() -> impl Fn(&mut [u8]) {
        let state = Cell::new(7u64);
        move |bytes: &mut [u8]| {
            for byte in bytes {
                state.set(state.get().wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407));
                *byte = (state.get() >> 33) as u8;
            }
        }
    }

    #[test]
    fn a_fresh_key_is_read_back() {
        let dice = dice();
        let key = fresh(API, &dice);
        let (prefix, secret) = split(API, &key.text).unwrap();
        assert_eq!(prefix, key.prefix);
        assert_eq!(hash(secret), key.secret_sha256);
        assert_eq!(key.text.len(), API.len() + PREFIX_LEN + 1 + SECRET_LEN);
        assert_ne!(fresh(API, &dice).text, key.text);
    }

    #[test]
    fn other_forms_are_refused() {
        let key = fresh(AUTH, &dice()).text;
        for text in
            ["", "hskey-auth-", &key[..key.len() - 1], &format!("{key}x"), &key.replace("auth-", "auth_"), &key[1..]]
        {
            assert!(split(AUTH, text).is_none(), "{text}");
        }
        assert!(split(API, &key).is_none());
    }

    #[test]
    fn keys_of_other_servers() {
        let dashes = format!("hskey-api-a-b_c-d_e-fg-{}-_{}", "x".repeat(31), "y".repeat(31));
        assert_eq!(split(API, &dashes).unwrap().0, "a-b_c-d_e-fg");
        assert_eq!(public_prefix(API, &dashes), "a-b_c-d_e-fg");
        assert_eq!(split(API, &format!("ab-_d12.{}", "s".repeat(32))).unwrap().0, "ab-_d12");
        assert_eq!(split(API, &format!("ab-_d1.{}", "s".repeat(32))), None);
        let hex = "0123456789ab".repeat(4);
        assert_eq!(split(AUTH, &hex), Some(("0123456789ab", &hex[12..])));
        assert_eq!(split(AUTH, &hex[1..]), None);
        assert_eq!(public_prefix(API, "ab-_d1x***"), "ab-_d1x");
    }

    #[tokio::test]
    async fn a_slow_proof() {
        // Cost 4, so that the test is quick.
        let hash = bcrypt::hash("secret", 4).unwrap();
        assert!(proves_slowly("secret", &hash).await);
        assert!(!proves_slowly("Secret", &hash).await);
        assert!(!proves_slowly("secret", "nonsense").await);
    }

    #[test]
    fn people_name_keys_in_several_ways() {
        for text in
            ["abcdefghijkl", "hskey-api-abcdefghijkl", "hskey-api-abcdefghijkl-***", " hskey-api-abcdefghijkl-s3cret"]
        {
            assert_eq!(public_prefix(API, text), "abcdefghijkl", "{text}");
        }
    }
}
