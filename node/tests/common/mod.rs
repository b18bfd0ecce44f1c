//! A small client that speaks to a member in the same process, over real loopback.
#![allow(dead_code, reason = "each test uses its part")]

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use node::{
    Options, Server,
    control::{noise, wire},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use state_machine::{Command, Outcome, PreAuthKey, UserId};
use tailcfg::{DiscoKey, MachineKey, NodeKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use world::World;

pub const VERSION: u16 = 130;
/// Whatever takes longer than this does not come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A member in a folder that goes with it.
pub struct Member {
    pub server: Server,
    pub world: World,
    _folder: tempfile::TempDir,
}

impl Member {
    pub async fn start() -> Member {
        Member::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Options)) -> Member {
        let folder = tempfile::tempdir().unwrap();
        let world = world::real::world();
        let mut options = Options::new("hs1", folder.path());
        options.timing = raft::Timing::test();
        // Nobody is spared by a slow goodbye here.
        options.limits.drain = Duration::from_secs(2);
        change(&mut options);
        let server = Server::start(options, world.clone()).await.unwrap();
        Member { server, world, _folder: folder }
    }

    /// Ends the member as a crash would: nobody is told anything, but for its database, which this process must close.
    /// The member must take part in drills.
    pub async fn die(self) {
        let (cluster, minute) = (self.server.cluster().clone(), Duration::from_secs(60));
        // First its voice, then its tasks: what they would still say as they end reaches nobody.
        cluster.drills().begin("death", "test", minute).unwrap();
        cluster.inject("death", raft::drills::Fault::Cut(std::collections::BTreeSet::new()), minute).unwrap();
        let folder = self._folder;
        drop(self.server);
        cluster.shutdown().await;
        drop((cluster, folder));
    }

    pub async fn done(&self, command: Command) -> Outcome {
        self.server.cluster().propose("test", command).await.unwrap().answer.unwrap()
    }

    /// A user and a reusable key of theirs, as a client would be given it.
    pub async fn auth_key(&self) -> String {
        let user = self
            .done(Command::CreateUser {
                name: "ann".to_owned(),
                display_name: String::new(),
                email: String::new(),
                profile_pic_url: String::new(),
            })
            .await;
        let Outcome::User(user) = user else { panic!("{user:?}") };
        self.auth_key_of(user, true).await
    }

    pub async fn auth_key_of(&self, user: UserId, reusable: bool) -> String {
        let secret = "s".repeat(64);
        let key = PreAuthKey {
            prefix: "p".repeat(12),
            secret_sha256: Sha256::digest(&secret).into(),
            user: Some(user),
            reusable,
            ..PreAuthKey::default()
        };
        self.done(Command::CreatePreAuthKey { key: key.clone() }).await;
        format!("hskey-auth-{}-{secret}", key.prefix)
    }

    pub fn revision(&self) -> u64 {
        self.server.cluster().latest().revision().0
    }

    /// The value of a counter in the member's metrics.
    pub fn metric(&self, line: &str) -> f64 {
        let text = node::observe::render(self.server.registry());
        let found = text.lines().find_map(|one| one.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or(0.0)
    }

    /// Waits for a counter.
    pub async fn metric_reaches(&self, line: &str, value: f64) {
        within(async {
            while self.metric(line) < value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// One exchange over plain HTTP/1.1, until the member closes.
    pub async fn http(&self, request: &str) -> String {
        let mut stream = self.world.net.connect(&self.server.client_addr().to_string()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub async fn get(&self, path: &str) -> String {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }
}

/// Fails the test when it takes too long.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("took too long")
}

/// One machine with a client on it.
#[derive(Clone)]
pub struct Machine {
    pub private: [u8; 32],
    pub node_key: NodeKey,
    pub disco_key: DiscoKey,
    pub name: &'static str,
}

impl Machine {
    pub fn new(number: u8, name: &'static str) -> Machine {
        Machine {
            private: [number; 32],
            node_key: NodeKey([number.wrapping_add(100); 32]),
            disco_key: DiscoKey([number.wrapping_add(50); 32]),
            name,
        }
    }

    pub fn machine_key(&self) -> MachineKey {
        noise::public_key(&self.private)
    }

    pub async fn dial(&self, member: &Member) -> Connection {
        let addr = member.server.client_addr().to_string();
        let stream = member.world.net.connect(&addr).await.unwrap();
        let key = member.server.noise_key();
        let stream =
            within(noise::connect(stream, &addr, &self.private, &key, VERSION, &member.world.entropy)).await.unwrap();
        let (requests, driver) = within(h2::client::handshake(stream)).await.unwrap();
        let driver = tokio::spawn(async move {
            let _ = driver.await;
        });
        Connection { requests, driver }
    }

    pub fn registration(&self) -> Value {
        json!({
            "Version": VERSION,
            "NodeKey": self.node_key.to_string(),
            "OldNodeKey": NodeKey::default().to_string(),
            "Expiry": "0001-01-01T00:00:00Z",
            "Followup": "",
            "Hostinfo": {"Hostname": self.name, "OS": "linux"},
        })
    }

    pub fn map_request(&self) -> Value {
        json!({
            "Version": VERSION,
            "NodeKey": self.node_key.to_string(),
            "DiscoKey": self.disco_key.to_string(),
            "KeepAlive": true,
            "Hostinfo": {"Hostname": self.name, "OS": "linux"},
        })
    }

    /// Registers with a key and expects to be in.
    pub async fn enter(&self, connection: &mut Connection, auth_key: &str) {
        let mut request = self.registration();
        request["Auth"] = json!({"AuthKey": auth_key});
        let answer = connection.register(&request).await;
        assert_eq!((&answer["MachineAuthorized"], &answer["Error"]), (&json!(true), &json!("")), "{answer}");
    }
}

/// HTTP/2 inside Noise.
pub struct Connection {
    pub requests: h2::client::SendRequest<Bytes>,
    pub driver: tokio::task::JoinHandle<()>,
}

impl Connection {
    pub async fn send(&mut self, path: &str, body: Bytes) -> (StatusCode, h2::RecvStream) {
        let request = Request::post(format!("https://unused{path}")).body(()).unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (answer, mut sending) = requests.send_request(request, false).unwrap();
        sending.send_data(body, true).unwrap();
        let answer = within(answer).await.unwrap();
        (answer.status(), answer.into_body())
    }

    pub async fn get(&mut self, path: &str) -> (StatusCode, String) {
        let request = Request::get(format!("https://unused{path}")).body(()).unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        let (head, mut body) = within(answer).await.unwrap().into_parts();
        let mut all = Vec::new();
        while let Some(chunk) = within(body.data()).await {
            all.extend_from_slice(&chunk.unwrap());
        }
        (head.status, String::from_utf8(all).unwrap())
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> (StatusCode, String) {
        let (status, mut body) = self.send(path, body.to_string().into()).await;
        let mut all = Vec::new();
        while let Some(chunk) = within(body.data()).await {
            all.extend_from_slice(&chunk.unwrap());
        }
        (status, String::from_utf8(all).unwrap())
    }

    pub async fn register(&mut self, request: &Value) -> Value {
        let (status, body) = self.post("/machine/register", request).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Reports without asking for a map.
    pub async fn update(&mut self, machine: &Machine, more: &[(&str, Value)]) -> (StatusCode, String) {
        let mut request = machine.map_request();
        request["OmitPeers"] = json!(true);
        for (key, value) in more {
            request[*key] = value.clone();
        }
        self.post("/machine/map", &request).await
    }

    pub async fn stream(&mut self, machine: &Machine, compress: &str) -> MapStream {
        let mut request = machine.map_request();
        request["Stream"] = json!(true);
        request["Compress"] = json!(compress);
        let (status, body) = self.send("/machine/map", request.to_string().into()).await;
        assert_eq!(status, StatusCode::OK);
        MapStream { body, unframer: wire::Unframer::new(wire::Coding::asked(compress), 1 << 20) }
    }
}

/// An open map stream.
pub struct MapStream {
    body: h2::RecvStream,
    unframer: wire::Unframer,
}

impl MapStream {
    /// The next frame; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(json) = self.unframer.next_json().unwrap() {
                return Some(serde_json::from_slice(&json).unwrap());
            }
            let chunk = within(self.body.data()).await?.ok()?;
            self.body.flow_control().release_capacity(chunk.len()).unwrap();
            self.unframer.push(&chunk);
        }
    }

    /// The next frame of which this is true; skips others.
    pub async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let frame = self.next().await.expect("the stream goes on");
                if wanted(&frame) {
                    return frame;
                }
                seen.push(frame);
            }
        })
        .await;
        found.unwrap_or_else(|_| panic!("not heard; but: {seen:#?}"))
    }
}
