//! The `oidc:` section: Headscale's keys.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_yaml_ng::Value;
use url::Url;

use super::document::Document;
use crate::options::{ClientSecret, Oidc, Pkce};

/// The section, where it names an issuer.
pub fn read(d: &mut Document, env: &BTreeMap<String, String>, open: &dyn Fn(&Path) -> Option<String>) -> Option<Oidc> {
    let issuer = d.text("oidc.issuer")?;
    match Url::parse(&issuer) {
        Ok(url) if url.scheme() == "https" && url.host_str().is_some() => {}
        Ok(url) if url.scheme() == "http" && url.host_str().is_some() => {
            d.odd("oidc.issuer", "is http: whoever sits between can let themselves in; use it in laboratories only");
        }
        _ => d.wrong("oidc.issuer", &format!("{issuer:?} is not a URL; write for example https://idp.example.com")),
    }
    let client_id = d.text("oidc.client_id").unwrap_or_default();
    if client_id.is_empty() {
        d.wrong("oidc.client_id", "missing: the name this server has at the login provider");
    }
    let mut scope = d.list("oidc.scope");
    if scope.is_empty() {
        scope = ["openid", "profile", "email"].map(str::to_owned).to_vec();
    }
    let flag = |d: &mut Document, key: &str, default: bool| d.flag(key).unwrap_or(default);
    Some(Oidc {
        client_secret: client_secret(d, env, open),
        extra_params: extra_params(d),
        allowed_domains: d.list("oidc.allowed_domains"),
        allowed_groups: d.list("oidc.allowed_groups"),
        allowed_users: d.list("oidc.allowed_users"),
        email_verified_required: flag(d, "oidc.email_verified_required", true),
        use_expiry_from_token: flag(d, "oidc.use_expiry_from_token", false),
        pkce: pkce(d),
        // Not Headscale's default: a member that starts serves nodes that are in already, provider or not.
        only_start_if_available: flag(d, "oidc.only_start_if_oidc_is_available", false),
        authorities: env.get("SSL_CERT_FILE").map(PathBuf::from),
        issuer,
        client_id,
        scope,
    })
}

/// In the file, or in a file of its own whose path may name variables (`${CREDENTIALS_DIRECTORY}/oidc`).
fn client_secret(
    d: &mut Document,
    env: &BTreeMap<String, String>,
    open: &dyn Fn(&Path) -> Option<String>,
) -> ClientSecret {
    const PATH: &str = "oidc.client_secret_path";
    match (d.text("oidc.client_secret"), d.text(PATH)) {
        (Some(_), Some(_)) => {
            d.wrong(PATH, "stands beside oidc.client_secret; keep one of them");
            ClientSecret::default()
        }
        (Some(secret), None) => ClientSecret(secret),
        (None, Some(path)) => {
            let path = expanded(&path, env);
            match open(Path::new(&path)) {
                Some(secret) if !secret.trim().is_empty() => ClientSecret(secret.trim().to_owned()),
                Some(_) => {
                    d.wrong(PATH, &format!("{path} is empty"));
                    ClientSecret::default()
                }
                None => {
                    d.wrong(PATH, &format!("cannot read {path}"));
                    ClientSecret::default()
                }
            }
        }
        (None, None) => ClientSecret::default(),
    }
}

/// `$NAME` and `${NAME}`; a variable that is not set is empty.
fn expanded(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (name, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(found) => found,
            None => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()))
            }
        };
        out.push_str(env.get(name).map_or("", String::as_str));
        rest = after;
    }
    out + rest
}

/// What a provider may not be told twice.
const OURS: [&str; 8] = [
    "response_type",
    "client_id",
    "redirect_uri",
    "state",
    "nonce",
    "scope",
    "code_challenge",
    "code_challenge_method",
];

fn extra_params(d: &mut Document) -> BTreeMap<String, String> {
    const KEY: &str = "oidc.extra_params";
    let mut params = BTreeMap::new();
    let Some(value) = d.value(KEY).cloned() else { return params };
    let Value::Mapping(mapping) = value else {
        d.wrong(KEY, "must be a section of names and values");
        return params;
    };
    for (name, value) in &mapping {
        let text = match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => None,
        };
        match (name.as_str(), text) {
            (Some(name), Some(_)) if OURS.contains(&name) => {
                d.wrong(KEY, &format!("{name} is set by the server itself"));
            }
            (Some(name), Some(text)) => _ = params.insert(name.to_owned(), text),
            _ => d.wrong(KEY, "must be a section of names and values"),
        }
    }
    params
}

fn pkce(d: &mut Document) -> Pkce {
    // On unless switched off: a provider that does not know it ignores it.
    let enabled = d.flag("oidc.pkce.enabled").unwrap_or(true);
    match (enabled, d.text("oidc.pkce.method").as_deref()) {
        (false, _) => Pkce::Off,
        (true, None | Some("S256")) => Pkce::S256,
        (true, Some("plain")) => {
            d.odd("oidc.pkce.method", "plain protects little; use S256 where the provider can");
            Pkce::Plain
        }
        (true, Some(other)) => {
            let text = format!("{other:?} is neither S256 nor plain");
            d.wrong("oidc.pkce.method", &text);
            Pkce::S256
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in() {
        let env = BTreeMap::from([("DIR".to_owned(), "/run/credentials".to_owned())]);
        assert_eq!(expanded("${DIR}/oidc", &env), "/run/credentials/oidc");
        assert_eq!(expanded("$DIR/oidc", &env), "/run/credentials/oidc");
        assert_eq!(expanded("/x/${NOT}y$", &env), "/x/y");
    }
}
