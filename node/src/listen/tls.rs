//! The certificate clients are shown, from files or from an authority, replaceable while it is shown.

use std::{
    fmt, io,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use raft::ClientCertificate;
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use state_machine::Timestamp;
use world::Disk;
use zeroize::Zeroizing;

use crate::options::TlsFiles;

/// Where what is shown came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Files,
    Acme,
    /// Made here, until the first one of an authority came; no client believes it.
    Placeholder,
}

impl Source {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Files => "files",
            Source::Acme => "acme",
            Source::Placeholder => "self-signed",
        }
    }
}

/// A chain and its key, checked to belong together.
#[derive(Clone)]
pub struct Chain {
    key: Arc<CertifiedKey>,
    facts: Facts,
}

/// What people and checks ask of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub names: Vec<String>,
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Facts {
    /// Less than a quarter of its life is left; renewal begins at a third.
    pub fn is_late(&self, now: Timestamp) -> bool {
        let life = self.not_after.0.saturating_sub(self.not_before.0);
        self.not_after.0.saturating_sub(now.0) < life / 4
    }
}

/// Reads a certificate.
pub fn facts(leaf: &[u8]) -> Result<Facts, String> {
    use x509_parser::extensions::GeneralName;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|error| error.to_string())?;
    let moment = |secs: i64| Timestamp(u64::try_from(secs).unwrap_or(0).saturating_mul(1_000));
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_lowercase()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(four) => Some(std::net::Ipv4Addr::from(four).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    });
    let issuer = parsed.issuer();
    let issuer = [issuer.iter_common_name().next(), issuer.iter_organization().next()];
    let issuer = issuer.into_iter().flatten().find_map(|word| word.as_str().ok()).unwrap_or("unnamed").to_owned();
    Ok(Facts {
        names: names.take(64).collect(),
        issuer,
        not_before: moment(parsed.validity().not_before.timestamp()),
        not_after: moment(parsed.validity().not_after.timestamp()),
    })
}

impl Chain {
    /// PEM, the server's own certificate first. The texts of the errors name neither file.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Chain, PairError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| PairError::Chain(error.to_string()))?;
        let leaf = chain.first().ok_or_else(|| PairError::Chain("holds no certificate; it must be PEM".to_owned()))?;
        let facts = facts(leaf).map_err(PairError::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| PairError::Key(error.to_string()))?;
        let key = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(|error| PairError::Pair(error.to_string()))?;
        Ok(Chain { key: Arc::new(key), facts })
    }
}

/// Why a chain and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    #[error("certificate: {0}")]
    Chain(String),
    #[error("key: {0}")]
    Key(String),
    #[error("the key does not go with the certificate: {0}")]
    Pair(String),
}

/// What the client port shows from the next handshake on.
pub struct Certificate {
    shown: RwLock<Shown>,
}

#[derive(Clone)]
struct Shown {
    chain: Chain,
    source: Source,
    /// Why what is newer is not shown.
    error: String,
}

impl Certificate {
    /// Reads chain and key; both must be PEM and belong together.
    pub fn load(files: &TlsFiles, disk: &dyn Disk) -> io::Result<Arc<Certificate>> {
        Ok(Certificate::new(load(files, disk)?, Source::Files))
    }

    /// Shows this from the beginning.
    pub fn new(chain: Chain, source: Source) -> Arc<Certificate> {
        Arc::new(Certificate { shown: RwLock::new(Shown { chain, source, error: String::new() }) })
    }

    /// Reads the files again; whether another certificate is shown now. On an error the old one stays.
    pub fn reload(&self, files: &TlsFiles, disk: &dyn Disk) -> io::Result<bool> {
        match load(files, disk) {
            Ok(chain) => Ok(self.show(chain, Source::Files)),
            Err(error) => {
                self.shown.write().unwrap_or_else(PoisonError::into_inner).error = error.to_string();
                Err(error)
            }
        }
    }

    /// Shows this from now on; whether it is another.
    pub fn show(&self, chain: Chain, source: Source) -> bool {
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        let changed = shown.chain.key.cert != chain.key.cert;
        *shown = Shown { chain, source, error: String::new() };
        changed
    }

    /// The moment clients stop to accept it.
    pub fn expires_at(&self) -> Timestamp {
        self.facts().not_after
    }

    /// What is shown.
    pub fn facts(&self) -> Facts {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).chain.facts.clone()
    }

    /// Where it came from.
    pub fn source(&self) -> Source {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).source
    }

    /// For the other members to know.
    pub fn report(&self) -> ClientCertificate {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner).clone();
        let facts = shown.chain.facts;
        ClientCertificate {
            source: shown.source.name().to_owned(),
            names: facts.names,
            issuer: facts.issuer,
            not_before_ms: facts.not_before.0,
            not_after_ms: facts.not_after.0,
            error: shown.error,
        }
    }

    /// TLS with it. HTTP/1.1 comes first: clients leave it for Noise, which HTTP/2 would not let them. HTTP/2 is only
    /// for those who offer nothing else, and that is how callers of gRPC come.
    pub fn config(self: &Arc<Certificate>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring offers cipher suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        also_grpc(&config)
    }
}

/// The same, offering HTTP/2 to those who speak nothing else.
pub fn also_grpc(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    Arc::new(config)
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.read().unwrap_or_else(PoisonError::into_inner).chain.key.clone())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate(until {})", self.expires_at())
    }
}

fn load(files: &TlsFiles, disk: &dyn Disk) -> io::Result<Chain> {
    let (chain, key) = self::files(files, disk)?;
    Chain::from_pem(&chain, &key).map_err(|error| {
        let (cert, key) = (files.cert.display(), files.key.display());
        let text = match error {
            PairError::Chain(why) => format!("{cert}: {why}"),
            PairError::Key(why) => format!("{key}: {why}"),
            PairError::Pair(why) => format!("{key}: does not go with {cert}: {why}"),
        };
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// Chain and key as they lie on disk.
pub fn files(files: &TlsFiles, disk: &dyn Disk) -> io::Result<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    let read = |path: &Path| {
        disk.read(path)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display())))
    };
    Ok((read(&files.cert)?, Zeroizing::new(read(&files.key)?)))
}

#[cfg(test)]
mod tests {
    use derp::SelfSigned;

    use super::*;

    fn put(folder: &Path, world: &world::World, name: &str) -> (TlsFiles, SelfSigned) {
        let made = SelfSigned::new(&[name.to_owned()], &*world.clock).unwrap();
        let files = TlsFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        world.disk.write(&files.cert, made.certificate_pem.as_bytes()).unwrap();
        world.disk.write(&files.key, made.key_pem.as_bytes()).unwrap();
        (files, made)
    }

    #[test]
    fn a_certificate_is_replaced_and_a_broken_one_is_not_taken() {
        let (folder, world) = (tempfile::tempdir().unwrap(), world::real::world());
        let (files, _) = put(folder.path(), &world, "a.example.com");
        let certificate = Certificate::load(&files, &*world.disk).unwrap();
        let now = world.clock.now_ms();
        assert!(certificate.expires_at().0 > now + 800 * 86_400_000, "{certificate:?}");
        assert!(!certificate.reload(&files, &*world.disk).unwrap(), "nothing changed");

        let (_, other) = put(folder.path(), &world, "b.example.com");
        assert!(certificate.reload(&files, &*world.disk).unwrap());
        let shown = certificate.shown.read().unwrap().chain.key.cert[0].clone();

        world.disk.write(&files.cert, b"nothing").unwrap();
        let error = certificate.reload(&files, &*world.disk).unwrap_err().to_string();
        assert!(error.contains("cert.pem: holds no certificate"), "{error}");
        // A chain beside a key that is not its own.
        put(folder.path(), &world, "c.example.com");
        world.disk.write(&files.cert, other.certificate_pem.as_bytes()).unwrap();
        let error = certificate.reload(&files, &*world.disk).unwrap_err().to_string();
        assert!(error.contains("does not go with"), "{error}");
        let told = certificate.report();
        assert!(told.error.contains("does not go with") && told.source == "files", "{told:?}");
        assert_eq!(told.names, ["b.example.com"]);
        assert_eq!(certificate.shown.read().unwrap().chain.key.cert[0], shown, "the old one stays");
    }
}
