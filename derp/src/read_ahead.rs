//! Reads from a socket in large pieces, because rustls asks for 4 KiB at a time and every ask would be a system call.
//!
//! The large buffer belongs to the thread; a connection keeps only what it has not consumed, so idle connections are
//! small.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use world::BoxStream;

const PIECE_BYTES: usize = 64 << 10;

thread_local! {
    static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream that reads ahead.
pub struct ReadAhead {
    stream: BoxStream,
    ahead: Vec<u8>,
    used: usize,
}

impl ReadAhead {
    /// Wraps a stream.
    pub fn new(stream: BoxStream) -> ReadAhead {
        ReadAhead { stream, ahead: Vec::new(), used: 0 }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.used == this.ahead.len() {
            // Taken rather than borrowed: the stream below might be another one that reads ahead.
            let mut piece = PIECE.take();
            piece.resize(PIECE_BYTES, 0);
            let mut large = ReadBuf::new(&mut piece);
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut large);
            let read = large.filled();
            let now = read.len().min(buf.remaining());
            buf.put_slice(&read[..now]);
            // Exactly as much as is left: freed with its last byte.
            (this.ahead, this.used) = (read[now..].to_vec(), 0);
            PIECE.set(piece);
            return polled;
        }
        let left = &this.ahead[this.used..];
        let now = left.len().min(buf.remaining());
        buf.put_slice(&left[..now]);
        this.used += now;
        if this.used == this.ahead.len() {
            (this.ahead, this.used) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
