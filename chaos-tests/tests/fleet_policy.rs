//! Devices of the official Rust client obey the policy: a port that is not allowed is dead, one that is lives, and when
//! the policy changes it is the other way round.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use chaos_tests::fleet::{Fleet, api::Api};
use http::Method;
use serde_json::json;
use tailscale::{Config, Device, netstack::UdpSocket};
use tokio::{sync::mpsc, time::Instant};

/// How long a device may take for anything: the relay, the handshake and the map all take their turns.
const PATIENCE: Duration = Duration::from_secs(60);
/// A datagram on a port that lives takes a few milliseconds.
const SILENCE: Duration = Duration::from_secs(2);
const PORTS: [u16; 2] = [4000, 4001];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_obey_the_policy() {
    rustls::crypto::ring::default_provider().install_default().expect("nobody chose before");
    let fleet = Fleet::up(3).await.unwrap();
    let mut api = fleet.api(0);
    allow(&mut api, PORTS[0]).await;
    let (mut alpha, beta) = (Guest::arrive(&fleet, "alpha", 0).await, Guest::arrive(&fleet, "beta", 1).await);

    alpha.hears(&beta, 0).await;
    alpha.is_deaf_to(&beta, 1).await;

    // The change is made at a third member.
    let mut api = fleet.api(2);
    allow(&mut api, PORTS[1]).await;
    let changed = Instant::now();
    alpha.hears(&beta, 1).await;
    println!("a port that the new policy allows lives {:?} after the change was answered", changed.elapsed());
    assert!(changed.elapsed() < Duration::from_secs(5), "the change took {:?}", changed.elapsed());
    alpha.is_deaf_to(&beta, 0).await;

    // A policy whose own test fails changes nothing.
    let bad = r#"{"acls": [], "tests": [{"src": "100.64.0.1", "accept": ["100.64.0.2:4000"]}]}"#;
    let refused = api.call(Method::PUT, "/api/v1/policy", Some(&json!({ "policy": bad })), PATIENCE).await;
    assert!(format!("{:#}", refused.unwrap_err()).contains("test(s) failed"));
    alpha.hears(&beta, 1).await;
}

async fn allow(api: &mut Api, port: u16) {
    let policy = json!({ "acls": [{ "action": "accept", "src": ["*"], "dst": [format!("*:{port}")] }] }).to_string();
    api.call(Method::PUT, "/api/v1/policy", Some(&json!({ "policy": policy })), PATIENCE).await.unwrap();
}

/// A device with two ports.
struct Guest {
    name: &'static str,
    _device: Device,
    address: IpAddr,
    sockets: Vec<Arc<UdpSocket>>,
    /// What arrived: which port, from whom, what. One task a socket receives: a receive that is given up swallows the
    /// next datagram.
    heard: mpsc::Receiver<(usize, SocketAddr, Vec<u8>)>,
    /// So that late datagrams are told from new ones.
    round: std::sync::atomic::AtomicU64,
}

impl Guest {
    async fn arrive(fleet: &Fleet, name: &'static str, member: usize) -> Guest {
        let config = Config {
            control_server_url: fleet.report.members[member].url.parse().unwrap(),
            requested_hostname: Some(name.into()),
            client_name: Some("hsraft fleet test".into()),
            ..Config::default()
        };
        let device = tokio::time::timeout(PATIENCE, Device::new(&config, Some(fleet.report.auth_key.clone())))
            .await
            .unwrap_or_else(|_| panic!("{name} did not get in; logs:\n{}", fleet.logs()))
            .unwrap_or_else(|error| panic!("{name} did not get in: {error:?}; logs:\n{}", fleet.logs()));
        let address = tokio::time::timeout(PATIENCE, device.ipv4_addr()).await.expect("an address in time").unwrap();
        let (tx, heard) = mpsc::channel(1024);
        let mut sockets = Vec::new();
        for (number, port) in PORTS.into_iter().enumerate() {
            let socket = Arc::new(device.udp_bind(SocketAddr::from((address, port))).await.unwrap());
            let (receiver, tx) = (socket.clone(), tx.clone());
            tokio::spawn(async move {
                while let Ok((from, bytes)) = receiver.recv_from_bytes().await {
                    if tx.send((number, from, bytes.as_ref().to_vec())).await.is_err() {
                        return;
                    }
                }
            });
            sockets.push(socket);
        }
        Guest { name, _device: device, address: address.into(), sockets, heard, round: 0.into() }
    }

    /// Sends to a port of `to` until `until`; every datagram of this round carries its number.
    async fn knock(&self, to: SocketAddr, text: &str, until: Instant) {
        while Instant::now() < until {
            let _ = self.sockets[0].send_to(to, text.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn next_round(&self) -> String {
        format!("{} {}", self.name, self.round.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    /// What arrives at a port of ours while `other` sends to it.
    async fn listen(&mut self, other: &Guest, port: usize, until: Instant) -> bool {
        let text = other.next_round();
        let to = SocketAddr::from((self.address, PORTS[port]));
        let from = other.address;
        let heard = &mut self.heard;
        let hears = async {
            while let Some((at, sender, bytes)) = heard.recv().await {
                if at == port && sender.ip() == from && bytes == text.as_bytes() {
                    return true;
                }
            }
            false
        };
        tokio::select! { biased;
            heard = hears => heard,
            () = other.knock(to, &text, until) => false,
        }
    }

    async fn hears(&mut self, other: &Guest, port: usize) {
        let begun = Instant::now();
        assert!(
            self.listen(other, port, begun + PATIENCE).await,
            "{} hears nothing from {} on port {}",
            self.name,
            other.name,
            PORTS[port]
        );
    }

    async fn is_deaf_to(&mut self, other: &Guest, port: usize) {
        let until = Instant::now() + SILENCE;
        assert!(
            !self.listen(other, port, until).await,
            "{} hears {} on port {}, which is not allowed",
            self.name,
            other.name,
            PORTS[port]
        );
    }
}
