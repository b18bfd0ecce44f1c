//! Certificates of ours, from files, replaceable while they are shown.

use std::{
    fmt, io,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

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

/// What the client port shows from the next handshake on.
pub struct Certificate {
    shown: RwLock<Shown>,
}

#[derive(Clone)]
struct Shown {
    key: Arc<CertifiedKey>,
    expires_at: Timestamp,
}

impl Certificate {
    /// Reads chain and key; both must be PEM and belong together.
    pub fn load(files: &TlsFiles, disk: &dyn Disk) -> io::Result<Arc<Certificate>> {
        Ok(Arc::new(Certificate { shown: RwLock::new(load(files, disk)?) }))
    }

    /// Reads the files again; whether another certificate is shown now. On an error the old one stays.
    pub fn reload(&self, files: &TlsFiles, disk: &dyn Disk) -> io::Result<bool> {
        let new = load(files, disk)?;
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        let changed = shown.key.cert != new.key.cert;
        *shown = new;
        Ok(changed)
    }

    /// The moment clients stop to accept it.
    pub fn expires_at(&self) -> Timestamp {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).expires_at
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
        Some(self.shown.read().unwrap_or_else(PoisonError::into_inner).key.clone())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate(until {})", self.expires_at())
    }
}

fn load(files: &TlsFiles, disk: &dyn Disk) -> io::Result<Shown> {
    let (chain, key) = self::files(files, disk)?;
    let invalid =
        |path: &Path, error: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(&files.cert, error.to_string()))?;
    let leaf = chain.first().ok_or_else(|| invalid(&files.cert, "holds no certificate; it must be PEM".to_owned()))?;
    let expires_at = expiry(leaf).map_err(|error| invalid(&files.cert, error))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| invalid(&files.key, error.to_string()))?;
    let key = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
        .map_err(|error| invalid(&files.key, format!("does not go with {}: {error}", files.cert.display())))?;
    Ok(Shown { key: Arc::new(key), expires_at })
}

fn expiry(leaf: &CertificateDer<'_>) -> Result<Timestamp, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|error| error.to_string())?;
    let secs = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Timestamp(secs.saturating_mul(1_000)))
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
        let shown = certificate.shown.read().unwrap().key.cert[0].clone();

        world.disk.write(&files.cert, b"nothing").unwrap();
        let error = certificate.reload(&files, &*world.disk).unwrap_err().to_string();
        assert!(error.contains("cert.pem: holds no certificate"), "{error}");
        // A chain beside a key that is not its own.
        put(folder.path(), &world, "c.example.com");
        world.disk.write(&files.cert, other.certificate_pem.as_bytes()).unwrap();
        let error = certificate.reload(&files, &*world.disk).unwrap_err().to_string();
        assert!(error.contains("does not go with"), "{error}");
        assert_eq!(certificate.shown.read().unwrap().key.cert[0], shown, "the old one stays");
    }
}
