//! `/health` for load balancers and `/api/v1/health` for consoles: can this member read certainly current state?

use std::time::Duration;

use axum::{
    Json as Reply,
    extract::State as Shared,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::types::Health;
use crate::Api;

/// Health checks give up sooner than callers do.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether this member can say what is certainly current.
pub(crate) async fn is_current(api: &Api) -> bool {
    matches!(tokio::time::timeout(PATIENCE, api.backend.confirm()).await, Ok(Ok(_)))
}

/// `GET /health`: 200 `pass` or 500 `fail`, as Headscale does.
pub(crate) async fn ready(Shared(api): Shared<Api>) -> Response {
    let (status, body) = match is_current(&api).await {
        true => (StatusCode::OK, r#"{"status":"pass"}"#),
        false => (StatusCode::INTERNAL_SERVER_ERROR, r#"{"status":"fail"}"#),
    };
    (status, [(header::CONTENT_TYPE, "application/health+json; charset=utf-8")], body).into_response()
}

/// `GET /api/v1/health`.
pub(crate) async fn database(Shared(api): Shared<Api>) -> Reply<Health> {
    Reply(Health { database_connectivity: is_current(&api).await })
}
