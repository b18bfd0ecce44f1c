//! A byte stream inside a Noise connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tailcfg::{EARLY_PAYLOAD_MAGIC, MachineKey};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    RecordError,
    frame::{PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, Records},
};

/// Sealed bytes that may wait for a slow socket before writers are held back.
const BACKLOG_BYTES_MAX: usize = 64 * 1024;

/// The longest early payload a client accepts; the other known clients draw the line at 1 KiB and 10 MiB.
const EARLY_BYTES_MAX: usize = 64 * 1024;

/// Plain bytes over a stream of records. Writes are gathered until a record is full or the writer flushes.
pub struct NoiseStream<S> {
    inner: S,
    records: Records,
    peer: MachineKey,
    version: u16,
    /// Read from the socket, not yet opened. Empty and without memory while the line is silent.
    arriving: BytesMut,
    /// Opened, not yet read.
    plain: BytesMut,
    /// Whether an early payload may still come; clients only.
    early_expected: bool,
    /// Written, not yet sealed.
    staged: BytesMut,
    /// Sealed, not yet sent.
    leaving: BytesMut,
}

impl<S> NoiseStream<S> {
    pub(super) fn new(
        inner: S,
        records: Records,
        buffered: &[u8],
        peer: MachineKey,
        version: u16,
        early_expected: bool,
    ) -> NoiseStream<S> {
        NoiseStream {
            inner,
            records,
            peer,
            version,
            arriving: BytesMut::from(buffered),
            plain: BytesMut::new(),
            early_expected,
            staged: BytesMut::new(),
            leaving: BytesMut::new(),
        }
    }

    /// The other side's static key, proved by the handshake.
    pub fn peer(&self) -> MachineKey {
        self.peer
    }

    /// The client's capability version.
    pub fn version(&self) -> u16 {
        self.version
    }

    fn seal_staged(&mut self) -> io::Result<()> {
        if !self.staged.is_empty() {
            self.records.seal(&self.staged, &mut self.leaving).map_err(broken)?;
            self.staged = BytesMut::new();
        }
        Ok(())
    }

    /// Opens what has arrived whole. `true` when there is something to read.
    fn open_arrived(&mut self) -> io::Result<bool> {
        while self.plain.is_empty() || self.early_expected {
            if !self.records.open(&mut self.arriving, &mut self.plain).map_err(broken)? {
                break;
            }
            if self.early_expected {
                self.take_early()?;
            }
        }
        if self.arriving.is_empty() {
            self.arriving = BytesMut::new();
        }
        Ok(!self.early_expected && !self.plain.is_empty())
    }

    /// Drops the early payload from the front of what was opened, once it is clear whether there is one.
    fn take_early(&mut self) -> io::Result<()> {
        let seen = self.plain.len().min(EARLY_PAYLOAD_MAGIC.len());
        if self.plain[..seen] != EARLY_PAYLOAD_MAGIC[..seen] {
            self.early_expected = false;
            return Ok(());
        }
        let Some(length) = self.plain.get(5..9) else { return Ok(()) };
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        if length > EARLY_BYTES_MAX {
            return Err(broken(RecordError::TooLong(length)));
        }
        if self.plain.len() >= 9 + length {
            self.plain.advance(9 + length);
            self.early_expected = false;
        }
        Ok(())
    }
}

impl<S: AsyncWrite + Unpin> NoiseStream<S> {
    /// Sends sealed bytes until at most `keep` are left.
    fn poll_send(&mut self, cx: &mut Context<'_>, keep: usize) -> Poll<io::Result<()>> {
        while self.leaving.len() > keep {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.leaving))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.leaving.advance(sent);
        }
        if self.leaving.is_empty() {
            self.leaving = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NoiseStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.open_arrived()? {
                let length = this.plain.len().min(into.remaining());
                into.put_slice(&this.plain[..length]);
                this.plain.advance(length);
                if this.plain.is_empty() {
                    this.plain = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            // A buffer on the stack, so that ten thousand silent lines hold no read buffers.
            let mut space = [0; RECORD_BYTES_MAX];
            let mut chunk = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // A record cut short is an error: nobody may pretend the other side had finished speaking.
                return Poll::Ready(match this.arriving.is_empty() && this.plain.is_empty() {
                    true => Ok(()),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
            this.arriving.extend_from_slice(chunk.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx, BACKLOG_BYTES_MAX))?;
        let mut taken = 0;
        while taken < bytes.len() && this.leaving.len() <= BACKLOG_BYTES_MAX {
            let room = PLAINTEXT_BYTES_MAX - this.staged.len();
            let length = room.min(bytes.len() - taken);
            this.staged.extend_from_slice(&bytes[taken..taken + length]);
            taken += length;
            if this.staged.len() == PLAINTEXT_BYTES_MAX {
                this.seal_staged()?;
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.seal_staged()?;
        ready!(this.poll_send(cx, 0))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.seal_staged()?;
        ready!(this.poll_send(cx, 0))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

fn broken(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
