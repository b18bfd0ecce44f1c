//! Prometheus collectors of this room.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntGauge, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// All collectors; register once per member.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) store: StoreMetrics,
    pub(crate) apply: ApplyMetrics,
    pub(crate) term: IntGauge,
    pub(crate) leader: IntGauge,
    pub(crate) is_leader: IntGauge,
    pub(crate) applied: IntGauge,
    pub(crate) last_log: IntGauge,
    pub(crate) voters: IntGauge,
    pub(crate) learners: IntGauge,
    pub(crate) lag_max: IntGauge,
    pub(crate) proposals: IntCounter,
    pub(crate) proposal_failures: IntCounter,
    pub(crate) forwarded: IntCounter,
}

/// The disk.
#[derive(Clone)]
pub struct StoreMetrics {
    pub(crate) sync_seconds: Histogram,
}

/// The state machine.
#[derive(Clone)]
pub struct ApplyMetrics {
    pub(crate) entries: IntCounter,
    pub(crate) rows: IntCounter,
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a valid metric name")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("a valid metric name")
}

impl Default for Metrics {
    fn default() -> Metrics {
        let sync = HistogramOpts::new("hsraft_raft_sync_seconds", "Time one sync of the write-ahead log takes")
            .buckets(prometheus::exponential_buckets(0.000_1, 2.0, 16).expect("valid buckets"));
        Metrics {
            store: StoreMetrics { sync_seconds: Histogram::with_opts(sync).expect("a valid metric name") },
            apply: ApplyMetrics {
                entries: counter("hsraft_raft_applied_entries_total", "Log entries applied by this member"),
                rows: counter("hsraft_raft_changed_rows_total", "Rows written because of applied entries"),
            },
            term: gauge("hsraft_raft_term", "Raft term"),
            leader: gauge("hsraft_raft_leader", "Id of the leading member, 0 when none is known"),
            is_leader: gauge("hsraft_raft_is_leader", "1 when this member leads"),
            applied: gauge("hsraft_raft_applied_index", "Index of the last applied log entry"),
            last_log: gauge("hsraft_raft_last_log_index", "Index of the last log entry"),
            voters: gauge("hsraft_raft_voters", "Voting members"),
            learners: gauge("hsraft_raft_learners", "Members that follow the log and do not vote"),
            lag_max: gauge("hsraft_raft_lag_max", "Entries the slowest member is behind; on the leader only"),
            proposals: counter("hsraft_raft_proposals_total", "Commands proposed at this member"),
            proposal_failures: counter(
                "hsraft_raft_proposal_failures_total",
                "Commands that were not answered in time",
            ),
            forwarded: counter("hsraft_raft_forwarded_total", "Commands this member took from others as leader"),
        }
    }
}

impl Metrics {
    fn all(&self) -> Vec<Box<dyn Collector>> {
        let gauges = [
            &self.term,
            &self.leader,
            &self.is_leader,
            &self.applied,
            &self.last_log,
            &self.voters,
            &self.learners,
            &self.lag_max,
        ];
        let counters =
            [&self.apply.entries, &self.apply.rows, &self.proposals, &self.proposal_failures, &self.forwarded];
        let mut all: Vec<Box<dyn Collector>> = vec![Box::new(self.store.sync_seconds.clone())];
        all.extend(gauges.into_iter().map(|gauge| Box::new(gauge.clone()) as Box<dyn Collector>));
        all.extend(counters.into_iter().map(|counter| Box::new(counter.clone()) as Box<dyn Collector>));
        all
    }

    /// Registers everything.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.all().into_iter().try_for_each(|collector| registry.register(collector))
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = self.store.sync_seconds.desc();
        for gauge in [
            &self.term,
            &self.leader,
            &self.is_leader,
            &self.applied,
            &self.last_log,
            &self.voters,
            &self.learners,
            &self.lag_max,
        ] {
            all.extend(gauge.desc());
        }
        for counter in
            [&self.apply.entries, &self.apply.rows, &self.proposals, &self.proposal_failures, &self.forwarded]
        {
            all.extend(counter.desc());
        }
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.all().iter().flat_map(|collector| collector.collect()).collect()
    }
}
