//! REST v1: Headscale's resources under `/api/v1`, one a file.
//!
//! Each file has `view` functions from State to the wire and handlers of a few lines: read the request, propose a
//! command, show what this member has applied.

pub mod types;

pub(crate) mod api_keys;
pub(crate) mod health;
mod legacy;
pub(crate) mod logins;
pub(crate) mod nodes;
pub(crate) mod policy;
pub(crate) mod pre_auth_keys;
pub(crate) mod users;

use axum::{
    Router,
    routing::{get, post},
};

use crate::Api;

/// Every path below `/api/v1` that Headscale has.
pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/user", get(users::list).post(users::create))
        .route("/user/{id}", get(legacy::user).delete(users::delete))
        .route("/user/{id}/rename/{name}", post(users::rename))
        .route("/preauthkey", get(pre_auth_keys::list).post(pre_auth_keys::create).delete(pre_auth_keys::delete))
        .route("/preauthkey/expire", post(pre_auth_keys::expire))
        .route("/node", get(nodes::list))
        .route("/node/register", post(logins::register_by_key))
        .route("/node/backfillips", post(nodes::backfill))
        .route("/node/{id}", get(nodes::one).delete(nodes::delete))
        .route("/node/{id}/tags", post(nodes::set_tags))
        .route("/node/{id}/approve_routes", post(nodes::approve_routes))
        .route("/node/{id}/expire", post(nodes::expire))
        .route("/node/{id}/rename/{name}", post(nodes::rename))
        .route("/node/{id}/user", post(nodes::give))
        .route("/auth/register", post(logins::register))
        .route("/auth/approve", post(logins::approve))
        .route("/auth/reject", post(logins::reject))
        .route("/debug/node", post(logins::pretend))
        .route("/apikey", get(api_keys::list).post(api_keys::create))
        .route("/apikey/expire", post(api_keys::expire))
        .route("/apikey/{prefix}", axum::routing::delete(api_keys::delete))
        .route("/policy", get(policy::latest).put(policy::set))
        .route("/policy/check", post(policy::check))
        .route("/policy/history", get(policy::history))
        .route("/health", get(health::database))
        .merge(legacy::routes())
}

/// An outcome that does not belong to the command; only a mistake of ours can bring it.
pub(crate) fn odd(outcome: state_machine::Outcome) -> crate::status::ApiError {
    crate::status::ApiError::internal(format!("the state machine answered beside the point: {outcome:?}"))
}
