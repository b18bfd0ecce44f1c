//! HTTP/1.1 or HTTP/2: told by the first three bytes.
//!
//! Tailscale's clients, relays and browsers speak HTTP/1.1 here; callers of gRPC begin HTTP/2 with its preface (RFC 9113,
//! 3.4) and without asking.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use world::BoxStream;

/// How every HTTP/2 connection begins, and no request of HTTP/1.1.
const PREFACE: &[u8; 3] = b"PRI";

/// What a caller speaks.
pub enum Dialect {
    Http1(BoxStream),
    Http2(BoxStream),
}

/// Listens to the first bytes, for so long at most.
pub async fn heard(mut stream: BoxStream, patience: Duration) -> io::Result<Dialect> {
    let mut first = [0; PREFACE.len()];
    let mut count = 0;
    let listen = async {
        while count < first.len() && first[..count] == PREFACE[..count] {
            match stream.read(&mut first[count..]).await? {
                0 => return Ok(()),
                read => count += read,
            }
        }
        Ok::<(), io::Error>(())
    };
    match tokio::time::timeout(patience, listen).await {
        Ok(heard) => heard?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    }
    let stream = Box::new(Heard { first, used: 0, count, stream });
    Ok(if stream.first == *PREFACE { Dialect::Http2(stream) } else { Dialect::Http1(stream) })
}

/// A stream whose first bytes were read already, and are read again.
struct Heard {
    first: [u8; PREFACE.len()],
    used: usize,
    count: usize,
    stream: BoxStream,
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.used == self.count {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let now = buf.remaining().min(self.count - self.used);
        buf.put_slice(&self.first[self.used..self.used + now]);
        self.used += now;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn said(pieces: &[&[u8]]) -> (bool, Vec<u8>) {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let speak = async {
            for piece in pieces {
                ours.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(ours);
        };
        let listen = async {
            let (is_http2, mut stream) = match heard(Box::new(theirs), Duration::from_secs(5)).await.unwrap() {
                Dialect::Http1(stream) => (false, stream),
                Dialect::Http2(stream) => (true, stream),
            };
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            (is_http2, all)
        };
        tokio::join!(speak, listen).1
    }

    #[tokio::test]
    async fn every_byte_is_read_again() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert_eq!(said(&[preface]).await, (true, preface.to_vec()));
        assert_eq!(said(&[b"P", b"R", b"I * HTTP"]).await, (true, b"PRI * HTTP".to_vec()));
        for text in ["GET / HTTP/1.1", "POST /ts2021", "PROPFIND /", "PR", ""] {
            assert_eq!(said(&[text.as_bytes()]).await, (false, text.as_bytes().to_vec()), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends() {
        let (_ours, theirs) = tokio::io::duplex(64);
        let silent = heard(Box::new(theirs), Duration::from_secs(5)).await;
        assert_eq!(silent.err().unwrap().kind(), io::ErrorKind::TimedOut);
    }
}
