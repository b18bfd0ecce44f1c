//! `/api/v1/cluster`: members, leadership, join tokens, backups, questions about policies, SSH checks. Ours; Headscale has
//! one process.

pub mod addresses;
mod audit;
mod backup;
pub mod certificates;
mod discovery;
pub mod drills;
mod events;
mod members;
mod real;

pub use audit::{Line, Lines, START};

pub mod policy;
pub mod ssh_checks;
pub mod tokens;
pub mod upgrade;
pub mod verify;
pub mod view;
pub mod webhooks;

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
        .route("/members/{id}/role", post(members::set_role))
        .route("/members/{id}/draining", post(members::set_draining))
        .route("/status", get(members::status))
        .route("/audit", get(audit::list))
        .route("/events", get(events::follow))
        .route("/prometheus/nodes", get(discovery::nodes))
        .route("/prometheus/members", get(discovery::members))
        .route("/backup", get(backup::save))
        .route("/certificates", get(certificates::status))
        .route("/certificates/renew", post(certificates::renew))
        .route("/certificates/rotate", post(certificates::rotate))
        .route("/secrets/reseal", post(certificates::reseal))
        .route("/secrets/sealing-key", post(certificates::rotate_sealing_key))
        .route("/recovery-key", post(backup::create_key))
        .route("/recovery-key/confirm", post(backup::confirm_key))
        .route("/drill", get(drills::look).post(drills::begin).delete(drills::stop))
        .route("/drill/{id}", delete(drills::end))
        .route("/drill/{id}/faults", post(drills::inject).delete(drills::heal))
        .route("/upgrade", get(upgrade::status))
        .route("/upgrade/finalize", post(upgrade::finalize))
        .route("/transfer-leader", post(members::transfer_leader))
        .route("/verify", post(verify::compare))
        .route("/scrub", get(verify::scrub).post(verify::begin_scrub))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}", delete(tokens::revoke))
        .route("/policy/check", post(policy::check))
        .route("/policy/why", get(policy::why))
        .route("/policy/impact", post(policy::impact))
        .route("/policy/rollback", post(policy::rollback))
        .route("/nodes/waiting", get(addresses::waiting))
        .route("/nodes/{id}/addresses", post(addresses::set_addresses))
        .route("/nodes/{id}/approval", post(addresses::approve))
        .route("/users/ranges", get(addresses::ranges))
        .route("/users/{id}/ranges", post(addresses::set_ranges))
        .route("/webhooks", get(webhooks::list).post(webhooks::create))
        .route("/webhooks/{id}", delete(webhooks::delete))
        .route("/webhooks/{id}/test", post(webhooks::test))
        .route("/ssh-checks", get(ssh_checks::list))
        .route("/ssh-checks/{id}/approve", post(ssh_checks::approve))
        .route("/ssh-checks/{id}/reject", post(ssh_checks::reject))
}
