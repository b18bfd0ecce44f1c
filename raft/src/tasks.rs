//! Tasks that belong to one member and die with it.

use std::{future::Future, time::Duration};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Spawns tasks that end together. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    handle: Handle,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// A new group on the runtime we are in.
    pub fn here() -> Tasks {
        Tasks { handle: Handle::current(), stop: CancellationToken::new(), tracker: TaskTracker::new() }
    }

    /// Runs `task` until it ends or the group does.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let guarded = async move {
            tokio::select! { biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        };
        self.tracker.spawn_on(guarded, &self.handle);
    }

    /// Ends all tasks at their next step.
    pub fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
    }

    /// Whether the group was told to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The runtime the tasks run on.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until all tasks have ended, but not for ever.
    pub async fn ended(&self, at_most: Duration) {
        if tokio::time::timeout(at_most, self.tracker.wait()).await.is_err() {
            tracing::warn!(left = self.tracker.len(), "tasks of Raft did not end in time");
        }
    }
}

/// hyper and tonic spawn their connections here.
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        self.spawn(async move {
            task.await;
        });
    }
}
