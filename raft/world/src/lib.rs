//! The doors: everything outside the program, on one page.
//!
//! Production and simulation run the same code and differ only in the [`World`] they are handed. Nothing else in the
//! workspace opens a socket or a file, asks the time of day or rolls dice; `clippy.toml` says so too. Waiting is done
//! with `tokio::time`, which the simulation drives.
//!
//! This crate knows nothing of ours. [`real`] is the one file that opens anything.

#[cfg(feature = "failpoints")]
pub mod failpoint;
pub mod real;

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};

/// A future behind a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// All doors of one member. Cheap to clone.
#[derive(Clone)]
pub struct World {
    pub clock: Arc<dyn Clock>,
    pub entropy: Entropy,
    pub net: Arc<dyn Net>,
    pub disk: Arc<dyn Disk>,
}

/// The time of day. Only for stamps and certificates; never for measuring spans (use `tokio::time::Instant`).
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    fn now_ms(&self) -> u64;
}

/// Where randomness comes from: the operating system, or the seed of a simulation.
#[derive(Clone)]
pub struct Entropy(Arc<Mutex<Source>>);

type Source = dyn FnMut(&mut [u8]) + Send;

impl Entropy {
    /// Wraps a source that fills the whole slice with random bytes.
    pub fn new(source: impl FnMut(&mut [u8]) + Send + 'static) -> Entropy {
        Entropy(Arc::new(Mutex::new(source)))
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        let mut source = self.0.lock().expect("an entropy source does not panic");
        (*source)(bytes);
    }

    /// A random number.
    pub fn u64(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A random number in `0..bound`; the bias is below `bound / 2^64`. Zero when `bound` is zero.
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A random span in `0..=span`, for spreading work out.
    pub fn jitter(&self, span: Duration) -> Duration {
        Duration::from_nanos(self.below(span.as_nanos() as u64 + 1))
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

/// A byte stream between two hosts. `Sync` because the Raft engine wants its network handles so.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A boxed [`Stream`].
pub type BoxStream = Box<dyn Stream>;

/// The network.
pub trait Net: Send + Sync {
    /// Listens for TCP streams on `addr` (port 0: any free port).
    fn listen<'a>(&'a self, addr: SocketAddr) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
    /// Connects to `host:port`; `host` is a name or an address literal (IPv6 in brackets).
    fn connect<'a>(&'a self, host_port: &'a str) -> BoxFuture<'a, io::Result<BoxStream>>;
    /// Listens on a unix socket that only users with this mode may open; a socket left behind is replaced. Callers have
    /// no address.
    fn listen_unix<'a>(&'a self, path: &'a Path, mode: u32) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        let _ = (path, mode);
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
    /// The addresses of a name, in the resolver's order. A world without a resolver knows literals only.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse().map(|address| vec![address]);
        Box::pin(async move { literal.map_err(|_| io::ErrorKind::Unsupported.into()) })
    }
    /// Opens a UDP socket on `addr`.
    fn udp<'a>(&'a self, addr: SocketAddr) -> BoxFuture<'a, io::Result<Box<dyn Datagrams>>>;
}

/// Accepts TCP streams.
pub trait Listener: Send {
    fn accept<'a>(&'a mut self) -> BoxFuture<'a, io::Result<(BoxStream, SocketAddr)>>;
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A UDP socket.
pub trait Datagrams: Send + Sync {
    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<(usize, SocketAddr)>>;
    fn send_to<'a>(&'a self, bytes: &'a [u8], to: SocketAddr) -> BoxFuture<'a, io::Result<usize>>;
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The disk: small files written as a whole, and the surroundings of one RocksDB.
///
/// Every write is atomic and durable when it returns: temporary file, sync, rename, sync of the folder.
pub trait Disk: Send + Sync {
    /// The whole file; `None` when there is none.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;
    /// Replaces the file. Files are readable by their owner only (mode 0600).
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Overwrites a small file (512 bytes at most) in place without waiting for the disk. It survives the process; when
    /// the power fails an older note, or none, may be found instead, but never half of one.
    fn note(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write(path, bytes)
    }
    /// The file's length; `None` when there is none.
    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        Ok(self.read(path)?.map(|bytes| bytes.len() as u64))
    }
    /// Makes or replaces a file of so many bytes that really take room on the disk; what it holds is of no interest.
    fn allocate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let _ = (path, bytes);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Removes the file; no error when there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a folder another name in the same place.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _ = (from, to);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Names in a folder, sorted; empty when there is no such folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Makes a folder and its parents (mode 0700).
    fn create_dir_all(&self, folder: &Path) -> io::Result<()>;
    /// Takes the folder for this process alone until the guard is dropped.
    fn lock(&self, folder: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Bytes an ordinary process may still write to the file system `folder` lies on; `None` where nobody counts.
    fn free_bytes(&self, folder: &Path) -> io::Result<Option<u64>> {
        let _ = folder;
        Ok(None)
    }
    /// How long each of up to `count` syncs of a small append takes below `folder`, for so long altogether; at least one.
    /// Nothing where no real disk is. Holds up the thread that asks.
    fn time_syncs(&self, folder: &Path, count: usize, within: Duration) -> io::Result<Vec<Duration>> {
        let _ = (folder, count, within);
        Ok(Vec::new())
    }
    /// The RocksDB `Env` databases are opened in; `None` is the machine's own.
    fn database_env(&self) -> Option<rocksdb::Env>;
    /// The folder a database lives in, as RocksDB should see it.
    fn database_path(&self, path: &Path) -> PathBuf {
        path.to_path_buf()
    }
    /// How a write-ahead log becomes durable.
    fn syncing(&self) -> Syncing;
}

/// A place away from the member's own folder that keeps whole objects under names with slashes: a folder elsewhere, a
/// bucket. Backups lie there.
///
/// A name is written once and never changed. Errors are for people; none of them carries a secret.
pub trait Objects: Send + Sync {
    /// What people call the place: `/backup/hsraft`, `s3://bucket/prefix`.
    fn name(&self) -> &str;
    /// Names of all objects in the folder `under` and below (all when it is empty), sorted.
    fn list<'a>(&'a self, under: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>>;
    /// The whole object; `None` when there is none.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Option<Vec<u8>>>>;
    /// Writes an object; durable when it returns.
    fn put<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, io::Result<()>>;
    /// Removes an object; no error when there is none.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>>;
}

/// Where the wait for a disk sync takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncing {
    /// A thread of its own calls sync and wakes all waiters: real disks.
    Thread,
    /// A task sleeps between `min` and `max` of simulated time and then syncs: simulated disks.
    Simulated { min: Duration, max: Duration },
}

/// A named point at which a test may end this process, let it fail or hold it up (`failpoint.rs`); nothing at all
/// without the feature `failpoints`. The second argument takes an `io::Error` and makes what is to be returned.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::reached($name)
    };
    ($name:literal, $back:expr) => {
        if let Some(error) = $crate::failpoint::fails($name) {
            return ($back)(error);
        }
    };
}

/// Nothing: this program was built without points at which it fails.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {};
    ($name:literal, $back:expr) => {};
}
