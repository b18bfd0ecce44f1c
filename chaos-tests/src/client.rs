//! A small Tailscale client: key, Noise, HTTP/2, register, updates and the map stream.
//!
//! It writes its requests by hand, as `tailscaled` spells them, and has a Noise of its own: a client built from the
//! server's types would agree with the server's mistakes.

pub mod dial;
pub mod noise;
pub mod stream;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tailcfg::{DiscoKey, NodeKey};
use tokio::task::JoinSet;
use world::{BoxStream, Entropy, World};

pub use stream::MapStream;

/// The capability version we claim (`tailcfg.CurrentCapabilityVersion` of Tailscale 1.80).
pub const CAPABILITY_VERSION: u16 = 113;

/// The largest answer to a request that is not a stream.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Dial, handshake and any answer that is not held (`controlhttp`: ten seconds for dial and handshake).
const PATIENCE: Duration = Duration::from_secs(10);

/// One installation: what a daemon keeps in its state folder.
#[derive(Clone)]
pub struct Identity {
    /// The private half; proved by Noise.
    pub machine_private: [u8; 32],
    pub node_key: NodeKey,
    pub disco_key: DiscoKey,
    pub hostname: String,
}

impl Identity {
    /// Fresh keys. Simulated nodes never encrypt for each other, so public keys without private ones will do.
    pub fn new(entropy: &Entropy, hostname: &str) -> Identity {
        Identity {
            machine_private: entropy.bytes(),
            node_key: NodeKey(entropy.bytes()),
            disco_key: DiscoKey(entropy.bytes()),
            hostname: hostname.to_string(),
        }
    }

    fn hostinfo(&self) -> Value {
        json!({
            "IPNVersion": "1.80.0", "OS": "linux", "OSVersion": "6.1", "Hostname": self.hostname,
            "GoArch": "amd64", "Services": [], "RequestTags": [], "NetInfo": null,
        })
    }
}

/// What came of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    In,
    /// A person must open this URL.
    OpenUrl(String),
    /// The node key has expired.
    KeyExpired,
    Refused(String),
}

/// One Noise connection to one member, with HTTP/2 inside.
pub struct Connection {
    requests: h2::client::SendRequest<Bytes>,
    authority: String,
    /// The pumps and the driver of HTTP/2; they die with the connection.
    _tasks: JoinSet<()>,
}

impl Connection {
    /// `GET /key`, `POST /ts2021`, Noise, HTTP/2.
    pub async fn open(world: &World, server: &str, identity: &Identity) -> Result<Connection> {
        tokio::time::timeout(PATIENCE, Connection::open_patiently(world, server, identity))
            .await
            .with_context(|| format!("{server} did not answer in time"))?
    }

    async fn open_patiently(world: &World, server: &str, identity: &Identity) -> Result<Connection> {
        let control_key = fetch_key(world, server).await.context("could not fetch the key")?;
        let stream = world.net.connect(server).await?;
        Connection::over(stream, server, &control_key, identity).await
    }

    /// `POST /ts2021`, Noise, HTTP/2 over a stream that somebody dialled, to a server whose key is known.
    pub async fn over(
        stream: BoxStream,
        server: &str,
        control_key: &[u8; 32],
        identity: &Identity,
    ) -> Result<Connection> {
        let (handshake, initiation) =
            noise::Handshake::initiate(&identity.machine_private, control_key, CAPABILITY_VERSION)?;

        let mut tasks = JoinSet::new();
        let upgraded = upgrade(stream, server, &initiation, &mut tasks).await.context("could not upgrade")?;
        let plain = noise::connect(TokioIo::new(upgraded), handshake, &mut tasks).await?;

        let (requests, driver) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(plain)
            .await
            .context("HTTP/2 did not start")?;
        tasks.spawn(async move {
            // Ends with the connection; whoever waits for an answer hears the error.
            let _ = driver.await;
        });
        Ok(Connection { requests, authority: server.to_string(), _tasks: tasks })
    }

    /// Registers, with a pre-auth key or without.
    pub async fn register(&self, identity: &Identity, auth_key: Option<&str>) -> Result<Registered> {
        let mut request = json!({
            "Version": CAPABILITY_VERSION,
            "NodeKey": identity.node_key.to_string(),
            "OldNodeKey": NodeKey::default().to_string(),
            "NLKey": format!("nlpub:{}", "0".repeat(64)),
            "Expiry": "0001-01-01T00:00:00Z",
            "Followup": "",
            "Hostinfo": identity.hostinfo(),
            "Ephemeral": false,
            "NodeKeySignature": null,
        });
        if let Some(key) = auth_key {
            request["Auth"] = json!({ "AuthKey": key });
        }
        let answer = self.post_for_json("/machine/register", &request).await?;
        let error = answer["Error"].as_str().unwrap_or_default();
        let url = answer["AuthURL"].as_str().unwrap_or_default();
        // The order in which Go looks at the answer.
        Ok(if !error.is_empty() {
            Registered::Refused(error.to_string())
        } else if answer["NodeKeyExpired"] == true {
            Registered::KeyExpired
        } else if !url.is_empty() {
            Registered::OpenUrl(url.to_string())
        } else {
            Registered::In
        })
    }

    /// `tailscale logout`: an expiry long past.
    pub async fn log_out(&self, identity: &Identity) -> Result<()> {
        let request = json!({
            "Version": CAPABILITY_VERSION,
            "NodeKey": identity.node_key.to_string(),
            "Expiry": "1970-01-01T00:02:03Z",
            "Hostinfo": identity.hostinfo(),
        });
        self.post_for_json("/machine/register", &request).await.map(drop)
    }

    /// Tells endpoints and the home relay; returns once the server has them for good.
    pub async fn update(&self, identity: &Identity, endpoints: &[SocketAddr], home_derp: u32) -> Result<()> {
        let mut hostinfo = identity.hostinfo();
        hostinfo["NetInfo"] = json!({ "PreferredDERP": home_derp, "WorkingUDP": true });
        let request = json!({
            "Version": CAPABILITY_VERSION,
            "Compress": "zstd",
            "NodeKey": identity.node_key.to_string(),
            "DiscoKey": identity.disco_key.to_string(),
            "Stream": false,
            "OmitPeers": true,
            "Hostinfo": hostinfo,
            "Endpoints": endpoints,
            "EndpointTypes": vec![1; endpoints.len()],
        });
        let body = self.post("/machine/map", &request).await?;
        ensure!(body.is_empty(), "an update is answered with an empty body, not {} bytes", body.len());
        Ok(())
    }

    /// Opens the map stream. `compress`: as Go does; otherwise plain, as the Rust client does.
    pub async fn stream(&self, identity: &Identity, compress: bool) -> Result<MapStream> {
        let request = json!({
            "Version": CAPABILITY_VERSION,
            "Compress": if compress { "zstd" } else { "" },
            "KeepAlive": true,
            "NodeKey": identity.node_key.to_string(),
            "DiscoKey": identity.disco_key.to_string(),
            "Stream": true,
            "OmitPeers": false,
            "Hostinfo": identity.hostinfo(),
        });
        let response = tokio::time::timeout(PATIENCE, self.send("/machine/map", &request))
            .await
            .context("the map stream did not start in time")??;
        let status = response.status();
        ensure!(status == StatusCode::OK, "the map stream was refused with {status}");
        Ok(MapStream::new(response.into_body(), compress))
    }

    async fn post_for_json(&self, path: &str, request: &Value) -> Result<Value> {
        let body = self.post(path, request).await?;
        serde_json::from_slice(&body).with_context(|| format!("{path} did not answer JSON"))
    }

    async fn post(&self, path: &str, request: &Value) -> Result<Vec<u8>> {
        let answer = async {
            let response = self.send(path, request).await?;
            let status = response.status();
            let body = stream::collect(response.into_body(), ANSWER_BYTES_MAX).await?;
            if status != StatusCode::OK {
                bail!("{path} answered {status}: {}", String::from_utf8_lossy(&body).trim());
            }
            Ok(body)
        };
        tokio::time::timeout(PATIENCE, answer).await.with_context(|| format!("{path} did not answer in time"))?
    }

    async fn send(&self, path: &str, request: &Value) -> Result<Response<h2::RecvStream>> {
        let body = Bytes::from(serde_json::to_vec(request)?);
        let head = Request::post(format!("https://{}{path}", self.authority)).body(())?;
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut send) = requests.send_request(head, false)?;
        send.send_data(body, true)?;
        Ok(response.await?)
    }
}

/// `GET /key`: the public half of the cluster's Noise key.
pub async fn fetch_key(world: &World, server: &str) -> Result<[u8; 32]> {
    fetch_key_over(world.net.connect(server).await?, server).await
}

/// The same over a stream that somebody dialled.
pub async fn fetch_key_over(stream: BoxStream, server: &str) -> Result<[u8; 32]> {
    let (mut requests, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = driver.await;
    });
    let request =
        Request::get(format!("/key?v={CAPABILITY_VERSION}")).header("Host", server).body(Empty::<Bytes>::new())?;
    let response = requests.send_request(request).await?;
    ensure!(response.status() == StatusCode::OK, "/key answered {}", response.status());
    let body = Limited::new(response.into_body(), 64 << 10).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("/key broke off: {error}"))?.to_bytes();
    let answer: Value = serde_json::from_slice(&body).context("/key did not answer JSON")?;
    let key = answer["publicKey"].as_str().context("/key has no publicKey")?;
    Ok(key.parse::<tailcfg::MachineKey>().map_err(|error| anyhow::anyhow!("{key:?}: {error}"))?.0)
}

/// `POST /ts2021` up to the 101.
async fn upgrade(
    stream: BoxStream,
    server: &str,
    initiation: &[u8],
    tasks: &mut JoinSet<()>,
) -> Result<hyper::upgrade::Upgraded> {
    use base64::Engine;
    let (mut requests, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tasks.spawn(async move {
        let _ = driver.with_upgrades().await;
    });
    let request = Request::post("/ts2021")
        .header("Host", server)
        .header("Upgrade", "tailscale-control-protocol")
        .header("Connection", "upgrade")
        .header("X-Tailscale-Handshake", base64::engine::general_purpose::STANDARD.encode(initiation))
        .header("Content-Length", "0")
        .body(Empty::<Bytes>::new())?;
    let response = requests.send_request(request).await?;
    ensure!(response.status() == StatusCode::SWITCHING_PROTOCOLS, "/ts2021 answered {}", response.status());
    Ok(hyper::upgrade::on(response).await?)
}

/// Go's wait before the next attempt: n² · 10 ms up to 30 s, give or take half (`util/backoff`).
pub fn back_off(failures: u32, entropy: &Entropy) -> Duration {
    let failures = u64::from(failures);
    let wait = (failures * failures * 10).min(30_000);
    Duration::from_millis(wait / 2 + entropy.below(wait + 1))
}
