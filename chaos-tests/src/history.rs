//! What was asked and what was answered: the book the laws are checked against.
//!
//! An answer is a promise. A question without an answer promises nothing: it may have happened, and may still happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use state_machine::{NodeId, Revision, UserId};
use tailcfg::NodeKey;

use crate::sim::trace;

/// Everything that was promised in a run.
#[derive(Default)]
pub struct History {
    pub users: BTreeMap<UserId, UserBook>,
    /// Registrations that were answered, by the key the device brought.
    pub nodes: BTreeMap<NodeKey, NodeId>,
    /// Nodes somebody wanted deleted.
    pub deleted_nodes: BTreeSet<NodeId>,
    /// Which nodes each one-use key was told to have let in, by prefix.
    pub one_use: BTreeMap<String, BTreeSet<NodeId>>,
    /// Machines whose member came in with a ticket, by the ticket.
    pub tickets: BTreeMap<String, BTreeSet<u64>>,
    /// Who was told to have won a name that everybody wanted.
    pub races: BTreeMap<String, BTreeSet<UserId>>,
    /// Reads and writes of registers, in the order of their questions.
    pub operations: Vec<Operation>,
    /// The highest revision anybody was promised.
    pub floor: Revision,
    pub counts: Counts,
    pub acknowledged_by: BTreeMap<u64, u64>,
    /// Counts questions and answers: what was asked after something was answered has a higher number.
    moments: u64,
    breaches: BTreeMap<Breach, String>,
    /// A leader was lost then; until the first answer to a question asked later.
    leader_lost: Option<(Duration, u64)>,
    /// How long it took from the loss of a leader to the first write that was asked and answered after it.
    pub recoveries: Vec<Duration>,
}

/// A read or write of a register: the number in a user's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub register: u64,
    pub kind: Kind,
    pub begin: u64,
    /// None: never answered.
    pub end: Option<u64>,
}

/// What an operation does. Every value is written once; zero is what a register begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read(u64),
    Write(u64),
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

/// A law that was broken at the moment something was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Breach {
    StaleRead,
    NewId,
    AppliedTwice,
    Gap,
    Rollback,
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
    pub policies: u64,
    pub logins: u64,
}

impl History {
    /// The number of this moment.
    pub fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// What broke a law, if something did.
    pub fn breach(&self, breach: Breach) -> Result<(), String> {
        self.breaches.get(&breach).map_or(Ok(()), |what| Err(what.clone()))
    }

    fn note(&mut self, breach: Breach, what: String) {
        self.breaches.entry(breach).or_insert(what);
    }

    /// A write was answered with this revision; `seen` is where the answering member stands.
    pub fn acknowledge(&mut self, member: u64, revision: Revision, seen: Revision) {
        trace::event("acknowledged", member, &revision.0.to_le_bytes());
        self.counts.acknowledged += 1;
        *self.acknowledged_by.entry(member).or_default() += 1;
        self.floor = self.floor.max(revision);
        if seen < revision {
            let what = format!("member {member} answered revision {revision} but stands at {seen}");
            self.note(Breach::StaleRead, what);
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
            let what = format!("member {member} read revision {seen} after {floor} was answered");
            self.note(Breach::StaleRead, what);
        }
    }

    /// A name that only one operator uses, and only once, was refused as taken.
    pub fn refuse_what_is_unique(&mut self, name: &str) {
        self.note(Breach::AppliedTwice, format!("{name:?} was asked for once and refused as taken"));
    }

    /// A device could not make sense of a frame.
    pub fn gap(&mut self, device: u64, why: &str) {
        self.note(Breach::Gap, format!("device {device} was sent a frame that makes no sense: {why}"));
    }

    /// An old copy of a member's folder was started and took part.
    pub fn rolled_back(&mut self, member: u64) {
        self.note(Breach::Rollback, format!("hs{member} started from an earlier day's folder, and nobody minded"));
    }

    /// A registration was answered.
    pub fn register(&mut self, key: NodeKey, node: NodeId, one_use_prefix: Option<&str>) {
        trace::event("registered", node.0, &key.0);
        self.counts.registrations += 1;
        if let Some(before) = self.nodes.insert(key, node)
            && before != node
        {
            self.note(Breach::NewId, format!("a node keeps its id: {key} was node {before} and is now node {node}"));
        }
        if let Some(prefix) = one_use_prefix {
            self.one_use.entry(prefix.to_string()).or_default().insert(node);
        }
    }

    /// An operation begins; its place in the book.
    pub fn begin(&mut self, register: u64, kind: Kind) -> usize {
        let begin = self.moment();
        self.operations.push(Operation { register, kind, begin, end: None });
        self.operations.len() - 1
    }

    /// It was answered; `value`: what a read saw.
    pub fn end(&mut self, operation: usize, value: Option<u64>) {
        let end = self.moment();
        let operation = &mut self.operations[operation];
        operation.end = Some(end);
        if let Some(value) = value {
            operation.kind = Kind::Read(value);
        }
    }

    /// The leader was struck now.
    pub fn lose_leader(&mut self, at: Duration) {
        let moment = self.moment();
        self.leader_lost = Some((at, moment));
    }

    /// A write that was asked at the moment `begun` was answered now.
    pub fn recover(&mut self, begun: u64, at: Duration) {
        if let Some((lost, moment)) = self.leader_lost
            && begun > moment
        {
            self.recoveries.push(at.saturating_sub(lost));
            self.leader_lost = None;
        }
    }
}
