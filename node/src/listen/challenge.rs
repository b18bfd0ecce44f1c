//! What an authority asks before it believes that a name is ours (RFC 8555, section 8.3; RFC 8737). Any member answers:
//! the answers lie in State.

use std::{convert::Infallible, io, sync::Arc};

use ::http::{Method, Request, StatusCode, Uri, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use raft::Cluster;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring::sign::any_ecdsa_type,
    server::ClientHello,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest, Sha256};
use state_machine::codes;
use tokio::io::AsyncWriteExt;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;
use world::{BoxStream, Listener};

use super::{Closing, accept, http};
use crate::{
    acme,
    control::body::{Answer, no, text},
    options::Limits,
};

/// The protocol of a caller that wants nothing but the answer.
const ACME_TLS: &[u8] = b"acme-tls/1";
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// TLS with a client; none when it was an authority, which has its answer and says no more.
pub async fn shake(
    config: Arc<ServerConfig>,
    cluster: &Cluster,
    stream: BoxStream,
) -> io::Result<Option<TlsStream<BoxStream>>> {
    let begun = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let asked = asks(&begun.client_hello());
    let Some(name) = asked else { return begun.into_stream(config).await.map(Some) };
    let state = cluster.latest();
    let answer = acme::challenges(&state).find(|(known, _)| *known == name).map(|(_, challenge)| challenge);
    let answer = answer.ok_or_else(|| io::Error::other(format!("no order for {name:?} is under way")))?;
    let config = alpn_config(&name, &answer.authorization).map_err(io::Error::other)?;
    let mut stream = begun.into_stream(config).await?;
    tracing::info!(name, "an authority was answered over TLS");
    // The authority closes first, or does not.
    _ = stream.shutdown().await;
    Ok(None)
}

/// The name an authority wants to see a proof for.
fn asks(hello: &ClientHello<'_>) -> Option<String> {
    let mut protocols = hello.alpn()?;
    let only = protocols.next() == Some(ACME_TLS) && protocols.next().is_none();
    only.then(|| hello.server_name().map(str::to_lowercase))?
}

/// Shows a certificate that says nothing but the answer.
fn alpn_config(name: &str, authorization: &str) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
    let proof = SingleCertAndKey::from(proof(name, authorization)?);
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(proof));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    Ok(Arc::new(config))
}

/// The certificate of RFC 8737, section 3. The extension with the hash must be critical, and a verifier that does not
/// know it, as the one behind `CertifiedKey::from_der`, refuses the whole: nobody looks at this certificate here.
fn proof(name: &str, authorization: &str) -> Result<CertifiedKey, Box<dyn std::error::Error + Send + Sync>> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&Sha256::digest(authorization))];
    let certificate = params.self_signed(&key)?.der().clone();
    let key = any_ecdsa_type(&PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
    Ok(CertifiedKey::new(vec![certificate], key))
}

/// Serves the plain port: answers for authorities, and for everybody else where to go instead.
pub async fn plain(
    listener: Box<dyn Listener>,
    cluster: Cluster,
    limits: Limits,
    tasks: TaskTracker,
    closing: Closing,
) {
    accept(listener, "authorities", closing.stop, |stream, from| {
        let (cluster, cut) = (cluster.clone(), closing.cut.clone());
        tasks.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&cluster, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http(&limits).serve_connection(TokioIo::new(stream), service);
            // Nobody stays here: a question, an answer.
            let served = tokio::time::timeout(limits.stalled_client, served);
            if let Some(Ok(Err(error))) = cut.run_until_cancelled(served).await {
                tracing::trace!(%from, %error, "connection ended");
            }
        });
    })
    .await;
}

fn answer<B>(cluster: &Cluster, request: &Request<B>) -> Answer {
    let state = cluster.latest();
    if let Some(token) = request.uri().path().strip_prefix(WELL_KNOWN) {
        let found = acme::challenges(&state).find(|(_, challenge)| challenge.token == token);
        return match found {
            Some((name, challenge)) => {
                tracing::info!(name, "an authority was answered over HTTP");
                text(StatusCode::OK, challenge.authorization.clone())
            }
            None => no(StatusCode::NOT_FOUND, &codes::NOT_FOUND, "no such challenge"),
        };
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return no(StatusCode::BAD_REQUEST, &codes::NOT_SERVED, "use HTTPS");
    }
    elsewhere(&state.settings().server_url, request.uri())
}

/// `server_url` with the path that was asked for.
fn elsewhere(server_url: &str, asked: &Uri) -> Answer {
    let path = asked.path_and_query().map_or("/", |path| path.as_str());
    let target = format!("{}{path}", server_url.trim_end_matches('/'));
    match target.parse::<Uri>() {
        Ok(_) if server_url.starts_with("https://") => {
            let mut answer = text(StatusCode::FOUND, "over there\n");
            let place = ::http::HeaderValue::try_from(target).expect("a URI is a header value");
            answer.headers_mut().insert(header::LOCATION, place);
            answer
        }
        _ => no(StatusCode::NOT_FOUND, &codes::NOT_SERVED, "only authorities are answered here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_sent_to_the_url_they_know() {
        let asked: Uri = "/key?v=1".parse().unwrap();
        let answer = elsewhere("https://hs.example.com/", &asked);
        assert_eq!(answer.status(), StatusCode::FOUND);
        assert_eq!(answer.headers()[header::LOCATION], "https://hs.example.com/key?v=1");
        assert_eq!(elsewhere("http://hs.example.com", &asked).status(), StatusCode::NOT_FOUND);
        let hostile: Uri = "//evil.example/%0d%0ax: y".replace(' ', "").parse().unwrap();
        let place =
            elsewhere("https://hs.example.com", &hostile).headers()[header::LOCATION].to_str().unwrap().to_owned();
        assert!(place.starts_with("https://hs.example.com//evil"), "{place}");
    }

    #[test]
    fn the_certificate_of_an_answer_holds_its_hash() {
        let config = alpn_config("hs.example.com", "token.print").unwrap();
        assert_eq!(config.alpn_protocols, [ACME_TLS.to_vec()]);
        let proof = proof("hs.example.com", "token.print").unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&proof.cert[0]).unwrap();
        let answer = parsed.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(answer.critical);
        // An octet string of 32 bytes.
        assert_eq!(answer.value, [&[4, 32], Sha256::digest("token.print").as_slice()].concat());
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [x509_parser::extensions::GeneralName::DNSName("hs.example.com")]);
        // Nothing else checks that the key is the certificate's.
        let public = proof.key.public_key().unwrap();
        assert_eq!(public.as_ref(), parsed.public_key().raw);
    }
}
