//! The latest State, for everyone to watch; and for proposers, who wait for one revision, a call of their own: with
//! a thousand of them, waking all at every batch would cost more than applying it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use state_machine::{Revision, State};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

/// By revision; nothing once the publisher is gone.
type Waiting = Arc<Mutex<Option<BTreeMap<u64, Vec<oneshot::Sender<()>>>>>>;

/// The end that publishes; there is one.
pub struct Publisher {
    latest: watch::Sender<Arc<State>>,
    waiting: Waiting,
}

/// The end that reads and waits.
#[derive(Clone)]
pub struct Published {
    pub latest: watch::Receiver<Arc<State>>,
    waiting: Waiting,
}

/// Why a revision was not reached.
#[derive(Debug, PartialEq, Eq)]
pub enum Missed {
    Deadline,
    Stopped,
}

/// Both ends.
pub fn publish(state: Arc<State>) -> (Publisher, Published) {
    let (sender, latest) = watch::channel(state);
    let waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
    (Publisher { latest: sender, waiting: waiting.clone() }, Published { latest, waiting })
}

impl Publisher {
    /// Shows a State and wakes whoever waited for its revision.
    pub fn put(&self, state: Arc<State>) {
        let next = state.revision().0 + 1;
        self.latest.send_replace(state);
        let due = {
            let mut waiting = self.waiting.lock().expect("nobody panics while holding the waiters");
            let Some(waiting) = &mut *waiting else { return };
            let later = waiting.split_off(&next);
            std::mem::replace(waiting, later)
        };
        for waiter in due.into_values().flatten() {
            let _ = waiter.send(());
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Nothing more will be applied: whoever waits hears that its waker is gone.
        *self.waiting.lock().expect("nobody panics while holding the waiters") = None;
    }
}

impl Published {
    /// The latest State, once it is at `revision` or later.
    pub async fn at_least(&self, revision: Revision, until: Instant) -> Result<Arc<State>, Missed> {
        if let Some(state) = self.reached(revision) {
            return Ok(state);
        }
        let woken = self.wait_for(revision).ok_or(Missed::Stopped)?;
        // It may have come between the look and the entry in the list.
        if let Some(state) = self.reached(revision) {
            return Ok(state);
        }
        match timeout_at(until, woken).await {
            Ok(Ok(())) => Ok(self.latest.borrow().clone()),
            Ok(Err(_)) => Err(Missed::Stopped),
            Err(_) => Err(Missed::Deadline),
        }
    }

    fn wait_for(&self, revision: Revision) -> Option<oneshot::Receiver<()>> {
        let (waiter, woken) = oneshot::channel();
        let mut waiting = self.waiting.lock().expect("nobody panics while holding the waiters");
        waiting.as_mut()?.entry(revision.0).or_default().push(waiter);
        Some(woken)
    }

    fn reached(&self, revision: Revision) -> Option<Arc<State>> {
        Some(self.latest.borrow().clone()).filter(|state| state.revision() >= revision)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(revision: u64) -> Arc<State> {
        let mut state = State::default();
        state.advance(Revision(revision));
        Arc::new(state)
    }

    #[tokio::test]
    async fn wakes_whom_it_concerns() {
        let (publisher, published) = publish(at(1));
        let soon = Instant::now() + Duration::from_secs(10);
        assert_eq!(published.at_least(Revision(1), soon).await.unwrap().revision(), Revision(1));
        let five = tokio::spawn({
            let published = published.clone();
            async move { published.at_least(Revision(5), soon).await.map(|state| state.revision()) }
        });
        let nine = tokio::spawn({
            let published = published.clone();
            async move { published.at_least(Revision(9), soon).await.map(|state| state.revision()) }
        });
        tokio::task::yield_now().await;
        publisher.put(at(4));
        publisher.put(at(6));
        assert_eq!(five.await.unwrap(), Ok(Revision(6)));
        assert!(!nine.is_finished());
        drop(publisher);
        assert_eq!(nine.await.unwrap(), Err(Missed::Stopped));
        assert_eq!(published.at_least(Revision(9), soon).await.unwrap_err(), Missed::Stopped);
    }
}
