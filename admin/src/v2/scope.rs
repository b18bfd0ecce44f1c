//! What a caller of `/api/v2` may do, by the names Tailscale has for it.

use std::{collections::BTreeSet, net::SocketAddr};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State as Shared},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use state_machine::{ApiKey, Role};

use super::oauth;
use crate::{
    Api,
    auth::{self, Caller, Denied},
    status::ApiError,
};

/// Names of what may be done, each also with `:read`. Those on the right are older names for the same.
const SCOPES: &[(&str, &[&str])] = &[
    ("all", &[]),
    ("api_access_tokens", &[]),
    ("auth_keys", &[]),
    ("devices:core", &["devices"]),
    ("devices:posture_attributes", &[]),
    ("devices:routes", &["routes"]),
    ("dns", &[]),
    ("feature_settings", &[]),
    ("oauth_keys", &[]),
    ("policy_file", &["acl"]),
    ("users", &[]),
];

/// What each route needs: any one of these, with `:read` for `GET`. A route without a row needs `all`.
const ROUTES: &[(&str, &[&str])] = &[
    ("/tailnet/{tailnet}/keys", &["auth_keys", "oauth_keys", "api_access_tokens"]),
    ("/tailnet/{tailnet}/keys/{id}", &["auth_keys", "oauth_keys", "api_access_tokens"]),
    ("/tailnet/{tailnet}/devices", &["devices:core"]),
    ("/tailnet/{tailnet}/acl", &["policy_file"]),
    ("/tailnet/{tailnet}/acl/validate", &["policy_file"]),
    ("/tailnet/{tailnet}/dns/nameservers", &["dns"]),
    ("/tailnet/{tailnet}/dns/searchpaths", &["dns"]),
    ("/tailnet/{tailnet}/dns/split-dns", &["dns"]),
    ("/tailnet/{tailnet}/dns/preferences", &["dns"]),
    ("/tailnet/{tailnet}/dns/configuration", &["dns"]),
    ("/tailnet/{tailnet}/settings", &["feature_settings"]),
    ("/tailnet/{tailnet}/users", &["users"]),
    ("/users/{id}", &["users"]),
    ("/device/{id}", &["devices:core"]),
    ("/device/{id}/authorized", &["devices:core"]),
    ("/device/{id}/ip", &["devices:core"]),
    ("/device/{id}/name", &["devices:core"]),
    ("/device/{id}/tags", &["devices:core"]),
    ("/device/{id}/key", &["devices:core"]),
    ("/device/{id}/expire", &["devices:core"]),
    ("/device/{id}/routes", &["devices:routes"]),
    ("/device/{id}/attributes", &["devices:posture_attributes", "devices:core"]),
];

/// What a caller may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    pub scopes: BTreeSet<String>,
    /// What keys made under it carry; empty: whatever is asked for.
    pub tags: BTreeSet<String>,
}

impl Grant {
    /// What a key grants: all that its role may, or less for an OAuth client.
    pub fn of(key: &ApiKey) -> Result<Grant, &'static str> {
        let scopes = match key.role {
            _ if !key.scopes.is_empty() => key.scopes.clone(),
            Role::Admin => ["all".to_owned()].into(),
            Role::ReadOnly => ["all:read".to_owned()].into(),
            Role::User => return Err("this API key reaches only what is its user's, and nothing of /api/v2"),
        };
        Ok(Grant { scopes, tags: key.tags.clone() })
    }

    /// Whoever may open the unix socket.
    fn everything() -> Grant {
        Grant { scopes: ["all".to_owned()].into(), tags: BTreeSet::new() }
    }

    /// Whether it reaches what `scope` names; writing is what its `:read` does not allow.
    pub fn allows(&self, scope: &str, write: bool) -> bool {
        let has = |name: &str| self.scopes.contains(name) || (!write && self.scopes.contains(&format!("{name}:read")));
        has("all") || has(scope)
    }

    /// Whether it reaches all that another one would.
    pub fn covers(&self, scope: &str) -> bool {
        match scope.strip_suffix(":read") {
            Some(read) => self.allows(read, false),
            None => self.allows(scope, true),
        }
    }
}

/// The scope somebody named, under the name we keep.
pub fn known(name: &str) -> Result<String, ApiError> {
    let (base, read) = match name.strip_suffix(":read") {
        Some(base) => (base, ":read"),
        None => (name, ""),
    };
    let found = SCOPES.iter().find(|(name, older)| *name == base || older.contains(&base));
    found.map(|(name, _)| format!("{name}{read}")).ok_or_else(|| {
        let names: Vec<&str> = SCOPES.iter().map(|(name, _)| *name).collect();
        ApiError::invalid(format!("no such scope: {name:?}; there are {}, each also with :read", names.join(", ")))
    })
}

/// Lets a request through when its key or token reaches so far.
pub async fn check(Shared(api): Shared<Api>, mut request: Request, next: Next) -> Response {
    if api.options.trusted {
        request.extensions_mut().insert(Caller::local());
        request.extensions_mut().insert(Grant::everything());
        return next.run(request).await;
    }
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let text = credential(request.headers()).unwrap_or_default();
    let path = request.uri().path().to_owned();
    let proved = match text.starts_with(oauth::TOKEN) {
        true => oauth::prove(&api, &text, from, &path).await,
        false => auth::identify(&api, &text, from, &path)
            .await
            .and_then(|(key, caller)| Ok((caller, Grant::of(&key).map_err(Denied::Role)?))),
    };
    let (caller, grant) = match proved {
        Ok(proved) => proved,
        Err(denied) => return refused(denied),
    };
    let template = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    if let Some(template) = template
        && !reaches(&grant, request.method(), &template)
    {
        let needs = needs(&template).join(" or ");
        let why = format!("calling actor does not have enough permissions: this needs the scope {needs}");
        return ApiError::forbidden(why).into_response();
    }
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(grant);
    next.run(request).await
}

fn needs(template: &str) -> &'static [&'static str] {
    let path = template.strip_prefix("/api/v2").unwrap_or(template);
    ROUTES.iter().find(|(at, _)| *at == path).map_or(&["all"], |(_, scopes)| scopes)
}

fn reaches(grant: &Grant, method: &Method, template: &str) -> bool {
    // Asks whether a policy would be taken, and changes nothing.
    let reads = matches!(*method, Method::GET | Method::HEAD) || template.ends_with("/acl/validate");
    needs(template).iter().any(|scope| grant.allows(scope, !reads))
}

/// The user name of Basic, or what Bearer carries.
fn credential(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    basic(headers).map(|(name, _)| name)
}

/// User name and password of Basic (RFC 7617).
pub fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    let bytes = BASE64_STANDARD.decode(rest.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let (name, password) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// Who was not let through, in Tailscale's words.
pub fn refused(denied: Denied) -> Response {
    match denied {
        Denied::Unknown => {
            ApiError::unauthorized("API token invalid; make a key with: hsraft apikeys create").into_response()
        }
        Denied::TooOften(wait) => auth::too_many(wait),
        Denied::Role(why) => ApiError::forbidden(why).into_response(),
    }
}
