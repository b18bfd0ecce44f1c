//! A join token as text: `hsr1.<cluster id>.<hash of the authority's key>.<id>.<secret>`, base32 in small letters.

use sha2::{Digest, Sha256};
use world::Entropy;
use zeroize::Zeroizing;

const PREFIX: &str = "hsr1";

/// A ticket into one cluster.
pub struct Token {
    pub cluster_id: String,
    /// SHA-256 of the authority's SubjectPublicKeyInfo.
    pub pin: [u8; 32],
    /// The public part.
    pub id: String,
    secret: Zeroizing<String>,
}

impl Token {
    pub fn new(cluster_id: &str, pin: [u8; 32], entropy: &Entropy) -> Token {
        let id = base32(&entropy.bytes::<5>());
        let secret = Zeroizing::new(base32(&*Zeroizing::new(entropy.bytes::<32>())));
        Token { cluster_id: cluster_id.into(), pin, id, secret }
    }

    /// What the cluster remembers of the secret, and the key of the joiner's proof.
    pub fn secret_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_bytes()).into()
    }

    /// The whole token, to be shown once.
    pub fn text(&self) -> String {
        format!("{PREFIX}.{}.{}.{}.{}", self.cluster_id, base32(&self.pin), self.id, *self.secret)
    }

    /// Reads [`Token::text`].
    pub fn parse(text: &str) -> Option<Token> {
        let mut parts = text.trim().split('.');
        let (prefix, cluster_id, pin, id, secret) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_word = |word: &str, length| word.len() == length && word.bytes().all(|byte| ALPHABET.contains(&byte));
        if prefix != PREFIX || parts.next().is_some() || !is_word(id, 8) || !is_word(secret, 52) {
            return None;
        }
        if !is_word(cluster_id, 8) {
            return None;
        }
        let pin = from_base32(pin)?.try_into().ok()?;
        Some(Token { cluster_id: cluster_id.into(), pin, id: id.into(), secret: Zeroizing::new(secret.into()) })
    }
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// RFC 4648, section 6, in small letters and without padding.
pub fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut buffer, mut bits) = (0u32, 0);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    text
}

/// Reads [`base32`].
pub fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut buffer, mut bits) = (0u32, 0);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        buffer = ((buffer << 5) | value as u32) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let entropy = world::real::entropy();
        let token = Token::new("abcd2345", entropy.bytes(), &entropy);
        let again = Token::parse(&token.text()).unwrap();
        assert_eq!((again.pin, &again.id, again.secret_sha256()), (token.pin, &token.id, token.secret_sha256()));
        for wrong in ["", "hsr1.a.b.c.d", &token.text().replace("hsr1", "hsr2"), &format!("{}.x", token.text())] {
            assert!(Token::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn base32_of_the_rfc() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(from_base32("mzxw6ytboi").unwrap(), b"foobar");
    }
}
