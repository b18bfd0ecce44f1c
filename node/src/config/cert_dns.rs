//! `cluster.cert_dns`: how certificate authorities learn that a node's name is its own.

use std::{net::SocketAddr, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use state_machine::{NodeCertificates, Settings};
use url::Url;

use super::{document::Document, listen_optional};
use crate::options::{CertDns, DnsUpdate, TsigSecret};

const MODE: &str = "cluster.cert_dns.mode";
const LISTEN: &str = "cluster.cert_dns.listen_addr";
const SERVERS: &str = "cluster.cert_dns.name_servers";
const SERVER: &str = "cluster.cert_dns.update_server";
const ZONE: &str = "cluster.cert_dns.update_zone";
const KEY_NAME: &str = "cluster.cert_dns.tsig_key_name";
const SECRET: &str = "cluster.cert_dns.tsig_secret";
const SECRET_PATH: &str = "cluster.cert_dns.tsig_secret_path";
/// RFC 8945, section 6: as long as the hash, or not much shorter.
const SECRET_BYTES_MIN: usize = 16;

/// What all members share of it.
pub fn mode(d: &mut Document, base_domain: &str) -> NodeCertificates {
    let mode = match d.text(MODE).as_deref() {
        None | Some("off" | "false" | "") => NodeCertificates::Off,
        Some("answer") => NodeCertificates::Answered,
        Some("update") => NodeCertificates::Updated,
        Some(other) => {
            let text = format!("{other:?} is neither off, answer nor update");
            d.wrong(MODE, &text);
            NodeCertificates::Off
        }
    };
    if mode.is_off() {
        return mode;
    }
    if base_domain.is_empty() {
        d.wrong(MODE, "needs dns.base_domain: certificates are for names in it");
        return NodeCertificates::Off;
    }
    let last = base_domain.rsplit('.').next().unwrap_or_default();
    let private =
        ["internal", "local", "localdomain", "lan", "home", "corp", "test", "invalid", "example", "localhost"];
    if !base_domain.contains('.') || private.contains(&last) || base_domain.ends_with("home.arpa") {
        d.odd(MODE, &format!("no public authority gives certificates for names in {base_domain}; only your own would"));
    }
    mode
}

/// What of it is this member's own.
pub fn read(d: &mut Document, settings: &Settings, open: &dyn Fn(&Path) -> Option<String>) -> CertDns {
    let answers = [LISTEN, SERVERS];
    let updates = [SERVER, ZONE, KEY_NAME, SECRET, SECRET_PATH];
    let (unused, why): (Vec<&str>, &str) = match settings.node_certificates {
        NodeCertificates::Off => (answers.into_iter().chain(updates).collect(), "off"),
        NodeCertificates::Answered => (updates.to_vec(), "answer"),
        NodeCertificates::Updated => (answers.to_vec(), "update"),
    };
    for key in unused {
        if d.has(key) {
            d.odd(key, &format!("has no effect while {MODE} is {why}"));
        }
    }
    match settings.node_certificates {
        NodeCertificates::Off => CertDns::default(),
        NodeCertificates::Answered => {
            let listen: Option<SocketAddr> = listen_optional(d, LISTEN);
            if !d.has(LISTEN) {
                d.odd(LISTEN, "missing: this member answers no DNS, others must; write for example 0.0.0.0:53");
            }
            CertDns { listen, name_servers: name_servers(d, settings), update: None }
        }
        NodeCertificates::Updated => CertDns { update: update(d, settings, open), ..CertDns::default() },
    }
}

/// As the zone above names them; without a word the host clients are told to log in at.
fn name_servers(d: &mut Document, settings: &Settings) -> Vec<String> {
    let named: Vec<String> = d.list(SERVERS).iter().map(|name| undotted(name)).collect();
    for name in named.iter().filter(|name| !is_name(name)) {
        d.wrong(SERVERS, &format!("{name:?} is not a name in DNS, such as hs1.example.com"));
    }
    if !named.is_empty() {
        return named;
    }
    let url = Url::parse(&settings.server_url).ok();
    let host = url.and_then(|url| url.domain().map(str::to_lowercase));
    if host.is_none() {
        d.odd(SERVERS, "missing: resolvers like to hear which names the zone is delegated to");
    }
    host.into_iter().collect()
}

fn update(d: &mut Document, settings: &Settings, open: &dyn Fn(&Path) -> Option<String>) -> Option<DnsUpdate> {
    let server = match d.text(SERVER) {
        None => {
            d.wrong(SERVER, &format!("missing, and {MODE} is update; write for example 192.0.2.53:53"));
            return None;
        }
        Some(text) => match with_port(&text) {
            Some(server) => server,
            None => {
                d.wrong(SERVER, &format!("{text:?} is no host with a port; write for example 192.0.2.53:53"));
                return None;
            }
        },
    };
    let zone = d.text(ZONE).map_or_else(|| settings.base_domain.clone(), |zone| undotted(&zone));
    if !is_name(&zone) || !format!(".{}", settings.base_domain).ends_with(&format!(".{zone}")) {
        let domain = &settings.base_domain;
        d.wrong(ZONE, &format!("{zone:?} is not the zone that dns.base_domain ({domain}) lies in"));
        return None;
    }
    let key_name = undotted(&d.text(KEY_NAME).unwrap_or_default());
    if !is_name(&key_name) {
        d.wrong(KEY_NAME, "missing, or not the name of a key: updates are signed (tsig-keygen -a hmac-sha256 NAME)");
        return None;
    }
    let secret = secret(d, open)?;
    Some(DnsUpdate { server, zone, key_name, secret })
}

/// In the file, or in a file of its own.
fn secret(d: &mut Document, open: &dyn Fn(&Path) -> Option<String>) -> Option<TsigSecret> {
    let (key, text) = match (d.text(SECRET), d.text(SECRET_PATH)) {
        (Some(_), Some(_)) => {
            d.wrong(SECRET_PATH, &format!("stands beside {SECRET}; keep one of them"));
            return None;
        }
        (Some(text), None) => (SECRET, text),
        (None, Some(path)) => match open(Path::new(&path)) {
            Some(text) => (SECRET_PATH, text),
            None => {
                d.wrong(SECRET_PATH, &format!("cannot read {path}"));
                return None;
            }
        },
        (None, None) => {
            d.wrong(SECRET_PATH, "missing: a file with the key's secret in base64, as tsig-keygen prints it");
            return None;
        }
    };
    match BASE64_STANDARD.decode(text.trim()) {
        Ok(secret) if secret.len() >= SECRET_BYTES_MIN => Some(TsigSecret(secret)),
        Ok(_) => {
            d.wrong(
                key,
                &format!("is shorter than {SECRET_BYTES_MIN} bytes; make one: tsig-keygen -a hmac-sha256 NAME"),
            );
            None
        }
        Err(_) => {
            d.wrong(key, "is not base64, as tsig-keygen prints it");
            None
        }
    }
}

/// The usual port where none is given.
fn with_port(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Some(SocketAddr::new(address, 53).to_string());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.to_string());
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "53"));
    (is_name(host) && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| format!("{host}:{port}"))
}

fn undotted(name: &str) -> String {
    name.trim_matches('.').to_ascii_lowercase()
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(fits);
    name.len() <= 253 && name.split('.').all(is_label)
}
