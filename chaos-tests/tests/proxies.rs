//! The samples of `deploy/proxies`, each with the real proxy in front of three members: a client registers, holds its map
//! stream, reaches the relay, and comes back when the member behind it is stopped.
//!
//! Says so and passes where a proxy is not installed (Debian: haproxy, nginx, caddy).

#[path = "common/trio.rs"]
#[allow(dead_code, reason = "shared with tailscaled.rs")]
mod trio;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use chaos_tests::client::{Connection, Identity, MapStream, Registered};
use node::options::TlsFiles;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::Instant,
};
use tokio_rustls::TlsConnector;
use trio::Trio;
use world::{BoxFuture, BoxStream, Datagrams, Listener, Net, World};

const NAME: &str = "hs.example.com";
const DEVICE: &str = "behind-a-proxy";

/// A certificate for [`NAME`], in the files each proxy wants.
struct Secrets {
    folder: tempfile::TempDir,
    certificate: CertificateDer<'static>,
}

impl Secrets {
    fn new(world: &World) -> Secrets {
        let folder = tempfile::Builder::new().prefix("proxy-").tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        for (file, text) in [("cert.pem", cert.clone()), ("key.pem", key.clone()), ("both.pem", cert + &key)] {
            world.disk.write(&folder.path().join(file), text.as_bytes()).unwrap();
        }
        Secrets { folder, certificate: made.cert.der().clone() }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }
}

/// Whoever it is asked for, it speaks TLS to the proxy on this machine, as a client that resolved [`NAME`] would.
struct TlsNet {
    plain: Arc<dyn Net>,
    connector: TlsConnector,
}

impl Net for TlsNet {
    fn connect<'a>(&'a self, host_port: &'a str) -> BoxFuture<'a, std::io::Result<BoxStream>> {
        Box::pin(async move {
            let port = host_port.rsplit(':').next().unwrap_or_default();
            let stream = self.plain.connect(&format!("127.0.0.1:{port}")).await?;
            let stream = self.connector.connect(NAME.try_into().expect("a name"), stream).await?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn listen<'a>(&'a self, addr: SocketAddr) -> BoxFuture<'a, std::io::Result<Box<dyn Listener>>> {
        self.plain.listen(addr)
    }

    fn udp<'a>(&'a self, addr: SocketAddr) -> BoxFuture<'a, std::io::Result<Box<dyn Datagrams>>> {
        self.plain.udp(addr)
    }
}

fn through_tls(world: &World, secrets: &Secrets) -> World {
    let mut roots = RootCertStore::empty();
    roots.add(secrets.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let net = TlsNet { plain: world.net.clone(), connector: TlsConnector::from(Arc::new(config)) };
    World { net: Arc::new(net), ..world.clone() }
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

async fn free_port(world: &World) -> u16 {
    world.net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap().local_addr().unwrap().port()
}

/// The sample an operator copies, with only names, ports and paths changed.
fn sample(file: &str, trio: &Trio, port: u16, secrets: &Secrets) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/proxies").join(file);
    let text = String::from_utf8(trio.world.disk.read(&path).unwrap().expect("the sample is there")).unwrap();
    let changes = [
        ("10.0.0.", "127.0.0.".to_owned()),
        (":8080", format!(":{}", trio.client_port)),
        (":8443", format!(":{}", trio.client_port)),
        ("9090", trio.metrics_port.to_string()),
        ("bind :443", format!("bind 127.0.0.1:{port}")),
        ("listen 443", format!("listen 127.0.0.1:{port}")),
        ("hs.example.com:443", format!("hs.example.com:{port}")),
        ("/etc/haproxy/hsraft.pem", secrets.path("both.pem").display().to_string()),
        ("/etc/nginx/hsraft-cert.pem", secrets.path("cert.pem").display().to_string()),
        ("/etc/nginx/hsraft-key.pem", secrets.path("key.pem").display().to_string()),
        ("/etc/caddy/hsraft-cert.pem", secrets.path("cert.pem").display().to_string()),
        ("/etc/caddy/hsraft-key.pem", secrets.path("key.pem").display().to_string()),
        // Thousands of clients are not expected here, and files may be few.
        ("maxconn 65536", "maxconn 200".to_owned()),
        ("worker_connections 65536", "worker_connections 200".to_owned()),
        ("worker_rlimit_nofile 131072;", String::new()),
    ];
    changes.into_iter().fold(text, |text, (from, to)| text.replace(from, &to))
}

/// A proxy that runs; gone when dropped.
struct Proxy {
    _child: Child,
}

impl Proxy {
    async fn start(program: &Path, words: &[&str], port: u16, secrets: &Secrets, world: &World) -> Proxy {
        let child = Command::new(program)
            .args(words)
            .env("HOME", secrets.folder.path())
            .env("XDG_DATA_HOME", secrets.folder.path())
            .env("XDG_CONFIG_HOME", secrets.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let proxy = Proxy { _child: child };
        let deadline = Instant::now() + trio::PATIENCE;
        while world.net.connect(&format!("127.0.0.1:{port}")).await.is_err() {
            assert!(Instant::now() < deadline, "{} does not listen", program.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        proxy
    }
}

/// Registers if need be, and opens a stream; tried again as clients do.
async fn poll(world: &World, port: u16, identity: &Identity, key: Option<&str>) -> (Connection, MapStream, Value) {
    let server = format!("{NAME}:{port}");
    let deadline = Instant::now() + trio::PATIENCE;
    loop {
        let attempt = async {
            let connection = Connection::open(world, &server, identity).await?;
            if let Some(key) = key {
                let registered = connection.register(identity, Some(key)).await?;
                anyhow::ensure!(registered == Registered::In, "{registered:?}");
            }
            let mut stream = connection.stream(identity, true).await?;
            let frame: Value = serde_json::from_slice(&stream.next().await?)?;
            anyhow::Ok((connection, stream, frame))
        };
        match attempt.await {
            Ok(served) => return served,
            Err(error) => assert!(Instant::now() < deadline, "no way through the proxy: {error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What every proxy must do.
async fn behaves(what: &str, mut trio: Trio, port: u16, secrets: &Secrets) {
    let world = through_tls(&trio.world, secrets);
    let identity = Identity::new(&world.entropy, DEVICE);
    let (_connection, mut stream, map) = poll(&world, port, &identity, Some(&trio.auth_key.clone())).await;
    assert!(map["Node"]["Name"].as_str().is_some_and(|name| name.starts_with(DEVICE)), "{map}");

    // The relay, whose clients upgrade to a protocol of their own and speak second.
    let mut relay = world.net.connect(&format!("{NAME}:{port}")).await.unwrap();
    let upgrade = format!("GET /derp HTTP/1.1\r\nHost: {NAME}\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n");
    relay.write_all(upgrade.as_bytes()).await.unwrap();
    let heard = tokio::time::timeout(trio::PATIENCE, async {
        let mut heard = Vec::new();
        while !heard.windows(8).any(|window| window == "DERP🔑".as_bytes()) {
            assert_ne!(relay.read_buf(&mut heard).await.unwrap(), 0, "{}", String::from_utf8_lossy(&heard));
        }
        heard
    });
    let heard = heard.await.expect("the relay speaks");
    assert!(heard.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&heard));
    drop(relay);

    // The member behind the stream is stopped: the stream ends, and the next one comes from another member.
    let before = trio.serving(DEVICE, None).await;
    let begun = Instant::now();
    let back = async {
        while stream.next().await.is_ok() {}
        let ended = begun.elapsed();
        let served = poll(&world, port, &identity, None).await;
        (ended, begun.elapsed(), served)
    };
    let (ended, back, _served) = {
        let (served, ()) = tokio::join!(back, trio.stop(before));
        served
    };
    let after = trio.serving(DEVICE, Some(before)).await;
    assert_ne!(before, after);
    println!("{what}: the stream ended {ended:?} after its member was told to stop, the next began after {back:?}");
    trio.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_ends_tls() {
    let Some(haproxy) = find("haproxy") else { return println!("skipped: no haproxy here (Debian: haproxy)") };
    let trio = Trio::up(None).await;
    let (secrets, port) = (Secrets::new(&trio.world), free_port(&trio.world).await);
    let config = write(&trio.world, &secrets, "haproxy.cfg", sample("haproxy.cfg", &trio, port, &secrets));
    let _proxy = Proxy::start(&haproxy, &["-db", "-f", &config], port, &secrets, &trio.world).await;
    behaves("haproxy", trio, port, &secrets).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_passes_tls_on() {
    let Some(haproxy) = find("haproxy") else { return println!("skipped: no haproxy here (Debian: haproxy)") };
    let world = world::real::world();
    let (secrets, port) = (Secrets::new(&world), free_port(&world).await);
    let trio = Trio::up(Some(TlsFiles { cert: secrets.path("cert.pem"), key: secrets.path("key.pem") })).await;
    let text = sample("haproxy-passthrough.cfg", &trio, port, &secrets);
    let config = write(&world, &secrets, "haproxy.cfg", text);
    let _proxy = Proxy::start(&haproxy, &["-db", "-f", &config], port, &secrets, &world).await;
    behaves("haproxy, TLS passed on", trio, port, &secrets).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_ends_tls() {
    let Some(nginx) = find("nginx") else { return println!("skipped: no nginx here (Debian: nginx)") };
    let trio = Trio::up(None).await;
    let (secrets, port) = (Secrets::new(&trio.world), free_port(&trio.world).await);
    let config = write(&trio.world, &secrets, "nginx.conf", sample("nginx.conf", &trio, port, &secrets));
    // One process: workers would outlive a master that is killed.
    let pid = format!("daemon off; master_process off; pid {};", secrets.path("nginx.pid").display());
    let folder = format!("{}/", secrets.folder.path().display());
    let _proxy = Proxy::start(&nginx, &["-p", &folder, "-c", &config, "-g", &pid], port, &secrets, &trio.world).await;
    behaves("nginx", trio, port, &secrets).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caddy_ends_tls() {
    let Some(caddy) = find("caddy") else { return println!("skipped: no caddy here (Debian: caddy)") };
    let trio = Trio::up(None).await;
    let (secrets, port) = (Secrets::new(&trio.world), free_port(&trio.world).await);
    let config = write(&trio.world, &secrets, "Caddyfile", sample("Caddyfile", &trio, port, &secrets));
    let words = ["run", "--adapter", "caddyfile", "--config", &config];
    let _proxy = Proxy::start(&caddy, &words, port, &secrets, &trio.world).await;
    behaves("caddy", trio, port, &secrets).await;
}

fn write(world: &World, secrets: &Secrets, name: &str, text: String) -> String {
    let path = secrets.path(name);
    world.disk.write(&path, text.as_bytes()).unwrap();
    path.display().to_string()
}
