//! The certificate clients are shown follows its source: files on this disk, or what the cluster fetched. Every member
//! does this for itself; ordering certificates is the leader's (`orders.rs`).

use std::{sync::Arc, time::Duration};

use raft::Cluster;
use state_machine::{CertificateWish, Command, ManagedCertificate, State, Timestamp};
use tokio::sync::watch;
use world::World;

use super::now;
use crate::{
    listen::tls::{self, Certificate, Chain, Source},
    observe::Metrics,
    options::{Options, TlsFiles},
};

/// Files are read again so often: they are small, and some tools renew without telling.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After a proposal that failed.
const RETRY: Duration = Duration::from_secs(5);
/// The level from which members understand wishes (state-machine, apply/features.rs).
const LEVEL: u32 = 3;

/// Where own certificates lie; none: not in files.
#[derive(Clone, Debug, Default)]
pub struct Files {
    pub client: Option<TlsFiles>,
    pub relay: Option<TlsFiles>,
}

impl Files {
    pub fn of(options: &Options) -> Files {
        let relay = options.relay.as_ref().and_then(|relay| relay.tls.clone());
        Files { client: options.client_tls.clone(), relay }
    }
}

/// What a member shows, and where the next comes from.
pub struct Follow {
    pub cluster: Cluster,
    pub world: World,
    /// None: clients are served plain HTTP.
    pub certificate: Option<Arc<Certificate>>,
    /// SIGHUP may name others.
    pub files: watch::Receiver<Files>,
    pub wish: Option<CertificateWish>,
    pub relay: Option<derp::Relay>,
    pub metrics: Metrics,
    pub name: String,
}

impl Follow {
    /// Until the member ends.
    pub async fn run(self) {
        let mut states = self.cluster.watch();
        let mut told = Told::default();
        loop {
            let state = states.borrow_and_update().clone();
            self.look(&state, &mut told);
            let wishes_told = self.wish(&state).await;
            let wait = if wishes_told { LOOK_EVERY } else { RETRY };
            let due = tokio::time::Instant::now() + wait;
            loop {
                tokio::select! { biased;
                    moved = states.changed() => {
                        if moved.is_err() {
                            return;
                        }
                        if !states.borrow().certificates().ptr_eq(state.certificates()) {
                            break;
                        }
                    }
                    () = tokio::time::sleep_until(due) => break,
                }
            }
        }
    }

    /// Shows what there is now; for the start, before the port opens.
    pub fn once(&self) {
        self.look(&self.cluster.latest(), &mut Told::default());
    }

    fn look(&self, state: &State, told: &mut Told) {
        let Some(certificate) = &self.certificate else {
            self.cluster.tell_client_certificate(None);
            self.metrics.client_certificate_left.set(-1);
            return;
        };
        let files = self.files.borrow().clone();
        let taken = match (&files.client, &self.wish) {
            (Some(files), _) => certificate.reload(files, &*self.world.disk).map_err(|error| error.to_string()),
            (None, Some(wish)) => self.take_fetched(state, &wish.name, certificate),
            (None, None) => Ok(false),
        };
        match taken {
            Ok(true) => tracing::info!(until = %certificate.expires_at(), "clients are shown another certificate"),
            Ok(false) => {}
            Err(error) if told.error != error => {
                tracing::warn!(error, "the new certificate cannot be used; clients are shown the one before");
                told.error = error;
            }
            Err(_) => {}
        }
        if certificate.report().error.is_empty() {
            told.error.clear();
        }
        if let Err(error) = self.show_at_relay(state)
            && told.relay_error != error
        {
            tracing::warn!(error, "the relay's new certificate cannot be used; the one before is shown");
            told.relay_error = error;
        }
        self.cluster.tell_client_certificate(Some(certificate.report()));
        let now = now(&*self.world.clock);
        let facts = certificate.facts();
        let left = facts.not_after.since(now);
        self.metrics.client_certificate_left.set(i64::try_from(left.as_secs()).unwrap_or(i64::MAX));
        told.alarm(&facts, now);
    }

    fn take_fetched(&self, state: &State, name: &str, certificate: &Certificate) -> Result<bool, String> {
        match self.fetched(state, name) {
            Some(chain) => Ok(certificate.show(chain?, Source::Acme)),
            None => Ok(false),
        }
    }

    /// What the cluster has for this name.
    fn fetched(&self, state: &State, name: &str) -> Option<Result<Chain, String>> {
        let row = state.certificates().get(name).filter(|row| !row.chain.is_empty())?;
        let key = self.cluster.secret(&ManagedCertificate::key(name));
        let key = match key.ok_or("its key cannot be unsealed") {
            Ok(key) => key,
            Err(why) => return Some(Err(why.to_owned())),
        };
        Some(Chain::from_pem(row.chain.as_bytes(), &key).map_err(|error| error.to_string()))
    }

    /// The relay shows its own files, or what the cluster fetched.
    fn show_at_relay(&self, state: &State) -> Result<(), String> {
        let Some(relay) = &self.relay else { return Ok(()) };
        let (chain, key) = match (&self.files.borrow().relay, &self.wish) {
            (Some(files), _) => tls::files(files, &*self.world.disk).map_err(|error| error.to_string())?,
            (None, Some(wish)) => {
                let row = state.certificates().get(&wish.name).filter(|row| !row.chain.is_empty());
                let key = self.cluster.secret(&ManagedCertificate::key(&wish.name));
                let Some((row, key)) = row.zip(key) else { return Ok(()) };
                (row.chain.as_bytes().to_vec(), key)
            }
            (None, None) => return Ok(()),
        };
        let certificate = derp::Certificate::from_pem(&chain, &key).map_err(|error| error.to_string())?;
        if relay.certificate_leaf().as_ref() != Some(certificate.leaf()) {
            relay.replace_certificate(certificate);
            tracing::info!("the relay shows another certificate");
        }
        Ok(())
    }

    /// Tells the cluster which certificate this member's file asks for. False: it has to be told again.
    async fn wish(&self, state: &State) -> bool {
        let me = self.cluster.me();
        let wanted: Vec<&CertificateWish> =
            state.certificates().values().filter(|row| row.wanted_by.contains(&me)).map(|row| &row.wish).collect();
        let known = wanted.len() <= 1 && wanted.first().copied() == self.wish.as_ref();
        if known || state.member(me).is_none() {
            return true;
        }
        if state.feature_level() < LEVEL {
            tracing::debug!("a certificate is fetched when every member runs a program that can");
            return false;
        }
        let command = Command::WantCertificate { member: me, wish: self.wish.clone() };
        match self.cluster.propose(&self.name, command).await {
            Ok(applied) => {
                if let Err(refusal) = applied.answer {
                    tracing::error!(%refusal, "the certificate of the configuration file is not fetched");
                }
                true
            }
            Err(error) => {
                tracing::debug!(%error, "which certificate is wanted could not be told yet");
                false
            }
        }
    }
}

/// What was said already.
#[derive(Default)]
struct Told {
    error: String,
    relay_error: String,
    /// When the end was last warned of.
    alarm_at: Option<Timestamp>,
}

impl Told {
    /// Once a day while less than a quarter of a certificate's life is left.
    fn alarm(&mut self, facts: &tls::Facts, now: Timestamp) {
        let day = Duration::from_secs(86_400);
        if !facts.is_late(now) || self.alarm_at.is_some_and(|at| at.after(day) > now) {
            return;
        }
        self.alarm_at = Some(now);
        let days = facts.not_after.since(now).as_secs() / 86_400;
        tracing::error!(days, until = %facts.not_after, "the certificate shown to clients ends soon and was not renewed");
    }
}
