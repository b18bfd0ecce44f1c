//! The keys all members share, as [`Settings`].

use std::{collections::BTreeMap, time::Duration};

use state_machine::{Allocation, Settings};
use url::Url;

use super::{document::Document, values};

/// `headscale` refuses less: a client that loses its way needs a minute to come back.
const EPHEMERAL_MIN: Duration = Duration::from_secs(65);

/// Reads the shared keys; problems go into the document.
pub fn read(document: &mut Document, records_file: Option<&str>) -> Settings {
    let defaults = Settings::default();
    let server_url = server_url(document);
    let base_domain = base_domain(document, &server_url);
    let nameservers = resolvers(document, "dns.nameservers.global");
    let override_local_dns = document.flag("dns.override_local_dns");
    if override_local_dns == Some(true) && nameservers.is_empty() {
        document.wrong(
            "dns.override_local_dns",
            "clients would have no resolver at all; list some in dns.nameservers.global or write false",
        );
    }
    let node_certificates = super::cert_dns::mode(document, &base_domain);
    Settings {
        prefix_v4: prefix(document, "prefixes.v4", "100.64.0.0/10", defaults.prefix_v4),
        prefix_v6: prefix(document, "prefixes.v6", "fd7a:115c:a1e0::/48", defaults.prefix_v6),
        allocation: allocation(document),
        server_url,
        base_domain,
        magic_dns: document.flag("dns.magic_dns").unwrap_or(defaults.magic_dns),
        override_local_dns: override_local_dns.unwrap_or(!nameservers.is_empty()),
        nameservers,
        split_dns: split_dns(document),
        search_domains: document.list("dns.search_domains").into_iter().map(|name| undotted(&name)).collect(),
        extra_records: extra_records(document, records_file),
        node_expiry_secs: document.span("node.expiry").map_or(0, |span| span.as_secs()),
        ephemeral_inactivity_secs: ephemeral(document).as_secs(),
        presence_grace_secs: document.span("presence.grace").map_or(defaults.presence_grace_secs, |s| s.as_secs()),
        member_loss_grace_secs: document
            .span("presence.member_loss_grace")
            .map_or(defaults.member_loss_grace_secs, |s| s.as_secs()),
        randomize_client_port: document.flag("randomize_client_port").unwrap_or(false),
        logtail: document.flag("logtail.enabled").unwrap_or(false),
        taildrop: document.flag("taildrop.enabled").unwrap_or(true),
        dial_plan: document.flag("cluster.dial_plan").unwrap_or(false),
        audit_rows: audit_rows(document),
        node_approval: document.flag("node.approval").unwrap_or(false),
        node_certificates,
    }
}

fn server_url(document: &mut Document) -> String {
    let Some(text) = document.text("server_url") else {
        document.wrong("server_url", "missing: clients need a URL to log in at, for example https://hs.example.com");
        return String::new();
    };
    match Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() => {
            text.trim_end_matches('/').to_owned()
        }
        _ => {
            document.wrong("server_url", &format!("{text:?} must start with https:// or http:// and name a host"));
            String::new()
        }
    }
}

fn base_domain(document: &mut Document, server_url: &str) -> String {
    let domain = undotted(&document.text("dns.base_domain").unwrap_or_default()).to_lowercase();
    if domain.is_empty() {
        if document.flag("dns.magic_dns").unwrap_or(true) {
            document.wrong(
                "dns.base_domain",
                "missing: MagicDNS names need a domain; set one or write dns.magic_dns: false",
            );
        }
        return domain;
    }
    let host = Url::parse(server_url).ok().and_then(|url| url.host_str().map(str::to_lowercase)).unwrap_or_default();
    if host == domain {
        document
            .wrong("dns.base_domain", "is the host of server_url; choose another, or clients cannot find the server");
    } else if host.ends_with(&format!(".{domain}")) {
        document
            .wrong("dns.base_domain", "contains the host of server_url; choose a domain the server does not lie in");
    }
    domain
}

fn prefix<T>(document: &mut Document, key: &str, within: &str, default: Option<T>) -> Option<T>
where
    T: TryFromNet + Copy,
{
    let either = document.has("prefixes.v4") || document.has("prefixes.v6");
    if !document.has(key) {
        return if either { None } else { default };
    }
    let net: ipnet::IpNet = document.parsed(key, within)?;
    let range: ipnet::IpNet = within.parse().expect("a prefix");
    let net = net.trunc();
    if !range.contains(&net) {
        document.wrong(key, &format!("{net} is outside {within}, the only range clients use; choose a part of it"));
        return None;
    }
    T::try_from_net(net)
}

trait TryFromNet: Sized {
    fn try_from_net(net: ipnet::IpNet) -> Option<Self>;
}

impl TryFromNet for ipnet::Ipv4Net {
    fn try_from_net(net: ipnet::IpNet) -> Option<Self> {
        match net {
            ipnet::IpNet::V4(net) => Some(net),
            ipnet::IpNet::V6(_) => None,
        }
    }
}

impl TryFromNet for ipnet::Ipv6Net {
    fn try_from_net(net: ipnet::IpNet) -> Option<Self> {
        match net {
            ipnet::IpNet::V6(net) => Some(net),
            ipnet::IpNet::V4(_) => None,
        }
    }
}

fn allocation(document: &mut Document) -> Allocation {
    match document.text("prefixes.allocation").as_deref() {
        None | Some("sequential") => Allocation::Sequential,
        Some("random") => Allocation::Random,
        Some(other) => {
            let text = format!("{other:?} is neither sequential nor random");
            document.wrong("prefixes.allocation", &text);
            Allocation::Sequential
        }
    }
}

/// Resolvers clients understand: addresses, with a port or not, and `https://`.
fn resolvers(document: &mut Document, key: &str) -> Vec<String> {
    let (good, bad): (Vec<_>, Vec<_>) = document.list(key).into_iter().partition(|text| is_resolver(text));
    for text in bad {
        document.odd(key, &format!("{text:?} is neither an address nor an https:// URL, left out"));
    }
    good
}

fn is_resolver(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
        || text.parse::<std::net::SocketAddr>().is_ok()
        || Url::parse(text).is_ok_and(|url| url.scheme() == "https")
}

fn split_dns(document: &mut Document) -> BTreeMap<String, Vec<String>> {
    const KEY: &str = "dns.nameservers.split";
    let mut split = BTreeMap::new();
    let Some(value) = document.value(KEY).cloned() else { return split };
    let serde_yaml_ng::Value::Mapping(mapping) = value else {
        document.wrong(KEY, "must be a section of domains, each with a list of resolvers");
        return split;
    };
    for (suffix, list) in &mapping {
        match (suffix.as_str(), values::texts(list)) {
            (Some(suffix), Some(list)) => {
                let (good, bad): (Vec<_>, Vec<_>) = list.into_iter().partition(|text| is_resolver(text));
                for text in bad {
                    document
                        .odd(KEY, &format!("{suffix}: {text:?} is neither an address nor an https:// URL, left out"));
                }
                split.insert(undotted(suffix).to_lowercase(), good);
            }
            _ => document.wrong(KEY, "must be a section of domains, each with a list of resolvers"),
        }
    }
    split
}

fn extra_records(document: &mut Document, file: Option<&str>) -> Vec<state_machine::DnsRecord> {
    let (key, value) = match (document.value("dns.extra_records").cloned(), document.has("dns.extra_records_path")) {
        (Some(_), true) => {
            document.wrong("dns.extra_records", "stands beside dns.extra_records_path; keep one of them");
            return Vec::new();
        }
        (Some(value), false) => ("dns.extra_records", value),
        (None, true) => match file.map(serde_yaml_ng::from_str) {
            Some(Ok(value)) => ("dns.extra_records_path", value),
            Some(Err(error)) => {
                document.wrong("dns.extra_records_path", &format!("the file is not JSON: {error}"));
                return Vec::new();
            }
            None => {
                document.wrong("dns.extra_records_path", "the file cannot be read");
                return Vec::new();
            }
        },
        (None, false) => return Vec::new(),
    };
    match values::records(&value) {
        Ok((records, left_out)) => {
            for name in left_out {
                document.odd(key, &format!("{name}: clients only answer A and AAAA, left out"));
            }
            records
        }
        Err(text) => {
            document.wrong(key, &text);
            Vec::new()
        }
    }
}

fn ephemeral(document: &mut Document) -> Duration {
    const KEY: &str = "node.ephemeral.inactivity_timeout";
    let default = Duration::from_secs(Settings::default().ephemeral_inactivity_secs);
    let span = document.span(KEY).unwrap_or(default);
    if span <= EPHEMERAL_MIN {
        document.wrong(KEY, "must be longer than 65s: clients need that long to notice a lost connection");
    }
    span
}

fn audit_rows(document: &mut Document) -> u64 {
    const KEY: &str = "cluster.audit_rows";
    let rows = document.parsed(KEY, "10000").unwrap_or(state_machine::AUDIT_ROWS);
    if !(100..=1_000_000).contains(&rows) {
        document.wrong(KEY, "must lie between 100 and 1000000; what is older is exported with hsraft audit export");
    }
    rows
}

fn undotted(name: &str) -> String {
    name.trim_matches('.').to_owned()
}
