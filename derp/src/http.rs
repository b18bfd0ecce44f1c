//! Reads the request before any HTTP library would: what is asked, and which bytes came after it.
//!
//! Tailscale's client may send its introduction right behind the request and want no HTTP answer at all
//! (`Derp-Fast-Start`), which no library offers. What is asked of a relay is small: heads only, no bodies.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::timeout,
};
use world::BoxStream;

/// The longest head of a request.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub method: String,
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The connection may be used for another request.
    pub keep_alive: bool,
}

/// Why bytes are not a request we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    #[error("the request's head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    #[error("this is not an HTTP/1 request")]
    Malformed,
}

/// Why no request was read.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("no request came in time")]
    Timeout,
    #[error("the connection was closed")]
    Closed,
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
}

/// The head at the start of `bytes` and its length; `None` when there is more to come.
pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let within = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let used = match request.parse(within).map_err(|_| HeadError::Malformed)? {
        httparse::Status::Complete(used) => used,
        httparse::Status::Partial if bytes.len() >= HEAD_BYTES_MAX => return Err(HeadError::TooLong),
        httparse::Status::Partial => return Ok(None),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(HeadError::Malformed);
    };
    let target = origin_form(target);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers: Vec<(String, String)> =
        request.headers.iter().map(|header| (header.name.to_ascii_lowercase(), text(header.value))).collect();
    let mut head =
        Head { method: method.into(), path: path.into(), query: query.into(), headers, keep_alive: minor == 1 };
    // A body would have to be skipped; nobody sends one here, so the connection ends after the answer instead.
    let body = head.header("transfer-encoding").is_some() || head.header("content-length").is_some_and(|n| n != "0");
    head.keep_alive &= !body && !head.header_says("connection", "close");
    Ok(Some((head, used)))
}

/// A target without scheme and authority. The Rust client writes whole URLs, as to a proxy, and servers must take them
/// (RFC 9112, 3.2.2).
fn origin_form(target: &str) -> &str {
    let Some((_, rest)) = target.split_once("://").filter(|(scheme, _)| !scheme.contains('/')) else { return target };
    match rest.find(['/', '?']) {
        Some(end) => &rest[end..],
        None => "/",
    }
}

impl Head {
    /// The first header of a name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Whether a header lists a word, whatever its case.
    pub fn header_says(&self, name: &str, word: &str) -> bool {
        let values = self.headers.iter().filter(|(found, _)| found == name);
        values.flat_map(|(_, value)| value.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(word))
    }
}

/// Reads one head; what came after it stays in `buffer`.
pub async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    within: Duration,
) -> Result<Head, ReadError> {
    timeout(within, async {
        loop {
            if let Some((head, used)) = parse(buffer)? {
                buffer.drain(..used);
                return Ok(head);
            }
            read_some(stream, buffer).await?;
        }
    })
    .await
    .unwrap_or(Err(ReadError::Timeout))
}

/// Appends what is there, one read of at most 4 KiB.
pub(crate) async fn read_some(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<(), ReadError> {
    const CHUNK: usize = 4096;
    buffer.reserve(CHUNK);
    match stream.take(CHUNK as u64).read_buf(buffer).await? {
        0 => Err(ReadError::Closed),
        _ => Ok(()),
    }
}

/// A stream some of whose bytes were read already and are read again first.
pub struct Rewound {
    first: Vec<u8>,
    read: usize,
    rest: BoxStream,
}

impl Rewound {
    /// Puts `first` back in front of `rest`.
    pub fn new(first: Vec<u8>, rest: BoxStream) -> Rewound {
        Rewound { first, read: 0, rest }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let left = &self.first[self.read..];
        if left.is_empty() {
            return Pin::new(&mut self.rest).poll_read(cx, buf);
        }
        let n = left.len().min(buf.remaining());
        buf.put_slice(&left[..n]);
        self.read += n;
        if self.read == self.first.len() {
            (self.first, self.read) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.rest).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.rest).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_head_is_left_alone() {
        let bytes =
            b"GET /derp?x=1 HTTP/1.1\r\nHost: h\r\nUpgrade: DERP\r\nConnection: keep-alive, Upgrade\r\n\r\n\x02\0\0";
        let (head, used) = parse(bytes).unwrap().unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str(), head.query.as_str()), ("GET", "/derp", "x=1"));
        assert!(head.header_says("upgrade", "derp") && head.header_says("connection", "upgrade") && head.keep_alive);
        assert_eq!(&bytes[used..], b"\x02\0\0");
        for cut in 0..used {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn whole_urls_are_paths_too() {
        for (target, path, query) in [
            ("https://127.0.0.1/derp/latency-check", "/derp/latency-check", ""),
            ("https://h:8443/derp?x=1", "/derp", "x=1"),
            ("http://h", "/", ""),
            ("/other?u=http://h/derp", "/other", "u=http://h/derp"),
        ] {
            let (head, _) = parse(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).unwrap().unwrap();
            assert_eq!((head.path.as_str(), head.query.as_str()), (path, query), "{target}");
        }
    }

    #[test]
    fn connections_with_bodies_or_old_clients_are_not_kept() {
        for text in [
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        ] {
            assert!(!parse(text.as_bytes()).unwrap().unwrap().0.keep_alive, "{text}");
        }
    }

    #[test]
    fn nonsense_and_endless_heads_are_refused() {
        assert_eq!(parse(b"\x16\x03\x01\x02\x00"), Err(HeadError::Malformed));
        assert_eq!(parse(b"GET / HTTP/2.0\r\n\r\n"), Err(HeadError::Malformed));
        let mut long = b"GET / HTTP/1.1\r\nx: ".to_vec();
        long.resize(HEAD_BYTES_MAX, b'a');
        assert_eq!(parse(&long), Err(HeadError::TooLong));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        assert_eq!(parse(many.as_bytes()), Err(HeadError::Malformed));
    }
}
