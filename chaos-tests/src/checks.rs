//! The laws. Each is checked while things go wrong and once more when everything has healed.
//!
//! One law a file, each with a test that breaks it: a law that cannot fail proves nothing. Laws look at differences
//! (persistent maps are compared by what moved), because they look a hundred times in a simulated second.

pub mod acked_writes_survive;
pub mod applied_once;
pub mod authorities_settle;
pub mod backups_restore;
pub mod cluster_heals;
pub mod deltas_gap_free;
pub mod election_safety;
pub mod ids_never_reused;
pub mod invariants_hold;
pub mod linearizable;
pub mod log_matching;
pub mod members_agree;
pub mod mirrors_equal_full_map;
pub mod nobody_sees_more;
pub mod one_address_one_node;
pub mod one_use_keys;
pub mod presence_settles;
pub mod reads_are_current;
pub mod rollback_is_noticed;
#[cfg(test)]
mod staged;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use raft::{LogFact, Status};
use state_machine::State;

use crate::{history::History, workload::device::Device};

/// What a law gets to see.
pub struct Sight<'a> {
    /// Simulated time since the run began.
    pub at: Duration,
    /// The latest state of every running member, by machine.
    pub states: &'a BTreeMap<u64, Arc<State>>,
    /// Where every running member says it stands.
    pub statuses: &'a BTreeMap<u64, Status>,
    /// The newest entries of every running member's log; taken seldom, empty otherwise.
    pub logs: &'a BTreeMap<u64, Vec<LogFact>>,
    /// The machines that should run by now.
    pub members: &'a BTreeSet<u64>,
    /// Nothing goes wrong any more, and nothing will; but devices are switched off and on.
    pub settled: bool,
    /// How many writes each member answered after everything was healed.
    pub acknowledged_when_healed: &'a BTreeMap<u64, u64>,
    pub history: &'a History,
    pub devices: &'a BTreeMap<u64, Device>,
    /// What restores on trial gave, or why they failed; empty where no backups are kept, and until the end.
    pub restored: &'a [Result<backups_restore::Restored, String>],
}

/// Something that must hold, whatever happened.
pub trait Law {
    /// What people call it.
    fn name(&self) -> &'static str;

    /// Looks on while the storm goes. `Err` says how the law was broken.
    fn watch(&mut self, _sight: &Sight<'_>) -> Result<(), String> {
        Ok(())
    }

    /// Looks once more when everything is healed and quiet.
    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        self.watch(sight)
    }
}

/// All laws. Those that name a cause come before those that see its consequences.
pub fn laws() -> Vec<Box<dyn Law>> {
    vec![
        Box::new(election_safety::ElectionSafety::default()),
        Box::new(log_matching::LogMatching::default()),
        Box::new(members_agree::MembersAgree::default()),
        Box::new(one_address_one_node::OneAddressOneNode::default()),
        Box::new(ids_never_reused::IdsNeverReused::default()),
        Box::new(one_use_keys::OneUseKeys::default()),
        Box::new(applied_once::AppliedOnce),
        Box::new(reads_are_current::ReadsAreCurrent),
        Box::new(deltas_gap_free::DeltasGapFree),
        Box::new(nobody_sees_more::NobodySeesMore::default()),
        Box::new(rollback_is_noticed::RollbackIsNoticed),
        Box::new(invariants_hold::InvariantsHold::default()),
        Box::new(acked_writes_survive::AckedWritesSurvive),
        Box::new(linearizable::Linearizable),
        Box::new(cluster_heals::ClusterHeals),
        Box::new(authorities_settle::AuthoritiesSettle),
        Box::new(backups_restore::BackupsRestore),
        Box::new(presence_settles::PresenceSettles::default()),
        Box::new(mirrors_equal_full_map::MirrorsEqualFullMap),
    ]
}
