//! The client's half of Noise, as control-plane clients speak it (`control/controlbase`).
//!
//! `Noise_IK_25519_ChaChaPoly_BLAKE2s`; the handshake is plain Noise, records carry their counter big-endian.

use anyhow::{Context, Result, bail, ensure};
use snow::{Builder, HandshakeState, StatelessTransportState};
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    task::JoinSet,
};

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
const RESPONSE: u8 = 2;
const ERROR: u8 = 3;
const RECORD: u8 = 4;
const HEADER_BYTES: usize = 3;
const TAG_BYTES: usize = 16;
/// A whole record on the wire, header included.
const RECORD_BYTES_MAX: usize = 4096;
const PLAIN_BYTES_MAX: usize = RECORD_BYTES_MAX - HEADER_BYTES - TAG_BYTES;
/// What announces an early payload instead of an HTTP/2 frame.
const EARLY_MAGIC: &[u8; 5] = b"\xff\xff\xffTS";
/// What the Rust client accepts; Go would take more.
const EARLY_BYTES_MAX: usize = 1024;

/// A handshake under way.
pub struct Handshake(Box<HandshakeState>);

impl Handshake {
    /// The handshake and the 101 bytes that open it.
    pub fn initiate(machine_private: &[u8; 32], control_key: &[u8; 32], version: u16) -> Result<(Handshake, Vec<u8>)> {
        let prologue = format!("Tailscale Control Protocol v{version}");
        let mut state = Builder::new(PATTERN.parse()?)
            .local_private_key(machine_private)?
            .remote_public_key(control_key)?
            .prologue(prologue.as_bytes())?
            .build_initiator()?;
        let mut message = [0; 96];
        let written = state.write_message(&[], &mut message)?;
        ensure!(written == message.len(), "an initiation has 96 bytes, not {written}");
        let mut initiation = version.to_be_bytes().to_vec();
        initiation.push(1);
        initiation.extend_from_slice(&96_u16.to_be_bytes());
        initiation.extend_from_slice(&message);
        Ok((Handshake(Box::new(state)), initiation))
    }

    fn finish(mut self, response: &[u8]) -> Result<StatelessTransportState> {
        let read = self.0.read_message(response, &mut [0; 64]).context("the server could not prove its key")?;
        ensure!(read == 0, "the server's handshake carries a payload");
        Ok(self.0.into_stateless_transport_mode()?)
    }
}

/// Reads the server's answer and returns the plain text side; `tasks` pump in both directions.
pub async fn connect(
    mut raw: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    handshake: Handshake,
    tasks: &mut JoinSet<()>,
) -> Result<DuplexStream> {
    let (kind, response) = read_message(&mut raw).await?;
    match kind {
        RESPONSE => {}
        ERROR => bail!("the server says: {}", String::from_utf8_lossy(&response)),
        kind => bail!("message {kind} instead of a handshake response"),
    }
    let transport = Arc::new(handshake.finish(&response)?);
    let (near, far) = tokio::io::duplex(256 << 10);
    let (raw_reader, raw_writer) = tokio::io::split(raw);
    let (far_reader, mut far_writer) = tokio::io::split(far);
    let opener = Opener { transport: transport.clone(), counter: 0, raw: raw_reader };
    tasks.spawn(async move {
        // Half a stream that is dropped closes nothing. HTTP/2 must hear of the end at once, and tell whoever waits.
        let _ = pump_in(opener, &mut far_writer).await;
        let _ = far_writer.shutdown().await;
    });
    tasks.spawn(async move {
        let _ = pump_out(transport, far_reader, raw_writer).await;
    });
    Ok(near)
}

struct Opener<R> {
    transport: Arc<StatelessTransportState>,
    counter: u64,
    raw: R,
}

impl<R: AsyncRead + Unpin> Opener<R> {
    async fn next(&mut self) -> Result<Vec<u8>> {
        let (kind, sealed) = read_message(&mut self.raw).await?;
        ensure!(kind == RECORD, "message {kind} instead of a record");
        let mut plain = vec![0; sealed.len()];
        // Swapped bytes make snow's little-endian counter the big-endian one of the protocol.
        let length = self.transport.read_message(self.counter.swap_bytes(), &sealed, &mut plain)?;
        self.counter += 1;
        plain.truncate(length);
        Ok(plain)
    }
}

async fn pump_in<R: AsyncRead + Unpin>(mut opener: Opener<R>, plain: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
    let mut start = Vec::new();
    while start.len() < EARLY_MAGIC.len() + 4 {
        start.extend(opener.next().await?);
    }
    if start.starts_with(EARLY_MAGIC) {
        let length = u32::from_be_bytes(start[5..9].try_into().expect("four bytes")) as usize;
        ensure!(length <= EARLY_BYTES_MAX, "an early payload of {length} bytes");
        while start.len() < 9 + length {
            start.extend(opener.next().await?);
        }
        start.drain(..9 + length);
    }
    plain.write_all(&start).await?;
    loop {
        let bytes = opener.next().await?;
        plain.write_all(&bytes).await?;
    }
}

async fn pump_out(
    transport: Arc<StatelessTransportState>,
    mut plain: impl AsyncRead + Unpin,
    mut raw: impl AsyncWrite + Unpin,
) -> Result<()> {
    let mut buffer = vec![0; PLAIN_BYTES_MAX];
    let mut counter = 0_u64;
    loop {
        let read = plain.read(&mut buffer).await?;
        if read == 0 {
            return Ok(raw.shutdown().await?);
        }
        let mut record = vec![0; HEADER_BYTES + read + TAG_BYTES];
        record[0] = RECORD;
        record[1..3].copy_from_slice(&((read + TAG_BYTES) as u16).to_be_bytes());
        transport.write_message(counter.swap_bytes(), &buffer[..read], &mut record[HEADER_BYTES..])?;
        counter += 1;
        raw.write_all(&record).await?;
        raw.flush().await?;
    }
}

async fn read_message(raw: &mut (impl AsyncRead + Unpin)) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; HEADER_BYTES];
    raw.read_exact(&mut header).await?;
    let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
    ensure!(HEADER_BYTES + length <= RECORD_BYTES_MAX, "a message of {length} bytes");
    let mut body = vec![0; length];
    raw.read_exact(&mut body).await?;
    Ok((header[0], body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_hears_at_once_that_the_server_is_gone() {
        let params = || PATTERN.parse().unwrap();
        let (client, server) =
            (Builder::new(params()).generate_keypair().unwrap(), Builder::new(params()).generate_keypair().unwrap());
        let private = client.private.try_into().unwrap();
        let (handshake, initiation) = Handshake::initiate(&private, &server.public.try_into().unwrap(), 113).unwrap();
        let mut responder = Builder::new(params())
            .local_private_key(&server.private)
            .unwrap()
            .prologue(b"Tailscale Control Protocol v113")
            .unwrap()
            .build_responder()
            .unwrap();
        responder.read_message(&initiation[5..], &mut [0; 64]).unwrap();
        let mut answer = vec![0; 48];
        responder.write_message(&[], &mut answer).unwrap();

        let (raw, mut far) = tokio::io::duplex(4096);
        far.write_all(&[&[RESPONSE, 0, 48], &answer[..]].concat()).await.unwrap();
        let mut tasks = JoinSet::new();
        let mut plain = connect(raw, handshake, &mut tasks).await.unwrap();
        drop(far);
        assert_eq!(plain.read(&mut [0; 16]).await.unwrap(), 0);
    }
}
