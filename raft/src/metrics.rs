//! Prometheus collectors of this room.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntGauge, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::store::Pace;

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
    pub(crate) voters_silent: IntGauge,
    pub(crate) clock_behind: IntGauge,
    pub(crate) changes_halted: IntGauge,
    pub(crate) level_possible: IntGauge,
    pub(crate) certificate_left: IntGauge,
    pub(crate) authority_left: IntGauge,
    pub(crate) state_differs: IntGauge,
    pub(crate) quarantined: IntGauge,
    pub(crate) disk_free: IntGauge,
    pub(crate) disk_short: IntGauge,
    pub(crate) scrubbed: IntGauge,
    pub(crate) backup_age: IntGauge,
    pub(crate) backup_rpo: IntGauge,
    pub(crate) backup_verified_age: IntGauge,
    pub(crate) backup_failing: IntGauge,
    pub(crate) backup_trial_failed: IntGauge,
    pub(crate) proposals: IntCounter,
    pub(crate) proposal_failures: IntCounter,
    pub(crate) forwarded: IntCounter,
    pub(crate) stepped_aside: IntCounter,
}

/// The disk.
#[derive(Clone)]
pub struct StoreMetrics {
    pub(crate) sync_seconds: Histogram,
    /// The last seconds of it.
    pub(crate) pace: Pace,
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
            store: StoreMetrics {
                sync_seconds: Histogram::with_opts(sync).expect("a valid metric name"),
                pace: Pace::default(),
            },
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
            voters_silent: gauge(
                "hsraft_raft_voters_silent",
                "Voters the leader has not heard for five seconds; on the leader only",
            ),
            clock_behind: gauge(
                "hsraft_clock_behind_milliseconds",
                "How far this member's clock is behind most others'; negative: ahead; 0 while fewer than two others tell theirs",
            ),
            changes_halted: gauge(
                "hsraft_changes_halted",
                "1 while no changes are taken because members came to different states",
            ),
            level_possible: gauge(
                "hsraft_feature_level_possible",
                "The feature level all members' programs can apply; on the leader only, 0 while one of them is silent",
            ),
            authority_left: gauge(
                "hsraft_authority_seconds_left",
                "Until the authority of the members' certificates ends",
            ),
            certificate_left: gauge(
                "hsraft_member_certificate_seconds_left",
                "Until the certificate this member shows to other members ends",
            ),
            state_differs: gauge(
                "hsraft_state_hash_mismatches",
                "Members whose state is not the majority's, as last compared",
            ),
            quarantined: gauge("hsraft_quarantined", "1 when this member stopped because its state or disk is wrong"),
            disk_free: gauge("hsraft_disk_free_bytes", "Free bytes below the data folder"),
            disk_short: gauge("hsraft_disk_short", "1 while the disk is almost full and no changes are taken"),
            scrubbed: gauge("hsraft_scrub_timestamp_seconds", "When the disk was last read through and was whole"),
            backup_age: gauge("hsraft_backup_full_age_seconds", "Age of the newest full backup; -1: none is known"),
            backup_rpo: gauge(
                "hsraft_backup_rpo_seconds",
                "Age of the oldest write that no backup holds; 0: all is archived; -1: no backup is known",
            ),
            backup_verified_age: gauge(
                "hsraft_backup_verified_age_seconds",
                "Since a backup was last restored on trial and its state compared; -1: never",
            ),
            backup_failing: gauge("hsraft_backup_failing", "1 while the last attempt to archive failed"),
            backup_trial_failed: gauge(
                "hsraft_backup_trial_failed",
                "1 while the last backup that was restored on trial did not come out as it went in",
            ),
            proposals: counter("hsraft_raft_proposals_total", "Commands proposed at this member"),
            proposal_failures: counter(
                "hsraft_raft_proposal_failures_total",
                "Commands that were not answered in time",
            ),
            forwarded: counter("hsraft_raft_forwarded_total", "Commands this member took from others as leader"),
            stepped_aside: counter(
                "hsraft_raft_stepped_aside_total",
                "Times this member gave its lead away because its disk was slow",
            ),
        }
    }
}

impl Metrics {
    fn gauges(&self) -> [&IntGauge; 24] {
        [
            &self.term,
            &self.leader,
            &self.is_leader,
            &self.applied,
            &self.last_log,
            &self.voters,
            &self.learners,
            &self.lag_max,
            &self.voters_silent,
            &self.clock_behind,
            &self.changes_halted,
            &self.level_possible,
            &self.certificate_left,
            &self.authority_left,
            &self.state_differs,
            &self.quarantined,
            &self.disk_free,
            &self.disk_short,
            &self.scrubbed,
            &self.backup_age,
            &self.backup_rpo,
            &self.backup_verified_age,
            &self.backup_failing,
            &self.backup_trial_failed,
        ]
    }

    fn all(&self) -> Vec<Box<dyn Collector>> {
        let gauges = self.gauges();
        let counters = [
            &self.apply.entries,
            &self.apply.rows,
            &self.proposals,
            &self.proposal_failures,
            &self.forwarded,
            &self.stepped_aside,
        ];
        let mut all: Vec<Box<dyn Collector>> = vec![Box::new(self.store.sync_seconds.clone())];
        all.extend(gauges.into_iter().map(|gauge| Box::new(gauge.clone()) as Box<dyn Collector>));
        all.extend(counters.into_iter().map(|counter| Box::new(counter.clone()) as Box<dyn Collector>));
        all
    }

    /// How long the certificate is still good.
    pub(crate) fn certificate_left(&self, left: std::time::Duration) {
        self.certificate_left.set(i64::try_from(left.as_secs()).unwrap_or(i64::MAX));
    }

    /// Registers everything.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.all().into_iter().try_for_each(|collector| registry.register(collector))
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = self.store.sync_seconds.desc();
        for gauge in self.gauges() {
            all.extend(gauge.desc());
        }
        for counter in [
            &self.apply.entries,
            &self.apply.rows,
            &self.proposals,
            &self.proposal_failures,
            &self.forwarded,
            &self.stepped_aside,
        ] {
            all.extend(counter.desc());
        }
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.all().iter().flat_map(|collector| collector.collect()).collect()
    }
}
