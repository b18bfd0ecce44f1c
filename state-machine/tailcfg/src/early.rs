//! The first bytes a server may send inside Noise, before HTTP/2 (`tailcfg.EarlyNoise`).

use serde::Serialize;

use crate::ChallengeKey;

/// What tells an early payload from an HTTP/2 frame.
pub const EARLY_PAYLOAD_MAGIC: [u8; 5] = *b"\xff\xff\xffTS";

/// The early payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EarlyNoise {
    pub node_key_challenge: ChallengeKey,
}

impl EarlyNoise {
    /// Magic, length (big-endian, 32 bits), JSON.
    pub fn to_wire(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("a key is always written");
        let length = u32::try_from(json.len()).expect("one key is short");
        [&EARLY_PAYLOAD_MAGIC[..], &length.to_be_bytes(), &json].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_announces_its_length() {
        let bytes = EarlyNoise { node_key_challenge: ChallengeKey([7; 32]) }.to_wire();
        assert_eq!(bytes[..5], EARLY_PAYLOAD_MAGIC);
        assert_eq!(u32::from_be_bytes(bytes[5..9].try_into().unwrap()) as usize, bytes.len() - 9);
        let json = String::from_utf8(bytes[9..].to_vec()).unwrap();
        assert_eq!(json, format!(r#"{{"nodeKeyChallenge":"chalpub:{}"}}"#, "07".repeat(32)));
    }
}
