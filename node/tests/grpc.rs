//! gRPC where Headscale's callers look for it: the unix socket, a port of its own, and the client port.

mod common;

use bytes::Bytes;
use common::{Member, within};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};

/// `CreateUserRequest { name: "alice" }`: field 1, length 5.
const ALICE: &[u8] = b"\x0a\x05alice";

/// One call on a new connection: the code, the message and the answer's bytes.
async fn call(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: &str,
    key: &str,
    message: &[u8],
) -> (String, String, Vec<u8>) {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    let mut request = Request::post(format!("http://localhost/headscale.v1.HeadscaleService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if !key.is_empty() {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(Full::new(Bytes::from(framed))).unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    let (head, body) = response.into_parts();
    let body = within(body.collect()).await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let said = |name: &str| {
        let of = |map: &HeaderMap| map.get(name).map(|value| value.to_str().unwrap().to_owned());
        of(&head.headers).or_else(|| of(&trailers)).unwrap_or_default()
    };
    // The message is percent-encoded.
    let answer = (said("grpc-status"), said("grpc-message").replace("%20", " "), body.to_bytes().to_vec());
    driver.abort();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_doors() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let member = Member::start_with(|options| {
        options.unix_socket = Some(socket.clone());
        options.grpc_listen = Some("127.0.0.1:0".parse().unwrap());
        options.grpc_insecure = true;
    })
    .await;

    // The socket takes both dialects, and asks for no key.
    let local = || async { UnixStream::connect(&socket).await.unwrap() };
    let (code, message, user) = call(local().await, "CreateUser", "", ALICE).await;
    assert_eq!((code.as_str(), message.as_str()), ("0", ""));
    assert!(user.windows(ALICE.len()).any(|piece| piece == b"\x12\x05alice"), "{user:?}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(local().await)).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = Request::get("/api/v1/user").header("host", "localhost").body(Full::<Bytes>::default()).unwrap();
    let answer = within(sender.send_request(request)).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&answer).contains("\"name\":\"alice\""));
    driver.abort();
    let (code, _, again) = call(local().await, "CreateUser", "", ALICE).await;
    assert_eq!((code.as_str(), again.len()), ("6", 0));

    // The ports want a key.
    let (_, _, key) = call(local().await, "CreateApiKey", "", b"").await;
    let key = String::from_utf8(key[7..].to_vec()).unwrap();
    assert!(key.starts_with("hskey-api-"), "{key}");
    for port in [member.server.grpc_addr().unwrap(), member.server.client_addr()] {
        let dial = || async { member.world.net.connect(&port.to_string()).await.unwrap() };
        assert_eq!(call(dial().await, "ListUsers", &key, b"").await.0, "0", "{port}");
        let (code, message, _) = call(dial().await, "ListUsers", "", b"").await;
        assert_eq!((code.as_str(), message.as_str()), ("16", "authorization token not supplied"));
        let (code, message, _) = call(dial().await, "ListUsers", &format!("{key}x"), b"").await;
        assert_eq!((code.as_str(), message.as_str()), ("16", "invalid token"));
        assert_eq!(call(dial().await, "NoSuchMethod", &key, b"").await.0, "12");
        // A message that is none.
        assert_ne!(call(dial().await, "CreateUser", &key, b"\xff\xff\xff").await.0, "0");
    }
    member.server.drain().await;
}
