//! The laws. Each is checked while things go wrong and once more when everything has healed.

pub mod acked_writes_survive;
pub mod cluster_heals;
pub mod invariants_hold;
pub mod maps_converge;
pub mod members_agree;
pub mod one_address_one_node;
pub mod one_use_keys;

use std::{collections::BTreeMap, sync::Arc};

use state_machine::State;

use crate::{history::History, workload::device::Device};

/// What a law gets to see.
pub struct Sight<'a> {
    /// The latest state of every running member.
    pub states: &'a BTreeMap<u64, Arc<State>>,
    /// The members that should be running by now.
    pub members: u64,
    /// How many writes each member answered after everything was healed.
    pub acknowledged_when_healed: &'a BTreeMap<u64, u64>,
    pub history: &'a History,
    pub devices: &'a BTreeMap<u64, Device>,
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
    fn end(&mut self, _sight: &Sight<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// All laws.
pub fn laws() -> Vec<Box<dyn Law>> {
    vec![
        Box::new(members_agree::MembersAgree::default()),
        Box::new(invariants_hold::InvariantsHold::default()),
        Box::new(one_address_one_node::OneAddressOneNode::default()),
        Box::new(one_use_keys::OneUseKeys),
        Box::new(acked_writes_survive::AckedWritesSurvive),
        Box::new(maps_converge::MapsConverge),
        Box::new(cluster_heals::ClusterHeals),
    ]
}
