//! `GET /key`: our Noise key.

use http::StatusCode;
use state_machine::codes;
use tailcfg::{MachineKey, OverTlsPublicKeyResponse};

use super::body::{Answer, json, no};

/// `query` must carry the client's capability version: clients from before Noise send none.
pub fn answer(query: Option<&str>, public_key: MachineKey) -> Answer {
    let version = query
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| pair.strip_prefix("v="))
        .and_then(|version| version.parse::<u32>().ok());
    match version {
        Some(_) => json(&OverTlsPublicKeyResponse { legacy_public_key: MachineKey::default(), public_key }),
        None => no(
            StatusCode::BAD_REQUEST,
            &codes::CLIENT_UNREADABLE,
            "capability version must be set: GET /key?v=<number>",
        ),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn both_keys_are_always_written() {
        let answer = answer(Some("v=130"), MachineKey([0xab; 32]));
        assert_eq!(answer.status(), StatusCode::OK);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let expected =
            format!(r#"{{"legacyPublicKey":"mkey:{}","publicKey":"mkey:{}"}}"#, "00".repeat(32), "ab".repeat(32));
        assert_eq!(body, expected);
    }

    #[test]
    fn a_version_is_needed() {
        for query in [None, Some(""), Some("v="), Some("v=x"), Some("w=130")] {
            assert_eq!(answer(query, MachineKey::default()).status(), StatusCode::BAD_REQUEST, "{query:?}");
        }
    }
}
