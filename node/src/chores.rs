//! Housekeeping: what must happen without anybody asking.
//!
//! Every member runs every chore; those of the leader wait while another member leads. A chore never holds a truth of
//! its own: it looks at the state, proposes a command, and looks again. (Announcing a member to the others is the log's
//! own business.)

mod addresses;
pub mod client_certificate;
mod derp_map;
pub mod draining;
mod elapse;
mod member_loss;
mod orders;
mod policy_drift;
mod settings_drift;
mod text_records;
pub mod webhooks;

use std::{sync::Arc, time::Duration};

use raft::Cluster;
use state_machine::Timestamp;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use world::{Clock, World};

use crate::{
    observe::Metrics,
    options::{Options, Start},
};

pub use settings_drift::{differences, differing_keys};

/// After a proposal that failed: nobody leads, or the leader has just changed.
const RETRY: Duration = Duration::from_millis(500);

/// Starts all chores; they end with `stop`.
pub fn start(
    cluster: &Cluster,
    world: &World,
    options: &Options,
    policy_file: watch::Receiver<Option<Arc<str>>>,
    metrics: &Metrics,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let (name, clock) = (&options.name, &world.clock);
    let until_stop = |what: &'static str, chore: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let (stop, chore) = (stop.clone(), cluster.vital(what, chore));
        tasks.spawn(async move {
            stop.run_until_cancelled(chore).await;
        });
    };
    until_stop("elapse", Box::pin(elapse::run(cluster.clone(), clock.clone(), name.to_owned())));
    until_stop("member loss", Box::pin(member_loss::run(cluster.clone(), name.to_owned())));
    until_stop("addresses", Box::pin(addresses::run(cluster.clone(), without_secrets(options), world.clone())));
    if options.policy.is_some() {
        until_stop("policy drift", Box::pin(policy_drift::run(cluster.clone(), policy_file, metrics.clone())));
    }
    // Whoever leads orders for all, also for members whose files differ from its own.
    let outside = crate::acme::Outside { world: world.clone(), authorities: authorities(options) };
    let tell = webhooks::run(sender(cluster, world, options), metrics.clone(), name.to_owned());
    until_stop("webhooks", Box::pin(tell));
    let dns = options.cert_dns.update.clone();
    let told =
        text_records::run(cluster.clone(), world.clone(), dns, name.to_owned(), metrics.cert_dns_failures.clone());
    until_stop("text records", Box::pin(told));
    until_stop("orders", Box::pin(orders::run(cluster.clone(), outside, name.to_owned())));
    if !options.derp.urls.is_empty() {
        until_stop(
            "derp map",
            Box::pin(derp_map::run(cluster.clone(), options.derp.clone(), world.clone(), name.to_owned())),
        );
    }
}

/// A PEM file to trust instead of the system's.
fn authorities(options: &Options) -> Option<std::path::PathBuf> {
    let named = options.client_acme.as_ref().and_then(|acme| acme.authorities.clone());
    named.or_else(|| options.derp.authorities.clone())
}

/// What tells webhooks.
pub fn sender(cluster: &Cluster, world: &World, options: &Options) -> webhooks::Sender {
    webhooks::Sender { cluster: cluster.clone(), world: world.clone(), authorities: authorities(options) }
}

/// Options without what was for the start alone: tasks that live on keep no secrets.
fn without_secrets(options: &Options) -> Options {
    Options { noise_private: None, start: Start::Continue, ..options.clone() }
}

fn now(clock: &dyn Clock) -> Timestamp {
    Timestamp(clock.now_ms())
}
