//! What the relay counts, under the names dashboards for Tailscale's own relay know.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};

/// All of the relay's numbers.
pub struct Metrics {
    pub accepts: IntCounter,
    pub current_connections: IntGauge,
    pub current_home_connections: IntGauge,
    pub current_notideal_connections: IntGauge,
    pub clients_total: IntGauge,
    pub clients_local: IntGauge,
    pub current_dup_client_keys: IntGauge,
    pub current_dup_client_conns: IntGauge,
    pub total_dup_client_conns: IntCounter,
    pub watchers: IntGauge,
    pub bytes_received: IntCounter,
    pub bytes_sent: IntCounter,
    pub packets_received: IntCounter,
    pub packets_received_kind: IntCounterVec,
    pub packets_sent: IntCounter,
    pub packets_dropped: IntCounterVec,
    pub bytes_dropped: IntCounterVec,
    pub packets_forwarded_in: IntCounter,
    pub unknown_frames: IntCounter,
    pub home_moves_in: IntCounter,
    pub home_moves_out: IntCounter,
    pub got_ping: IntCounter,
    pub sent_pong: IntCounter,
    pub peer_gone_disconnected_frames: IntCounter,
    pub peer_gone_not_here_frames: IntCounter,
    pub sclient_write_timeouts: IntCounter,
    pub refused: IntCounterVec,
    pub ended: IntCounterVec,
    pub requests: IntCounterVec,
    pub stun_requests: IntCounterVec,
    pub stun_addrfamily: IntCounterVec,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let dropped = ["reason", "kind"];
        Metrics {
            accepts: counter("derp_accepts", "Requests for a relayed connection."),
            current_connections: gauge("derp_current_connections", "Connections that passed the handshake."),
            current_home_connections: gauge(
                "derp_current_home_connections",
                "Clients that call this relay their home.",
            ),
            current_notideal_connections: gauge(
                "derp_current_notideal_connections",
                "Clients that would rather be connected to another relay of the region.",
            ),
            clients_total: gauge("derp_clients_total", "Client keys known, here and elsewhere."),
            clients_local: gauge("derp_clients_local", "Client keys connected here."),
            current_dup_client_keys: gauge("derp_current_dup_client_keys", "Keys with more than one connection."),
            current_dup_client_conns: gauge("derp_current_dup_client_conns", "Connections of those keys."),
            total_dup_client_conns: counter(
                "derp_total_dup_client_conns",
                "Connections of a key that was already here.",
            ),
            watchers: gauge("derp_watchers", "Connections that watch who comes and goes."),
            bytes_received: counter("derp_bytes_received", "Bytes of packets received from clients."),
            bytes_sent: counter("derp_bytes_sent", "Bytes handed to clients' connections, frame headers included."),
            packets_received: counter("derp_packets_received", "Packets received from clients."),
            packets_received_kind: labelled(
                "derp_packets_received_kind",
                "Packets received from clients, by kind: disco (path discovery) or other.",
                &["kind"],
            ),
            packets_sent: counter("derp_packets_sent", "Packets handed to clients' connections."),
            packets_dropped: labelled("derp_packets_dropped", "Packets that were not delivered.", &dropped),
            bytes_dropped: labelled("derp_bytes_dropped", "Bytes of packets that were not delivered.", &dropped),
            packets_forwarded_in: counter(
                "derp_packets_forwarded_in",
                "Packets other relays of the mesh forwarded here.",
            ),
            unknown_frames: counter("derp_unknown_frames", "Frames of a type this relay does not know, skipped."),
            home_moves_in: counter("derp_home_moves_in", "Clients that made this relay their home after a while."),
            home_moves_out: counter("derp_home_moves_out", "Clients that chose another home after a while."),
            got_ping: counter("derp_got_ping", "Pings received."),
            sent_pong: counter("derp_sent_pong", "Pings answered."),
            peer_gone_disconnected_frames: counter(
                "derp_peer_gone_disconnected_frames",
                "Times a client was told that a peer hung up.",
            ),
            peer_gone_not_here_frames: counter(
                "derp_peer_gone_not_here_frames",
                "Times a client was told that a peer is not connected here.",
            ),
            sclient_write_timeouts: counter(
                "derp_sclient_write_timeouts",
                "Clients cut off because they took nothing.",
            ),
            refused: labelled("derp_refused", "Connections refused before they were let in, by reason.", &["reason"]),
            ended: labelled("derp_ended", "Connections that were let in and ended, by reason.", &["reason"]),
            requests: labelled("derp_http_requests", "Other requests than those for a relayed connection.", &["path"]),
            stun_requests: labelled(
                "stun_requests",
                "Packets on the STUN socket, by what became of them.",
                &["disposition"],
            ),
            stun_addrfamily: labelled("stun_addrfamily", "STUN requests answered, by family of address.", &["family"]),
        }
    }

    /// Everything, for a registry.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        macro_rules! boxed {
            ($($name:ident)*) => { vec![$(Box::new(self.$name.clone()) as Box<dyn Collector>),*] };
        }
        boxed![
            accepts current_connections current_home_connections current_notideal_connections clients_total
            clients_local current_dup_client_keys current_dup_client_conns total_dup_client_conns watchers
            bytes_received bytes_sent packets_received packets_received_kind packets_sent packets_dropped
            bytes_dropped packets_forwarded_in unknown_frames home_moves_in home_moves_out got_ping sent_pong
            peer_gone_disconnected_frames peer_gone_not_here_frames sclient_write_timeouts refused ended requests
            stun_requests stun_addrfamily
        ]
    }

    /// Registers everything.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.collectors().into_iter().try_for_each(|collector| registry.register(collector))
    }

    /// Counts packets that were not delivered.
    pub(crate) fn dropped(&self, reason: &str, kind: &str, packets: u64, bytes: u64) {
        self.packets_dropped.with_label_values(&[reason, kind]).inc_by(packets);
        self.bytes_dropped.with_label_values(&[reason, kind]).inc_by(bytes);
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

const VALID: &str = "the names and labels in this file are valid";

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect(VALID)
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect(VALID)
}

fn labelled(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect(VALID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_can_be_registered_together() {
        let metrics = Metrics::new();
        let registry = Registry::new();
        metrics.register(&registry).unwrap();
        metrics.dropped("queue_head", "other", 2, 100);
        metrics.accepts.inc();
        let names: Vec<String> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert!(names.contains(&"derp_packets_dropped".to_owned()) && names.contains(&"derp_accepts".to_owned()));
    }
}
