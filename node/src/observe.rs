//! Logs and metrics of a member, and whether it is well.

use std::io::IsTerminal;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};
use state_machine::{MemberState, State};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// Changes what the log tells while it runs. Cheap to clone.
#[derive(Clone)]
pub struct LogFilter(Option<reload::Handle<EnvFilter, tracing_subscriber::Registry>>);

impl LogFilter {
    /// Another filter from now on; why not, if not. The old one stays then.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(with_quiet_engine(filter)).map_err(|error| error.to_string())?;
        match &self.0 {
            Some(handle) => handle.reload(filter).map_err(|error| error.to_string()),
            None => Err("the log was started by somebody else".to_owned()),
        }
    }
}

/// Starts writing the log to standard error. `filter` is a level or a filter as `RUST_LOG` takes it; a second call does
/// nothing.
pub fn start_logging(filter: &str, json: bool) -> LogFilter {
    let filter = EnvFilter::try_new(with_quiet_engine(filter)).unwrap_or_else(|_| EnvFilter::new("info,openraft=warn"));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let writer = std::io::stderr;
    let started = if json {
        registry.with(tracing_subscriber::fmt::layer().json().with_writer(writer)).try_init()
    } else {
        registry
            .with(tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(writer))
            .try_init()
    };
    match started {
        Ok(()) => LogFilter(Some(handle)),
        Err(_) => {
            tracing::debug!("logging was started already");
            LogFilter(None)
        }
    }
}

/// The engine tells at `info` what it does with every message; who wants that names it in the filter.
fn with_quiet_engine(filter: &str) -> String {
    let quiet = if filter.contains("openraft") { "" } else { ",openraft=warn" };
    format!("{filter}{quiet}")
}

/// What the client side of a member counts. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    /// Connections that were accepted on the client port.
    pub connections: IntCounter,
    /// Open connections on the client port.
    pub connections_open: IntGauge,
    /// 1 while the client port takes connections.
    pub client_port_open: IntGauge,
    /// Connections refused by a limit, by reason.
    pub connections_refused: IntCounterVec,
    /// Noise handshakes, by how they ended.
    pub handshakes: IntCounterVec,
    /// Noise connections that ended by a broken record or a protocol error.
    pub connections_broken: IntCounter,
    /// Requests inside Noise, by path and status.
    pub requests: IntCounterVec,
    /// Open map streams.
    pub sessions: IntGauge,
    /// Map streams that ended, by reason.
    pub sessions_ended: IntCounterVec,
    /// Map frames, by type.
    pub frames: IntCounterVec,
    /// Bytes of map frames, by type, as they went out.
    pub frame_bytes: IntCounterVec,
    /// Seconds it took to draw a full map.
    pub full_map_seconds: Histogram,
    /// Seconds it took to redraw the atlas.
    pub redraw_seconds: Histogram,
    /// Reports of clients per command.
    pub report_batch: Histogram,
    /// Stream changes per command.
    pub presence_batch: Histogram,
    /// 1 while this member's policy file says something else than what is in force.
    pub policy_file_differs: IntGauge,
    /// Requests to webhooks, by whether the receiver took them.
    pub webhook_requests: IntCounterVec,
    /// Webhooks whose last request failed; at the leader.
    pub webhooks_failing: IntGauge,
    /// Until the certificate shown to clients ends.
    pub client_certificate_left: IntGauge,
    /// Requests to receivers of webhooks that were not taken.
    pub webhook_failures: IntCounter,
    /// Answers of the member's DNS port, by what was said.
    pub cert_dns_answers: IntCounterVec,
    /// Updates the operator's DNS server did not take.
    pub cert_dns_failures: IntCounter,
    /// Requests of people and their programs, by method, path and status.
    pub api_requests: IntCounterVec,
    /// Seconds until their answers began, by method and path.
    pub api_seconds: HistogramVec,
    tailnet: Tailnet,
}

/// What the tailnet is made of; counted when somebody looks.
#[derive(Clone)]
struct Tailnet {
    users: IntGauge,
    nodes: IntGauge,
    online: IntGauge,
    expired: IntGauge,
    routes: IntGauge,
    silent: IntGauge,
    orders_failing: IntGauge,
    level: IntGauge,
}

impl Metrics {
    /// Makes and registers all of them.
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histogram = |name: &str, help: &str, start: f64| {
            let buckets = prometheus::exponential_buckets(start, 2.0, 14)?;
            let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        Ok(Metrics {
            connections: counter("hsraft_client_connections_total", "Connections accepted on the client port.")?,
            connections_open: gauge("hsraft_client_connections_open", "Connections open on the client port.")?,
            client_port_open: gauge(
                "hsraft_client_port_open",
                "1 while the client port is open; 0 while this member cannot serve and sends clients to others.",
            )?,
            connections_refused: counters(
                "hsraft_client_connections_refused_total",
                "Connections closed at once because of a limit.",
                &["reason"],
            )?,
            handshakes: counters("hsraft_noise_handshakes_total", "Noise handshakes by result.", &["result"])?,
            connections_broken: counter(
                "hsraft_noise_connections_broken_total",
                "Noise connections ended by a malformed record or HTTP/2 error.",
            )?,
            requests: counters("hsraft_machine_requests_total", "Requests inside Noise.", &["path", "status"])?,
            sessions: gauge("hsraft_map_sessions_open", "Map streams open at this member.")?,
            sessions_ended: counters(
                "headscale_mapresponse_ended_total",
                "Map streams by how they ended.",
                &["reason"],
            )?,
            frames: counters("headscale_mapresponse_sent_total", "Map frames sent.", &["status", "type"])?,
            frame_bytes: counters("hsraft_map_frame_bytes_total", "Bytes of map frames sent.", &["type"])?,
            full_map_seconds: histogram("hsraft_map_full_seconds", "Time to draw a full map.", 0.000_1)?,
            redraw_seconds: histogram("hsraft_atlas_redraw_seconds", "Time to redraw the atlas.", 0.000_05)?,
            report_batch: histogram("hsraft_report_batch_size", "Reports of clients in one command.", 1.0)?,
            presence_batch: histogram("hsraft_presence_batch_size", "Opened and closed streams in one command.", 1.0)?,
            webhook_requests: counters(
                "hsraft_webhook_requests_total",
                "Requests to webhooks, by whether the receiver took them.",
                &["result"],
            )?,
            webhooks_failing: gauge("hsraft_webhooks_failing", "Webhooks whose last request failed; at the leader.")?,
            policy_file_differs: gauge(
                "hsraft_policy_file_differs",
                "1 while this member's policy file differs from the policy in force.",
            )?,
            client_certificate_left: gauge(
                "hsraft_client_certificate_seconds_left",
                "Until the certificate shown to clients ends; 0: it has; -1: this member speaks plain HTTP.",
            )?,
            webhook_failures: counter(
                "hsraft_webhook_failures_total",
                "Requests to receivers of webhooks that were not taken and will be made again.",
            )?,
            cert_dns_answers: counters(
                "hsraft_cert_dns_answers_total",
                "Answers of this member's DNS port for certificate authorities.",
                &["said"],
            )?,
            cert_dns_failures: counter(
                "hsraft_cert_dns_failures_total",
                "Updates for certificate authorities that the DNS server did not take and that are tried again.",
            )?,
            api_requests: counters(
                "headscale_api_requests_total",
                "Requests to the API, sign-in pages included.",
                &["method", "path", "status"],
            )?,
            api_seconds: {
                // Half a millisecond to eight seconds.
                let buckets = prometheus::exponential_buckets(0.000_5, 2.0, 15)?;
                let options = HistogramOpts::new(
                    "headscale_api_request_duration_seconds",
                    "Time until the answer of the API began.",
                );
                let metric = HistogramVec::new(options.buckets(buckets), &["method", "path"])?;
                registry.register(Box::new(metric.clone()))?;
                metric
            },
            tailnet: Tailnet {
                users: gauge("hsraft_users", "Users of the tailnet.")?,
                nodes: gauge("hsraft_nodes", "Nodes of the tailnet.")?,
                online: gauge("headscale_connected_nodes", "Nodes that are told online.")?,
                expired: gauge("hsraft_nodes_expired", "Nodes whose key has expired.")?,
                routes: gauge("hsraft_routes_served", "Subnet routes some node serves now.")?,
                silent: gauge(
                    "hsraft_members_silent",
                    "Members so long silent that their relays were left out of the DERP map.",
                )?,
                orders_failing: gauge(
                    "hsraft_certificate_orders_failing",
                    "Certificates for clients that an authority did not give when it was last asked.",
                )?,
                level: gauge("hsraft_feature_level", "The feature level the cluster behaves as.")?,
            },
        })
    }

    /// Counts the tailnet anew.
    pub fn count(&self, state: &State) {
        let Tailnet { users, nodes, online, expired, routes, silent, orders_failing, level } = &self.tailnet;
        let active = state.members().values().filter(|member| member.state == MemberState::Active);
        silent.set(active.filter(|member| member.silent).count() as i64);
        orders_failing.set(state.certificates().values().filter(|row| !row.error.is_empty()).count() as i64);
        level.set(i64::from(state.feature_level()));
        users.set(state.users().len() as i64);
        nodes.set(state.nodes().len() as i64);
        online.set(state.presences().values().filter(|presence| presence.online).count() as i64);
        expired.set(state.expired().len() as i64);
        routes.set(state.primaries().len() as i64);
    }
}

/// Names that operators' dashboards and alert rules ask for, and what they are here.
const ALSO: &[(&str, &str)] = &[
    ("derp_connections", "derp_current_connections"),
    ("derp_home_connections", "derp_current_home_connections"),
    ("derp_bytes_sent_total", "derp_bytes_sent"),
    ("derp_bytes_received_total", "derp_bytes_received"),
    // What waited for a database there waits for the log here.
    ("headscale_db_query_duration_seconds", "hsraft_raft_sync_seconds"),
    ("headscale_db_errors_total", "hsraft_raft_proposal_failures_total"),
    ("headscale_nodestore_nodes", "hsraft_nodes"),
];

/// All metrics in Prometheus' text form, some of them under two names.
pub fn render(registry: &Registry) -> String {
    let mut families = registry.gather();
    for (name, of) in ALSO {
        if let Some(mut family) = families.iter().find(|family| family.name() == *of).cloned() {
            family.set_name((*name).to_owned());
            families.push(family);
        }
    }
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
        tracing::warn!(%error, "metrics could not be written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_others_know_tell_the_same() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        derp::metrics::Metrics::new().register(&registry).unwrap();
        metrics.tailnet.nodes.set(7);
        metrics.tailnet.online.set(3);
        metrics.api_requests.with_label_values(&["GET", "/api/v1/node", "200"]).inc();
        metrics.api_seconds.with_label_values(&["GET", "/api/v1/node"]).observe(0.003);
        let text = render(&registry);
        for line in [
            "headscale_connected_nodes 3",
            "headscale_nodestore_nodes 7",
            "derp_connections 0",
            "derp_home_connections 0",
            "derp_bytes_sent_total 0",
            "derp_bytes_received_total 0",
            "headscale_api_requests_total{method=\"GET\",path=\"/api/v1/node\",status=\"200\"} 1",
            "headscale_api_request_duration_seconds_bucket{method=\"GET\",path=\"/api/v1/node\",le=\"0.004\"} 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
        let mut names: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "no name twice");
    }

    #[test]
    fn metrics_have_names_and_help() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.handshakes.with_label_values(&["malformed"]).inc();
        let text = render(&registry);
        assert!(text.contains("hsraft_noise_handshakes_total{result=\"malformed\"} 1"), "{text}");
        assert!(text.contains("# HELP hsraft_map_sessions_open "), "{text}");
        assert!(Metrics::new(&registry).is_err(), "registered twice");
    }
}
