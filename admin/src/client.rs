//! The command line's way to the API: the local member's unix socket, or a remote member with an API key.
#![expect(clippy::disallowed_methods, reason = "the command line is a process of its own: it has no world")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use state_machine::codes::{self, Code};
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

use crate::cli::problem::Problem;

/// The longest reply that is read: 256 MiB, some hundred thousand nodes.
const REPLY_BYTES_MAX: usize = 256 << 20;

/// Where the member is.
#[derive(Clone)]
pub enum Target {
    /// On this machine.
    Socket(PathBuf),
    /// Anywhere.
    Remote(Remote),
    /// In this process.
    #[cfg(test)]
    Direct(axum::Router),
}

/// A member behind HTTP or HTTPS.
#[derive(Clone)]
pub struct Remote {
    pub url: Url,
    pub api_key: String,
    pub trust: Trust,
}

/// Whose certificates are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those the machine trusts.
    System,
    /// Those of this file alone.
    File(PathBuf),
    /// Everybody's: asked for with `--insecure`.
    Anybody,
}

/// Speaks to one member.
#[derive(Clone)]
pub struct Client {
    target: Target,
    timeout: Duration,
}

impl Client {
    /// A client that gives up after `timeout` per call.
    pub fn new(target: Target, timeout: Duration) -> Client {
        Client { target, timeout }
    }

    /// `GET`, read into a type.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.call(Method::GET, path, None).await
    }

    /// `POST` with a body.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: impl Serialize) -> Result<T, Problem> {
        self.call(Method::POST, path, Some(to_value(body)?)).await
    }

    /// `PUT` with a body.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: impl Serialize) -> Result<T, Problem> {
        self.call(Method::PUT, path, Some(to_value(body)?)).await
    }

    /// `DELETE`.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.call(Method::DELETE, path, None).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> Result<T, Problem> {
        let exchange = self.exchange(method, path, body);
        let (status, bytes) = tokio::time::timeout(self.timeout, exchange).await.map_err(|_| {
            Problem::of(
                &codes::CALL_TIMEOUT,
                format!(
                    "{} did not answer within {} s; look at its log, or wait longer with --timeout",
                    self.place(),
                    self.timeout.as_secs()
                ),
            )
        })??;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| {
                Problem::of(
                    &codes::ANSWER_UNREADABLE,
                    format!("{} answered what this program cannot read ({error}); is it hsraft?", self.place()),
                )
            });
        }
        Err(self.refused(status, &bytes))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Bytes), Problem> {
        let mut request = Request::builder().method(method).header(header::ACCEPT, "application/json");
        let (host, prefix) = match &self.target {
            Target::Remote(remote) => {
                request = request.header(header::AUTHORIZATION, format!("Bearer {}", remote.api_key));
                (remote.url.authority().to_owned(), remote.url.path().trim_end_matches('/'))
            }
            _ => ("localhost".into(), ""),
        };
        let body = match body {
            Some(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let request = request
            .header(header::HOST, host)
            .uri(format!("{prefix}{path}"))
            .body(Full::new(body))
            .map_err(|error| Problem::of(&codes::REQUEST_UNWRITABLE, format!("cannot ask for {path}: {error}")))?;
        match &self.target {
            Target::Socket(socket) => {
                let stream =
                    tokio::net::UnixStream::connect(socket).await.map_err(|error| no_socket(socket, &error))?;
                self.over(stream, request).await
            }
            Target::Remote(remote) => self.remotely(remote, request).await,
            #[cfg(test)]
            Target::Direct(router) => {
                use tower::ServiceExt;
                let response = router.clone().oneshot(request).await.expect("routers do not fail");
                let status = response.status();
                Ok((status, response.into_body().collect().await.expect("a body in memory").to_bytes()))
            }
        }
    }

    async fn remotely(&self, remote: &Remote, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Problem> {
        let host = remote.url.host_str().unwrap_or_default();
        let port = remote.url.port_or_known_default().unwrap_or(443);
        let stream = tokio::net::TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
        let stream = stream.map_err(|error| {
            Problem::of(
                &codes::CALL_UNREACHABLE,
                format!("cannot reach {}: {error}; is hsraft running there?", self.place()),
            )
        })?;
        // A few small writes: waiting to fill packets would only add time.
        stream.set_nodelay(true).ok();
        if remote.url.scheme() == "http" {
            return self.over(stream, request).await;
        }
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| Problem::of(&codes::ADDRESS_WRONG, format!("{host:?} is not a host name")))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(&remote.trust)?));
        let stream = connector.connect(name, stream).await.map_err(|error| {
            Problem::of(&codes::CALL_UNTRUSTED, format!(
                "{} does not prove who it is: {error}; name the certificate's issuer with --ca-file, or write http://",
                self.place()
            ))
        })?;
        self.over(stream, request).await
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Problem> {
        let broken = |error: &dyn std::fmt::Display| {
            Problem::of(&codes::CALL_UNREACHABLE, format!("{} hung up: {error}; look at its log", self.place()))
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let body = Limited::<Incoming>::new(response.into_body(), REPLY_BYTES_MAX);
            let bytes = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
            Ok((status, bytes))
        };
        // The connection has to be driven beside the exchange and is dropped with it.
        let driver = async {
            let _ = connection.await;
            std::future::pending::<()>().await
        };
        tokio::select! {
            biased;
            result = exchange => result,
            () = driver => unreachable!("the driver never ends"),
        }
    }

    fn refused(&self, status: StatusCode, bytes: &[u8]) -> Problem {
        let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let said = body["message"].as_str().map(str::to_owned);
        let text = said.unwrap_or_else(|| String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).trim().to_owned());
        let code = body["hsr"].as_str().and_then(Code::find);
        if let Some(code) = code.filter(|_| status != StatusCode::UNAUTHORIZED) {
            return Problem::of(code, text);
        }
        match status {
            StatusCode::UNAUTHORIZED => Problem::of(
                &codes::UNAUTHORIZED,
                format!(
                    "{} does not accept the API key: it is wrong or has expired; make one on a member with: hsraft apikeys create",
                    self.place()
                ),
            ),
            StatusCode::SERVICE_UNAVAILABLE => Problem::of(&codes::NO_QUORUM, text),
            _ if text.is_empty() => Problem::of(&codes::SILENT_REFUSAL, format!("{} answered {status}", self.place())),
            _ => Problem::of(&codes::SILENT_REFUSAL, text),
        }
    }

    /// How people know this member.
    pub fn place(&self) -> String {
        match &self.target {
            Target::Socket(socket) => format!("the member at {}", socket.display()),
            Target::Remote(remote) => remote.url.to_string().trim_end_matches('/').to_owned(),
            #[cfg(test)]
            Target::Direct(_) => "this process".into(),
        }
    }
}

fn to_value(body: impl Serialize) -> Result<Value, Problem> {
    serde_json::to_value(body)
        .map_err(|error| Problem::of(&codes::REQUEST_UNWRITABLE, format!("cannot write the request: {error}")))
}

fn no_socket(socket: &Path, error: &std::io::Error) -> Problem {
    let next = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "run this as root, or as a user who may use the socket",
        _ => {
            "is hsraft running here? start it with: hsraft serve; or name another way with --socket FILE or --address URL"
        }
    };
    Problem::of(
        &codes::CALL_UNREACHABLE,
        format!("cannot reach the local member at {}: {error}; {next}", socket.display()),
    )
}

/// Makes text safe as one segment of a path or one value of a query.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Where the machines we know keep the certificates they trust.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn tls(trust: &Trust) -> Result<rustls::ClientConfig, Problem> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Problem::of(&codes::TLS_SETUP, format!("cannot set up TLS: {error}")))?;
    if *trust == Trust::Anybody {
        let verifier = Arc::new(insecure::Anybody(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    Ok(builder.with_root_certificates(roots(trust)?).with_no_client_auth())
}

fn roots(trust: &Trust) -> Result<rustls::RootCertStore, Problem> {
    let files: Vec<PathBuf> = match trust {
        Trust::File(file) => vec![file.clone()],
        _ => match std::env::var_os("SSL_CERT_FILE") {
            Some(file) => vec![file.into()],
            None => SYSTEM_BUNDLES.iter().map(PathBuf::from).filter(|file| file.exists()).take(1).collect(),
        },
    };
    let mut roots = rustls::RootCertStore::empty();
    for file in &files {
        let certificates = CertificateDer::pem_file_iter(file).map_err(|error| {
            Problem::of(&codes::FILE_UNREADABLE, format!("cannot read certificates from {}: {error}", file.display()))
        })?;
        roots.add_parsable_certificates(certificates.flatten());
    }
    match roots.is_empty() {
        true => Err(Problem::of(
            &codes::TRUST_MISSING,
            "no certificates to trust were found; install the package ca-certificates or name a file with --ca-file",
        )),
        false => Ok(roots),
    }
}

mod insecure {
    //! `--insecure`: whoever answers is believed.

    use std::sync::Arc;

    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::CryptoProvider,
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    /// Believes every certificate; signatures must still be theirs.
    #[derive(Debug)]
    pub struct Anybody(pub Arc<CryptoProvider>);

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls12_signature(
                message,
                certificate,
                signed,
                &self.0.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(
                message,
                certificate,
                signed,
                &self.0.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::problem::exit;

    #[test]
    fn path_segments_hold_anything() {
        assert_eq!(escape("laptop-1"), "laptop-1");
        assert_eq!(escape("../a b/ü?"), "..%2Fa%20b%2F%C3%BC%3F");
    }

    #[tokio::test]
    async fn an_absent_member_is_unreachable() {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new(Target::Socket(folder.path().join("none.sock")), Duration::from_secs(1));
        let problem = client.get::<Value>("/version").await.unwrap_err();
        assert_eq!(problem.exit, exit::UNREACHABLE);
        assert!(problem.to_string().contains("hsraft serve"), "{problem}");
    }
}
