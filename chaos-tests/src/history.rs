//! What was asked and what was answered: the book the laws are checked against.
//!
//! An answer is a promise. A question without an answer promises nothing: it may have happened, and may still happen.

use std::collections::{BTreeMap, BTreeSet};

use state_machine::{NodeId, Revision, UserId};
use tailcfg::NodeKey;

use crate::sim::trace;

/// Everything that was promised in a run.
#[derive(Default)]
pub struct History {
    pub users: BTreeMap<UserId, UserBook>,
    /// Registrations that were answered, by the key the device brought.
    pub nodes: BTreeMap<NodeKey, NodeId>,
    /// Which nodes each one-use key was told to have let in, by prefix.
    pub one_use: BTreeMap<String, BTreeSet<NodeId>>,
    /// Who was told to have won a name that everybody wanted.
    pub races: BTreeMap<String, BTreeSet<UserId>>,
    /// The highest revision anybody was promised.
    pub floor: Revision,
    pub counts: Counts,
    pub acknowledged_by: BTreeMap<u64, u64>,
    /// Laws broken at the moment something was answered.
    pub broken: Vec<String>,
}

/// What is promised about one user.
pub struct UserBook {
    /// More than one while a renaming is unanswered.
    pub names: BTreeSet<String>,
    pub fate: Fate,
}

/// Whether something must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Here,
    Gone,
    /// A deletion went unanswered.
    Perhaps,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub acknowledged: u64,
    pub refused: u64,
    pub unanswered: u64,
    pub reads: u64,
    pub registrations: u64,
    pub frames: u64,
}

impl History {
    /// A write was answered with this revision; `seen` is where the answering member stands.
    pub fn acknowledge(&mut self, member: u64, revision: Revision, seen: Revision) {
        trace::event("acknowledged", member, &revision.0.to_le_bytes());
        self.counts.acknowledged += 1;
        *self.acknowledged_by.entry(member).or_default() += 1;
        self.floor = self.floor.max(revision);
        if seen < revision {
            self.broken
                .push(format!("read your writes: member {member} answered revision {revision} but stands at {seen}"));
        }
    }

    /// A write went unanswered.
    pub fn give_up(&mut self, member: u64) {
        trace::event("unanswered", member, b"");
        self.counts.unanswered += 1;
    }

    /// A certain read that began when `floor` was promised saw revision `seen`.
    pub fn read(&mut self, member: u64, floor: Revision, seen: Revision) {
        trace::event("read", member, &seen.0.to_le_bytes());
        self.counts.reads += 1;
        if seen < floor {
            self.broken
                .push(format!("reads are current: member {member} read revision {seen} after {floor} was answered"));
        }
    }

    /// A registration was answered.
    pub fn register(&mut self, key: NodeKey, node: NodeId, one_use_prefix: Option<&str>) {
        trace::event("registered", node.0, &key.0);
        self.counts.registrations += 1;
        if let Some(before) = self.nodes.insert(key, node)
            && before != node
        {
            self.broken.push(format!("a node keeps its id: {key} was node {before} and is now node {node}"));
        }
        if let Some(prefix) = one_use_prefix {
            self.one_use.entry(prefix.to_string()).or_default().insert(node);
        }
    }
}
