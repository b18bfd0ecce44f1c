//! `/api/v1/cluster`: members, leadership, join tokens. Ours; Headscale has one process.

mod members;
mod real;

pub mod tokens;
pub mod view;

use axum::{
    Router,
    routing::{delete, get, post},
};

use crate::Api;

/// Every path below `/api/v1/cluster`.
pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/members", get(members::list))
        .route("/members/{id}", delete(members::remove))
        .route("/status", get(members::status))
        .route("/transfer-leader", post(members::transfer_leader))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}", delete(tokens::revoke))
}
