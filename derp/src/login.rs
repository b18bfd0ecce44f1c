//! Lets a client in: our key, its introduction, is it admitted.

use std::time::Duration;

use tailcfg::NodeKey;
use thiserror::Error;
use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use world::BoxStream;

use crate::{
    admission::Admission,
    frame::{self, Frame, FrameError, HEADER_LEN, Side, Step},
    hello::{Channel, ClientInfo, HelloError, PrivateKey},
    http::{ReadError, read_some},
    options::MeshKey,
};

/// Who asks, believed and admitted.
pub(crate) struct Newcomer {
    pub(crate) key: NodeKey,
    pub(crate) info: ClientInfo,
    /// For what the relay says about itself.
    pub(crate) channel: Channel,
    pub(crate) is_mesh: bool,
    /// What came right behind the introduction.
    pub(crate) rest: Vec<u8>,
}

/// Why a connection was not let in.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("the TLS handshake failed")]
    Tls(#[source] std::io::Error),
    #[error("no request could be read")]
    Request(#[source] ReadError),
    #[error("nothing came in time")]
    Timeout,
    #[error("the connection was closed during the handshake")]
    Closed,
    #[error("the introduction is not a frame")]
    Frame(#[from] FrameError),
    #[error("the introduction was not believed")]
    Hello(#[from] HelloError),
    #[error("a client showed the relay's own key")]
    OwnKey,
    #[error("the key is not admitted")]
    NotAdmitted,
    #[error("too many connections")]
    Full,
}

impl Refusal {
    /// A label for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Refusal::Tls(_) => "tls",
            Refusal::Request(ReadError::Timeout) | Refusal::Timeout => "timeout",
            Refusal::Request(ReadError::Head(_)) => "http",
            Refusal::Request(_) | Refusal::Closed => "closed",
            Refusal::Frame(_) => "bad_frame",
            Refusal::Hello(_) => "bad_hello",
            Refusal::OwnKey => "own_key",
            Refusal::NotAdmitted => "not_admitted",
            Refusal::Full => "full",
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Refusal {
        match error {
            ReadError::Timeout => Refusal::Timeout,
            ReadError::Closed | ReadError::Io(_) => Refusal::Closed,
            ReadError::Head(_) => Refusal::Request(error),
        }
    }
}

/// How the doorman decides.
pub(crate) struct Doorman<'a> {
    pub(crate) own: &'a PrivateKey,
    pub(crate) mesh_key: Option<&'a MeshKey>,
    pub(crate) admission: &'a dyn Admission,
    /// Changes when a stranger may have become known.
    pub(crate) rechecks: watch::Receiver<u64>,
    pub(crate) patience: Duration,
    pub(crate) within: Duration,
}

impl Doorman<'_> {
    /// Writes `first` (an HTTP answer or nothing) and our key, reads the introduction and decides. `early` are bytes of
    /// the client that were read already.
    pub(crate) async fn let_in(
        &mut self,
        stream: &mut BoxStream,
        mut first: Vec<u8>,
        early: Vec<u8>,
    ) -> Result<Newcomer, Refusal> {
        Frame::ServerKey(self.own.public()).encode(&mut first);
        let within = self.within;
        let newcomer =
            timeout(within, self.introduction(stream, &first, early)).await.unwrap_or(Err(Refusal::Timeout))?;
        if !newcomer.is_mesh && !self.admits(&newcomer.key).await {
            tracing::debug!(key = ?newcomer.key, "not admitted");
            return Err(Refusal::NotAdmitted);
        }
        Ok(newcomer)
    }

    async fn introduction(
        &self,
        stream: &mut BoxStream,
        first: &[u8],
        mut buffer: Vec<u8>,
    ) -> Result<Newcomer, Refusal> {
        stream.write_all(first).await.map_err(|_| Refusal::Closed)?;
        stream.flush().await.map_err(|_| Refusal::Closed)?;
        loop {
            match frame::step(&buffer, Side::Newcomer)? {
                Step::Frame { frame: Frame::ClientInfo { key, sealed }, used } => {
                    if key == self.own.public() {
                        return Err(Refusal::OwnKey);
                    }
                    let channel = Channel::new(self.own, &key)?;
                    let info = channel.open_client_info(sealed)?;
                    let is_mesh = match (&info.mesh_key, self.mesh_key) {
                        (Some(shown), Some(ours)) => ours.is(shown),
                        _ => false,
                    };
                    buffer.drain(..used);
                    return Ok(Newcomer { key, info, channel, is_mesh, rest: buffer });
                }
                Step::Frame { .. } | Step::Skip { .. } => {
                    let kind = buffer.first().copied().unwrap_or_default();
                    return Err(FrameError::Content { kind, expected: "an introduction" }.into());
                }
                // The buffer grows with what arrives, not with what the header announces.
                Step::Incomplete => read_some(stream, &mut buffer).await?,
            }
            debug_assert!(
                buffer.len() <= HEADER_LEN + 2 * frame::CLIENT_INFO_BYTES_MAX,
                "bounded by the frame's limit"
            );
        }
    }

    /// Strangers wait a little: their registration may be on its way to us.
    async fn admits(&mut self, key: &NodeKey) -> bool {
        let until = Instant::now() + self.patience;
        loop {
            self.rechecks.mark_unchanged();
            if self.admission.admits(key) {
                return true;
            }
            if !matches!(timeout_at(until, self.rechecks.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }
}
