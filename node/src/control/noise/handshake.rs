//! The two handshake messages and the error frame: bytes in, bytes out.

use snow::{
    HandshakeState, StatelessTransportState,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};
use tailcfg::MachineKey;
use thiserror::Error;
use world::Entropy;

/// Version, type and length, then 96 bytes of Noise.
pub const INITIATION_BYTES: usize = 101;
/// Type and length, then 48 bytes of Noise.
pub const RESPONSE_BYTES: usize = 51;
/// Type and length before every message but the first.
pub const HEADER_BYTES: usize = 3;

const TYPE_INITIATION: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
const TYPE_ERROR: u8 = 3;
const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// Why a handshake failed.
#[derive(Debug, Error)]
pub enum HandshakeError {
    #[error("malformed handshake message")]
    Malformed,
    #[error("handshake does not decrypt; was it made for another server key?")]
    Cryptography(#[from] snow::Error),
    #[error("server error: {0}")]
    Told(String),
}

/// A finished handshake.
pub struct Secured {
    /// Seals and opens records.
    pub transport: StatelessTransportState,
    /// The other side's static key, proved.
    pub peer: MachineKey,
    /// The client's capability version, as the initiation carried it.
    pub version: u16,
    /// Equal on both sides, unique for this connection.
    pub hash: [u8; 32],
}

/// The server's only step.
pub fn respond(
    private: &[u8; 32],
    initiation: &[u8],
    entropy: &Entropy,
) -> Result<([u8; RESPONSE_BYTES], Secured), HandshakeError> {
    let message: &[u8; INITIATION_BYTES] = initiation.try_into().map_err(|_| HandshakeError::Malformed)?;
    let [v0, v1, kind, l0, l1, noise @ ..] = message;
    if *kind != TYPE_INITIATION || usize::from(u16::from_be_bytes([*l0, *l1])) != noise.len() {
        return Err(HandshakeError::Malformed);
    }
    let version = u16::from_be_bytes([*v0, *v1]);
    let prologue = prologue(version);
    let mut state = builder(entropy)?.local_private_key(private)?.prologue(prologue.as_bytes())?.build_responder()?;
    let mut payload = [0; INITIATION_BYTES];
    state.read_message(noise, &mut payload)?;

    let mut response = [0; RESPONSE_BYTES];
    response[0] = TYPE_RESPONSE;
    response[1..3].copy_from_slice(&((RESPONSE_BYTES - HEADER_BYTES) as u16).to_be_bytes());
    state.write_message(&[], &mut response[HEADER_BYTES..])?;
    Ok((response, secure(state, version)?))
}

/// A client that has sent its initiation.
pub struct Initiator {
    state: HandshakeState,
    version: u16,
}

/// The client's first step.
pub fn initiate(
    private: &[u8; 32],
    server: &MachineKey,
    version: u16,
    entropy: &Entropy,
) -> Result<(Initiator, [u8; INITIATION_BYTES]), HandshakeError> {
    let prologue = prologue(version);
    let mut state = builder(entropy)?
        .local_private_key(private)?
        .remote_public_key(&server.0)?
        .prologue(prologue.as_bytes())?
        .build_initiator()?;
    let mut message = [0; INITIATION_BYTES];
    message[..2].copy_from_slice(&version.to_be_bytes());
    message[2] = TYPE_INITIATION;
    message[3..5].copy_from_slice(&((INITIATION_BYTES - 5) as u16).to_be_bytes());
    state.write_message(&[], &mut message[5..])?;
    Ok((Initiator { state, version }, message))
}

impl Initiator {
    /// The client's second step: reads the server's answer, header included.
    pub fn finish(mut self, response: &[u8]) -> Result<Secured, HandshakeError> {
        if let [TYPE_ERROR, _, _, text @ ..] = response {
            return Err(HandshakeError::Told(String::from_utf8_lossy(text).into_owned()));
        }
        let message: &[u8; RESPONSE_BYTES] = response.try_into().map_err(|_| HandshakeError::Malformed)?;
        let [kind, l0, l1, noise @ ..] = message;
        if *kind != TYPE_RESPONSE || usize::from(u16::from_be_bytes([*l0, *l1])) != noise.len() {
            return Err(HandshakeError::Malformed);
        }
        let mut payload = [0; RESPONSE_BYTES];
        self.state.read_message(noise, &mut payload)?;
        secure(self.state, self.version)
    }
}

/// What a server may send instead of its answer; clients show the text.
pub fn error_frame(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(ERROR_TEXT_BYTES_MAX)];
    let mut frame = vec![TYPE_ERROR];
    frame.extend_from_slice(&(text.len() as u16).to_be_bytes());
    frame.extend_from_slice(text);
    frame
}

fn prologue(version: u16) -> String {
    format!("Tailscale Control Protocol v{version}")
}

fn builder(entropy: &Entropy) -> Result<snow::Builder<'static>, snow::Error> {
    Ok(snow::Builder::with_resolver(PATTERN.parse()?, Box::new(Resolver(entropy.clone()))))
}

fn secure(state: HandshakeState, version: u16) -> Result<Secured, HandshakeError> {
    let peer: [u8; 32] =
        state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(HandshakeError::Malformed)?;
    let hash: [u8; 32] = state.get_handshake_hash().try_into().map_err(|_| HandshakeError::Malformed)?;
    let peer = MachineKey(peer);
    // Zero means "no key" everywhere else; nobody may prove to be nobody.
    if peer.is_zero() {
        return Err(HandshakeError::Malformed);
    }
    Ok(Secured { transport: state.into_stateless_transport_mode()?, peer, version, hash })
}

/// snow's own primitives, but dice from the world: a simulation must roll the same twice.
struct Resolver(Entropy);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Dice(self.0.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct Dice(Entropy);

impl Random for Dice {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use bytes::BytesMut;

    use super::*;
    use crate::control::noise::{frame::Records, public_key};

    /// Dice that show `start`, `start + 1`, ….
    fn dice(start: u8) -> Entropy {
        let mut next = start;
        Entropy::new(move |bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(1);
            }
        })
    }

    fn run(start: u8) -> [u8; 32] {
        std::array::from_fn(|i| start + i as u8)
    }

    #[test]
    fn known_answers() {
        let (initiator, responder) = (run(0x00), run(0x40));
        assert_eq!(
            hex::encode(public_key(&initiator).0),
            "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"
        );
        assert_eq!(
            hex::encode(public_key(&responder).0),
            "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a"
        );
        let (waiting, initiation) = initiate(&initiator, &public_key(&responder), 113, &dice(0x20)).unwrap();
        assert_eq!(
            BASE64_STANDARD.encode(initiation),
            "AHEBAGA1gHLWNliA0a7qMprfkSE4OFHtIaKOO3XpZdDSzRZiVK1bj+vt65dBW+U2EiBea/qzheNMsSfdiFTE+a+xD5sOYAufCd8ASsw0\
             xyojSw7f5RL95mZg2yX6SXUPoHpxTcg="
        );
        let (response, server) = respond(&responder, &initiation, &dice(0x60)).unwrap();
        assert_eq!(
            hex::encode(response),
            "020030675dd574ed7789310b3d2e7681f3790b466c773b1521fecf36577958371ea52f04a855d028335246f01c17f3ff44e121"
        );
        let client = waiting.finish(&response).unwrap();
        for side in [&server, &client] {
            assert_eq!(hex::encode(side.hash), "1d74d40023b5daf7cae5d0693113e84604e6be2b8d30b0ce53c031ae8d79819a");
            assert_eq!(side.version, 113);
        }
        assert_eq!(server.peer, public_key(&initiator));

        // The second and the 257th record tell a big-endian counter from a little-endian one.
        let to_client = [
            (0, "0400150090874f2241645e3a06b58754e4038336d36c5fdb"),
            (1, "040015891ee68f2f7ea27b189b4bf52d8002bee5dbd132a2"),
            (256, "0400154ae309e5aa8bc5c485d10d8beef718b4149062d10b"),
        ];
        let to_server = [
            (0, "040015dc192494126dbf7536fc5739545df3ba74e6dc4970"),
            (1, "040015d2340ad1e4312e8db9998d67f7fa32f131ac9d935b"),
            (256, "0400152ec8d47a76d7df15925b8bb34f9b3e0e48fc8b6669"),
        ];
        for (side, expected) in [(server, to_client), (client, to_server)] {
            let mut records = Records::new(side.transport);
            let mut nth = 0;
            for (number, record) in expected {
                while nth < number {
                    records.seal(b"skipped", &mut BytesMut::new()).unwrap();
                    nth += 1;
                }
                let mut out = BytesMut::new();
                records.seal(b"hello", &mut out).unwrap();
                nth += 1;
                assert_eq!(hex::encode(&out), record, "record {number}");
            }
        }
    }

    #[test]
    fn bent_messages_are_refused() {
        let responder = run(0x40);
        let (_, good) = initiate(&run(0), &public_key(&responder), 130, &dice(0x20)).unwrap();
        assert!(matches!(respond(&responder, &good[..100], &dice(1)), Err(HandshakeError::Malformed)));
        assert!(matches!(respond(&responder, &[], &dice(1)), Err(HandshakeError::Malformed)));
        for (at, error) in [(2, true), (3, true), (4, true), (0, false), (20, false), (50, false), (100, false)] {
            let mut bent = good;
            bent[at] ^= 1;
            match respond(&responder, &bent, &dice(1)).err().unwrap() {
                HandshakeError::Malformed => assert!(error, "byte {at}"),
                HandshakeError::Cryptography(_) => assert!(!error, "byte {at}"),
                HandshakeError::Told(_) => panic!("nobody told anything"),
            }
        }
        assert!(matches!(respond(&run(0x41), &good, &dice(1)), Err(HandshakeError::Cryptography(_))));
    }

    #[test]
    fn an_error_frame_is_understood() {
        let (waiting, _) = initiate(&run(0), &public_key(&run(0x40)), 130, &dice(0x20)).unwrap();
        let told = waiting.finish(&error_frame("go away")).err().unwrap();
        assert_eq!(told.to_string(), "server error: go away");
        assert_eq!(error_frame(&"x".repeat(70_000)).len(), 3 + ERROR_TEXT_BYTES_MAX);
    }
}
