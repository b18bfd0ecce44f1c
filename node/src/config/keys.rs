//! Every configuration key we know, and what becomes of it.

/// What a key does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read.
    Read,
    /// Read; everything below it belongs to it.
    ReadTree,
    /// Headscale knows it, it means nothing here; the text says why.
    Moot(&'static str),
    /// As [`Use::Moot`], with everything below it.
    MootTree(&'static str),
    /// Once meant something; the start stops, the text says what to write instead.
    Gone(&'static str),
}

use Use::{Gone, Moot, MootTree, Read, ReadTree};

const DATABASE: &str = "state lives in the replicated log; import a Headscale database with `hsraft import`";
const NOISE_KEY: &str =
    "the cluster keeps one Noise key in its replicated state; the file is read once, when a cluster is founded";
const ACME: &str = "certificates and the account lie in the cluster, sealed";
const TUNING: &str = "maps are batched by themselves";
const AUTO_UPDATE: &str = "clients are not told to update themselves";

/// All keys, in the order a person would look for them.
pub const KEYS: &[(&str, Use)] = &[
    ("server_url", Read),
    ("listen_addr", Read),
    ("metrics_listen_addr", Read),
    ("grpc_listen_addr", Read),
    ("grpc_allow_insecure", Read),
    ("trusted_proxies", Moot("client addresses are used for limits only")),
    ("noise.private_key_path", Moot(NOISE_KEY)),
    ("prefixes.v4", Read),
    ("prefixes.v6", Read),
    ("prefixes.allocation", Read),
    ("derp.server.enabled", Read),
    ("derp.server.region_id", Moot("each member is given a region id of its own when it joins")),
    ("derp.server.region_code", Read),
    ("derp.server.region_name", Read),
    ("derp.server.verify_clients", Read),
    ("derp.server.stun_listen_addr", Read),
    ("derp.server.private_key_path", Read),
    ("derp.server.automatically_add_embedded_derp_region", Read),
    ("derp.server.ipv4", Read),
    ("derp.server.ipv6", Read),
    ("derp.urls", Read),
    ("derp.paths", Read),
    ("derp.auto_update_enabled", Read),
    ("derp.update_frequency", Read),
    ("disable_check_updates", Moot("nothing looks for updates")),
    ("node.approval", Read),
    ("node.expiry", Read),
    ("node.ephemeral.inactivity_timeout", Read),
    ("node.routes.ha.probe_interval", Moot("a route moves when its node's stream ends")),
    ("node.routes.ha.probe_timeout", Moot("a route moves when its node's stream ends")),
    ("database", MootTree(DATABASE)),
    ("acme_url", Read),
    ("acme_email", Read),
    ("tls_letsencrypt_hostname", Read),
    ("tls_letsencrypt_cache_dir", Moot(ACME)),
    ("tls_letsencrypt_challenge_type", Read),
    ("tls_letsencrypt_listen", Read),
    ("tls_cert_path", Read),
    ("tls_key_path", Read),
    ("log.level", Read),
    ("log.format", Read),
    ("policy.mode", Read),
    ("policy.path", Read),
    ("dns.magic_dns", Read),
    ("dns.base_domain", Read),
    ("dns.override_local_dns", Read),
    ("dns.nameservers.global", Read),
    ("dns.nameservers.split", ReadTree),
    ("dns.search_domains", Read),
    ("dns.extra_records", Read),
    ("dns.extra_records_path", Read),
    ("unix_socket", Read),
    ("unix_socket_permission", Read),
    ("http.cors.allowed_origins", Read),
    ("oidc.issuer", Read),
    ("oidc.client_id", Read),
    ("oidc.client_secret", Read),
    ("oidc.client_secret_path", Read),
    ("oidc.scope", Read),
    ("oidc.email_verified_required", Read),
    ("oidc.use_expiry_from_token", Read),
    ("oidc.extra_params", ReadTree),
    ("oidc.allowed_domains", Read),
    ("oidc.allowed_groups", Read),
    ("oidc.allowed_users", Read),
    ("oidc.only_start_if_oidc_is_available", Read),
    ("oidc.pkce.enabled", Read),
    ("oidc.pkce.method", Read),
    ("logtail.enabled", Read),
    ("taildrop.enabled", Read),
    ("auto_update.enabled", Moot(AUTO_UPDATE)),
    ("cli", MootTree("read by the command line, not by the server")),
    ("tuning", MootTree(TUNING)),
    ("preauth_keys", MootTree("deleted keys are not kept")),
    ("randomize_client_port", Read),
    ("presence.grace", Read),
    ("presence.member_loss_grace", Read),
    // ours
    ("cluster.name", Read),
    ("cluster.data_dir", Read),
    ("cluster.peer_listen_addr", Read),
    ("cluster.peer_advertise_addr", Read),
    ("cluster.timing", Read),
    ("cluster.auto_remove_after", Read),
    ("cluster.snapshot_every", Read),
    ("cluster.backup_dir", Read),
    ("cluster.sealing_key_path", Read),
    ("cluster.backup_url", Read),
    ("cluster.backup_s3.endpoint", Read),
    ("cluster.backup_s3.region", Read),
    ("cluster.backup_s3.access_key_id", Read),
    ("cluster.backup_s3.secret_access_key", Read),
    ("cluster.backup_s3.allow_http", Read),
    ("cluster.disk_low_mib", Read),
    ("cluster.disk_reserve_mib", Read),
    ("cluster.drills", Read),
    ("cluster.drills_freeze", Read),
    ("cluster.audit_rows", Read),
    ("cluster.client_url", Read),
    ("cluster.client_addresses", Read),
    ("cluster.dial_plan", Read),
    ("cluster.cert_dns.mode", Read),
    ("cluster.cert_dns.listen_addr", Read),
    ("cluster.cert_dns.name_servers", Read),
    ("cluster.cert_dns.update_server", Read),
    ("cluster.cert_dns.update_zone", Read),
    ("cluster.cert_dns.tsig_key_name", Read),
    ("cluster.cert_dns.tsig_secret", Read),
    ("cluster.cert_dns.tsig_secret_path", Read),
    ("cluster.timing_check", Read),
    ("cluster.derp_listen_addr", Read),
    ("cluster.derp_host_name", Read),
    ("cluster.derp_port", Read),
    ("cluster.derp_stun_port", Read),
    ("cluster.derp_tls_cert_path", Read),
    ("cluster.derp_tls_key_path", Read),
    ("cluster.derp_insecure_for_tests", Read),
    // gone
    ("dns.use_username_in_magic_dns", Gone("remove it; names never contain the user")),
    ("dns_config.use_username_in_magic_dns", Gone("remove it; names never contain the user")),
    ("oidc.expiry", Gone("write node.expiry")),
    ("oidc.strip_email_domain", Gone("remove it; a user is named as the provider names them (preferred_username)")),
    ("oidc.map_legacy_users", Gone("remove it; users are known by the provider's own id, never by name")),
    ("ephemeral_node_inactivity_timeout", Gone("write node.ephemeral.inactivity_timeout")),
    ("acl_policy_path", Gone("write policy.path")),
    ("dns_config.magic_dns", Gone("write dns.magic_dns")),
    ("dns_config.base_domain", Gone("write dns.base_domain")),
    ("dns_config.override_local_dns", Gone("write dns.override_local_dns")),
    ("dns_config.nameservers", Gone("write dns.nameservers.global")),
    ("dns_config.restricted_nameservers", Gone("write dns.nameservers.split")),
    ("dns_config.domains", Gone("write dns.search_domains")),
    ("dns_config.extra_records", Gone("write dns.extra_records")),
    ("ip_prefixes", Gone("write prefixes.v4 and prefixes.v6")),
];

/// The entry for a dotted, lower-case path: itself, or the tree it lies in.
pub fn find(path: &str) -> Option<Use> {
    KEYS.iter()
        .find(|(key, usage)| {
            *key == path
                || matches!(usage, ReadTree | MootTree(_))
                    && path.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
        })
        .map(|(_, usage)| *usage)
}

/// Whether some known key lies below `path`.
pub fn is_section(path: &str) -> bool {
    KEYS.iter().any(|(key, _)| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The known key that looks most like `path`, if any does.
pub fn nearest(path: &str) -> Option<&'static str> {
    let leaf = path.rsplit('.').next().unwrap_or(path);
    KEYS.iter()
        .filter(|(_, usage)| !matches!(usage, Gone(_)))
        .map(|(key, _)| {
            let same_leaf = key.rsplit('.').next() == Some(leaf) && leaf.len() > 3;
            (if same_leaf { 1 } else { distance(path, key) }, *key)
        })
        .min()
        .filter(|(distance, key)| *distance <= 2.max(key.len() / 4))
        .map(|(_, key)| key)
}

/// How many letters to insert, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_what_a_person_meant() {
        for (typed, meant) in [
            ("server_ulr", Some("server_url")),
            ("listenaddr", Some("listen_addr")),
            ("dns.nameserver.global", Some("dns.nameservers.global")),
            ("dns.nameservers.restricted", None),
            ("magic_dns", Some("dns.magic_dns")),
            ("cluster.peer_listen", Some("cluster.peer_listen_addr")),
            ("something.else.entirely", None),
        ] {
            assert_eq!(nearest(typed), meant, "{typed}");
        }
    }

    #[test]
    fn trees_own_what_lies_below() {
        assert_eq!(find("dns.nameservers.split.corp.example.com"), Some(ReadTree));
        assert!(matches!(find("database.sqlite.path"), Some(MootTree(_))));
        assert_eq!(find("databases"), None);
        assert!(is_section("dns") && is_section("derp.server") && !is_section("dnss"));
    }
}
