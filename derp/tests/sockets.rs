//! The relay over real loopback sockets: TLS with the certificate that announces the key, and STUN.

mod common;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use common::{SOON, Stage, key, limits, next, secret, settle};
use derp::{SelfSigned, client::Client, frame::Frame, hello::ClientInfo, stun};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tokio::{runtime::Runtime, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use world::BoxStream;

/// Threads of the relay's own, as in production.
fn threads() -> &'static Runtime {
    static THREADS: OnceLock<Runtime> = OnceLock::new();
    let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    THREADS.get_or_init(|| build().expect("threads can be started"))
}

/// A stage whose relay is served on a port, and a client's configuration that trusts it.
async fn stage() -> (Stage, SocketAddr, RootCertStore) {
    let world = world::real::world();
    let certificate = SelfSigned::new(&["127.0.0.1".into()], &*world.clock).unwrap().certificate().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.leaf().clone()).unwrap();
    let stage = Stage::with(limits(), |options| {
        options.certificate = Some(certificate);
        options.runtime = Some(threads().handle().clone());
    });
    let mut listener = world.net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let relay = stage.relay.clone();
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let relay = relay.clone();
            tokio::spawn(async move { relay.serve_tls(stream, from).await });
        }
    });
    (stage, addr, roots)
}

async fn dial(
    stage: &Stage,
    addr: SocketAddr,
    roots: &RootCertStore,
    version: &'static rustls::SupportedProtocolVersion,
) -> TlsStream<BoxStream> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    let stream = stage.world.net.connect(&addr.to_string()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn over_tls() {
    let (stage, addr, roots) = stage().await;
    let info = ClientInfo::default();
    let mut clients = Vec::new();
    for (name, version) in [(1, &TLS12), (2, &TLS13)] {
        let stream = dial(&stage, addr, &roots, version).await;
        clients.push(stage.client_over(Box::new(stream), name, info.clone()).await.unwrap());
    }
    let [a, b] = clients.as_mut_slice() else { panic!("two clients") };
    let large = "x".repeat(60_000);
    for text in ["hello", &large] {
        a.send(&Frame::SendPacket { to: key(2), packet: text.as_bytes() }).await.unwrap();
        assert_eq!(next(b).await, format!("packet from 1: {text}"));
    }
    settle(a).await;
    clients.remove(0);
    assert_eq!(next(&mut clients[0]).await, "1 is gone: Disconnected");
}

/// What the Go client does: read the key from the last certificate, then send request and introduction together.
#[tokio::test]
async fn a_fast_start_with_the_key_from_the_certificate() {
    let (stage, addr, roots) = stage().await;
    let stream = dial(&stage, addr, &roots, &TLS13).await;
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    assert_eq!(chain.len(), 2);
    let (_, meta) = x509_parser::parse_x509_certificate(&chain[1]).unwrap();
    let expected = format!("CN=derpkey{}", hex::encode(stage.relay.public_key().0));
    assert_eq!(meta.subject().to_string(), expected);
    let relay = stage.relay.public_key();
    let info = ClientInfo::default();
    let mut client =
        Client::connect_fast(Box::new(stream), relay, &secret(1), &info, &stage.world.entropy).await.unwrap();
    settle(&mut client).await;
}

#[tokio::test]
async fn plain_text_on_the_tls_port_is_refused() {
    let (stage, addr, _) = stage().await;
    let mut stream = stage.world.net.connect(&addr.to_string()).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(b"GET /derp HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert, perhaps, and then the end.
    drop(timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap());
    assert!(!answer.starts_with(b"HTTP"));
    let counted = async {
        while stage.metrics().refused.with_label_values(&["tls"]).get() != 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, counted).await.unwrap();
}

#[tokio::test]
async fn where_am_i_seen_from() {
    let stage = Stage::new();
    let server = stage.world.net.udp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = server.local_addr().unwrap();
    let relay = stage.relay.clone();
    let serving = tokio::spawn(async move { relay.serve_stun(server).await });
    let client = stage.world.net.udp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut bad = stun::request(&[1; 12]);
    bad[39] ^= 1;
    // Dropped, all of them, so the first answer is to the last question.
    for packet in [&b"hello"[..], &bad, &[0; 600], &stun::request(&[5; 12])] {
        client.send_to(packet, addr).await.unwrap();
    }
    let mut answer = [0; 100];
    let (length, from) = timeout(SOON, client.recv_from(&mut answer)).await.unwrap().unwrap();
    assert_eq!(from, addr);
    assert_eq!(&answer[..length], stun::response(&[5; 12], client.local_addr().unwrap()));
    assert_eq!(stage.metrics().stun_requests.with_label_values(&["not_stun"]).get(), 3);
    assert_eq!(stage.metrics().stun_requests.with_label_values(&["success"]).get(), 1);
    serving.abort();
}
