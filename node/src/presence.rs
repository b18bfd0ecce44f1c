//! Who is connected here, told to the cluster in batches.
//!
//! Only the member that holds a stream knows of it. It says "opened" and "closed" with the stream's own id, so that a
//! late "closed" cannot undo a newer "opened" at another member. Nothing is lost while the cluster has no leader: what
//! was not committed is proposed again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use raft::Cluster;
use state_machine::{Command, NodeId, PresenceChange, SessionId, mutants};
use tokio::sync::{Notify, oneshot};

use crate::observe::Metrics;

/// Changes in one command.
const BATCH_MAX: usize = 1024;
/// Between two commands: a herd that comes back after a restart makes a few commands, not thousands.
const GAP: Duration = Duration::from_millis(25);
/// After a command that failed.
const RETRY: Duration = Duration::from_millis(250);

/// Where streams are announced. Cheap to clone.
#[derive(Clone)]
pub struct Presence {
    shared: Arc<Shared>,
}

struct Shared {
    /// At most two entries a stream, so the number of streams bounds it.
    waiting: Mutex<Vec<Waiting>>,
    news: Notify,
    told: Notify,
    /// Whether a batch is under way.
    telling: std::sync::atomic::AtomicBool,
}

struct Waiting {
    change: PresenceChange,
    told: Option<oneshot::Sender<()>>,
}

impl Presence {
    /// Starts the teller; the future runs until it is dropped.
    pub fn start(cluster: Cluster, by: String, metrics: Metrics) -> (Presence, impl Future<Output = ()>) {
        let presence = Presence {
            shared: Arc::new(Shared {
                waiting: Mutex::default(),
                news: Notify::new(),
                told: Notify::new(),
                telling: false.into(),
            }),
        };
        let teller = tell(cluster, by, metrics, presence.shared.clone());
        (presence, teller)
    }

    /// A stream was opened. The receiver hears when the cluster knows.
    pub fn opened(&self, node: NodeId, session: SessionId) -> oneshot::Receiver<()> {
        let (told, receiver) = oneshot::channel();
        self.push(PresenceChange { node, session, here: true }, Some(told));
        receiver
    }

    /// A stream was closed, for whatever reason.
    pub fn closed(&self, node: NodeId, session: SessionId) {
        if mutants::is("goodbye-lost") {
            return;
        }
        self.push(PresenceChange { node, session, here: false }, None);
    }

    /// Waits until everything said so far is known, for a member that leaves.
    pub async fn settled(&self) {
        loop {
            let told = self.shared.told.notified();
            let idle = {
                let waiting = self.shared.waiting.lock().expect("nothing panics under this lock");
                waiting.is_empty() && !self.shared.telling.load(std::sync::atomic::Ordering::Relaxed)
            };
            if idle {
                return;
            }
            told.await;
        }
    }

    fn push(&self, change: PresenceChange, told: Option<oneshot::Sender<()>>) {
        self.shared.waiting.lock().expect("nothing panics under this lock").push(Waiting { change, told });
        self.shared.news.notify_one();
    }
}

async fn tell(cluster: Cluster, by: String, metrics: Metrics, shared: Arc<Shared>) {
    forget_former_life(&cluster, &by).await;
    loop {
        let mut batch: Vec<Waiting> = {
            let mut waiting = shared.waiting.lock().expect("nothing panics under this lock");
            let length = waiting.len().min(BATCH_MAX);
            shared.telling.store(length > 0, std::sync::atomic::Ordering::Relaxed);
            waiting.drain(..length).collect()
        };
        if batch.is_empty() {
            shared.news.notified().await;
            continue;
        }
        let changes: Vec<PresenceChange> = batch.iter().map(|one| one.change).collect();
        metrics.presence_batch.observe(changes.len() as f64);
        let command = Command::Presence { member: cluster.me(), changes };
        // The same batch again and again: order matters, and saying it twice does no harm.
        while let Err(error) = cluster.propose(&by, command.clone()).await {
            tracing::warn!(%error, changes = batch.len(), "presence was not taken, trying again");
            tokio::time::sleep(RETRY).await;
        }
        for told in batch.drain(..).filter_map(|one| one.told) {
            // The stream may be over already.
            let _ = told.send(());
        }
        shared.telling.store(false, std::sync::atomic::Ordering::Relaxed);
        shared.told.notify_waiters();
        tokio::time::sleep(GAP).await;
    }
}

/// A member that crashed has left streams in the state that no longer exist. Their nodes get the long grace: their
/// clients are on their way.
async fn forget_former_life(cluster: &Cluster, by: &str) {
    let member = cluster.me();
    let left_behind = |state: &state_machine::State| {
        state.presences().values().any(|presence| presence.session.is_some_and(|session| session.member == member))
    };
    while left_behind(&cluster.latest()) {
        match cluster.propose(by, Command::ForgetSessions { member }).await {
            Ok(_) => return tracing::info!("streams of this member's former life were given up"),
            Err(error) => {
                tracing::warn!(%error, "could not give up streams of a former life, trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
