//! `/api/v2`: what programs written for Tailscale's own API use of it, its Terraform provider among them.
//!
//! A cluster has one tailnet, so the name in the path says nothing: `-` and any other mean it. Objects are Tailscale's,
//! in its spelling; what a cluster has not is answered with 501, and a list of it stands in `NOT_HERE`.
//!
//! | file | holds |
//! |---|---|
//! | `oauth.rs` | client credentials for a token that any member takes |
//! | `scope.rs` | what a caller may do, by Tailscale's names; a table of routes |
//! | `keys.rs`, `devices.rs`, `acl.rs`, `dns.rs`, `settings.rs`, `users.rs` | a resource each |

mod acl;
mod devices;
mod dns;
mod keys;
pub(crate) mod oauth;
mod scope;
mod settings;
#[cfg(test)]
mod tests;
mod users;

use axum::{
    Router,
    http::{StatusCode, Uri},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;

use crate::{Api, status::ApiError};

/// Resources of Tailscale's that a cluster has not.
const NOT_HERE: &[&str] = &[
    "aws-external-id",
    "contacts",
    "device-invites",
    "logging",
    "posture",
    "services",
    "user-invites",
    "vip-services",
    "webhooks",
];

/// Every path below `/api/v2`.
pub(crate) fn routes(api: &Api) -> Router<Api> {
    Router::new()
        .route("/tailnet/{tailnet}/keys", get(keys::list).post(keys::create))
        .route("/tailnet/{tailnet}/keys/{id}", get(keys::one).delete(keys::delete))
        .route("/tailnet/{tailnet}/devices", get(devices::list))
        .route("/tailnet/{tailnet}/acl", get(acl::show).post(acl::set))
        .route("/tailnet/{tailnet}/acl/validate", post(acl::validate))
        .route("/tailnet/{tailnet}/dns/nameservers", get(dns::nameservers).post(dns::set_nameservers))
        .route("/tailnet/{tailnet}/dns/searchpaths", get(dns::search_paths).post(dns::set_search_paths))
        .route("/tailnet/{tailnet}/dns/split-dns", get(dns::split).put(dns::set_split).patch(dns::change_split))
        .route("/tailnet/{tailnet}/dns/preferences", get(dns::preferences).post(dns::set_preferences))
        .route("/tailnet/{tailnet}/dns/configuration", get(dns::configuration).post(dns::set_configuration))
        .route("/tailnet/{tailnet}/settings", get(settings::show).patch(settings::change))
        .route("/tailnet/{tailnet}/users", get(users::list))
        .route("/users/{id}", get(users::one))
        .route("/device/{id}", get(devices::one).delete(devices::delete))
        .route("/device/{id}/authorized", post(devices::authorize))
        .route("/device/{id}/ip", post(devices::set_address))
        .route("/device/{id}/name", post(devices::rename))
        .route("/device/{id}/tags", post(devices::set_tags))
        .route("/device/{id}/key", post(devices::set_key))
        .route("/device/{id}/expire", post(devices::expire))
        .route("/device/{id}/routes", get(devices::routes).post(devices::set_routes))
        .route("/device/{id}/attributes", get(devices::attributes))
        .fallback(unknown_path)
        .layer(middleware::from_fn_with_state(api.clone(), scope::check))
        .route("/oauth/token", post(oauth::token))
        .layer(middleware::map_response(in_their_words))
}

async fn unknown_path(uri: Uri) -> ApiError {
    let path = uri.path();
    match path.split('/').any(|part| NOT_HERE.contains(&part)) {
        true => ApiError::not_implemented(format!("{path}: this server has nothing of that kind")),
        false => ApiError::not_found(format!("no such path: {path}")),
    }
}

/// Refusals as programs for Tailscale's API read them: `message`, `data` and `status`.
async fn in_their_words(mut response: Response) -> Response {
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    let body = json!({
        "message": error.message(),
        "data": [],
        "status": response.status().as_u16(),
        "hsr": error.hsr().to_string(),
    });
    let mut told = (response.status(), axum::Json(body)).into_response();
    for (name, value) in response.headers() {
        if !told.headers().contains_key(name) && name != axum::http::header::CONTENT_LENGTH {
            told.headers_mut().insert(name, value.clone());
        }
    }
    told
}

/// Done, and nothing to tell.
fn done() -> Response {
    (StatusCode::OK, axum::Json(json!({}))).into_response()
}
