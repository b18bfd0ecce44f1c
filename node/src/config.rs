//! The configuration file: Headscale's keys where they mean something here, and a `cluster:` section.
//!
//! A key nobody knows is named in a warning, with file, line and the nearest key that exists. Keys that contradict each
//! other stop the start. Scalar keys can come from the environment (`HSRAFT_SERVER_URL`, or Headscale's
//! `HEADSCALE_SERVER_URL`), which wins over the file.

mod cert_dns;
pub mod document;
pub mod keys;
pub mod migrate;
mod oidc;
mod settings;
mod values;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use raft::Timing;
use state_machine::{
    Timestamp,
    codes::{self, Code},
};
use thiserror::Error;
use url::Url;
use world::Disk;

use state_machine::{CertificateWish, ChallengeKind};

use crate::options::{Acme, DerpMaps, Limits, NoisePrivate, Options, Regions, Relay, Start, TlsFiles};
use document::Document;
pub use document::Problem;
pub use values::{derp_map, span};

/// A configuration that was read.
#[derive(Debug)]
pub struct Config {
    pub options: Options,
    pub log: Log,
    /// A bucket for backups, to be opened by whoever runs a real member.
    pub backup: Option<bucket::Way>,
    pub warnings: Vec<Problem>,
}

/// How the server writes its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// `info`, or a filter as `RUST_LOG` takes it.
    pub level: String,
    pub json: bool,
}

impl Log {
    /// What tracing is told: a level, or a filter as it stands in the file (`info,openraft=debug`).
    pub fn filter(&self) -> String {
        match self.level.as_str() {
            "debug" | "trace" => format!("{},openraft=info,h2=info,hyper=info", self.level),
            // Headscale's words for what tracing calls error.
            "fatal" | "panic" => "error".to_owned(),
            level => level.to_owned(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("no such file: {}; give one with --config", path.display())]
    Missing { path: PathBuf },
    #[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems { problems: Vec<Problem> },
}

impl ConfigError {
    /// Its line in the table of codes.
    pub fn code(&self) -> &'static Code {
        match self {
            ConfigError::Unreadable { .. } => &codes::CONFIG_UNREADABLE,
            ConfigError::Missing { .. } => &codes::CONFIG_MISSING,
            ConfigError::Problems { .. } => &codes::CONFIG_WRONG,
        }
    }
}

/// Reads a file. Relative paths inside it start at its folder.
pub fn load(path: &Path, env: &BTreeMap<String, String>, disk: &dyn Disk) -> Result<Config, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let bytes = disk.read(path).map_err(unreadable)?.ok_or_else(|| ConfigError::Missing { path: path.to_owned() })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error().to_string()))
    })?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let read = |relative: &Path| -> Option<String> {
        disk.read(&folder.join(relative)).ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok())
    };
    from_text(&text, &path.display().to_string(), &folder, env, &read)
}

/// Reads a text. `file` is how problems name it, `folder` where relative paths start, `read` opens files it names.
pub fn from_text(
    text: &str,
    file: &str,
    folder: &Path,
    env: &BTreeMap<String, String>,
    read: &dyn Fn(&Path) -> Option<String>,
) -> Result<Config, ConfigError> {
    let mut document = Document::read(text, file, env);
    let d = &mut document;
    let records = d.text("dns.extra_records_path").and_then(|path| read(Path::new(&path)));
    let settings = settings::read(d, records.as_deref());
    let server = Url::parse(&settings.server_url).ok();

    let data_dir = path(d, "cluster.data_dir", folder).unwrap_or_else(|| PathBuf::from("/var/lib/hsraft"));
    let name = d.text("cluster.name").or_else(|| env.get("HOSTNAME").cloned()).unwrap_or_else(|| "hs1".to_owned());
    let client_listen = listen(d, "listen_addr", "127.0.0.1:8080").expect("has a default");
    let peer_listen = listen(d, "cluster.peer_listen_addr", "127.0.0.1:50444").expect("has a default");
    let client_tls = tls(d, "tls_cert_path", "tls_key_path", folder);
    let client_acme = acme(d, env, client_listen, client_tls.is_some());
    let speaks_tls = client_tls.is_some() || client_acme.is_some();
    if !speaks_tls && server.as_ref().is_some_and(|url| url.scheme() == "https") {
        d.odd("server_url", "is https, but this member speaks plain HTTP; something in front of it must terminate TLS");
    }
    let grpc_insecure = d.flag("grpc_allow_insecure").unwrap_or(false);
    // Headscale's default; without TLS and without leave to do without, there is no such port.
    let grpc_listen = match speaks_tls || grpc_insecure {
        true => listen(d, "grpc_listen_addr", "[::]:50443"),
        false => listen_optional(d, "grpc_listen_addr").and(None),
    };
    let client_url = d.text("cluster.client_url").unwrap_or_default().trim_end_matches('/').to_owned();
    let derp = derp_maps(d, env, read);
    let client_addresses = client_addresses(d);
    let oidc = oidc::read(d, env, read);
    let cert_dns = cert_dns::read(d, &settings, read);
    let options = Options {
        peer_advertise: peer_advertise(d, peer_listen),
        relay: relay(d, folder, &data_dir, server.as_ref(), &client_url, client_listen, speaks_tls),
        start: Start::Found,
        noise_private: noise_private(text, read),
        policy: policy(d, read),
        derp,
        oidc,
        client_listen,
        client_tls,
        client_acme,
        cert_dns,
        grpc_listen,
        grpc_insecure,
        client_url,
        client_addresses,
        metrics_listen: listen_optional(d, "metrics_listen_addr"),
        unix_socket: Some(path(d, "unix_socket", folder).unwrap_or_else(|| data_dir.join("hsraft.sock"))),
        unix_socket_mode: unix_socket_mode(d),
        allowed_origins: d.list("http.cors.allowed_origins"),
        peer_listen,
        timing: timing(d),
        space: space(d),
        timing_must_hold: timing_must_hold(d),
        backup_dir: path(d, "cluster.backup_dir", folder),
        drills: d.flag("cluster.drills").unwrap_or(false),
        drills_freeze: drills_freeze(d),
        auto_remove_after: auto_remove_after(d),
        join_within: raft::JOIN_WITHIN,
        arrival: None,
        backup_bucket: None,
        snapshot_every: d.parsed("cluster.snapshot_every", "10000").unwrap_or(10_000).max(100),
        limits: Limits::default(),
        raft_runtime: None,
        relay_runtime: None,
        settings,
        name,
        sealing_key: path(d, "cluster.sealing_key_path", folder),
        data_dir,
    };
    let log = Log {
        level: d.text("log.level").unwrap_or_else(|| "info".to_owned()),
        json: d.text("log.format").as_deref() == Some("json"),
    };
    let backup = backup_url(&mut document, env);
    if document.errors.is_empty() {
        Ok(Config { options, log, backup, warnings: document.warnings })
    } else {
        Err(ConfigError::Problems { problems: document.errors })
    }
}

/// A bucket: where from the file, credentials from the file or, better, the environment.
fn backup_url(d: &mut Document, env: &BTreeMap<String, String>) -> Option<bucket::Way> {
    let url = d.text("cluster.backup_url");
    let mut way = bucket::Way::from_env(url.as_deref().unwrap_or_default(), env);
    if let Some(endpoint) = d.text("cluster.backup_s3.endpoint") {
        way.endpoint = endpoint;
    }
    if let Some(region) = d.text("cluster.backup_s3.region") {
        way.region = region;
    }
    if let Some(id) = d.text("cluster.backup_s3.access_key_id") {
        way.access_key_id = id;
    }
    if let Some(secret) = d.text("cluster.backup_s3.secret_access_key") {
        way.secret_access_key = secret.into();
    }
    way.allow_http |= d.flag("cluster.backup_s3.allow_http").unwrap_or(false);
    url.as_ref()?;
    if d.has("cluster.backup_dir") {
        d.wrong(
            "cluster.backup_dir",
            "cluster.backup_url is given as well; backups go to one place, remove one of them",
        );
    }
    if let Err(error) = bucket::open(&way) {
        d.wrong("cluster.backup_url", &error.to_string());
    }
    Some(way)
}

/// Both in MiB.
fn space(d: &mut Document) -> raft::Space {
    let default = raft::Space::default();
    let mut mebibytes = |key: &str, default: u64| -> u64 {
        let default = default >> 20;
        d.parsed(key, &default.to_string()).unwrap_or(default).clamp(1, 1 << 20) << 20
    };
    raft::Space {
        low_bytes: mebibytes("cluster.disk_low_mib", default.low_bytes),
        reserve_bytes: mebibytes("cluster.disk_reserve_mib", default.reserve_bytes),
    }
}

/// Spans in which nobody drills: `2026-12-20T00:00:00Z/2027-01-04T00:00:00Z`.
fn drills_freeze(d: &mut Document) -> Vec<(Timestamp, Timestamp)> {
    let mut spans = Vec::new();
    for text in d.list("cluster.drills_freeze") {
        let ends = text.split_once('/').and_then(|(from, to)| Some((Timestamp::parse(from)?, Timestamp::parse(to)?)));
        match ends.filter(|(from, to)| from < to) {
            Some(span) => spans.push(span),
            None => d.wrong(
                "cluster.drills_freeze",
                &format!("cannot read {text:?}; write for example 2026-12-20T00:00:00Z/2027-01-04T00:00:00Z"),
            ),
        }
    }
    spans
}

fn path(d: &mut Document, key: &str, folder: &Path) -> Option<PathBuf> {
    d.text(key).map(|text| folder.join(text))
}

fn listen(d: &mut Document, key: &str, default: &str) -> Option<SocketAddr> {
    listen_optional(d, key).or_else(|| default.parse().ok())
}

/// `host:port`, or Go's `:port` for every address of both families.
fn listen_optional(d: &mut Document, key: &str) -> Option<SocketAddr> {
    let text = d.text(key)?;
    let full = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => text.replace("localhost:", "127.0.0.1:"),
    };
    match full.parse() {
        Ok(addr) => Some(addr),
        Err(_) => {
            d.wrong(key, &format!("{text:?} is not an address with a port; write for example {key}: 0.0.0.0:8080"));
            None
        }
    }
}

fn tls(d: &mut Document, cert: &str, key: &str, folder: &Path) -> Option<TlsFiles> {
    match (path(d, cert, folder), path(d, key, folder)) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
        (None, None) => None,
        (Some(_), None) => {
            d.wrong(cert, &format!("stands alone; give {key} as well"));
            None
        }
        (None, Some(_)) => {
            d.wrong(key, &format!("stands alone; give {cert} as well"));
            None
        }
    }
}

/// Let's Encrypt (`headscale`, types/config.go: the default of acme_url).
const ACME_URL: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// `tls_letsencrypt_…` and `acme_…`, with Headscale's defaults.
fn acme(d: &mut Document, env: &BTreeMap<String, String>, client_listen: SocketAddr, has_files: bool) -> Option<Acme> {
    let host = "tls_letsencrypt_hostname";
    let kind = "tls_letsencrypt_challenge_type";
    let challenge = match d.text(kind).as_deref() {
        None | Some("HTTP-01") => ChallengeKind::Http01,
        Some("TLS-ALPN-01") => ChallengeKind::TlsAlpn01,
        Some(other) => {
            let text = format!("{other:?} is neither HTTP-01 nor TLS-ALPN-01");
            d.wrong(kind, &text);
            ChallengeKind::Http01
        }
    };
    let directory = d.text("acme_url").unwrap_or_else(|| ACME_URL.to_owned());
    if !Url::parse(&directory).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some()) {
        d.wrong(
            "acme_url",
            &format!("{directory:?} is not the URL of an authority's directory; leave it out for {ACME_URL}"),
        );
    }
    let email = d.text("acme_email").unwrap_or_default();
    let plain = d.text("tls_letsencrypt_listen").map_or(Some(":80".to_owned()), Some).filter(|text| text != "none");
    let name = d.text(host)?.to_lowercase();
    if has_files {
        d.wrong(host, "stands beside tls_cert_path and tls_key_path; give either of them");
    }
    let is_name =
        name.contains('.') && name.split('.').all(|label| !label.is_empty()) && name.parse::<IpAddr>().is_err();
    if !is_name || name.contains(['*', ':', '/', ' ']) {
        d.wrong(host, &format!("{name:?} is not a name in DNS, such as hs.example.com"));
    }
    let plain_listen = match challenge {
        ChallengeKind::Http01 => plain.and_then(|text| {
            // Headscale's spelling of port 80.
            let text = text.replace(":http", ":80");
            let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.clone() };
            let parsed: Option<SocketAddr> = full.parse().ok();
            if parsed.is_none() {
                d.wrong(
                    "tls_letsencrypt_listen",
                    &format!("{text:?} is not an address with a port; write for example :80"),
                );
            }
            parsed
        }),
        ChallengeKind::TlsAlpn01 => None,
    };
    if challenge == ChallengeKind::TlsAlpn01 && client_listen.port() != 443 {
        d.odd(
            kind,
            "the authority asks at port 443, and listen_addr is another; something in front of it must pass TLS on",
        );
    }
    if challenge == ChallengeKind::Http01 && plain_listen.is_none_or(|addr| addr.port() != 80) {
        d.odd(kind, "the authority asks at port 80, and tls_letsencrypt_listen is another; something in front of it must pass it on");
    }
    let wish = CertificateWish { name, directory, email, challenge };
    Some(Acme { wish, plain_listen, authorities: env.get("SSL_CERT_FILE").map(PathBuf::from) })
}

fn peer_advertise(d: &mut Document, peer_listen: SocketAddr) -> String {
    let key = "cluster.peer_advertise_addr";
    match d.text(key) {
        Some(text)
            if text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
        {
            text
        }
        Some(text) => {
            d.wrong(key, &format!("{text:?} is not host:port"));
            text
        }
        None => {
            if peer_listen.ip().is_unspecified() {
                d.wrong(
                    "cluster.peer_listen_addr",
                    "listens everywhere, so other members need to be told where: set cluster.peer_advertise_addr: host:port",
                );
            }
            peer_listen.to_string()
        }
    }
}

/// Shorter, and a restart would cost a member its vote.
const AUTO_REMOVE_MIN: Duration = Duration::from_secs(60);

fn auto_remove_after(d: &mut Document) -> Option<Duration> {
    let after = d.span("cluster.auto_remove_after").filter(|after| !after.is_zero())?;
    if after < AUTO_REMOVE_MIN {
        d.wrong("cluster.auto_remove_after", "is shorter than a restart takes; write at least 1m, 24h is a good start");
    }
    Some(after)
}

fn timing(d: &mut Document) -> Timing {
    match d.text("cluster.timing").as_deref() {
        None | Some("lan") => Timing::lan(),
        Some("cautious") => Timing::cautious(),
        Some("wan") => Timing::wan(),
        Some(other) => {
            let text = format!("{other:?} is none of lan, cautious, wan");
            d.wrong("cluster.timing", &text);
            Timing::lan()
        }
    }
}

fn timing_must_hold(d: &mut Document) -> bool {
    match d.text("cluster.timing_check").as_deref() {
        None | Some("refuse") => true,
        Some("warn") => false,
        Some(other) => {
            let text = format!("{other:?} is neither refuse nor warn");
            d.wrong("cluster.timing_check", &text);
            true
        }
    }
}

fn client_addresses(d: &mut Document) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for text in d.list("cluster.client_addresses") {
        match text.parse::<IpAddr>() {
            Ok(address) if !address.is_unspecified() && !address.is_multicast() => addresses.push(address),
            _ => {
                let text = format!("{text:?} is no address a client can dial; write for example [203.0.113.7]");
                d.wrong("cluster.client_addresses", &text);
            }
        }
    }
    addresses
}

fn unix_socket_mode(d: &mut Document) -> u32 {
    let Some(text) = d.text("unix_socket_permission") else { return 0o600 };
    let digits = text.trim_start_matches("0o");
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 => mode,
        _ => {
            d.wrong("unix_socket_permission", &format!("{text:?} is not an octal mode such as \"0o770\""));
            0o600
        }
    }
}

/// Headscale's key file, so that a founded cluster keeps the trust of an older installation's clients.
fn noise_private(text: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<NoisePrivate> {
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).ok()?;
    let path = value.get("noise")?.get("private_key_path")?.as_str()?;
    let digits = read(Path::new(path))?;
    let mut key = [0; 32];
    hex::decode_to_slice(digits.trim().strip_prefix("privkey:")?, &mut key).ok()?;
    Some(NoisePrivate(key))
}

fn policy(d: &mut Document, read: &dyn Fn(&Path) -> Option<String>) -> Option<String> {
    match d.text("policy.mode").as_deref() {
        None | Some("file") => {}
        Some("database") => return None,
        Some(other) => {
            let text = format!("{other:?} is neither file nor database");
            d.wrong("policy.mode", &text);
            return None;
        }
    }
    let path = d.text("policy.path")?;
    let text = read(Path::new(&path));
    if text.is_none() {
        d.wrong("policy.path", &format!("cannot read {path}"));
    }
    text
}

fn relay(
    d: &mut Document,
    folder: &Path,
    data_dir: &Path,
    server: Option<&Url>,
    client_url: &str,
    client_listen: SocketAddr,
    client_tls: bool,
) -> Option<Relay> {
    let listen = listen_optional(d, "cluster.derp_listen_addr");
    let enabled = d.flag("derp.server.enabled").unwrap_or(listen.is_some());
    if !enabled {
        return None;
    }
    let own = Url::parse(client_url).ok();
    let face = own.as_ref().or(server);
    let insecure_for_tests = d.flag("cluster.derp_insecure_for_tests").unwrap_or(false);
    let tls = tls(d, "cluster.derp_tls_cert_path", "cluster.derp_tls_key_path", folder)
        .or_else(|| tls(d, "tls_cert_path", "tls_key_path", folder));
    // What the cluster fetches for clients is shown by the relay as well.
    let fetched = client_tls && tls.is_none();
    if listen.is_some() && tls.is_none() && !fetched && !insecure_for_tests {
        d.wrong(
            "cluster.derp_listen_addr",
            "clients verify the relay's certificate: give cluster.derp_tls_cert_path and cluster.derp_tls_key_path \
             (or tls_cert_path and tls_key_path), or in a laboratory cluster.derp_insecure_for_tests: true",
        );
    }
    // Headscale starts with this too, and hands out a relay nobody can reach.
    let unreachable =
        listen.is_none() && !client_tls && face.is_some_and(|url| url.scheme() == "http") && !insecure_for_tests;
    if unreachable {
        d.odd(
            "derp.server.enabled",
            "clients reach relays over TLS only, and server_url is http: this relay is left out of the DERP map; use \
             https, or set cluster.derp_listen_addr",
        );
    }
    let bound = listen.unwrap_or(client_listen);
    let host = d
        .text("cluster.derp_host_name")
        .or_else(|| face.and_then(|url| url.host_str().map(ToOwned::to_owned)))
        .unwrap_or_else(|| bound.ip().to_string());
    let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    // With an address for a name there is nothing to ask DNS for.
    let (ipv4, ipv6) = match literal {
        Some(IpAddr::V4(v4)) => (v4.to_string(), "none".to_owned()),
        Some(IpAddr::V6(v6)) => ("none".to_owned(), v6.to_string()),
        None => (String::new(), String::new()),
    };
    let stun_listen = listen_optional(d, "derp.server.stun_listen_addr");
    let port = match d.parsed("cluster.derp_port", "443") {
        Some(port) => Some(port),
        None if listen.is_some() => None,
        None => face.and_then(Url::port_or_known_default),
    };
    Some(Relay {
        listen,
        stun_listen,
        tls,
        key_path: path(d, "derp.server.private_key_path", folder).unwrap_or_else(|| data_dir.join("derp.key")),
        verify_clients: d.flag("derp.server.verify_clients").unwrap_or(true),
        advertise: d.flag("derp.server.automatically_add_embedded_derp_region").unwrap_or(true) && !unreachable,
        region_code: d.text("derp.server.region_code").unwrap_or_default(),
        region_name: d.text("derp.server.region_name").unwrap_or_default(),
        host_name: host,
        ipv4: d.text("derp.server.ipv4").unwrap_or(ipv4),
        ipv6: d.text("derp.server.ipv6").unwrap_or(ipv6),
        port,
        stun_port: d.parsed("cluster.derp_stun_port", "3478"),
        insecure_for_tests,
    })
}

/// Shorter, and the server of the map would take us for an attack.
const DERP_EVERY_MIN: Duration = Duration::from_secs(60);
/// Never again: the year 2126 is somebody else's.
const DERP_ONCE: Duration = Duration::from_secs(100 * 365 * 86_400);

fn derp_maps(d: &mut Document, env: &BTreeMap<String, String>, read: &dyn Fn(&Path) -> Option<String>) -> DerpMaps {
    let mut urls = Vec::new();
    for text in d.list("derp.urls") {
        match Url::parse(&text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() => urls.push(url),
            _ => d.wrong("derp.urls", &format!("{text:?} must start with https:// or http:// and name a host")),
        }
    }
    let every = match d.flag("derp.auto_update_enabled") {
        Some(false) => DERP_ONCE,
        _ => d.span("derp.update_frequency").unwrap_or(DerpMaps::default().every).max(DERP_EVERY_MIN),
    };
    let authorities = env.get("SSL_CERT_FILE").map(PathBuf::from);
    DerpMaps { fixed: derp_regions(d, read), urls, every, authorities }
}

/// `derp.paths`: a later file wins, a `null` region takes an earlier one away.
fn derp_regions(d: &mut Document, read: &dyn Fn(&Path) -> Option<String>) -> Regions {
    let mut regions = Regions::new();
    for path in d.list("derp.paths") {
        let parsed = read(Path::new(&path))
            .ok_or_else(|| format!("cannot read {path}"))
            .and_then(|text| derp_map(&text).map_err(|why| format!("{path}: {why}")));
        match parsed {
            Ok(map) => regions.extend(map),
            Err(why) => d.wrong("derp.paths", &why),
        }
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        from_text(text, "c.yaml", Path::new("/etc/hsraft"), &BTreeMap::new(), &|_| None)
    }

    fn problems(text: &str) -> String {
        read(text).expect_err("refused").to_string()
    }

    const ACME: &str = "server_url: https://hs.example.com\nlisten_addr: :443\ndns: {magic_dns: false}\n\
        tls_letsencrypt_hostname: HS.example.com\n";

    #[test]
    fn a_certificate_is_fetched_as_headscale_would() {
        let config = read(ACME).unwrap();
        let acme = config.options.client_acme.unwrap();
        assert_eq!(acme.plain_listen, Some("0.0.0.0:80".parse().unwrap()));
        let (directory, email) = (ACME_URL.to_owned(), String::new());
        let wish =
            CertificateWish { name: "hs.example.com".into(), directory, email, challenge: ChallengeKind::Http01 };
        assert_eq!(acme.wish, wish);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert!(config.options.grpc_listen.is_some(), "with TLS gRPC has its port");

        let all = "tls_letsencrypt_challenge_type: TLS-ALPN-01\nacme_url: https://ca.example/dir\nacme_email: a@example.com\n";
        let acme = read(&format!("{ACME}{all}")).unwrap().options.client_acme.unwrap();
        assert_eq!((acme.wish.challenge, acme.plain_listen), (ChallengeKind::TlsAlpn01, None));
        assert_eq!(
            (acme.wish.directory.as_str(), acme.wish.email.as_str()),
            ("https://ca.example/dir", "a@example.com")
        );
        let other = read(&format!("{ACME}tls_letsencrypt_listen: 127.0.0.1:8085\n")).unwrap();
        assert!(other.warnings.iter().any(|warning| warning.to_string().contains("port 80")), "{:?}", other.warnings);

        // Headscale's sample file has the key with nothing in it.
        let empty = "server_url: http://hs.example.com\ndns: {magic_dns: false}\ntls_letsencrypt_hostname: \"\"\n\
                     acme_email: \"\"\n";
        let empty = read(empty).unwrap();
        assert!(empty.options.client_acme.is_none());
        for (line, why) in [
            ("tls_letsencrypt_challenge_type: DNS-01", "neither HTTP-01 nor TLS-ALPN-01"),
            ("tls_cert_path: a\ntls_key_path: b", "stands beside tls_cert_path"),
            ("acme_url: nonsense", "not the URL of an authority's directory"),
            ("tls_letsencrypt_listen: nonsense", "write for example :80"),
        ] {
            assert!(problems(&format!("{ACME}{line}\n")).contains(why), "{line}");
        }
        for name in ["hs", "10.0.0.1", "*.example.com", "https://hs.example.com"] {
            let text = ACME.replace("HS.example.com", &format!("{name:?}"));
            assert!(problems(&text).contains("is not a name in DNS"), "{name}");
        }
    }

    const GOOD: &str = "\
server_url: https://hs.example.com
listen_addr: :8443
metrics_listen_addr: 127.0.0.1:9090
tls_cert_path: cert.pem
tls_key_path: key.pem
prefixes:
  v4: 100.64.10.0/12
  v6: fd7a:115c:a1e0::/48
dns:
  base_domain: ts.example.net.
  nameservers:
    global: [1.1.1.1, nonsense]
    split:
      corp.example.com: [10.0.0.53]
node:
  expiry: 180d
derp:
  server:
    enabled: true
    stun_listen_addr: 0.0.0.0:3478
cluster:
  name: hs2
  data_dir: data
  peer_listen_addr: 10.0.0.2:50444
  timing: wan
";

    #[test]
    fn a_good_file_is_read() {
        let config = read(GOOD).unwrap();
        let options = config.options;
        assert_eq!(options.name, "hs2");
        assert_eq!(options.data_dir, Path::new("/etc/hsraft/data"));
        assert_eq!(options.client_listen.to_string(), "[::]:8443");
        assert_eq!(options.peer_advertise, "10.0.0.2:50444");
        assert_eq!(options.client_tls.as_ref().unwrap().cert, Path::new("/etc/hsraft/cert.pem"));
        assert_eq!(options.unix_socket.as_deref(), Some(Path::new("/etc/hsraft/data/hsraft.sock")));
        let settings = options.settings;
        assert_eq!(settings.prefix_v4.unwrap().to_string(), "100.64.0.0/12");
        assert_eq!(settings.base_domain, "ts.example.net");
        assert_eq!(settings.nameservers, ["1.1.1.1"]);
        assert!(settings.override_local_dns);
        assert_eq!(settings.split_dns["corp.example.com"], ["10.0.0.53"]);
        assert_eq!(settings.node_expiry_secs, 180 * 86_400);
        let relay = options.relay.unwrap();
        assert_eq!((relay.host_name.as_str(), relay.port), ("hs.example.com", Some(443)));
        assert_eq!(options.grpc_listen.unwrap().to_string(), "[::]:50443");
        assert!(!options.grpc_insecure);
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
        assert_eq!(config.warnings[0].line, Some(12));
    }

    #[test]
    fn contradictions_stop_with_line_and_fix() {
        let cases = [
            ("server_url: ftp://x\n", "c.yaml:1: server_url: \"ftp://x\" must start with https://"),
            ("listen_addr: 8080\n", "c.yaml:1: listen_addr: \"8080\" is not an address with a port"),
            ("tls_cert_path: x\n", "c.yaml:1: tls_cert_path: stands alone; give tls_key_path as well"),
            ("prefixes:\n  v4: 10.0.0.0/8\n", "c.yaml:2: prefixes.v4: 10.0.0.0/8 is outside 100.64.0.0/10"),
            ("dns:\n  override_local_dns: true\n", "c.yaml:2: dns.override_local_dns: clients would have no resolver"),
            ("server_url: http://a.b.c\ndns:\n  base_domain: b.c\n", "c.yaml:3: dns.base_domain: contains the host"),
            ("cluster:\n  timing: fast\n", "c.yaml:2: cluster.timing: \"fast\" is none of"),
            ("cluster:\n  peer_listen_addr: 0.0.0.0:1\n", "c.yaml:2: cluster.peer_listen_addr: listens everywhere"),
            (
                "node:\n  ephemeral:\n    inactivity_timeout: 60s\n",
                "c.yaml:3: node.ephemeral.inactivity_timeout: must be longer",
            ),
            ("ip_prefixes: [x]\n", "c.yaml:1: ip_prefixes is gone; write prefixes.v4 and prefixes.v6"),
            ("policy:\n  path: p.json\n", "c.yaml:2: policy.path: cannot read p.json"),
            ("", "c.yaml: server_url: missing"),
        ];
        for (text, expected) in cases {
            let told = problems(text);
            assert!(told.contains(expected), "{text:?} told:\n{told}");
        }
    }

    #[test]
    fn certificates_of_nodes_have_two_ways_out() {
        use state_machine::NodeCertificates;
        let base = "server_url: https://hs.example.com:8443\ndns: {base_domain: ts.example.com}\n";
        let config = |section: &str| {
            let open = |path: &Path| (path == Path::new("tsig")).then(|| format!("{}\n", "QUJD".repeat(8)));
            let text = format!("{base}cluster:\n  cert_dns:\n{section}");
            from_text(&text, "c.yaml", Path::new(""), &BTreeMap::new(), &open)
        };
        let off = read(base).unwrap().options;
        assert!(off.settings.node_certificates.is_off() && off.cert_dns == crate::options::CertDns::default());

        let answer = config("    mode: answer\n    listen_addr: 0.0.0.0:53\n").unwrap().options;
        assert_eq!(answer.settings.node_certificates, NodeCertificates::Answered);
        assert_eq!(answer.cert_dns.listen, Some("0.0.0.0:53".parse().unwrap()));
        assert_eq!(answer.cert_dns.name_servers, ["hs.example.com"], "where clients go, DNS can go");

        let whole = "    mode: update\n    update_server: ns1.example.com\n    update_zone: example.com.\n    \
                     tsig_key_name: hsraft.\n    tsig_secret_path: tsig\n";
        let update = config(whole).unwrap().options;
        assert_eq!(update.settings.node_certificates, NodeCertificates::Updated);
        let server = update.cert_dns.update.unwrap();
        assert_eq!((server.server.as_str(), server.zone.as_str()), ("ns1.example.com:53", "example.com"));
        assert_eq!((server.key_name.as_str(), server.secret.0.len()), ("hsraft", 24));
        assert!(!format!("{server:?}").contains("65"), "secrets are not shown");

        let cases = [
            ("    mode: maybe\n", "c.yaml:5: cluster.cert_dns.mode: \"maybe\" is neither off, answer nor update"),
            ("    mode: update\n", "cluster.cert_dns.update_server: missing"),
            ("    mode: answer\n    listen_addr: here\n", "cluster.cert_dns.listen_addr: \"here\" is not an address"),
            ("    mode: answer\n    name_servers: [a b]\n", "cluster.cert_dns.name_servers: \"a b\" is not a name"),
        ];
        for (section, expected) in cases {
            let told = config(section).expect_err("refused").to_string();
            assert!(told.contains(expected), "{section:?} told:\n{told}");
        }
        let changed = [
            ("ns1.example.com\n", "http://x\n", "cluster.cert_dns.update_server: \"http://x\" is no host with a port"),
            ("example.com.\n", "other.example\n", "cluster.cert_dns.update_zone: \"other.example\" is not the zone"),
            ("hsraft.\n", "\"\"\n", "cluster.cert_dns.tsig_key_name: missing"),
            ("tsig_secret_path: tsig", "tsig_secret_path: t", "cluster.cert_dns.tsig_secret_path: cannot read t"),
            ("tsig_secret_path: tsig", "tsig_secret: \"?\"", "cluster.cert_dns.tsig_secret: is not base64"),
            ("tsig_secret_path: tsig", "tsig_secret: QUJD", "cluster.cert_dns.tsig_secret: is shorter than 16 bytes"),
            ("    tsig_secret_path: tsig\n", "", "cluster.cert_dns.tsig_secret_path: missing"),
        ];
        for (from, to, expected) in changed {
            let told = config(&whole.replace(from, to)).expect_err("refused").to_string();
            assert!(told.contains(expected), "{to:?} told:\n{told}");
        }
        let told = problems("server_url: http://x\ndns: {magic_dns: false}\ncluster:\n  cert_dns: {mode: answer}\n");
        assert!(told.contains("cluster.cert_dns.mode: needs dns.base_domain"), "{told}");
        let odd = config("    mode: off\n    listen_addr: 0.0.0.0:53\n").unwrap().warnings;
        let told = |text: &str| odd.iter().any(|one| one.to_string().contains(text));
        assert!(told("has no effect while cluster.cert_dns.mode is off"), "{odd:?}");
    }

    #[test]
    fn maps_come_from_files_and_urls() {
        let text = "server_url: http://x\ndns: {magic_dns: false}\nderp:\n  urls: [https://maps.example.com/derp.json]\n  \
                    paths: [a.yaml, b.yaml]\n  update_frequency: 24h\n";
        let read = |path: &Path| match path.to_str() {
            Some("a.yaml") => Some("regions: {1: {regioncode: a}, 2: {regioncode: b}}".to_owned()),
            _ => Some("regions: {1: null, 3: {regioncode: c}}".to_owned()),
        };
        let derp = from_text(text, "c.yaml", Path::new(""), &BTreeMap::new(), &read).unwrap().options.derp;
        assert_eq!((derp.urls[0].as_str(), derp.every.as_secs()), ("https://maps.example.com/derp.json", 86_400));
        let codes: Vec<String> = derp.fixed_regions().into_iter().map(|region| region.code).collect();
        assert_eq!(codes, ["b", "c"]);
        assert_eq!(derp.fixed[&1], None, "takes a fetched one away too");
        let told = problems("server_url: http://x\ndns: {magic_dns: false}\nderp:\n  urls: [ftp://x/y]\n");
        assert!(told.contains("c.yaml:4: derp.urls: \"ftp://x/y\" must start with https://"), "{told}");
    }

    /// The one sample is also what an operator copies.
    #[test]
    fn the_sample_is_read_without_a_word() {
        let config = read(include_str!("../../deploy/config/config.yaml")).unwrap();
        assert_eq!(config.warnings, []);
        let relay = config.options.relay.unwrap();
        assert_eq!((relay.host_name.as_str(), relay.port), ("hs1.example.com", Some(443)));
        assert_eq!(config.options.unix_socket_mode, 0o770);
        assert_eq!(config.options.settings.extra_records.len(), 1);
    }

    #[test]
    fn the_grpc_port_needs_tls_or_leave() {
        let with = |more: &str| {
            let text = format!("server_url: http://127.0.0.1:8080\ndns: {{magic_dns: false}}\n{more}");
            let options = read(&text).unwrap().options;
            (options.grpc_listen.map(|addr| addr.to_string()), options.grpc_insecure)
        };
        assert_eq!(with(""), (None, false));
        assert_eq!(with("grpc_listen_addr: 127.0.0.1:1\n"), (None, false));
        let open = "grpc_listen_addr: 127.0.0.1:1\ngrpc_allow_insecure: true\n";
        assert_eq!(with(open), (Some("127.0.0.1:1".into()), true));
    }

    #[test]
    fn a_laboratory_relay_needs_no_names() {
        let text = "server_url: http://127.0.0.1:8080\ndns: {magic_dns: false}\ncluster:\n  derp_listen_addr: 127.0.0.1:0\n  derp_insecure_for_tests: true\n";
        let relay = read(text).unwrap().options.relay.unwrap();
        assert_eq!(
            (relay.host_name.as_str(), relay.ipv4.as_str(), relay.ipv6.as_str()),
            ("127.0.0.1", "127.0.0.1", "none")
        );
        assert_eq!(relay.port, None);
    }
}
