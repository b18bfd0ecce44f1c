//! What to simulate, and how a run ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// What a seed is about. Everything else is the same in all classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Three members and the full storm.
    Trio,
    /// Three members become five and three again while the storm goes.
    Churn,
    /// A machine is wiped in the storm and replaced; in the end one is put back to an earlier day.
    Rough,
    /// Devices never say anything: what they miss, only their watchdog of two minutes notices.
    Patient,
}

impl Class {
    pub const ALL: [Class; 4] = [Class::Trio, Class::Churn, Class::Rough, Class::Patient];

    /// Of ten seeds four are trios, three churn, two are rough, and one is patient.
    pub fn of(seed: u64) -> Class {
        match seed % 10 {
            1..=4 => Class::Trio,
            5..=7 => Class::Churn,
            8 | 9 => Class::Rough,
            _ => Class::Patient,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Class::Trio => "trio",
            Class::Churn => "churn",
            Class::Rough => "rough",
            Class::Patient => "patient",
        }
    }
}

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub class: Class,
    pub devices: u64,
    /// How long things go wrong, in simulated time.
    pub storm: Duration,
    /// Of the storm's strikes only these; all when absent.
    pub only: Option<BTreeSet<usize>>,
    /// Disks answer syncs without doing them: the laws must notice.
    pub lying_disks: bool,
    /// Remember every event as text.
    pub keep_trace: bool,
}

impl Plan {
    /// Members that found the cluster.
    pub const FOUNDERS: u64 = 3;

    /// Machines a member may live on.
    pub fn machines(&self) -> u64 {
        if self.class == Class::Churn { 5 } else { Plan::FOUNDERS }
    }

    /// Hosts are given turns of so long, and segments arrive at the beginning of a turn. Finer for some seeds; coarser
    /// where most of the time devices wait for their watchdogs.
    pub fn tick(&self) -> Duration {
        Duration::from_millis(match self.class {
            _ if self.seed.is_multiple_of(7) => 1,
            Class::Patient => 8,
            _ => 5,
        })
    }

    /// Whether the cluster has a place for backups.
    pub fn backups(&self) -> bool {
        self.seed % 4 == 1
    }

    /// Often enough that snapshots are built, sent and installed in every run; but for every other run with backups,
    /// where the log is kept long enough to be archived piece by piece.
    pub fn snapshot_every(&self) -> u64 {
        if self.seed % 8 == 1 { 4000 } else { 80 }
    }
}

/// How a run ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    pub seed: u64,
    pub class: String,
    /// Equal seeds, equal hashes.
    pub hash: String,
    pub events: u64,
    /// Laws that were broken; empty is good.
    pub broken: Vec<String>,
    /// What the run should have exercised and did not: then it proves nothing.
    pub void: Vec<String>,
    pub acknowledged: u64,
    pub refused: u64,
    pub unanswered: u64,
    pub reads: u64,
    /// Reads and writes of registers.
    pub operations: u64,
    pub registrations: u64,
    pub logins: u64,
    pub policies: u64,
    pub frames: u64,
    pub streams: u64,
    pub crashes: u64,
    pub partitions: u64,
    pub snapshots_installed: u64,
    pub leaders: u64,
    /// Strikes of the storm by number.
    pub strikes: Vec<usize>,
    /// "blow / phase" → how often.
    pub coverage: BTreeMap<String, u64>,
    /// From the loss of a leader to the first write that was asked and answered after it, in milliseconds.
    pub recoveries_ms: Vec<u64>,
    pub simulated_secs: f64,
    /// Processor time of the process that ran it, where known.
    pub cpu_secs: f64,
    pub wall_secs: f64,
    #[serde(skip)]
    pub trace: Vec<String>,
}
