//! A cluster of one plain State, for tests: no log, no network, time by hand.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use raft::{DrillRefused, Drills, Fault, TokenWish};
use state_machine::{Answer, Command, Entry, JoinToken, Member, MemberId, Revision, Settings, State, Timestamp};

use crate::{
    RouterOptions,
    backend::{Asked, Backend, Failure},
    cluster::view::{Contact, Standing},
    router_over, secret_text,
};

/// The cluster.
pub struct Lone {
    state: tokio::sync::watch::Sender<Arc<State>>,
    now: AtomicU64,
    dice: Mutex<u64>,
    /// Whether writes and current reads work.
    pub quorum: AtomicBool,
    /// Members other than the first, as the leader hears of them.
    pub contacts: Mutex<Vec<(MemberId, Contact)>>,
}

/// 2026-01-01T00:00:00Z.
const START: u64 = 1_767_225_600_000;

impl Lone {
    /// Founded, with member `hs1`.
    pub fn new() -> Arc<Lone> {
        let lone = Lone {
            state: tokio::sync::watch::Sender::default(),
            now: AtomicU64::new(START),
            dice: Mutex::new(1),
            quorum: AtomicBool::new(true),
            contacts: Mutex::default(),
        };
        let member = Member {
            id: MemberId(1),
            name: "hs1".into(),
            peer_address: "10.0.0.1:7443".into(),
            client_url: "https://hs1.example.com".into(),
            version: "0.1.0".into(),
            feature_level: state_machine::FEATURE_LEVEL,
            ..Member::default()
        };
        let settings = Settings {
            server_url: "https://hs.example.com".into(),
            base_domain: "tail.example.net".into(),
            ..Settings::default()
        };
        lone.apply(Command::Found { cluster_id: "c1".into(), member, settings, secrets: Vec::new() }).unwrap();
        Arc::new(lone)
    }

    /// One command, by the log.
    pub fn apply(&self, command: Command) -> Answer {
        self.apply_by("test", command)
    }

    fn apply_by(&self, by: &str, command: Command) -> Answer {
        let mut state = (**self.state.borrow()).clone();
        let revision = Revision(state.revision().0 + 1);
        let at = Timestamp(self.now.load(Ordering::Relaxed));
        let answer = state.apply_entry(revision, &Entry { request: None, at, by: by.into(), command });
        state.check();
        self.state.send_replace(Arc::new(state));
        answer
    }

    /// Lets time pass.
    pub fn advance(&self, span: Duration) {
        self.now.fetch_add(span.as_millis() as u64, Ordering::Relaxed);
    }

    /// The API over it, with or without asking for keys.
    pub fn router(self: &Arc<Lone>, trusted: bool) -> axum::Router {
        let (for_dice, for_clock) = (self.clone(), self.clone());
        let options = RouterOptions {
            tell: Arc::new(|webhook, _| {
                let is_there = webhook.url.starts_with("https://hooks.example.com/");
                let answer: Result<_, String> =
                    is_there.then_some(axum::http::StatusCode::ACCEPTED).ok_or("it answers 404 Not Found".into());
                Box::pin(std::future::ready(answer))
            }),
            random: Arc::new(move |bytes| for_dice.roll(bytes)),
            now: Arc::new(move || Timestamp(for_clock.now.load(Ordering::Relaxed))),
            noise_key: format!("mkey:{}", "07".repeat(32)),
            allowed_origins: vec!["https://ui.example.com/".into()],
            token_key: [9; 32],
            leaving: tokio_util::sync::CancellationToken::new(),
            trusted,
            policy_file: false,
            drills_freeze: Vec::new(),
        };
        router_over(self.clone(), options)
    }

    /// Predictable randomness.
    pub fn roll(&self, bytes: &mut [u8]) {
        let mut dice = self.dice.lock().unwrap();
        for byte in bytes {
            *dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = (*dice >> 33) as u8;
        }
    }

    fn alive(&self) -> Result<(), Failure> {
        match self.quorum.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(Failure::NoQuorum("no leader".into())),
        }
    }
}

impl Backend for Lone {
    fn latest(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    fn watch(&self) -> tokio::sync::watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    fn confirm(&self) -> BoxFuture<'_, Result<Arc<State>, Failure>> {
        Box::pin(async { self.alive().map(|()| self.latest()) })
    }

    fn propose<'a>(&'a self, by: &'a str, command: Command) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(async { self.alive().map(|()| self.apply_by(by, command)) })
    }

    fn standing(&self) -> Standing {
        let contacts = self.contacts.lock().unwrap();
        let me = MemberId(1);
        let leader = self.quorum.load(Ordering::Relaxed).then_some(me);
        let voters: BTreeSet<MemberId> = contacts.iter().map(|(id, _)| *id).chain([me]).collect();
        let revision = self.latest().revision().0;
        Standing {
            me,
            leader,
            term: 3,
            voters,
            learners: BTreeSet::new(),
            last_log: revision,
            committed: revision,
            applied: revision,
            contacts: contacts.iter().cloned().collect(),
            halted: None,
            seen_by: Some(me),
            // Without a quorum the last leader's view grows old.
            seen_ago: if leader.is_some() { Duration::ZERO } else { Duration::from_secs(37) },
            leading_for: Duration::from_secs(7),
            able: None,
            now: Timestamp(self.now.load(Ordering::Relaxed)),
        }
    }

    fn create_join_token<'a>(&'a self, wish: TokenWish, _: &'a str) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move {
            self.alive()?;
            let fresh = secret_text::fresh("", &|bytes| self.roll(bytes));
            let id = fresh.prefix[..8].to_owned();
            let token = JoinToken {
                id: id.clone(),
                secret_sha256: fresh.secret_sha256,
                name: wish.name,
                role: wish.role,
                expires_at: Timestamp(self.now.load(Ordering::Relaxed)).after(wish.ttl),
                uses: wish.uses,
                from: wish.from,
                ..JoinToken::default()
            };
            self.apply(Command::CreateJoinToken { token }).map_err(Failure::Refused)?;
            Ok(format!("hsr1.c1.pin.{id}.secret"))
        })
    }

    fn transfer_leader(&self, to: Option<MemberId>) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            self.alive()?;
            match to {
                Some(MemberId(1)) => Ok(()),
                _ => Err(Failure::Unfit("there is no other voter to lead".into())),
            }
        })
    }

    fn full_backup(&self) -> Result<(String, Vec<u8>), Failure> {
        Err(Failure::Unfit("a plain State has no backup".into()))
    }

    fn create_recovery_key<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async { Err(Failure::Unfit("a plain State has no sealing key".into())) })
    }

    fn confirm_recovery_key<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Asked<bool>> {
        Box::pin(async { Ok(Ok(false)) })
    }

    /// Nothing opens it again: only its name and form are looked at here.
    fn seal(&self, name: &str, secret: &[u8]) -> Result<state_machine::SealedSecret, Failure> {
        let ciphertext = secret_text::hash(&format!("{name} {}", hex::encode(secret))).to_vec();
        Ok(state_machine::SealedSecret { key_id: 1, nonce: vec![0; 12], ciphertext })
    }

    fn authorities(&self) -> Vec<raft::AuthorityFacts> {
        Vec::new()
    }

    fn renew_certificate(&self, _: MemberId) -> BoxFuture<'_, Result<(String, Timestamp), Failure>> {
        Box::pin(async { Err(Failure::Unfit("a plain State has no certificate".into())) })
    }

    fn rotate_authority<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Asked<u64>> {
        Box::pin(async { Err(Failure::Unfit("a plain State has no authority".into())) })
    }

    fn rotate_sealing_key<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Asked<raft::Rotated>> {
        Box::pin(async { Err(Failure::Unfit("a plain State has no sealing key".into())) })
    }

    fn rotate_data_key<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Asked<(u32, usize)>> {
        Box::pin(async { Err(Failure::Unfit("a plain State has no sealing key".into())) })
    }

    fn drills(&self) -> Drills {
        Drills::forbidden()
    }

    fn inject(&self, drill: &str, _: Fault, _: Duration) -> Result<(), DrillRefused> {
        self.drills().begin(drill, "", Duration::ZERO)
    }

    fn remove_member<'a>(&'a self, id: MemberId, _: bool, _: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.alive()?;
            self.apply(Command::RemoveMember { id }).map_err(Failure::Refused)?;
            self.contacts.lock().unwrap().retain(|(known, _)| *known != id);
            Ok(())
        })
    }
}
