//! How nodes resolve names.

use std::collections::BTreeMap;

use ipnet::{Ipv4Net, Ipv6Net};
use state_machine::Settings;
use tailcfg::{DnsConfig, DnsRecord, DnsResolver, is_plain};

/// The configuration all nodes get.
pub(crate) fn config(settings: &Settings) -> DnsConfig {
    let global = resolvers(&settings.nameservers);
    let (resolvers, fallback_resolvers) =
        if settings.override_local_dns { (global, Vec::new()) } else { (Vec::new(), global) };
    let domains = std::iter::once(&settings.base_domain).chain(&settings.search_domains);
    DnsConfig {
        resolvers,
        routes: routes(settings),
        fallback_resolvers,
        domains: domains.map(|name| bare(name)).filter(|name| is_name(name)).map(str::to_owned).collect(),
        proxied: settings.magic_dns,
        cert_domains: Vec::new(),
        extra_records: settings
            .extra_records
            .iter()
            .filter(|record| is_name(&record.name))
            .map(|record| DnsRecord::new(&record.name, record.value))
            .collect(),
    }
}

/// The same for one node, that may have certificates for its own name.
pub(crate) fn with_own_name(config: &[u8], full_name: &str) -> Vec<u8> {
    let name = serde_json::to_vec(bare(full_name)).expect("a text");
    let fields = config.strip_suffix(b"}").expect("an object");
    let comma: &[u8] = if fields.ends_with(b"{") { b"" } else { b"," };
    [fields, comma, b"\"CertDomains\":[", &name, b"]}"].concat()
}

/// Split DNS, and with MagicDNS the zones clients answer themselves: the base domain and the reverse zones.
fn routes(settings: &Settings) -> BTreeMap<String, Vec<DnsResolver>> {
    let mut routes = BTreeMap::new();
    for (suffix, servers) in &settings.split_dns {
        let (suffix, servers) = (bare(suffix), resolvers(servers));
        // An empty list would mean that clients answer the suffix themselves.
        if is_name(suffix) && !servers.is_empty() {
            routes.insert(suffix.to_owned(), servers);
        }
    }
    if settings.magic_dns {
        let base = bare(&settings.base_domain);
        let own = Some(base).filter(|base| is_name(base)).map(str::to_owned);
        let reverse4 = settings.prefix_v4.map(reverse_zones_v4).unwrap_or_default();
        let reverse6 = settings.prefix_v6.map(reverse_zones_v6).unwrap_or_default();
        for zone in own.into_iter().chain(reverse4).chain(reverse6) {
            routes.entry(zone).or_default();
        }
    }
    routes
}

fn resolvers(addresses: &[String]) -> Vec<DnsResolver> {
    addresses.iter().filter_map(|address| DnsResolver::new(address)).collect()
}

fn bare(name: &str) -> &str {
    name.trim_matches('.')
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && is_plain(name)
}

/// The zones of whole octets that make up a prefix: `100.64.0.0/10` is `64.100.in-addr.arpa` to `127.100.in-addr.arpa`.
fn reverse_zones_v4(prefix: Ipv4Net) -> Vec<String> {
    let octets = prefix.trunc().addr().octets();
    zones(&octets, usize::from(prefix.prefix_len()), 8, |octet| octet.to_string(), "in-addr.arpa")
}

/// The zones of whole nibbles that make up a prefix.
fn reverse_zones_v6(prefix: Ipv6Net) -> Vec<String> {
    let octets = prefix.trunc().addr().octets();
    let nibbles: Vec<u8> = octets.iter().flat_map(|octet| [octet >> 4, octet & 15]).collect();
    zones(&nibbles, usize::from(prefix.prefix_len()), 4, |nibble| format!("{nibble:x}"), "ip6.arpa")
}

fn zones(digits: &[u8], length: usize, bits: usize, show: fn(u8) -> String, root: &str) -> Vec<String> {
    let whole = length / bits;
    let zone = |last: Option<u8>| {
        let labels = last.into_iter().chain(digits[..whole].iter().rev().copied()).map(show);
        labels.chain([root.to_owned()]).collect::<Vec<_>>().join(".")
    };
    match length % bits {
        0 => vec![zone(None)],
        rest => {
            let first = digits[whole];
            let last = first | (u8::MAX >> (8 - (bits - rest)));
            (first..=last).map(|digit| zone(Some(digit))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_zones_cover_the_prefix() {
        let v4 = |text: &str| reverse_zones_v4(text.parse().unwrap());
        assert_eq!(v4("100.64.0.0/10").len(), 64);
        assert_eq!(v4("100.64.0.0/10")[0], "64.100.in-addr.arpa");
        assert_eq!(v4("100.64.0.0/10")[63], "127.100.in-addr.arpa");
        assert_eq!(v4("10.1.2.0/24"), ["2.1.10.in-addr.arpa"]);
        assert_eq!(v4("100.64.0.4/32"), ["4.0.64.100.in-addr.arpa"]);
        assert_eq!(v4("100.64.0.4/31"), ["4.0.64.100.in-addr.arpa", "5.0.64.100.in-addr.arpa"]);
        let v6 = |text: &str| reverse_zones_v6(text.parse().unwrap());
        assert_eq!(v6("fd7a:115c:a1e0::/48"), ["0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa"]);
        assert_eq!(v6("fd7a:115c:a1e0::/47").len(), 2);
    }

    #[test]
    fn a_node_is_told_its_own_name() {
        let told = |config: &[u8]| String::from_utf8(with_own_name(config, "laptop.example.net.")).unwrap();
        assert_eq!(told(b"{}"), r#"{"CertDomains":["laptop.example.net"]}"#);
        assert_eq!(told(br#"{"Proxied":true}"#), r#"{"Proxied":true,"CertDomains":["laptop.example.net"]}"#);
    }

    #[test]
    fn what_clients_cannot_read_is_left_out() {
        let settings = Settings {
            base_domain: "example.net".into(),
            nameservers: vec!["1.1.1.1".into(), "not an address".into()],
            split_dns: [
                ("corp.example.".to_owned(), vec!["10.0.0.1".to_owned()]),
                ("bad".to_owned(), vec!["x".to_owned()]),
            ]
            .into(),
            search_domains: vec!["corp.example.".into(), "qu\"ote".into()],
            ..Settings::default()
        };
        let dns = config(&settings);
        assert_eq!(dns.fallback_resolvers.len(), 1);
        assert_eq!(dns.domains, ["example.net", "corp.example"]);
        assert_eq!(dns.routes["corp.example"].len(), 1);
        assert!(dns.routes["example.net"].is_empty());
        assert!(!dns.routes.contains_key("bad"));
        assert!(config(&Settings { override_local_dns: true, ..settings }).fallback_resolvers.is_empty());
    }
}
