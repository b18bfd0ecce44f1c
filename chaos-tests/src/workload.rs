//! What people and nodes do while things go wrong.

pub mod device;
pub mod operator;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use sha2::{Digest, Sha256};
use state_machine::UserId;
use world::Entropy;

use crate::{history::History, sim::member::Running};

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
    /// Operators hold back until the cluster is whole.
    pub open: Cell<bool>,
    /// A member ended that should not have.
    pub deaths: RefCell<Vec<String>>,
}

/// Where operators pin what others need.
#[derive(Default)]
pub struct Board {
    /// Join tokens, by the number of the member they are for.
    pub join_tokens: BTreeMap<u64, String>,
    /// Who owns the nodes.
    pub user: Option<UserId>,
    /// A key every device may use.
    pub reusable: Option<AuthKey>,
    /// The last one-use keys, used or not: everybody tries them.
    pub one_use: Vec<AuthKey>,
    /// Counts the names everybody wants.
    pub race: u64,
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
