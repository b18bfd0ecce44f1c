//! Who are you: the sealed-box handshake. Pure.
//!
//! Each side seals a short JSON text for the other's Curve25519 key (NaCl box: XSalsa20-Poly1305, nonce in front).
//! That the client's text opens proves that it holds the private half of the key it names.

use std::fmt;

use crypto_box::{
    PublicKey, SalsaBox, SecretKey,
    aead::{Aead, generic_array::GenericArray},
};
use serde_json::Value;
use tailcfg::NodeKey;
use thiserror::Error;
use world::Entropy;

use crate::frame::PROTOCOL_VERSION;

/// Bytes of a box's nonce.
pub const NONCE_LEN: usize = 24;

/// One side's secret, and the public half of it. The secret is never shown.
#[derive(Clone)]
pub struct PrivateKey {
    secret: SecretKey,
    public: NodeKey,
}

impl PrivateKey {
    /// Takes the 32 bytes a key file holds.
    pub fn from_bytes(bytes: [u8; 32]) -> PrivateKey {
        let secret = SecretKey::from(bytes);
        let public = NodeKey(*secret.public_key().as_bytes());
        PrivateKey { secret, public }
    }

    /// A new key.
    pub fn generate(entropy: &Entropy) -> PrivateKey {
        PrivateKey::from_bytes(entropy.bytes())
    }

    /// What goes into a key file.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.secret.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> NodeKey {
        self.public
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

/// What a client says about itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The version of the protocol it speaks; 0 when it does not say.
    pub version: u64,
    /// Proves that it is a relay of the same mesh.
    pub mesh_key: Option<[u8; 32]>,
    /// It answers pings.
    pub can_ack_pings: bool,
    /// It measures us and is nobody's node.
    pub is_prober: bool,
}

impl fmt::Debug for ClientInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientInfo")
            .field("version", &self.version)
            .field("mesh_key", &self.mesh_key.is_some())
            .field("can_ack_pings", &self.can_ack_pings)
            .field("is_prober", &self.is_prober)
            .finish()
    }
}

/// Why an introduction was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    #[error("the introduction is too short to hold a nonce")]
    TooShort,
    #[error("the box does not open: it was sealed for another key or changed on the way")]
    Sealed,
    #[error("the introduction is not a JSON object")]
    NotJson,
    #[error("the mesh key is not 64 hex digits")]
    MeshKey,
    #[error("the key is all zeros")]
    ZeroKey,
}

/// What two keys share. Making one costs a multiplication on the curve, using it almost nothing.
pub struct Channel(SalsaBox);

impl Channel {
    /// Between the holder of `own` and whoever says it is `other`.
    pub fn new(own: &PrivateKey, other: &NodeKey) -> Result<Channel, HelloError> {
        if other.is_zero() {
            return Err(HelloError::ZeroKey);
        }
        Ok(Channel(SalsaBox::new(&PublicKey::from(other.0), &own.secret)))
    }

    /// Opens what a client says about itself. That it opens proves that the client holds its key.
    pub fn open_client_info(&self, sealed: &[u8]) -> Result<ClientInfo, HelloError> {
        client_info_from_json(&self.open(sealed)?)
    }

    /// Seals what a client says about itself.
    pub fn seal_client_info(&self, info: &ClientInfo, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        let mut json = serde_json::Map::new();
        if let Some(mesh_key) = info.mesh_key {
            json.insert("meshKey".into(), hex::encode(mesh_key).into());
        }
        json.insert("version".into(), info.version.into());
        json.insert("CanAckPings".into(), info.can_ack_pings.into());
        json.insert("IsProber".into(), info.is_prober.into());
        self.seal(Value::Object(json).to_string().as_bytes(), nonce)
    }

    /// Seals what the relay says about itself.
    pub fn seal_server_info(&self, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        self.seal(format!("{{\"version\":{PROTOCOL_VERSION}}}").as_bytes(), nonce)
    }

    /// The version a relay says it speaks.
    pub fn open_server_info(&self, sealed: &[u8]) -> Result<u64, HelloError> {
        let json: Value = serde_json::from_slice(&self.open(sealed)?).map_err(|_| HelloError::NotJson)?;
        Ok(json.get("version").and_then(Value::as_u64).unwrap_or(0))
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, HelloError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(HelloError::TooShort)?;
        self.0.decrypt(GenericArray::from_slice(nonce), sealed).map_err(|_| HelloError::Sealed)
    }

    fn seal(&self, text: &[u8], nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        let sealed = self.0.encrypt(GenericArray::from_slice(&nonce), text);
        [&nonce[..], &sealed.expect("a few hundred bytes can be sealed")].concat()
    }
}

/// Go matches names without regard to case and ignores what it does not know; other clients rely on both.
fn client_info_from_json(text: &[u8]) -> Result<ClientInfo, HelloError> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(text) else { return Err(HelloError::NotJson) };
    let mut info = ClientInfo::default();
    for (name, value) in &fields {
        match name.to_ascii_lowercase().as_str() {
            "version" => info.version = value.as_u64().unwrap_or(0),
            "canackpings" => info.can_ack_pings = value.as_bool().unwrap_or(false),
            "isprober" => info.is_prober = value.as_bool().unwrap_or(false),
            "meshkey" => info.mesh_key = mesh_key_from_json(value)?,
            _ => {}
        }
    }
    Ok(info)
}

/// Absent, empty and all-zero mean none; a key that is there but wrong is an error, never "none".
fn mesh_key_from_json(value: &Value) -> Result<Option<[u8; 32]>, HelloError> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text.is_empty() => return Ok(None),
        Value::String(text) => text,
        _ => return Err(HelloError::MeshKey),
    };
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).map_err(|_| HelloError::MeshKey)?;
    Ok((key != [0; 32]).then_some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (PrivateKey, PrivateKey) {
        (PrivateKey::from_bytes([0x11; 32]), PrivateKey::from_bytes([0x22; 32]))
    }

    fn channels() -> (Channel, Channel) {
        let (client, relay) = keys();
        (Channel::new(&client, &relay.public()).unwrap(), Channel::new(&relay, &client.public()).unwrap())
    }

    #[test]
    fn an_introduction_goes_both_ways() {
        let (client, relay) = channels();
        let info = ClientInfo { version: 2, mesh_key: Some([7; 32]), can_ack_pings: true, is_prober: false };
        let sealed = client.seal_client_info(&info, [9; 24]);
        assert_eq!(relay.open_client_info(&sealed), Ok(info));
        assert_eq!(client.open_server_info(&relay.seal_server_info([8; 24])), Ok(2));
    }

    /// Both boxes were computed from the definitions (RFC 7748, XSalsa20, RFC 8439's Poly1305), not by this library.
    #[test]
    fn boxes_made_elsewhere() {
        let (client, relay) = keys();
        assert_eq!(hex::encode(client.public().0), "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13");
        assert_eq!(hex::encode(relay.public().0), "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20");
        let client_info = hex::decode(
            "3333333333333333333333333333333333333333333333330cac76b82cb75df3a51a9d802720c3384d3eb8fccc9a8433\
             ce902111b5d68524935652b1a16fbfc21be3b4a3ed66992a",
        )
        .unwrap();
        let (_, channel) = channels();
        let info = ClientInfo { version: 2, can_ack_pings: true, ..ClientInfo::default() };
        assert_eq!(channel.open_client_info(&client_info), Ok(info));
        let server_info = "44444444444444444444444444444444444444444444444498cc589c163885043e1278210bd48deee3c56f58\
                           4bfdcbc303ff0f3c69";
        assert_eq!(hex::encode(channel.seal_server_info([0x44; 24])), server_info);
    }

    #[test]
    fn a_changed_or_misdirected_box_does_not_open() {
        let (client, relay) = channels();
        let sealed = client.seal_client_info(&ClientInfo::default(), [9; 24]);
        for index in [0, 23, 24, sealed.len() - 1] {
            let mut bad = sealed.clone();
            bad[index] ^= 1;
            assert_eq!(relay.open_client_info(&bad), Err(HelloError::Sealed));
        }
        let other = Channel::new(&keys().0, &keys().0.public()).unwrap();
        assert_eq!(other.open_client_info(&sealed), Err(HelloError::Sealed));
        assert_eq!(relay.open_client_info(&sealed[..20]), Err(HelloError::TooShort));
        assert!(matches!(Channel::new(&keys().0, &NodeKey::default()), Err(HelloError::ZeroKey)));
    }

    #[test]
    fn names_are_matched_as_go_does() {
        let info =
            client_info_from_json(br#"{"VERSION":2,"canackpings":true,"AppName":"x","mesh_key":"none"}"#).unwrap();
        assert_eq!(info, ClientInfo { version: 2, can_ack_pings: true, ..ClientInfo::default() });
        assert_eq!(client_info_from_json(br#"{"meshKey":""}"#), Ok(ClientInfo::default()));
        assert_eq!(client_info_from_json(br#"{"meshKey":"none"}"#), Err(HelloError::MeshKey));
        assert_eq!(client_info_from_json(b"[]"), Err(HelloError::NotJson));
        assert_eq!(client_info_from_json(b"{"), Err(HelloError::NotJson));
    }

    #[test]
    fn secrets_are_not_printed() {
        let info = ClientInfo { mesh_key: Some([0xab; 32]), ..ClientInfo::default() };
        let shown = format!("{info:?} {:?}", keys().0);
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    }
}
