//! What all members share.

use crate::{
    allocate,
    model::*,
    names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{check_text, invalid};

/// So that the longest node name, a dot and the domain are a DNS name (RFC 1035: 253 visible bytes).
const BASE_DOMAIN_BYTES_MAX: usize = 253 - names::LABEL_BYTES_MAX - 1;

const LIST_MAX: usize = 4_096;

impl State {
    /// Changes what its author has seen.
    pub(super) fn replace_settings(&mut self, seen: &Settings, settings: Settings) -> Answer {
        if **self.settings() != *seen {
            return Err(Refusal::Changed { what: What::Settings });
        }
        self.apply_settings(settings)
    }

    pub(super) fn apply_settings(&mut self, settings: Settings) -> Answer {
        if **self.settings() == settings {
            return Ok(Outcome::Unchanged);
        }
        check_settings(&settings)?;
        self.put_settings(settings);
        Ok(Outcome::Done)
    }
}

pub(super) fn check_settings(settings: &Settings) -> Result<(), Refusal> {
    let refuse = |why: String| Err(invalid(What::Settings, why));
    if settings.prefix_v4.is_none() && settings.prefix_v6.is_none() {
        return refuse("a tailnet needs prefixes.v4, prefixes.v6 or both".into());
    }
    if let Some(prefix) = settings.prefix_v4 {
        let whole: ipnet::Ipv4Net = allocate::CGNAT.parse().expect("a prefix");
        if !whole.contains(&prefix) {
            return refuse(format!("prefixes.v4 {prefix} is outside {whole}, which is all that clients accept"));
        }
        if prefix.prefix_len() > 30 || prefix != prefix.trunc() {
            return refuse(format!("prefixes.v4 {prefix} must be a network of at most 30 bits, like {whole}"));
        }
    }
    if let Some(prefix) = settings.prefix_v6 {
        let whole: ipnet::Ipv6Net = allocate::ULA.parse().expect("a prefix");
        if !whole.contains(&prefix) {
            return refuse(format!("prefixes.v6 {prefix} is outside {whole}, which is all that clients accept"));
        }
        if prefix.prefix_len() > 126 || prefix != prefix.trunc() {
            return refuse(format!("prefixes.v6 {prefix} must be a network of at most 126 bits, like {whole}"));
        }
    }
    if !settings.base_domain.is_empty() {
        names::check_domain(&settings.base_domain)
            .map_err(|why| invalid(What::Settings, format!("dns.base_domain: {why}")))?;
        if settings.base_domain.len() > BASE_DOMAIN_BYTES_MAX {
            return refuse(format!("dns.base_domain is longer than {BASE_DOMAIN_BYTES_MAX} bytes"));
        }
    }
    if !settings.node_certificates.is_off() {
        let longest = BASE_DOMAIN_BYTES_MAX - TextRecord::PREFIX.len();
        if settings.base_domain.is_empty() || settings.base_domain.len() > longest {
            return refuse(format!(
                "cluster.cert_dns needs a dns.base_domain of at most {longest} bytes: certificates are for names in it"
            ));
        }
    }
    check_text(What::Settings, "server_url", &settings.server_url, 512)?;
    let lists = [
        ("dns.nameservers.global", settings.nameservers.len()),
        ("dns.nameservers.split", settings.split_dns.len()),
        ("dns.search_domains", settings.search_domains.len()),
        ("dns.extra_records", settings.extra_records.len()),
    ];
    if let Some((name, length)) = lists.into_iter().find(|(_, length)| *length > LIST_MAX) {
        return refuse(format!("{name} has {length} entries, at most {LIST_MAX} are allowed"));
    }
    let split = settings.split_dns.iter().flat_map(|(suffix, resolvers)| std::iter::once(suffix).chain(resolvers));
    let records = settings.extra_records.iter().map(|record| &record.name);
    for text in settings.nameservers.iter().chain(&settings.search_domains).chain(split).chain(records) {
        check_text(What::Settings, "dns entry", text, 512)?;
    }
    for record in &settings.extra_records {
        let fits = match record.kind.as_str() {
            "A" => record.value.is_ipv4(),
            "AAAA" => record.value.is_ipv6(),
            _ => false,
        };
        if !fits {
            return refuse(format!(
                "dns.extra_records {:?}: type {:?} with value {} (only A with IPv4 and AAAA with IPv6 are served)",
                record.name, record.kind, record.value
            ));
        }
    }
    Ok(())
}
