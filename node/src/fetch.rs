//! One small exchange over HTTP, through the world's network: bounded, with a deadline, without redirects.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use thiserror::Error;
use tokio_rustls::TlsConnector;
use url::Url;
use world::{BoxStream, Disk, World};

/// For everything together: name, handshake, answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where systems keep the authorities they trust.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a file did not come.
#[derive(Debug, Error)]
pub enum FetchError {
    #[error("no answer within {} s", PATIENCE.as_secs())]
    TooSlow,
    #[error("the URL names no host")]
    NoHost,
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    #[error("no list of trusted authorities was found; install ca-certificates, or name a file in SSL_CERT_FILE")]
    NoAuthorities,
    #[error("TLS failed: {0}")]
    Tls(#[source] std::io::Error),
    #[error("HTTP failed: {0}")]
    Http(#[source] hyper::Error),
    #[error("the server answers {0}")]
    Status(StatusCode),
    #[error("the server redirects to {0}; write that URL instead")]
    Redirect(String),
    #[error("the file is longer than {0} bytes")]
    TooLong(usize),
    #[error("the answer broke off: {0}")]
    BrokeOff(String),
}

/// `GET`, at most `bytes_max` bytes. `authorities`: a PEM file to trust instead of the system's.
pub async fn get(url: &Url, bytes_max: usize, authorities: Option<&Path>, world: &World) -> Result<Bytes, FetchError> {
    let request = Request::get(url.as_str()).header(header::ACCEPT, "application/json").body(Bytes::new());
    let request = request.map_err(|_| FetchError::NoHost)?;
    let answer = exchange(request, bytes_max, authorities, world).await?;
    let status = answer.status();
    if status.is_redirection() {
        let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        return Err(FetchError::Redirect(to.unwrap_or("nowhere").chars().take(200).collect()));
    }
    if status != StatusCode::OK {
        return Err(FetchError::Status(status));
    }
    Ok(answer.into_body())
}

/// Any request with an absolute URL; the answer whatever its status, with at most `bytes_max` bytes.
pub async fn exchange(
    request: Request<Bytes>,
    bytes_max: usize,
    authorities: Option<&Path>,
    world: &World,
) -> Result<Response<Bytes>, FetchError> {
    tokio::time::timeout(PATIENCE, exchange_slowly(request, bytes_max, authorities, world))
        .await
        .unwrap_or(Err(FetchError::TooSlow))
}

async fn exchange_slowly(
    request: Request<Bytes>,
    bytes_max: usize,
    authorities: Option<&Path>,
    world: &World,
) -> Result<Response<Bytes>, FetchError> {
    let url = Url::parse(&request.uri().to_string()).map_err(|_| FetchError::NoHost)?;
    let host = url.host_str().ok_or(FetchError::NoHost)?;
    let port = url.port_or_known_default().unwrap_or(443);
    let stream = world.net.connect(&format!("{host}:{port}")).await.map_err(FetchError::Connect)?;
    let stream: BoxStream = match url.scheme() {
        "https" => {
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                .map_err(|error| FetchError::Tls(std::io::Error::other(error)))?;
            let config = client_config(authorities, &*world.disk)?;
            let connected = TlsConnector::from(config).connect(name, stream).await;
            Box::new(connected.map_err(FetchError::Tls)?)
        }
        _ => stream,
    };
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let (mut head, body) = request.into_parts();
    head.uri = target.parse().map_err(|_| FetchError::NoHost)?;
    head.headers.insert(header::HOST, HeaderValue::from_str(&authority).map_err(|_| FetchError::NoHost)?);
    head.headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("hsraft/", env!("CARGO_PKG_VERSION"))));
    let request = Request::from_parts(head, Full::new(body));
    // The connection lives as long as the answer is read.
    let exchange = async {
        let answer = requests.send_request(request).await.map_err(FetchError::Http)?;
        let (head, body) = answer.into_parts();
        match Limited::new(body, bytes_max).collect().await {
            Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLong(bytes_max)),
            Err(error) => Err(FetchError::BrokeOff(error.to_string())),
        }
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! { biased;
        answer = exchange.as_mut() => answer,
        // A connection that ends first has left all it had.
        _ = connection => exchange.await,
    }
}

fn client_config(authorities: Option<&Path>, disk: &dyn Disk) -> Result<Arc<ClientConfig>, FetchError> {
    let named: Vec<PathBuf> = match authorities {
        Some(path) => vec![path.to_owned()],
        None => AUTHORITIES.iter().map(PathBuf::from).collect(),
    };
    let pem = named.iter().find_map(|path| disk.read(path).ok().flatten()).ok_or(FetchError::NoAuthorities)?;
    let mut roots = RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if good == 0 {
        return Err(FetchError::NoAuthorities);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring offers cipher suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
