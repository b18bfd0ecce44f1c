//! People: REST, command line, and the laboratory.
//!
//! [`router`] is the HTTP face of one member, Headscale-shaped under `/api/v1` with our own verbs under
//! `/api/v1/cluster`. [`cli`] is every word of `hsraft` except those that start a member. Nothing here opens sessions or
//! sockets of the server: a handler reads a State or proposes a command, and the rest of the house notices.
//!
//! | file | holds |
//! |---|---|
//! | `v1/` | one resource a file; `types` is the wire, used by both ends |
//! | `v2/` | what programs for Tailscale's own API use of it |
//! | `grpc.rs`, `grpc/` | the same operations for Headscale's own command line |
//! | `cluster/` | members, leadership, join tokens |
//! | `access.rs` | what each route needs of a key, one table |
//! | `auth.rs`, `throttle.rs`, `secret_text.rs` | API keys, how often one may fail, keys as text |
//! | `describe.rs`, `describe/` | OpenAPI, Swagger and a page, from one table |
//! | `headscale.rs`, `headscale/` | Headscale's database: into the cluster and back |
//! | `status.rs` | refusal → HTTP status, one table |
//! | `origins.rs` | which pages a browser may let ask |
//! | `request.rs`, `backend.rs` | reading requests; what handlers ask of the cluster |
//! | `cli.rs`, `cli/`, `client.rs` | the words, a noun a file; the way to a member |
//! | `lab.rs`, `lab/` | a cluster on this machine in one command |

mod access;
mod auth;
mod backend;
pub mod cli;
mod client;
mod cluster;
mod describe;
mod files;
mod grpc;
mod headscale;
mod lab;
#[cfg(test)]
mod lone;
mod origins;
mod request;
pub mod secret_text;
pub mod stale;
mod status;
pub mod throttle;
pub mod v1;
mod v2;
mod version;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, Uri},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::BoxFuture;
use state_machine::{State, Timestamp, Webhook};
use tokio_util::sync::CancellationToken;

use crate::{auth::Guard, backend::Backend, request::Query, status::ApiError};

/// Fills bytes with randomness.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Sends a webhook a test event in somebody's name: the receiver's status, or why there was none.
pub type Tell = Arc<dyn Fn(Arc<Webhook>, String) -> BoxFuture<'static, Result<StatusCode, String>> + Send + Sync>;

/// What the router needs to know that the cluster does not tell it.
#[derive(Clone)]
pub struct RouterOptions {
    /// The world's entropy.
    pub random: Random,
    /// How webhooks are tried.
    pub tell: Tell,
    /// The time of day: the world's clock.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// `mkey:…`: the key clients know the cluster by.
    pub noise_key: String,
    /// What access tokens are signed with; the same at all members, and secret.
    pub token_key: [u8; 32],
    /// Cancelled when the member leaves: streams of events end, so that whoever follows goes to another member.
    pub leaving: CancellationToken,
    /// No key is asked for: only for the unix socket.
    pub trusted: bool,
    /// This member takes the policy from a file (`policy.mode: file`), so nobody else may set it here.
    pub policy_file: bool,
    /// No drill begins within these spans: from, until.
    pub drills_freeze: Vec<(Timestamp, Timestamp)>,
    /// Pages from these origins (`https://ui.example.com`, or `*`) may ask from a browser.
    pub allowed_origins: Vec<String>,
}

/// The HTTP face of this member: `/api/v1/…`, `/health`, `/version`, and the same operations as gRPC for callers that
/// speak HTTP/2.
///
/// On the client port callers prove themselves with an API key, and a request should carry
/// `axum::extract::ConnectInfo<SocketAddr>` as an extension, so that failures are counted by address. On the unix socket
/// ([`RouterOptions::trusted`]) no key is asked for.
pub fn router(cluster: raft::Cluster, options: RouterOptions) -> Router {
    router_over(Arc::new(cluster), options)
}

fn router_over(backend: Arc<dyn Backend>, options: RouterOptions) -> Router {
    let api = Api { backend, options: Arc::new(options), guard: Arc::default() };
    let v1 = v1::routes()
        .nest("/cluster", cluster::routes())
        .merge(headscale::endpoint::routes())
        .layer(middleware::from_fn_with_state(api.clone(), auth::check));
    Router::new()
        .nest("/api/v1", v1)
        .nest("/api/v2", v2::routes(&api))
        .merge(grpc::routes(&api))
        .merge(describe::routes())
        .route("/health", get(v1::health::ready))
        .route("/version", get(version::reply))
        .fallback(unknown_path)
        .layer(middleware::from_fn_with_state(api.clone(), origins::check))
        .layer(middleware::from_fn(stale::tell))
        .with_state(api)
}

async fn unknown_path(uri: Uri, headers: HeaderMap) -> Response {
    match grpc::is_meant(&headers) {
        true => grpc::unknown_method(uri.path()),
        false => ApiError::not_found(format!("no such path: {}", uri.path())).into_response(),
    }
}

/// How long a reader waits for this member to catch up with the cluster.
const CATCH_UP: Duration = Duration::from_millis(500);

/// What every handler holds.
#[derive(Clone)]
struct Api {
    backend: Arc<dyn Backend>,
    options: Arc<RouterOptions>,
    guard: Arc<Guard>,
}

impl Api {
    /// The state to answer from: what is certainly current, because consoles change at one member and look at another.
    /// Without a majority that cannot be had; then what this member has is better than nothing.
    /// `?consistency=local` does not ask around, `?consistency=linearizable` wants certainty or an error.
    async fn read(&self, query: &Query) -> Result<Arc<State>, ApiError> {
        match query.get("consistency") {
            None => match tokio::time::timeout(CATCH_UP, self.backend.confirm()).await {
                Ok(Ok(state)) => Ok(state),
                _ => {
                    stale::mark();
                    Ok(self.backend.latest())
                }
            },
            Some("local") => Ok(self.backend.latest()),
            Some("linearizable") => Ok(self.backend.confirm().await?),
            Some(other) => Err(ApiError::invalid(format!("consistency is {other:?}; it can be local or linearizable"))),
        }
    }

    /// The state to look things up in before changing them: what another member answered a moment ago is in it.
    async fn current(&self) -> Result<Arc<State>, ApiError> {
        Ok(self.backend.confirm().await?)
    }

    /// Has a command done; afterwards [`Backend::latest`] shows it.
    async fn propose(
        &self,
        caller: &auth::Caller,
        command: state_machine::Command,
    ) -> Result<state_machine::Outcome, ApiError> {
        Ok(self.backend.propose(&caller.by, command).await??)
    }

    /// The time of day, or the log's if that is later.
    fn now(&self) -> Timestamp {
        (self.options.now)().max(self.backend.latest().now())
    }

    /// A random number for choices the state machine makes.
    fn seed(&self) -> u64 {
        let mut bytes = [0; 8];
        (self.options.random)(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}
