//! The cluster's own certificates: one authority, one short-lived certificate per member, TLS 1.3 only.
//!
//! Ed25519 throughout and serial numbers of one length: a signature, a certificate and with them every handshake has
//! a size that does not depend on chance, which is what makes a simulation over TLS repeatable.
//!
//! A member is `member-<id>.<cluster id>.hsraft`, and that name is its certificate's only one. Who dials member 7 takes
//! no other certificate; who is dialled reads the caller's id from the caller's certificate.

use std::{
    fmt,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName as RootName, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use state_machine::MemberId;
use tokio::sync::watch;
use world::{Clock, Entropy, World};
use zeroize::Zeroizing;

/// How long a member's certificate is valid.
pub const LEAF_DAYS: u64 = 30;
/// How long the authority is valid.
const AUTHORITY_DAYS: u64 = 3650;
/// Clocks of members may differ by this much.
const SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What went wrong with a key or a certificate.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    #[error("certificate: {0}")]
    Malformed(String),
}

/// A private Ed25519 key in PKCS#8.
pub type Key = Zeroizing<Vec<u8>>;

/// Makes a key from the world's dice.
pub fn new_key(entropy: &Entropy) -> Key {
    // RFC 8410, section 7: PrivateKeyInfo with the 32 secret bytes at the end.
    const HEAD: [u8; 16] =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let secret = Zeroizing::new(entropy.bytes::<32>());
    let mut key = Zeroizing::new(Vec::with_capacity(48));
    key.extend(HEAD);
    key.extend(*secret);
    key
}

fn key_pair(key: &[u8]) -> Result<KeyPair, PkiError> {
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &rcgen::PKCS_ED25519)?)
}

/// The public half, as SubjectPublicKeyInfo.
pub fn public_key(key: &[u8]) -> Result<Vec<u8>, PkiError> {
    use rcgen::PublicKeyData;
    Ok(key_pair(key)?.subject_public_key_info())
}

/// A member's name in certificates.
pub fn member_name(member: MemberId, cluster_id: &str) -> String {
    format!("member-{member}.{cluster_id}.hsraft")
}

/// The member and cluster a name stands for.
fn parse_member_name(name: &str) -> Option<(MemberId, &str)> {
    let (member, cluster_id) = name.strip_prefix("member-")?.strip_suffix(".hsraft")?.split_once('.')?;
    Some((MemberId(member.parse().ok()?), cluster_id))
}

/// Who a certificate is about; the chain was verified by whoever asks.
pub fn member_of(certificate: &[u8], cluster_id: &str) -> Option<MemberId> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [x509_parser::extensions::GeneralName::DNSName(name)] => {
            parse_member_name(name).filter(|(_, cluster)| *cluster == cluster_id).map(|(member, _)| member)
        }
        _ => None,
    }
}

/// Which authority of which cluster a certificate says that it is of; nothing here is proved.
fn authority_of(certificate: &[u8]) -> Option<(u64, String)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.issuer().iter_common_name().next()?.as_str().ok()?.strip_suffix(".hsraft")?;
    match name.strip_prefix("authority-").and_then(|rest| rest.split_once('.')) {
        Some((generation, cluster_id)) => Some((generation.parse().ok()?, cluster_id.to_owned())),
        None => Some((0, name.to_owned())),
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo: what a join token pins.
pub fn spki_sha256(certificate: &[u8]) -> Option<[u8; 32]> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(Sha256::digest(parsed.public_key().raw).into())
}

/// When a certificate stops being valid, in milliseconds since 1970.
pub fn not_after_ms(certificate: &[u8]) -> Option<u64> {
    Facts::of(certificate).map(|facts| facts.not_after_ms)
}

/// What people ask of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Hexadecimal.
    pub serial: String,
    /// In milliseconds since 1970.
    pub not_before_ms: u64,
    pub not_after_ms: u64,
    /// The first half of the SHA-256 of its SubjectPublicKeyInfo, in hexadecimal.
    pub fingerprint: String,
}

impl Facts {
    pub fn of(certificate: &[u8]) -> Option<Facts> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Some(Facts {
            serial: hex(parsed.raw_serial()),
            not_before_ms: ms(parsed.validity().not_before.timestamp()),
            not_after_ms: ms(parsed.validity().not_after.timestamp()),
            fingerprint: hex(&Sha256::digest(parsed.public_key().raw)[..16]),
        })
    }
}

fn params(name: &str, now_ms: u64, span: Duration, serial: [u8; 16]) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(now_ms / 1000);
    let mut params = CertificateParams::default();
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + now + span;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let mut serial = serial;
    // Positive and without a leading zero byte: always 16 bytes in DER.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    params
}

/// `generation`: how often the cluster's authority was replaced before.
fn authority_params(cluster_id: &str, generation: u64, world: &World) -> CertificateParams {
    let name = match generation {
        0 => format!("{cluster_id}.hsraft"),
        number => format!("authority-{number}.{cluster_id}.hsraft"),
    };
    let mut params = params(&name, world.clock.now_ms(), DAY * AUTHORITY_DAYS as u32, world.entropy.bytes());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Makes an authority of a cluster.
pub fn new_authority(key: &[u8], cluster_id: &str, generation: u64, world: &World) -> Result<Vec<u8>, PkiError> {
    Ok(authority_params(cluster_id, generation, world).self_signed(&key_pair(key)?)?.der().to_vec())
}

/// The key of an authority, signed by the one before: whoever trusts only that one can believe this one.
pub fn cross_sign(
    before: &[u8],
    before_key: &[u8],
    key: &[u8],
    cluster_id: &str,
    generation: u64,
    world: &World,
) -> Result<Vec<u8>, PkiError> {
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(before), key_pair(before_key)?)?;
    let params = authority_params(cluster_id, generation, world);
    Ok(params.signed_by(&key_pair(key)?, &issuer)?.der().to_vec())
}

/// Signs a member's certificate over its public key.
pub fn sign_member(
    authority: &[u8],
    authority_key: &[u8],
    public_key: &[u8],
    member: MemberId,
    cluster_id: &str,
    world: &World,
) -> Result<Vec<u8>, PkiError> {
    let name = member_name(member, cluster_id);
    let mut params = params(&name, world.clock.now_ms(), DAY * LEAF_DAYS as u32, world.entropy.bytes());
    let dns = name.try_into().map_err(|_| PkiError::Malformed("a member name is not a DNS name".into()))?;
    params.subject_alt_names = vec![rcgen::SanType::DnsName(dns)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(authority), key_pair(authority_key)?)?;
    let public_key = SubjectPublicKeyInfo::from_der(public_key)?;
    Ok(params.signed_by(&public_key, &issuer)?.der().to_vec())
}

/// The world's clock for rustls.
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

/// One key exchange, so that all hellos have one size.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.kx_groups = vec![rustls::crypto::ring::kx_group::X25519];
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    Arc::new(provider)
}

/// The certificate one configuration shows.
struct Shown(Arc<CertifiedKey>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What a member shows and what it believes.
#[derive(Clone, Copy)]
pub struct Papers<'a> {
    pub certificate: &'a [u8],
    /// Its private key.
    pub key: &'a [u8],
    /// What is shown behind it, its authority first.
    pub chain: &'a [&'a [u8]],
    /// Authorities whose certificates are taken.
    pub trusted: &'a [&'a [u8]],
}

/// TLS as one member speaks it; everything about it can be replaced while connections go on.
#[derive(Clone)]
pub struct MemberTls {
    spoken: Arc<RwLock<Arc<Spoken>>>,
    clock: Arc<dyn Clock>,
    changes: watch::Sender<u64>,
    /// The newest authority after ours that a server claimed to be of since somebody last looked; zero: none did.
    newer: Arc<AtomicU64>,
}

struct Spoken {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    certificate: Vec<u8>,
    trusted: Vec<Vec<u8>>,
}

impl Spoken {
    fn new(papers: Papers<'_>, clock: &Arc<dyn Clock>, newer: &Arc<AtomicU64>) -> Result<Spoken, PkiError> {
        let chain = std::iter::once(papers.certificate).chain(papers.chain.iter().copied());
        let chain = chain.map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = PrivatePkcs8KeyDer::from(papers.key.to_vec()).into();
        let shown = Arc::new(Shown(Arc::new(CertifiedKey::from_der(chain, key, &provider())?)));
        let mut roots = RootCertStore::empty();
        for authority in papers.trusted {
            roots.add(CertificateDer::from(authority.to_vec()))?;
        }
        let roots = Arc::new(roots);
        let time: Arc<dyn TimeProvider> = Arc::new(WorldTime(clock.clone()));

        // Strangers come in as well: they may ask to join and nothing else (peers/server.rs).
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| PkiError::Malformed(error.to_string()))?;
        let mut server = ServerConfig::builder_with_details(provider(), time.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(shown.clone());
        // Every connection proves who it is; nothing is resumed.
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![b"h2".to_vec()];

        let mut client = ClientConfig::builder_with_details(provider(), time)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Attentive {
                inner: WebPkiServerVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|error| PkiError::Malformed(error.to_string()))?,
                ours: authority_of(papers.certificate),
                newer: newer.clone(),
            }))
            .with_client_cert_resolver(shown);
        client.resumption = rustls::client::Resumption::disabled();
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Spoken {
            server: Arc::new(server),
            client: Arc::new(client),
            certificate: papers.certificate.to_vec(),
            trusted: papers.trusted.iter().map(|authority| authority.to_vec()).collect(),
        })
    }
}

/// Believes what its trust says, and remembers who claims to be of an authority it never heard of.
#[derive(Debug)]
struct Attentive {
    inner: Arc<WebPkiServerVerifier>,
    ours: Option<(u64, String)>,
    newer: Arc<AtomicU64>,
}

impl ServerCertVerifier for Attentive {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        if matches!(verified, Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)))
            && let (Some((ours, cluster)), Some((theirs, claimed))) = (&self.ours, authority_of(end_entity))
            && *cluster == claimed
            && theirs > *ours
        {
            self.newer.fetch_max(theirs, Ordering::Relaxed);
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl MemberTls {
    pub fn new(papers: Papers<'_>, clock: Arc<dyn Clock>) -> Result<MemberTls, PkiError> {
        let newer = Arc::default();
        let spoken = Arc::new(RwLock::new(Arc::new(Spoken::new(papers, &clock, &newer)?)));
        Ok(MemberTls { spoken, clock, changes: watch::channel(0).0, newer })
    }

    fn now(&self) -> Arc<Spoken> {
        self.spoken.read().expect("nobody panics while holding a certificate").clone()
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        self.now().server.clone()
    }

    pub fn client(&self) -> Arc<ClientConfig> {
        self.now().client.clone()
    }

    /// The certificate that is shown.
    pub fn certificate(&self) -> Vec<u8> {
        self.now().certificate.clone()
    }

    /// The authorities that are believed.
    pub fn trusted(&self) -> Vec<Vec<u8>> {
        self.now().trusted.clone()
    }

    /// Shows and believes other papers from now on; connections of before are told to end.
    pub fn replace(&self, papers: Papers<'_>) -> Result<(), PkiError> {
        let next = Arc::new(Spoken::new(papers, &self.clock, &self.newer)?);
        *self.spoken.write().expect("nobody panics while holding a certificate") = next;
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Counts replacements; take it before a handshake to learn what came after.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The newest authority after ours that a server of this cluster claimed to be of since this was last asked, and was
    /// not believed. A member that takes part follows every authority; only one that was left behind meets such servers.
    /// Nobody proved it: good enough to end what cannot work anyway, for nothing else.
    pub fn take_newer(&self) -> Option<u64> {
        Some(self.newer.swap(0, Ordering::Relaxed)).filter(|generation| *generation > 0)
    }

    /// How long a certificate is still good, by the world's clock.
    pub fn left(&self, certificate: &[u8]) -> Duration {
        let ends = not_after_ms(certificate).unwrap_or(0);
        Duration::from_millis(ends.saturating_sub(self.clock.now_ms()))
    }
}

/// TLS of a joiner: it knows nothing but the hash of the authority's key, and shows nothing.
pub struct JoinerTls {
    pub client: Arc<ClientConfig>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    wrong_pin: bool,
    authority: Option<Vec<u8>>,
}

impl JoinerTls {
    pub fn new(pin: [u8; 32], cluster_id: &str, clock: Arc<dyn Clock>) -> Result<JoinerTls, PkiError> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let verifier = Pinned { pin, cluster_id: cluster_id.into(), provider: provider(), seen: seen.clone() };
        let mut client = ClientConfig::builder_with_details(provider(), Arc::new(WorldTime(clock)))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        client.resumption = rustls::client::Resumption::disabled();
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(JoinerTls { client: Arc::new(client), seen })
    }

    /// Whether the handshake failed because another authority stood behind the server.
    pub fn wrong_pin(&self) -> bool {
        self.seen.lock().expect("nobody panics while holding this").wrong_pin
    }

    /// The authority that matched the pin.
    pub fn authority(&self) -> Option<Vec<u8>> {
        self.seen.lock().expect("nobody panics while holding this").authority.clone()
    }
}

/// Accepts whoever shows a certificate of the pinned authority for a member of the cluster.
struct Pinned {
    pin: [u8; 32],
    cluster_id: String,
    provider: Arc<CryptoProvider>,
    seen: Arc<Mutex<Seen>>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates.iter().find(|shown| spki_sha256(shown) == Some(self.pin));
        let Some(authority) = authority else {
            self.seen.lock().expect("nobody panics while holding this").wrong_pin = true;
            return Err(rustls::Error::General("the server's authority is not the one the token names".into()));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms)?;
        if member_of(end_entity, &self.cluster_id).is_none() {
            return Err(rustls::Error::General("the server is not a member of the token's cluster".into()));
        }
        self.seen.lock().expect("nobody panics while holding this").authority = Some(authority.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[RootName]> {
        None
    }
}

#[cfg(test)]
mod tests;
