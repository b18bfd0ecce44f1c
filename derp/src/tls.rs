//! The relay's certificate, and the one behind it that tells clients the relay's key before the first frame.
//!
//! Tailscale's client looks for a last certificate whose name is `derpkey` and the relay's public key. When it is
//! there and TLS is 1.3, the client knows the key at once and saves a round trip (`Derp-Fast-Start`). Everybody else
//! takes it for an intermediate certificate that is not needed.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType, SerialNumber,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};
use tailcfg::NodeKey;
use thiserror::Error;
use world::{Clock, Entropy, World};

use crate::frame::PROTOCOL_VERSION;

/// The certificate behind the certificate is valid so long before and after it was made.
const META_SPAN: Duration = Duration::from_secs(30 * 24 * 3600);
/// A new one is made when the old one is so old.
const META_RENEW_AFTER: Duration = Duration::from_secs(10 * 24 * 3600);
/// A self-signed certificate must outlive its owner's attention, but some clients refuse more than 825 days.
const SELF_SIGNED_SPAN: Duration = Duration::from_secs(820 * 24 * 3600);
/// For clocks of clients that are late.
const SELF_SIGNED_BEFORE: Duration = Duration::from_secs(2 * 24 * 3600);

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    #[error("the certificate file holds no certificate; it must be PEM, the server's own certificate first")]
    NoCertificate,
    #[error("the certificate file is not PEM")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    #[error("the key file holds no usable private key; it must be PEM, unencrypted")]
    Key(#[source] rustls::pki_types::pem::Error),
    #[error("the private key is of a kind that is not supported, or does not belong to the certificate")]
    Mismatch(#[source] rustls::Error),
    #[error("could not make a self-signed certificate")]
    SelfSigned(#[source] rcgen::Error),
}

/// A chain and its private key, checked to belong together.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} in chain)", self.key.cert.len())
    }
}

/// A new certificate as text for two files.
pub struct SelfSigned {
    pub certificate_pem: String,
    /// Secret.
    pub key_pem: zeroize::Zeroizing<String>,
}

impl Certificate {
    /// Reads the contents of a certificate file (leaf first) and a key file.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Certificate, CertificateError> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(CertificateError::Certificate)?;
        if chain.is_empty() {
            return Err(CertificateError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
        let key = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(CertificateError::Mismatch)?;
        Ok(Certificate { key: Arc::new(key) })
    }

    /// The server's own certificate, for clients that are to pin it.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.key.cert[0]
    }
}

impl SelfSigned {
    /// A certificate for DNS names and addresses, valid from now on.
    pub fn new(names: &[String], clock: &dyn Clock) -> Result<SelfSigned, CertificateError> {
        let now = Duration::from_millis(clock.now_ms());
        let mut params = CertificateParams::default();
        params.distinguished_name = named(names.first().map_or("relay", String::as_str));
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(name.clone().try_into().map_err(CertificateError::SelfSigned)?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        (params.not_before, params.not_after) =
            (epoch + now.saturating_sub(SELF_SIGNED_BEFORE), epoch + now + SELF_SIGNED_SPAN);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CertificateError::SelfSigned)?;
        let certificate = params.self_signed(&key).map_err(CertificateError::SelfSigned)?;
        Ok(SelfSigned { certificate_pem: certificate.pem(), key_pem: key.serialize_pem().into() })
    }

    /// Ready for use.
    pub fn certificate(&self) -> Result<Certificate, CertificateError> {
        Certificate::from_pem(self.certificate_pem.as_bytes(), self.key_pem.as_bytes())
    }
}

/// The relay's side of TLS: one certificate, replaceable while running, with the relay's key behind it.
pub struct Identity {
    public_key: NodeKey,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    shown: RwLock<Shown>,
}

struct Shown {
    plain: Certificate,
    with_meta: Arc<CertifiedKey>,
    made_at: Duration,
}

impl Identity {
    /// Shows `certificate` and, behind it, `public_key`.
    pub fn new(certificate: Certificate, public_key: NodeKey, world: &World) -> Arc<Identity> {
        let shown = show(&certificate, &public_key, &*world.clock, &world.entropy);
        Arc::new(Identity {
            public_key,
            clock: world.clock.clone(),
            entropy: world.entropy.clone(),
            shown: RwLock::new(shown),
        })
    }

    /// Shows another certificate from the next handshake on.
    pub fn replace(&self, certificate: Certificate) {
        let shown = show(&certificate, &self.public_key, &*self.clock, &self.entropy);
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    /// What a TLS server of this relay is configured with: TLS 1.2 and later, HTTP/1.1, no resumption (relayed
    /// connections last for days, so tickets would only cost memory).
    pub fn server_config(self: &Arc<Identity>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let time = Arc::new(WorldTime(self.clock.clone()));
        let mut config = ServerConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()
            .expect("ring offers cipher suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Arc::new(config)
    }

    /// The chain as it is shown now.
    pub fn current(&self) -> Arc<CertifiedKey> {
        let now = Duration::from_millis(self.clock.now_ms());
        let renew = {
            let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
            // A clock that was set back makes it look new for too long, one set far ahead makes it look old: both renew.
            if now.abs_diff(shown.made_at) < META_RENEW_AFTER {
                return shown.with_meta.clone();
            }
            shown.plain.clone()
        };
        self.replace(renew);
        self.shown.read().unwrap_or_else(PoisonError::into_inner).with_meta.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.public_key)
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn show(certificate: &Certificate, public_key: &NodeKey, clock: &dyn Clock, entropy: &Entropy) -> Shown {
    let made_at = Duration::from_millis(clock.now_ms());
    let with_meta = match meta_certificate(public_key, made_at, entropy) {
        Ok(meta) => {
            let mut chain = certificate.key.cert.clone();
            chain.push(meta);
            Arc::new(CertifiedKey::new(chain, certificate.key.key.clone()))
        }
        // Without it clients need one more round trip and are otherwise content.
        Err(error) => {
            tracing::warn!(%error, "could not make the certificate that announces the relay's key");
            certificate.key.clone()
        }
    };
    Shown { plain: certificate.clone(), with_meta, made_at }
}

/// The certificate whose name is the relay's key (`derp_server.go`, initMetacert).
fn meta_certificate(
    public_key: &NodeKey,
    now: Duration,
    entropy: &Entropy,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("derpkey{}", hex::encode(public_key.0)));
    // Clients read the version of the protocol from here and take no more than eight bits.
    params.serial_number = Some(SerialNumber::from(u64::from(PROTOCOL_VERSION)));
    params.is_ca = IsCa::ExplicitNoCa;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    (params.not_before, params.not_after) = (epoch + now.saturating_sub(META_SPAN), epoch + now + META_SPAN);
    Ok(params.self_signed(&ed25519_key(entropy)?)?.der().clone())
}

/// A throw-away Ed25519 key from the world's dice: PKCS #8 around the 32 bytes (RFC 8410, section 7).
fn ed25519_key(entropy: &Entropy) -> Result<KeyPair, rcgen::Error> {
    let mut pkcs8 =
        vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    pkcs8.extend_from_slice(&entropy.bytes::<32>());
    KeyPair::try_from(pkcs8)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Tells rustls the time.
struct WorldTime(Arc<dyn Clock>);

impl fmt::Debug for WorldTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorldTime")
    }
}

impl TimeProvider for WorldTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now_ms())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct TestClock(AtomicU64);

    impl Clock for TestClock {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    const DAY_MS: u64 = 24 * 3600 * 1000;

    fn identity(clock: Arc<TestClock>) -> Arc<Identity> {
        let world =
            World { clock: clock.clone(), entropy: Entropy::new(|bytes| bytes.fill(3)), ..world::real::world() };
        let made = SelfSigned::new(&["relay.example.com".into(), "127.0.0.1".into(), "::1".into()], &*clock).unwrap();
        Identity::new(made.certificate().unwrap(), NodeKey([0xab; 32]), &world)
    }

    fn days_of(der: &[u8]) -> (i64, i64) {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
        let day = |time: x509_parser::time::ASN1Time| time.timestamp() / 86_400;
        (day(parsed.validity().not_before), day(parsed.validity().not_after))
    }

    #[test]
    fn the_key_stands_behind_the_chain() {
        let clock = Arc::new(TestClock(AtomicU64::new(20_000 * DAY_MS)));
        let identity = identity(clock);
        let chain = identity.current().cert.clone();
        assert_eq!(chain.len(), 2);
        let (_, meta) = x509_parser::parse_x509_certificate(&chain[1]).unwrap();
        assert_eq!(meta.subject().to_string(), format!("CN=derpkey{}", "ab".repeat(32)));
        assert_eq!(meta.raw_serial(), [2]);
        assert_eq!(meta.signature_algorithm.algorithm.to_id_string(), "1.3.101.112");
        assert!(meta.basic_constraints().unwrap().is_some());
        assert_eq!(days_of(&chain[1]), (20_000 - 30, 20_000 + 30));
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn it_is_renewed_when_old() {
        let clock = Arc::new(TestClock(AtomicU64::new(20_000 * DAY_MS)));
        let identity = identity(clock.clone());
        clock.0.fetch_add(9 * DAY_MS, Ordering::Relaxed);
        assert_eq!(days_of(&identity.current().cert[1]), (19_970, 20_030));
        clock.0.fetch_add(2 * DAY_MS, Ordering::Relaxed);
        assert_eq!(days_of(&identity.current().cert[1]), (19_981, 20_041));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let clock = TestClock(AtomicU64::new(20_000 * DAY_MS));
        let one = SelfSigned::new(&["a.example.com".into()], &clock).unwrap();
        let other = SelfSigned::new(&["a.example.com".into()], &clock).unwrap();
        let load = |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes());
        assert!(matches!(load("", &one.key_pem), Err(CertificateError::NoCertificate)));
        assert!(matches!(load(&one.certificate_pem, "nothing"), Err(CertificateError::Key(_))));
        assert!(matches!(load(&one.certificate_pem, &other.key_pem), Err(CertificateError::Mismatch(_))));
        assert!(load(&one.certificate_pem, &one.key_pem).is_ok());
    }
}
