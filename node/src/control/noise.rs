//! Noise as Tailscale speaks it: `Noise_IK_25519_ChaChaPoly_BLAKE2s` with big-endian nonces, no rekeying.
//!
//! `handshake` and `frame` are functions of their arguments; `stream` wraps any byte stream. Both roles are here, so
//! that tests and simulated clients dial with the code the server answers with.

pub mod frame;
pub mod handshake;
pub mod stream;

use std::io;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::BytesMut;
use tailcfg::{ChallengeKey, EarlyNoise, MachineKey};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use world::Entropy;

pub use frame::RecordError;
pub use handshake::HandshakeError;
pub use stream::NoiseStream;

/// The `Upgrade` token of the control protocol (`control/controlhttp`).
pub const PROTOCOL: &str = "tailscale-control-protocol";

/// The header that carries the first handshake message, in base64.
pub const HANDSHAKE_HEADER: &str = "x-tailscale-handshake";

/// The largest answer to an upgrade request a dialer reads.
const UPGRADE_REPLY_BYTES_MAX: usize = 8 * 1024;

/// Why no Noise stream came about.
#[derive(Debug, Error)]
pub enum NoiseError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the server answered {0:?} instead of upgrading")]
    Refused(String),
}

/// The public half of an X25519 private key.
pub fn public_key(private: &[u8; 32]) -> MachineKey {
    let secret = x25519_dalek::StaticSecret::from(*private);
    MachineKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
}

/// The server's part: answers an initiation and returns the stream inside.
///
/// `buffered` is what the HTTP parser read beyond the upgrade request. Answer and early payload leave in one write.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    buffered: &[u8],
    private: &[u8; 32],
    initiation: &[u8],
    challenge: Option<ChallengeKey>,
    entropy: &Entropy,
) -> Result<NoiseStream<S>, NoiseError> {
    let (answer, secured) = match handshake::respond(private, initiation, entropy) {
        Ok(done) => done,
        Err(error) => {
            // Clients show the text; what they may learn is that they were not understood.
            stream.write_all(&handshake::error_frame(&error.to_string())).await?;
            stream.flush().await?;
            return Err(error.into());
        }
    };
    let mut records = frame::Records::new(secured.transport);
    let mut out = answer.to_vec();
    if let Some(node_key_challenge) = challenge {
        let early = EarlyNoise { node_key_challenge }.to_wire();
        let mut sealed = BytesMut::new();
        records.seal(&early, &mut sealed)?;
        out.extend_from_slice(&sealed);
    }
    stream.write_all(&out).await?;
    stream.flush().await?;
    Ok(NoiseStream::new(stream, records, buffered, secured.peer, secured.version, false))
}

/// The client's part: asks for the upgrade over a fresh connection and returns the stream inside. An early payload is
/// taken off the stream when it comes.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    host: &str,
    private: &[u8; 32],
    server: &MachineKey,
    version: u16,
    entropy: &Entropy,
) -> Result<NoiseStream<S>, NoiseError> {
    let (waiting, initiation) = handshake::initiate(private, server, version, entropy)?;
    let request = format!(
        "POST /ts2021 HTTP/1.1\r\nHost: {host}\r\nUpgrade: {PROTOCOL}\r\nConnection: upgrade\r\n\
         X-Tailscale-Handshake: {}\r\nContent-Length: 0\r\n\r\n",
        BASE64_STANDARD.encode(initiation)
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;

    let mut reply = Vec::new();
    let head_end = loop {
        if let Some(at) = reply.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if reply.len() >= UPGRADE_REPLY_BYTES_MAX {
            return Err(NoiseError::Refused("an endless header".to_owned()));
        }
        read_some(&mut stream, &mut reply).await?;
    };
    let first_line = String::from_utf8_lossy(&reply).lines().next().unwrap_or_default().to_owned();
    if first_line.split(' ').nth(1) != Some("101") {
        return Err(NoiseError::Refused(first_line));
    }
    let mut after = reply.split_off(head_end);
    while after.len() < handshake::HEADER_BYTES {
        read_some(&mut stream, &mut after).await?;
    }
    let length = handshake::HEADER_BYTES + usize::from(u16::from_be_bytes([after[1], after[2]]));
    if length > frame::RECORD_BYTES_MAX {
        return Err(HandshakeError::Malformed.into());
    }
    while after.len() < length {
        read_some(&mut stream, &mut after).await?;
    }
    let secured = waiting.finish(&after[..length])?;
    let records = frame::Records::new(secured.transport);
    Ok(NoiseStream::new(stream, records, &after[length..], secured.peer, secured.version, true))
}

async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, into: &mut Vec<u8>) -> io::Result<()> {
    if stream.read_buf(into).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn counting_entropy(start: u8) -> Entropy {
        let mut next = start;
        Entropy::new(move |bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(1);
            }
        })
    }

    /// Dials a server that plays the HTTP part by hand.
    async fn pair(challenge: bool) -> (NoiseStream<tokio::io::DuplexStream>, NoiseStream<tokio::io::DuplexStream>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server_private = [9; 32];
        let server = tokio::spawn(async move {
            let mut far = far;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(far.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let line = head.lines().find(|line| line.starts_with("X-Tailscale-Handshake: ")).unwrap();
            let initiation = BASE64_STANDARD.decode(line.split_once(": ").unwrap().1).unwrap();
            far.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
            let challenge = challenge.then_some(ChallengeKey([7; 32]));
            accept(far, &[], &server_private, &initiation, challenge, &counting_entropy(3)).await.unwrap()
        });
        let client = connect(near, "x", &[1; 32], &public_key(&server_private), 130, &counting_entropy(90)).await;
        (client.unwrap(), server.await.unwrap())
    }

    #[tokio::test]
    async fn both_sides_know_each_other_and_bytes_arrive() {
        for challenge in [false, true] {
            let (mut client, mut server) = pair(challenge).await;
            assert_eq!(client.peer(), public_key(&[9; 32]));
            assert_eq!(server.peer(), public_key(&[1; 32]));
            assert_eq!(server.version(), 130);

            let long: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
            let sent = long.clone();
            let writer = tokio::spawn(async move {
                server.write_all(&sent).await.unwrap();
                server.flush().await.unwrap();
                server
            });
            let mut got = vec![0; long.len()];
            client.read_exact(&mut got).await.unwrap();
            assert_eq!(got, long);
            let mut server = writer.await.unwrap();

            client.write_all(b"ping").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"ping");
        }
    }

    #[tokio::test]
    async fn a_stranger_is_told_and_refused() {
        let (mut near, far) = tokio::io::duplex(1024);
        let refused = accept(far, &[], &[9; 32], &[0; 101], None, &counting_entropy(0)).await;
        assert!(matches!(refused, Err(NoiseError::Handshake(HandshakeError::Malformed))));
        let mut told = Vec::new();
        near.read_to_end(&mut told).await.unwrap();
        assert_eq!(told[0], 3);
        assert_eq!(usize::from(u16::from_be_bytes([told[1], told[2]])), told.len() - 3);
    }

    #[tokio::test]
    async fn an_upgrade_that_is_refused_says_how() {
        let (near, mut far) = tokio::io::duplex(1024);
        far.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await.unwrap();
        let error = connect(near, "x", &[1; 32], &public_key(&[9; 32]), 130, &counting_entropy(0)).await.err();
        assert!(matches!(error, Some(NoiseError::Refused(line)) if line.contains("503")));
    }
}
