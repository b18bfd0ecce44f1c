//! Tasks that belong to one member and die with it.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tokio::{runtime::Handle, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::integrity::fail;

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

/// Runs what a member cannot be without. Should it panic, `fatal` is told and the process ends: it starts afresh, while a
/// member that goes on without it would be half a member that nobody notices.
pub async fn vital(what: &str, fatal: &watch::Sender<Option<String>>, task: impl Future<Output = ()>) {
    // Nothing it held is used after that but to end.
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        fail(
            fatal,
            format!(
                "its task \"{what}\" panicked, which is a fault of the program; it starts again; please report the lines \
                 before this one"
            ),
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vital_task_that_panics_is_the_end() {
        let (fatal, told) = watch::channel(None);
        vital("quiet", &fatal, async {}).await;
        assert_eq!(*told.borrow(), None);
        vital("loud", &fatal, async { panic!("on purpose") }).await;
        let why = told.borrow().clone().unwrap();
        assert!(why.contains("\"loud\" panicked"), "{why}");
        assert_eq!(crate::fatal_exit_code(&why), 70);
    }
}
