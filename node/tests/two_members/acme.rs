//! Certificates from an authority: a stand-in of one (RFC 8555) that really asks, at the member that did not order.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use node::options::Acme;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use state_machine::{CertificateWish, ChallengeKind, ManagedCertificate};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::{
    common::{Member, within},
    two_with,
};

const NAME: &str = "hs.example.com";

/// Whom the authority asks.
#[derive(Clone, Copy)]
enum Ask {
    Http(SocketAddr),
    Tls(SocketAddr),
}

struct Authority {
    base: String,
    issuer: Mutex<Issuer<'static, KeyPair>>,
    root: CertificateDer<'static>,
    ask: watch::Sender<Option<Ask>>,
    /// Certificates live so long.
    life: Duration,
    state: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    nonces: u64,
    open: Vec<String>,
    /// x and y of the accounts' keys.
    accounts: Vec<(String, String)>,
    orders: BTreeMap<usize, Order>,
}

#[derive(Default, Clone)]
struct Order {
    status: &'static str,
    token: String,
    thumbprint: String,
    pem: String,
    error: String,
}

impl Authority {
    async fn start(life: Duration) -> Arc<Authority> {
        let mut listener = world::real::world().net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "stand-in");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        let authority = Arc::new(Authority {
            base,
            issuer: Mutex::new(Issuer::new(params, key)),
            root,
            ask: watch::channel(None).0,
            life,
            state: Mutex::default(),
        });
        let serving = authority.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let authority = serving.clone();
                tokio::spawn(async move { authority.serve(stream).await });
            }
        });
        authority
    }

    /// One request, one answer.
    async fn serve(self: Arc<Self>, mut stream: world::BoxStream) {
        let mut bytes = Vec::new();
        let (head, body) = loop {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.unwrap_or(0);
            if read == 0 {
                return;
            }
            bytes.extend(&piece[..read]);
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            let length: usize = length.unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                break (String::from_utf8_lossy(&bytes[..end]).into_owned(), bytes[end + 4..].to_vec());
            }
        };
        let mut words = head.split_whitespace();
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let (status, location, kind, text) = self.answer(&method, &path, &body);
        let nonce = {
            let mut books = self.state.lock().unwrap();
            books.nonces += 1;
            let nonce = format!("nonce{}", books.nonces);
            books.open.push(nonce.clone());
            nonce
        };
        let location = location.map(|path| format!("Location: {}{path}\r\n", self.base)).unwrap_or_default();
        let answer = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nReplay-Nonce: {nonce}\r\n{location}Content-Length: {}\r\nConnection: close\r\n\r\n{}",
            text.len(),
            if method == "HEAD" { "" } else { &text }
        );
        _ = stream.write_all(answer.as_bytes()).await;
    }

    fn answer(self: &Arc<Self>, method: &str, path: &str, body: &[u8]) -> (u16, Option<String>, &'static str, String) {
        let url = |path: &str| format!("{}{path}", self.base);
        let json_type = "application/json";
        if path == "/dir" {
            let directory = json!({ "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order"),
                "revokeCert": url("/revoke"), "keyChange": url("/change") });
            return (200, None, json_type, directory.to_string());
        }
        if path == "/nonce" {
            return (200, None, json_type, String::new());
        }
        assert_eq!(method, "POST", "{path}");
        let payload = match self.signed(path, body) {
            Ok(payload) => payload,
            Err(kind) => {
                let problem = json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": kind });
                return (400, None, "application/problem+json", problem.to_string());
            }
        };
        let mut books = self.state.lock().unwrap();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match parts.as_slice() {
            ["account"] => {
                let number = books.accounts.len();
                (201, Some(format!("/account/{number}")), json_type, json!({ "status": "valid" }).to_string())
            }
            ["order"] => {
                assert_eq!(payload["identifiers"], json!([{ "type": "dns", "value": NAME }]));
                let (number, (x, y)) = (books.orders.len() + 1, books.accounts.last().unwrap().clone());
                let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
                let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(jwk));
                let token = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(format!("token{number}")));
                books.orders.insert(number, Order { status: "pending", token, thumbprint, ..Order::default() });
                (201, Some(format!("/order/{number}")), json_type, self.order(&books, number))
            }
            ["order", number] => (200, None, json_type, self.order(&books, number.parse().unwrap())),
            ["authz", number] => {
                let order = &books.orders[&number.parse().unwrap()];
                let status = if order.status == "pending" { "pending" } else { "valid" };
                let challenge = |kind: &str| json!({ "type": kind, "url": url(&format!("/challenge/{number}/{kind}")), "token": order.token, "status": status });
                let identifier = json!({ "type": "dns", "value": NAME });
                let challenges = [challenge("http-01"), challenge("tls-alpn-01")];
                let authorization = json!({ "status": status, "identifier": identifier, "challenges": challenges });
                (200, None, json_type, authorization.to_string())
            }
            ["challenge", number, kind] => {
                let order = books.orders[&number.parse().unwrap()].clone();
                let (authority, number, kind) = (self.clone(), number.parse().unwrap(), (*kind).to_owned());
                let challenge =
                    json!({ "type": kind, "url": url(path), "token": order.token, "status": "processing" }).to_string();
                tokio::spawn(async move { authority.judge(number, order, &kind).await });
                (200, None, json_type, challenge)
            }
            ["finalize", number] => {
                let csr = BASE64_URL_SAFE_NO_PAD.decode(payload["csr"].as_str().unwrap()).unwrap();
                let number = number.parse().unwrap();
                let pem = self.sign(&csr);
                let order = books.orders.get_mut(&number).unwrap();
                assert_eq!(order.status, "ready");
                (order.status, order.pem) = ("valid", pem);
                (200, None, json_type, self.order(&books, number))
            }
            ["cert", number] => {
                (200, None, "application/pem-certificate-chain", books.orders[&number.parse().unwrap()].pem.clone())
            }
            other => panic!("{other:?}"),
        }
    }

    fn order(&self, books: &Books, number: usize) -> String {
        let (url, order) = (|path: &str| format!("{}/{path}/{number}", self.base), &books.orders[&number]);
        let mut text = json!({ "status": order.status, "identifiers": [{ "type": "dns", "value": NAME }],
            "authorizations": [url("authz")], "finalize": url("finalize") });
        if order.status == "valid" {
            text["certificate"] = url("cert").into();
        }
        if order.status == "invalid" {
            text["error"] = json!({ "type": "urn:ietf:params:acme:error:unauthorized", "detail": order.error });
        }
        text.to_string()
    }

    /// The payload of a JWS whose nonce, URL and signature are right.
    fn signed(&self, path: &str, body: &[u8]) -> Result<Value, &'static str> {
        let jws: Value = serde_json::from_slice(body).unwrap();
        let text = |name: &str| jws[name].as_str().unwrap().to_owned();
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
        let head: Value = serde_json::from_slice(&decode(&text("protected"))).unwrap();
        assert_eq!(head["alg"], "ES256");
        assert_eq!(head["url"], format!("{}{path}", self.base));
        let mut books = self.state.lock().unwrap();
        let nonce = head["nonce"].as_str().unwrap();
        let known = books.open.iter().position(|open| open == nonce).ok_or("badNonce")?;
        books.open.remove(known);
        if let Some(jwk) = head["jwk"].as_object() {
            let half = |name: &str| jwk[name].as_str().unwrap().to_owned();
            books.accounts.push((half("x"), half("y")));
        } else {
            let number: usize = head["kid"].as_str().unwrap().rsplit('/').next().unwrap().parse().unwrap();
            assert_eq!(number, books.accounts.len(), "the newest account");
        }
        let (x, y) = books.accounts.last().ok_or("accountDoesNotExist")?.clone();
        let key = [vec![4], decode(&x), decode(&y)].concat();
        let message = format!("{}.{}", text("protected"), text("payload"));
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
            .verify(message.as_bytes(), &decode(&text("signature")))
            .map_err(|_| "malformed")?;
        let payload = decode(&text("payload"));
        Ok(if payload.is_empty() { Value::Null } else { serde_json::from_slice(&payload).unwrap() })
    }

    fn sign(&self, csr: &[u8]) -> String {
        let mut csr = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let now = Duration::from_millis(world::real::world().clock.now_ms());
        (csr.params.not_before, csr.params.not_after) = (epoch + now, epoch + now + self.life);
        let issuer = self.issuer.lock().unwrap();
        csr.signed_by(&issuer).unwrap().pem()
    }

    /// Asks the member it was told to, as soon as it knows one.
    async fn judge(&self, number: usize, order: Order, kind: &str) {
        let expected = format!("{}.{}", order.token, order.thumbprint);
        let ask = self.ask.subscribe().wait_for(Option::is_some).await.unwrap().unwrap();
        let found = match ask {
            Ask::Http(addr) if kind == "http-01" => http_answer(addr, &order.token).await == expected,
            Ask::Tls(addr) if kind == "tls-alpn-01" => alpn_answer(addr).await == Sha256::digest(&expected).to_vec(),
            _ => false,
        };
        let mut books = self.state.lock().unwrap();
        let order = books.orders.get_mut(&number).unwrap();
        (order.status, order.error) = match found {
            true => ("ready", String::new()),
            false => ("invalid", "the answer was another".to_owned()),
        };
    }

    fn orders(&self) -> usize {
        self.state.lock().unwrap().orders.len()
    }

    fn acme(&self, challenge: ChallengeKind) -> Acme {
        let wish = CertificateWish {
            name: NAME.into(),
            directory: format!("{}/dir", self.base),
            email: "ann@example.com".into(),
            challenge,
        };
        let plain_listen = (challenge == ChallengeKind::Http01).then(|| "127.0.0.1:0".parse().unwrap());
        Acme { wish, plain_listen, authorities: None }
    }

    /// What a client that trusts only this authority is shown.
    async fn shown(&self, addr: SocketAddr) -> std::io::Result<CertificateDer<'static>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        handshake(config, addr).await
    }
}

async fn handshake(config: ClientConfig, addr: SocketAddr) -> std::io::Result<CertificateDer<'static>> {
    let stream = world::real::world().net.connect(&addr.to_string()).await?;
    let name = ServerName::try_from(NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

async fn http_answer(addr: SocketAddr, token: &str) -> String {
    let mut stream = world::real::world().net.connect(&addr.to_string()).await.unwrap();
    let request =
        format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// The hash in the certificate a member shows to `acme-tls/1` (RFC 8737, section 3).
async fn alpn_answer(addr: SocketAddr) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let shown = handshake(config, addr).await.unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&shown).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(format!("{:?}", names.value.general_names), format!("[DNSName({NAME:?})]"));
    let found = parsed.extensions().iter().find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
    let found = found.expect("the extension of the challenge");
    assert!(found.critical);
    // An octet string of 32 bytes.
    assert_eq!(found.value[..2], [4, 32]);
    found.value[2..].to_vec()
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Until the cluster has a certificate other than `before`, and this member shows it.
async fn issued(authority: &Authority, member: &Member, before: &str) -> ManagedCertificate {
    let mut states = member.server.cluster().watch();
    let fits = |state: &Arc<state_machine::State>| {
        state.certificates().get(NAME).is_some_and(|row| !row.chain.is_empty() && row.chain != before)
    };
    let row = (**within(states.wait_for(fits)).await.unwrap().certificates().get(NAME).unwrap()).clone();
    within(async {
        loop {
            let shown = authority.shown(member.server.client_addr()).await;
            if shown.is_ok_and(|leaf| rustls_pem(&leaf) == row.chain.replace("\r\n", "\n")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    row
}

fn rustls_pem(leaf: &[u8]) -> String {
    use base64::prelude::BASE64_STANDARD;
    let text = BASE64_STANDARD.encode(leaf);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The leader, and the other one.
fn roles<'a>(one: &'a Member, two: &'a Member) -> (&'a Member, &'a Member) {
    if one.server.cluster().is_leader() { (one, two) } else { (two, one) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_answers_over_http_and_the_next_leader_renews_with_the_same_account() {
    let authority = Authority::start(Duration::from_secs(9)).await;
    let acme = authority.acme(ChallengeKind::Http01);
    let (one, two) = two_with(|options| options.client_acme = Some(acme.clone())).await;
    let (_, follower) = roles(&one, &two);
    // Nobody believes what stands there before.
    assert!(authority.shown(follower.server.client_addr()).await.is_err());
    // The other one is to lead before the first certificate is renewed: it has to vote by then.
    let mut statuses = one.server.cluster().watch_status();
    within(statuses.wait_for(|status| status.voters.len() == 2 && !status.joint)).await.unwrap();
    let begun = Instant::now();
    authority.ask.send_replace(Some(Ask::Http(follower.server.plain_addr().unwrap())));
    let first = issued(&authority, &two, "").await;
    println!("HTTP-01: issued and shown {:?} after the authority could ask", begun.elapsed());
    issued(&authority, &one, "").await;
    assert_eq!((first.failures, first.order.as_ref()), (0, None));
    assert_eq!(first.wanted_by.len(), 2);

    // Keys are nowhere to be read in what is replicated, and every member can open them.
    let snapshot = one.server.cluster().latest().to_snapshot();
    assert!(!snapshot.windows(11).any(|window| window == b"PRIVATE KEY"));
    for name in [ManagedCertificate::key(NAME), ManagedCertificate::account(&acme.wish.directory)] {
        assert!(two.server.cluster().secret(&name).is_some(), "{name}");
    }

    // Another leads and renews at two thirds of nine seconds, under the same account.
    let (leader, follower) = roles(&one, &two);
    let (to, plain) = (follower.server.cluster().me(), leader.server.plain_addr().unwrap());
    leader.server.cluster().transfer_leader(Some(to)).await.unwrap();
    authority.ask.send_replace(Some(Ask::Http(plain)));
    let second = issued(&authority, leader, &first.chain).await;
    assert!(second.not_after > first.not_after && authority.orders() >= 2);
    assert_eq!(authority.state.lock().unwrap().accounts.len(), 1, "one account for the cluster");

    // The plain port sends others to the URL they know, or nowhere.
    let mut stream = one.world.net.connect(&plain.to_string()).await.unwrap();
    stream.write_all(b"GET /key HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    one.server.drain().await;
    two.server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_answers_over_tls_and_the_relay_shows_the_same() {
    let authority = Authority::start(Duration::from_secs(86_400)).await;
    let acme = authority.acme(ChallengeKind::TlsAlpn01);
    let (one, two) = two_with(|options| {
        options.client_acme = Some(acme.clone());
        options.relay = Some(node::options::Relay {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            stun_listen: None,
            tls: None,
            key_path: options.data_dir.join("derp.key"),
            verify_clients: true,
            advertise: true,
            region_code: String::new(),
            region_name: String::new(),
            host_name: NAME.into(),
            ipv4: String::new(),
            ipv6: String::new(),
            port: None,
            stun_port: None,
            insecure_for_tests: false,
        });
    })
    .await;
    let (_, follower) = roles(&one, &two);
    let begun = Instant::now();
    authority.ask.send_replace(Some(Ask::Tls(follower.server.client_addr())));
    issued(&authority, &one, "").await;
    println!("TLS-ALPN-01: issued and shown {:?} after the authority could ask", begun.elapsed());
    for member in [&one, &two] {
        issued(&authority, member, "").await;
        let at_relay = member.server.relay_addr().unwrap();
        within(async {
            while authority.shown(at_relay).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    one.server.drain().await;
    two.server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_and_not_repeated_at_once() {
    let authority = Authority::start(Duration::from_secs(86_400)).await;
    // The authority can ask over TLS only.
    let acme = authority.acme(ChallengeKind::Http01);
    let member = Member::start_with(|options| options.client_acme = Some(acme)).await;
    authority.ask.send_replace(Some(Ask::Tls(member.server.client_addr())));
    let mut states = member.server.cluster().watch();
    let failed =
        |state: &Arc<state_machine::State>| state.certificates().get(NAME).is_some_and(|row| row.failures == 1);
    let row = within(states.wait_for(failed)).await.unwrap().certificates().get(NAME).unwrap().clone();
    assert!(row.error.contains("the answer was another"), "{}", row.error);
    let wait = row.retry_at.0.saturating_sub(member.world.clock.now_ms());
    assert!((250_000..=300_000).contains(&wait), "{wait} ms");
    assert_eq!((authority.orders(), row.order.as_ref()), (1, None));
    member.server.drain().await;
}
