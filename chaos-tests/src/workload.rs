//! What people and nodes do while things go wrong.

pub mod device;
pub mod operator;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use state_machine::{NodeId, UserId};
use world::Entropy;

use crate::{
    history::History,
    sim::{member::Running, shelf::SimShelf},
};

/// Everything the tasks of a run share. A run is one thread, so cells will do.
#[derive(Default)]
pub struct Shared {
    /// Members that run, by number.
    pub up: RefCell<BTreeMap<u64, Running>>,
    pub history: RefCell<History>,
    pub board: RefCell<Board>,
    pub devices: RefCell<BTreeMap<u64, device::Device>>,
    /// Set when the storm is over: nobody changes anything any more.
    pub quiet: Cell<bool>,
    /// The last policy was answered.
    pub last_word: Cell<bool>,
    /// Operators hold back until the cluster is whole.
    pub open: Cell<bool>,
    /// A member ended that should not have.
    pub deaths: RefCell<Vec<String>>,
    /// Machines whose member is to be removed: it ends, or refuses to start.
    pub leaving: RefCell<BTreeSet<u64>>,
    /// How often each machine was started again.
    pub restarts: RefCell<BTreeMap<u64, u64>>,
    /// Machines whose process has ended for good: what it held open is closed by the system.
    pub ended: RefCell<BTreeSet<u64>>,
    /// Machines that run and have no member: they answer that nobody is there.
    pub idle: RefCell<BTreeSet<u64>>,
    /// Where backups go; none: nowhere.
    pub shelf: Option<Arc<SimShelf>>,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// What operators did now and then, and how often it was done.
    pub upkeep: RefCell<BTreeMap<&'static str, u64>>,
    /// Machines that were put back to an earlier day; `true` once their member refused to start.
    pub rolled_back: RefCell<BTreeMap<u64, bool>>,
}

impl Shared {
    /// Something that is done now and then was done.
    pub fn kept_up(&self, what: &'static str) {
        *self.upkeep.borrow_mut().entry(what).or_default() += 1;
    }
}

/// Where operators pin what others need.
#[derive(Default)]
pub struct Board {
    /// Join tokens, by the number of the machine they are for, with the name of the member it replaces.
    pub join_tokens: BTreeMap<u64, (String, String)>,
    /// A ticket for one member that was pinned for several machines.
    pub shared_ticket: Option<String>,
    /// Machines that must not found or continue anything: they lost their folder.
    pub empty_handed: BTreeSet<u64>,
    /// Who owns nodes: a user and a key of its own that every device of it may use.
    pub owners: Vec<(UserId, AuthKey)>,
    /// Users whose names are registers; the place in the list is the register's number.
    pub registers: Vec<UserId>,
    /// The last number written to any register.
    pub written: u64,
    /// The last one-use keys, used or not: everybody tries them.
    pub one_use: Vec<AuthKey>,
    /// Nodes that operators brought in and may delete.
    pub boxes: Vec<NodeId>,
    /// Counts the names everybody wants.
    pub race: u64,
}

/// The users that own devices. No policy names the last one.
pub const OWNERS: [&str; 3] = ["east", "west", "alone"];

impl Board {
    /// Takes the shared ticket down from one machine's place; false: the machine has a ticket of its own, or none.
    pub fn give_up_ticket(&mut self, machine: u64) -> bool {
        let shared =
            self.join_tokens.get(&machine).is_some_and(|(token, _)| Some(token) == self.shared_ticket.as_ref());
        shared && self.join_tokens.remove(&machine).is_some()
    }

    /// The key of a device's owner: of six devices in a row one belongs to "alone".
    pub fn key_for(&self, device: u64) -> Option<AuthKey> {
        let owner = match device % 6 {
            5 => 2,
            place => place % 2,
        };
        self.owners.get(owner as usize).map(|(_, key)| key.clone())
    }
}

/// A pre-auth key in its two halves.
#[derive(Clone)]
pub struct AuthKey {
    pub prefix: String,
    pub secret: String,
}

impl AuthKey {
    /// A fresh key.
    pub fn new(entropy: &Entropy) -> AuthKey {
        AuthKey { prefix: letters(entropy, 12), secret: letters(entropy, 64) }
    }

    /// As a client types it.
    pub fn text(&self) -> String {
        format!("hskey-auth-{}-{}", self.prefix, self.secret)
    }

    /// As the log knows it.
    pub fn secret_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_bytes()).into()
    }
}

fn letters(entropy: &Entropy, count: usize) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    (0..count).map(|_| char::from(ALPHABET[entropy.below(ALPHABET.len() as u64) as usize])).collect()
}

/// Waits between `min` and `max`.
async fn pause(entropy: &Entropy, min: u64, max: u64) {
    tokio::time::sleep(Duration::from_millis(min + entropy.below(max - min))).await;
}
