//! Certificates of ours, from files.

use std::{io, sync::Arc};

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use world::Disk;
use zeroize::Zeroizing;

use crate::options::TlsFiles;

/// TLS with files of ours. Only HTTP/1.1 is offered: clients leave it for Noise, which HTTP/2 would not let them.
pub fn config(files: &TlsFiles, disk: &dyn Disk) -> io::Result<Arc<ServerConfig>> {
    let (chain, key) = self::files(files, disk)?;
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("{}: {error}", files.cert.display())))?;
    let key =
        PrivateKeyDer::from_pem_slice(&key).map_err(|error| invalid(format!("{}: {error}", files.key.display())))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| invalid(format!("{} and {}: {error}", files.cert.display(), files.key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Chain and key as they lie on disk.
pub fn files(files: &TlsFiles, disk: &dyn Disk) -> io::Result<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    let read = |path: &std::path::Path| {
        disk.read(path)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display())))
    };
    Ok((read(&files.cert)?, Zeroizing::new(read(&files.key)?)))
}
