//! openraft's state-machine trait → [`State::apply_entry`]. Elsewhere in this crate State and Command are opaque.
//!
//! State lives in memory. After each batch the rows that changed, the applied log id and the membership are written in
//! one go; then the new State is published; then the proposers hear their answers. Nothing of it is synced: the log
//! is, and the write-ahead log has these rows after the entries they came from. After a power loss the applied index
//! may have gone back, and openraft applies again.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::{
    EntryPayload, OptionalSend,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use state_machine::{Command, Revision, State, Timestamp, codec, mutants};
use tokio::sync::watch;
use world::Clock;

use crate::{
    agreement,
    encode::{Position, StoredSeating, encode},
    metrics::ApplyMetrics,
    publish::{Published, Publisher, publish},
    snapshot::{Builder, Snapshots},
    store::{Change, Recovered, Store, Table, key},
    types::{Entry, LogId, Reply, Snapshot, SnapshotMeta, StoredMembership, Types},
    upgrade,
};

/// At most this many entries share one batch, so that a long catch-up publishes now and then.
const BATCH: usize = 512;

/// What this member has applied.
pub struct Machine {
    store: Store,
    snapshots: Snapshots,
    state: Arc<State>,
    applied: Option<LogId>,
    membership: StoredMembership,
    publisher: Publisher,
    /// The State at the first entry of each minute (agreement.rs).
    samples: watch::Sender<Option<Arc<State>>>,
    metrics: ApplyMetrics,
    /// What this program can apply.
    feature_level: u32,
    /// Of the mutant `apply-index-outside-batch`; always empty otherwise.
    late_rows: Vec<Change>,
    /// Of the mutant `wall-clock-on-members`; never there otherwise.
    own_clock: Option<Arc<dyn Clock>>,
}

impl Machine {
    /// Goes on from what a start found, and publishes what it comes to.
    pub fn new(
        store: Store,
        snapshots: Snapshots,
        recovered: &Recovered,
        feature_level: u32,
        metrics: ApplyMetrics,
    ) -> (Machine, Published) {
        let state = Arc::new(recovered.state.0.clone());
        let (publisher, published) = publish(state.clone());
        let membership = recovered.membership.clone();
        let (samples, applied) = (watch::Sender::new(None), recovered.applied);
        let (late_rows, own_clock) = (Vec::new(), None);
        let machine = Machine {
            store,
            snapshots,
            state,
            applied,
            membership,
            publisher,
            samples,
            metrics,
            feature_level,
            late_rows,
            own_clock,
        };
        (machine, published)
    }

    /// What no machine must ever have: for the mutant `wall-clock-on-members`.
    pub fn mistrust_the_log(&mut self, clock: Arc<dyn Clock>) {
        self.own_clock = Some(clock);
    }

    /// The State at the first entry of each minute; the same entries at every member.
    pub fn samples(&self) -> watch::Receiver<Option<Arc<State>>> {
        self.samples.subscribe()
    }

    fn position_changes(&self, changes: &mut Vec<Change>, with_membership: bool) {
        if let Some(applied) = self.applied {
            changes.push(Change::Put(Table::Meta, key::APPLIED.into(), encode(&Position::from(applied))));
        }
        if with_membership {
            let row = encode(&StoredSeating::from(&self.membership));
            changes.push(Change::Put(Table::Meta, key::MEMBERSHIP.into(), row));
        }
    }

    /// A program that goes on beside what it cannot do would come to another State.
    fn can_follow(&self, state: &State) -> io::Result<()> {
        let level = state.feature_level();
        if level <= self.feature_level {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, upgrade::too_old(self.feature_level, level)))
    }

    fn announce(&mut self, state: State) {
        self.state = Arc::new(state);
        self.publisher.put(self.state.clone());
    }
}

/// One batch while it is being applied.
struct Batch {
    state: State,
    last: Option<LogId>,
    membership: Option<StoredMembership>,
    sample: Option<State>,
    answers: Vec<(Option<ApplyResponder<Types>>, Reply)>,
    own_clock: Option<Arc<dyn Clock>>,
}

impl Batch {
    fn apply(&mut self, entry: Entry, responder: Option<ApplyResponder<Types>>) -> io::Result<()> {
        let revision = Revision(entry.log_id.index);
        self.last = Some(entry.log_id);
        let reply = match entry.payload {
            EntryPayload::Normal(payload) => {
                let mut entry = codec::decode_entry(&payload.0).map_err(|error| {
                    let what = format!("log entry {revision} cannot be applied by this version of hsraft: {error}");
                    io::Error::new(io::ErrorKind::InvalidData, what)
                })?;
                if let Some(clock) = &self.own_clock {
                    entry.at = Timestamp(clock.now_ms());
                }
                let minute = agreement::minute(&self.state);
                let answer = self.state.apply_entry(revision, &entry);
                let asked = entry.by == agreement::ASKED_BY && entry.command == Command::Elapse;
                if asked || agreement::minute(&self.state) != minute {
                    self.sample = Some(self.state.clone());
                }
                match &answer {
                    Ok(outcome) => tracing::debug!(%revision, by = entry.by, ?outcome, "applied"),
                    Err(refusal) => tracing::debug!(%revision, by = entry.by, %refusal, "refused"),
                }
                Reply(Some(answer))
            }
            EntryPayload::Blank => {
                self.state.advance(revision);
                Reply(None)
            }
            EntryPayload::Membership(membership) => {
                self.state.advance(revision);
                tracing::info!(%revision, %membership, "membership");
                self.membership = Some(StoredMembership::new(Some(entry.log_id), membership));
                Reply(None)
            }
        };
        self.answers.push((responder, reply));
        Ok(())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        loop {
            let mut batch = Batch {
                state: State::clone(&self.state),
                last: None,
                membership: None,
                sample: None,
                answers: Vec::new(),
                own_clock: self.own_clock.clone(),
            };
            while batch.answers.len() < BATCH
                && let Some((entry, responder)) = entries.try_next().await?
            {
                batch.apply(entry, responder)?;
            }
            let Some(last) = batch.last else { return Ok(()) };
            world::failpoint!("apply.batch.before", Err);
            self.can_follow(&batch.state)?;
            self.applied = Some(last);
            let with_membership = batch.membership.is_some();
            if let Some(membership) = batch.membership {
                self.membership = membership;
            }
            let mut changes: Vec<Change> = batch
                .state
                .changed_rows(&self.state)
                .into_iter()
                .map(|(name, row)| match row {
                    Some(row) => Change::Put(Table::State, name, row),
                    None => Change::Delete(Table::State, name),
                })
                .collect();
            self.metrics.entries.inc_by(batch.answers.len() as u64);
            self.metrics.rows.inc_by(changes.len() as u64);
            if mutants::is("apply-index-outside-batch") {
                std::mem::swap(&mut changes, &mut self.late_rows);
            }
            self.position_changes(&mut changes, with_membership);
            self.store.write(changes).await?;
            world::failpoint!("apply.batch.written", Err);
            self.announce(batch.state);
            world::failpoint!("apply.answer.before", Err);
            if let Some(sample) = batch.sample {
                self.samples.send_replace(Some(Arc::new(sample)));
            }
            for (responder, reply) in batch.answers {
                if let Some(responder) = responder {
                    responder.send(reply);
                }
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            store: self.store.clone(),
            snapshots: self.snapshots.clone(),
            state: self.state.clone(),
            applied: self.applied,
            membership: self.membership.clone(),
        }
    }

    /// File first, rows second: after a crash in between openraft finds the file newer than the rows and comes here
    /// again.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        world::failpoint!("snapshot.install.before", Err);
        let state = self.snapshots.receive(&self.store, meta.clone(), snapshot).await?;
        world::failpoint!("snapshot.install.received", Err);
        self.can_follow(&state)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        let mut changes = vec![Change::DeleteRange(Table::State, Vec::new(), vec![0xff; 64])];
        if mutants::is("snapshot-keeps-old-rows") {
            changes.clear();
        }
        changes.extend(state.rows().map(|(name, row)| Change::Put(Table::State, name, row)));
        self.position_changes(&mut changes, true);
        self.store.write_durably(changes).await?;
        world::failpoint!("snapshot.install.after", Err);
        tracing::info!(revision = %state.revision(), "snapshot installed");
        self.announce(state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.snapshots.current(&self.store).await
    }
}
