//! The other side: a small client of a relay, for probes, for simulated nodes and for the relay's own tests.

use std::{io, time::Duration};

use tailcfg::NodeKey;
use thiserror::Error;
use tokio::{io::AsyncWriteExt, time::timeout};
use world::{BoxStream, Entropy};

use crate::{
    frame::{self, Frame, FrameError, Side, Step},
    hello::{Channel, ClientInfo, HelloError, PrivateKey},
    http::{self, ReadError},
};

/// For everything up to the relay's introduction.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a client could not connect or read.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("the relay closed the connection")]
    Closed,
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the relay did not answer in time")]
    Timeout,
    #[error("the relay did not switch protocols but answered {0:?}")]
    Answer(String),
    #[error("the relay sent bytes that are not a frame")]
    Frame(#[from] FrameError),
    #[error("the relay's introduction does not open")]
    Hello(#[from] HelloError),
    #[error("the relay sent an unexpected frame during the handshake")]
    Unexpected,
}

impl From<ReadError> for ClientError {
    fn from(error: ReadError) -> ClientError {
        match error {
            ReadError::Closed => ClientError::Closed,
            ReadError::Timeout => ClientError::Timeout,
            ReadError::Io(error) => ClientError::Io(error),
            ReadError::Head(error) => ClientError::Answer(error.to_string()),
        }
    }
}

/// A connection to a relay.
pub struct Client {
    stream: BoxStream,
    buffer: Vec<u8>,
    relay: NodeKey,
}

/// A frame that was received.
pub struct Received {
    bytes: Vec<u8>,
}

impl Received {
    /// What it says.
    pub fn frame(&self) -> Result<Frame<'_>, FrameError> {
        match frame::step(&self.bytes, Side::Server)? {
            Step::Frame { frame, .. } => Ok(frame),
            _ => Err(FrameError::Content { kind: self.bytes[0], expected: "a whole frame" }),
        }
    }
}

impl Client {
    /// Connects over `stream`, asking for an upgrade first.
    pub async fn connect(
        stream: BoxStream,
        own: &PrivateKey,
        info: &ClientInfo,
        entropy: &Entropy,
    ) -> Result<Client, ClientError> {
        let connecting = async {
            let mut client = Client { stream, buffer: Vec::new(), relay: NodeKey::default() };
            let request = "GET /derp HTTP/1.1\r\nHost: relay\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";
            client.write(request.as_bytes()).await?;
            client.read_switch().await?;
            let first = client.next().await?;
            let Frame::ServerKey(relay) = first.frame()? else { return Err(ClientError::Unexpected) };
            client.relay = relay;
            let channel = Channel::new(own, &relay)?;
            client.write(&introduction(own, &channel, info, entropy)).await?;
            client.finish(&channel).await
        };
        timeout(LOGIN_TIMEOUT, connecting).await.unwrap_or(Err(ClientError::Timeout))
    }

    /// Connects over `stream` to a relay whose key is known: request and introduction leave together and no HTTP answer
    /// comes.
    pub async fn connect_fast(
        stream: BoxStream,
        relay: NodeKey,
        own: &PrivateKey,
        info: &ClientInfo,
        entropy: &Entropy,
    ) -> Result<Client, ClientError> {
        let connecting = async {
            let mut client = Client { stream, buffer: Vec::new(), relay };
            let mut bytes = b"GET /derp HTTP/1.1\r\nHost: relay\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\
                              Derp-Fast-Start: 1\r\n\r\n"
                .to_vec();
            let channel = Channel::new(own, &relay)?;
            bytes.extend(introduction(own, &channel, info, entropy));
            client.write(&bytes).await?;
            let Frame::ServerKey(shown) = client.next().await?.frame()? else { return Err(ClientError::Unexpected) };
            if shown != relay {
                return Err(ClientError::Unexpected);
            }
            client.finish(&channel).await
        };
        timeout(LOGIN_TIMEOUT, connecting).await.unwrap_or(Err(ClientError::Timeout))
    }

    /// The relay's key.
    pub fn relay(&self) -> NodeKey {
        self.relay
    }

    /// Sends one frame.
    pub async fn send(&mut self, frame: &Frame<'_>) -> Result<(), ClientError> {
        self.write(&frame.to_vec()).await
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next frame; frames of unknown types are skipped. Cancel-safe: what was read stays buffered,
    /// so calling again continues.
    pub async fn next(&mut self) -> Result<Received, ClientError> {
        loop {
            match frame::step(&self.buffer, Side::Server)? {
                Step::Frame { used, .. } => return Ok(Received { bytes: self.buffer.drain(..used).collect() }),
                Step::Skip { used, payload, .. } => {
                    while self.buffer.len() < used + payload {
                        self.read_some().await?;
                    }
                    self.buffer.drain(..used + payload);
                }
                Step::Incomplete => self.read_some().await?,
            }
        }
    }

    async fn finish(mut self, channel: &Channel) -> Result<Client, ClientError> {
        let answer = self.next().await?;
        let Frame::ServerInfo { sealed } = answer.frame()? else { return Err(ClientError::Unexpected) };
        channel.open_server_info(sealed)?;
        Ok(self)
    }

    /// Reads the HTTP answer, which must be a 101.
    async fn read_switch(&mut self) -> Result<(), ClientError> {
        let length = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > http::HEAD_BYTES_MAX {
                return Err(ClientError::Answer("an endless head".into()));
            }
            self.read_some().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..length).collect();
        if head.starts_with(b"HTTP/1.1 101 ") {
            return Ok(());
        }
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        Err(ClientError::Answer(String::from_utf8_lossy(line).into_owned()))
    }

    async fn read_some(&mut self) -> Result<(), ClientError> {
        Ok(http::read_some(&mut self.stream, &mut self.buffer).await?)
    }
}

fn introduction(own: &PrivateKey, channel: &Channel, info: &ClientInfo, entropy: &Entropy) -> Vec<u8> {
    let sealed = channel.seal_client_info(info, entropy.bytes());
    Frame::ClientInfo { key: own.public(), sealed: &sealed }.to_vec()
}
