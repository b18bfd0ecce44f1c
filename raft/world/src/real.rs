//! The machine we run on. The only file of the workspace that opens anything.
#![expect(clippy::disallowed_methods, reason = "this file is the door all others are sent to")]

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{BoxFuture, BoxStream, Clock, Datagrams, Disk, Entropy, Listener, Net, Syncing, World};

/// The world of production.
pub fn world() -> World {
    World { clock: Arc::new(RealClock), entropy: entropy(), net: net(SilentPeer::OURS), disk: Arc::new(RealDisk) }
}

/// The network, with sockets that treat a silent peer so.
pub fn net(silent_peer: SilentPeer) -> Arc<dyn Net> {
    Arc::new(RealNet { silent_peer })
}

/// Dice from the operating system.
pub fn entropy() -> Entropy {
    Entropy::new(|bytes| getrandom::fill(bytes).expect("the operating system gives random bytes"))
}

struct RealClock;

impl Clock for RealClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        since.as_millis() as u64
    }
}

/// What a socket does about a peer that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SilentPeer {
    /// Silence before the first keep-alive probe.
    pub idle: Duration,
    /// Between two probes.
    pub interval: Duration,
    /// So many without an answer, and the connection is over.
    pub probes: u32,
    /// Bytes sent and not acknowledged for so long end it as well; none: the kernel's retransmissions decide (a quarter
    /// of an hour).
    pub unanswered: Option<Duration>,
}

impl SilentPeer {
    /// Of members: one that vanished without a word is noticed in about 30 s (control-protocol facts, section 7.5:
    /// "TCP_USER_TIMEOUT (~15–30 s) on accepted sockets").
    pub const OURS: SilentPeer = SilentPeer {
        idle: Duration::from_secs(15),
        interval: Duration::from_secs(5),
        probes: 3,
        unanswered: Some(Duration::from_secs(30)),
    };

    /// Of `tailscaled` on a desktop or a server: it dials with `net.Dialer{KeepAlive: 30 s}` (`net/netknob`), and Go adds
    /// its defaults, an interval of 15 s and nine probes. That is 165 s, so its watchdog of 120 s is first. Phones send
    /// no probes at all.
    pub const TAILSCALED: SilentPeer =
        SilentPeer { idle: Duration::from_secs(30), interval: Duration::from_secs(15), probes: 9, unanswered: None };

    fn tune(self, stream: &tokio::net::TcpStream) -> io::Result<()> {
        // Without TCP_NODELAY delayed acknowledgements outlast the deadlines of Raft's calls.
        stream.set_nodelay(true)?;
        let socket = socket2::SockRef::from(stream);
        let keep_alive =
            socket2::TcpKeepalive::new().with_time(self.idle).with_interval(self.interval).with_retries(self.probes);
        socket.set_tcp_keepalive(&keep_alive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(self.unanswered)?;
        Ok(())
    }
}

struct RealNet {
    silent_peer: SilentPeer,
}

impl Net for RealNet {
    fn listen<'a>(&'a self, addr: SocketAddr) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (socket, addr) = open(addr, socket2::Type::STREAM, socket2::Protocol::TCP)?;
            // A restarted member must get its port back while old connections linger in TIME_WAIT.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&addr.into())?;
            socket.listen(4096)?;
            let listener = tokio::net::TcpListener::from_std(socket.into())?;
            Ok(Box::new(RealListener { listener, silent_peer: self.silent_peer }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, host_port: &'a str) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(host_port).await?;
            self.silent_peer.tune(&stream)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn listen_unix<'a>(&'a self, path: &'a Path, mode: u32) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            // Somebody who answers is in charge; a socket nobody answers at was left behind.
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => fs::remove_file(path)?,
            }
            let listener = tokio::net::UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            Ok(Box::new(RealUnixListener(listener)) as Box<dyn Listener>)
        })
    }

    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<std::net::IpAddr>>> {
        Box::pin(async move {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let found = tokio::net::lookup_host((host, 0)).await?;
            let mut addresses = Vec::new();
            for address in found.map(|address| address.ip()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Ok(addresses)
        })
    }

    fn udp<'a>(&'a self, addr: SocketAddr) -> BoxFuture<'a, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async move {
            let (socket, addr) = open(addr, socket2::Type::DGRAM, socket2::Protocol::UDP)?;
            socket.set_nonblocking(true)?;
            socket.bind(&addr.into())?;
            let socket = tokio::net::UdpSocket::from_std(socket.into())?;
            Ok(Box::new(RealDatagrams { socket, both: addr.is_ipv6() }) as Box<dyn Datagrams>)
        })
    }
}

/// A socket for an address. `[::]` takes callers of both families, and means `0.0.0.0` on a machine without IPv6.
fn open(
    addr: SocketAddr,
    kind: socket2::Type,
    protocol: socket2::Protocol,
) -> io::Result<(socket2::Socket, SocketAddr)> {
    let everywhere = addr.is_ipv6() && addr.ip().is_unspecified();
    let socket = socket2::Socket::new(socket2::Domain::for_address(addr), kind, Some(protocol));
    if everywhere {
        let both = socket.and_then(|socket| socket.set_only_v6(false).map(|()| socket));
        if let Ok(socket) = both {
            return Ok((socket, addr));
        }
        let addr = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, addr.port()));
        return Ok((socket2::Socket::new(socket2::Domain::IPV4, kind, Some(protocol))?, addr));
    }
    Ok((socket?, addr))
}

/// A caller by IPv4 at a socket for both families is a caller by IPv4.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

struct RealListener {
    listener: tokio::net::TcpListener,
    silent_peer: SilentPeer,
}

impl Listener for RealListener {
    fn accept<'a>(&'a mut self) -> BoxFuture<'a, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            // A client that hung up at once has no socket left to tune; its reader will notice.
            if let Err(error) = self.silent_peer.tune(&stream) {
                tracing::debug!(%from, %error, "could not tune an accepted socket");
            }
            Ok((Box::new(stream) as BoxStream, canonical(from)))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct RealUnixListener(tokio::net::UnixListener);

impl Listener for RealUnixListener {
    fn accept<'a>(&'a mut self) -> BoxFuture<'a, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, _) = self.0.accept().await?;
            Ok((Box::new(stream) as BoxStream, NOWHERE))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(NOWHERE)
    }
}

/// What stands for an address where there is none.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

struct RealDatagrams {
    socket: tokio::net::UdpSocket,
    /// Whether the socket takes both families; then IPv4 is spoken of in IPv6.
    both: bool,
}

impl Datagrams for RealDatagrams {
    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let (length, from) = self.socket.recv_from(buffer).await?;
            Ok((length, canonical(from)))
        })
    }

    fn send_to<'a>(&'a self, bytes: &'a [u8], to: SocketAddr) -> BoxFuture<'a, io::Result<usize>> {
        let to = match to.ip() {
            std::net::IpAddr::V4(v4) if self.both => SocketAddr::from((v4.to_ipv6_mapped(), to.port())),
            _ => to,
        };
        Box::pin(self.socket.send_to(bytes, to))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

struct RealDisk;

/// What was written to measure something is of no use afterwards.
struct RemovedAfterwards<'a>(&'a Path);

impl Drop for RemovedAfterwards<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(self.0) {
            tracing::debug!(path = %self.0.display(), %error, "a probe was left behind");
        }
    }
}

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
        name.push(".tmp");
        let temporary = folder.join(name);
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        crate::failpoint!("disk.write.before", Err);
        if let Err(error) = file.write_all(bytes) {
            // Most likely there is no room, and half a file would take what is left.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        crate::failpoint!("disk.sync.before", Err);
        file.sync_all()?;
        drop(file);
        crate::failpoint!("disk.rename.before", Err);
        fs::rename(&temporary, path)?;
        crate::failpoint!("disk.rename.after", Err);
        fs::File::open(folder)?.sync_all()
    }

    fn note(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // One sector: a disk writes it whole or not at all.
        assert!(bytes.len() <= 512, "a note fits into one sector");
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.write_all_at(bytes, 0)
    }

    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        match fs::metadata(path) {
            Ok(facts) => Ok(Some(facts.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn allocate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let allocated = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes);
        match allocated {
            Ok(()) => {}
            // A file system that cannot promise room gets real bytes.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let piece = vec![0xa5; 1 << 20];
                let mut at = 0;
                while at < bytes {
                    let length = piece.len().min((bytes - at) as usize);
                    file.write_all_at(&piece[..length], at)?;
                    at += length as u64;
                }
            }
            Err(error) => {
                // Half a reserve would be taken for a whole one.
                drop(file);
                fs::remove_file(path)?;
                return Err(error.into());
            }
        }
        file.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        crate::failpoint!("disk.folder_rename.before", Err);
        fs::rename(from, to)?;
        match to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }

    fn lock(&self, folder: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let path = folder.join("LOCK.hsraft");
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another process uses {}; stop it first", folder.display()),
            )),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<Option<u64>> {
        let stat = rustix::fs::statvfs(folder)?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    fn time_syncs(&self, folder: &Path, count: usize, within: Duration) -> io::Result<Vec<Duration>> {
        let path = folder.join("sync.probe");
        let _gone = RemovedAfterwards(&path);
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let (begun, block) = (Instant::now(), [0x5a; 4096]);
        let mut spans = Vec::with_capacity(count);
        while spans.len() < count && (begun.elapsed() < within || spans.is_empty()) {
            let before = Instant::now();
            file.write_all(&block)?;
            file.sync_data()?;
            spans.push(before.elapsed());
        }
        Ok(spans)
    }

    fn database_env(&self) -> Option<rocksdb::Env> {
        None
    }

    fn syncing(&self) -> Syncing {
        Syncing::Thread
    }
}
