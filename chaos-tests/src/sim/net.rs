//! The network of a simulated host: turmoil's, behind the doors of `world`.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use world::{BoxFuture, BoxStream, Datagrams, Listener, Net};

use super::trace;

/// How long a dial waits for an answer. Turmoil drops segments across a partition and never sends them again, so
/// without a limit a dial would outlive the partition.
const DIAL: std::time::Duration = std::time::Duration::from_secs(10);

/// The network as the host named `host` sees it.
pub struct SimNet {
    /// The number of the host, for the trace.
    pub host: u64,
}

impl Net for SimNet {
    fn listen<'a>(&'a self, addr: SocketAddr) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let inner = turmoil::net::TcpListener::bind(addr).await?;
            Ok(Box::new(SimListener { inner, host: self.host }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, host_port: &'a str) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            trace::event("dial", self.host, host_port.as_bytes());
            let dialled = tokio::time::timeout(DIAL, turmoil::net::TcpStream::connect(host_port)).await;
            let stream = dialled.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(Box::new(Traced { inner: stream, host: self.host }) as BoxStream)
        })
    }

    fn udp<'a>(&'a self, addr: SocketAddr) -> BoxFuture<'a, io::Result<Box<dyn Datagrams>>> {
        Box::pin(
            async move { Ok(Box::new(SimDatagrams(turmoil::net::UdpSocket::bind(addr).await?)) as Box<dyn Datagrams>) },
        )
    }
}

struct SimListener {
    inner: turmoil::net::TcpListener,
    host: u64,
}

impl Listener for SimListener {
    fn accept<'a>(&'a mut self) -> BoxFuture<'a, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.inner.accept().await?;
            trace::event("accept", self.host, from.to_string().as_bytes());
            Ok((Box::new(Traced { inner: stream, host: self.host }) as BoxStream, from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

struct SimDatagrams(turmoil::net::UdpSocket);

impl Datagrams for SimDatagrams {
    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(self.0.recv_from(buffer))
    }

    fn send_to<'a>(&'a self, bytes: &'a [u8], to: SocketAddr) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(self.0.send_to(bytes, to))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A stream whose traffic is part of the trace: how much went when, not what, because keys and nonces of TLS come from
/// the operating system.
struct Traced {
    inner: turmoil::net::TcpStream,
    host: u64,
}

impl AsyncRead for Traced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Traced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let host = self.host;
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            trace::event("sent", host, &written.to_le_bytes());
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
