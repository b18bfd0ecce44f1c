//! Faults on purpose: what a drill may do to this member, and the timers that end it.
//!
//! A member takes part only when its configuration says so. Then a driver opens a *session*, which it must renew, and
//! brings faults into it, each with a time after which it is over. The member itself keeps both times: a driver that
//! dies, or is cut off, leaves nothing behind. No fault loses what was acknowledged: a connection stands still as on a
//! cut cable, a sync takes longer, the disk counts as full before anything is written, the process ends as by `kill -9`.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use state_machine::MemberId;
use tokio::time::Instant;

use crate::tasks::Tasks;

/// A session ends this long after the driver was last heard of, at most.
pub const SESSION_MAX: Duration = Duration::from_secs(60);
/// No fault lasts longer.
pub const FAULT_MAX: Duration = Duration::from_secs(300);
/// No sync is held up longer.
pub const SLOW_MAX: Duration = Duration::from_secs(10);
/// Between the promise to end the process and the end: the answer has to get out.
pub const CRASH_AFTER: Duration = Duration::from_millis(50);

/// What can be done to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process ends at once, as by `kill -9`; whoever supervises it starts it again.
    Crash,
    /// Nothing comes from or goes to these members; none named: all of them.
    Cut(BTreeSet<MemberId>),
    /// Every sync takes so much longer.
    SlowDisk(Duration),
    /// The disk counts as full.
    FullDisk,
}

impl Fault {
    /// `crash`, `cut`, `slow-disk` or `full-disk`.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Crash => "crash",
            Fault::Cut(_) => "cut",
            Fault::SlowDisk(_) => "slow-disk",
            Fault::FullDisk => "full-disk",
        }
    }
}

/// Why a member takes no part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrillRefused {
    #[error("this member takes no part in drills; set cluster.drills: true in its configuration and start it again")]
    Forbidden,
    #[error("drill {id} of {by} is under way here; wait for it, or end it: hsraft drill stop")]
    Busy { id: String, by: String },
    #[error("no drill {0} is under way here: it ended, or its driver was not heard of for too long")]
    NoSession(String),
    #[error("{0}")]
    Unfit(String),
}

/// Who drills, and what is broken now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrillView {
    pub allowed: bool,
    /// Id, whoever runs it, and how long it lasts unless renewed.
    pub session: Option<(String, String, Duration)>,
    /// Faults, and how long each still lasts.
    pub faults: Vec<(Fault, Duration)>,
}

/// The door for drills of one member. Cheap to clone.
#[derive(Clone, Default)]
pub struct Drills(Option<Arc<Shared>>);

#[derive(Default)]
struct Shared {
    /// Whether any fault may be there; the only thing looked at while there is none.
    any: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    session: Option<Session>,
    faults: Vec<(Fault, Instant)>,
    /// Streams that stand still.
    wakers: Vec<Waker>,
}

struct Session {
    id: String,
    by: String,
    until: Instant,
}

impl Inner {
    /// Ends what is over. Whether anything did.
    fn expire(&mut self, now: Instant) -> bool {
        let before = self.faults.len();
        if self.session.as_ref().is_some_and(|session| session.until <= now) {
            let id = self.session.take().map(|session| session.id);
            tracing::warn!(drill = id, "the driver of the drill was not heard of any more; all faults end");
        }
        if self.session.is_none() {
            self.faults.clear();
        }
        self.faults.retain(|(_, until)| *until > now);
        before != self.faults.len()
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl Drills {
    /// Of a member that takes no part.
    pub fn forbidden() -> Drills {
        Drills(None)
    }

    /// Of a member that takes part when it is asked.
    pub fn allowed() -> Drills {
        Drills(Some(Arc::default()))
    }

    pub fn is_allowed(&self) -> bool {
        self.0.is_some()
    }

    fn shared(&self) -> Result<&Arc<Shared>, DrillRefused> {
        self.0.as_ref().ok_or(DrillRefused::Forbidden)
    }

    /// Opens a session, or makes the one of this id last `within` from now.
    pub fn begin(&self, id: &str, by: &str, within: Duration) -> Result<(), DrillRefused> {
        if within.is_zero() || within > SESSION_MAX {
            return Err(DrillRefused::Unfit(format!(
                "a session lasts {} s at most; renew it as long as the drill goes on",
                SESSION_MAX.as_secs()
            )));
        }
        let mut inner = self.shared()?.now();
        let until = Instant::now() + within;
        match &mut inner.session {
            Some(session) if session.id == id => session.until = until,
            Some(Session { id, by, .. }) => return Err(DrillRefused::Busy { id: id.clone(), by: by.clone() }),
            none => {
                tracing::info!(drill = id, by, "a drill begins");
                *none = Some(Session { id: id.into(), by: by.into(), until });
            }
        }
        Ok(())
    }

    /// Breaks something for a while, within a session. The tasks are those of the member.
    pub fn inject(&self, id: &str, fault: Fault, within: Duration, tasks: &Tasks) -> Result<(), DrillRefused> {
        let shared = self.shared()?;
        if within.is_zero() || within > FAULT_MAX {
            return Err(DrillRefused::Unfit(format!("a fault lasts {} s at most", FAULT_MAX.as_secs())));
        }
        if matches!(fault, Fault::SlowDisk(by) if by > SLOW_MAX) {
            return Err(DrillRefused::Unfit(format!("a sync is held up {} s at most", SLOW_MAX.as_secs())));
        }
        let mut inner = shared.now();
        inner.in_session(id)?;
        tracing::warn!(drill = id, fault = fault.name(), ?within, "a drill breaks this member on purpose");
        if fault == Fault::Crash {
            tasks.spawn(async {
                tokio::time::sleep(CRASH_AFTER).await;
                // No destructor, no flush: what a power switch leaves of a process.
                std::process::abort();
            });
            return Ok(());
        }
        inner.faults.retain(|(other, _)| other.name() != fault.name());
        inner.faults.push((fault, Instant::now() + within));
        shared.any.store(true, Ordering::Release);
        drop(inner);
        let shared = shared.clone();
        tasks.spawn(async move { shared.watch().await });
        Ok(())
    }

    /// Ends all faults; the session goes on.
    pub fn heal(&self, id: &str) -> Result<(), DrillRefused> {
        let mut inner = self.shared()?.now();
        inner.in_session(id)?;
        inner.faults.clear();
        tracing::info!(drill = id, "healed");
        inner.wake();
        Ok(())
    }

    /// Ends the session and all faults. An empty id ends whatever is under way.
    pub fn end(&self, id: &str) -> Result<(), DrillRefused> {
        let mut inner = self.shared()?.now();
        if id.is_empty() && inner.session.is_none() {
            return Ok(());
        }
        if !id.is_empty() {
            inner.in_session(id)?;
        }
        let drill = inner.session.take().map(|session| session.id);
        tracing::info!(drill, "the drill is over");
        inner.faults.clear();
        inner.wake();
        Ok(())
    }

    /// What is under way.
    pub fn look(&self) -> DrillView {
        let Some(shared) = &self.0 else { return DrillView::default() };
        let now = Instant::now();
        let inner = shared.now();
        DrillView {
            allowed: true,
            session: inner.session.as_ref().map(|s| (s.id.clone(), s.by.clone(), s.until.duration_since(now))),
            faults: inner.faults.iter().map(|(fault, until)| (fault.clone(), until.duration_since(now))).collect(),
        }
    }

    /// Whether a stream to or from this member stands still; then `context` is woken when it goes on. Before a caller
    /// has said who it is, only a cut from everybody holds it up.
    pub fn holds_up(&self, peer: Option<MemberId>, context: &Context<'_>) -> bool {
        let Some(mut inner) = self.broken() else { return false };
        let cut = inner.faults.iter().any(|(fault, _)| match (fault, peer) {
            (Fault::Cut(from), _) if from.is_empty() => true,
            (Fault::Cut(from), Some(peer)) => from.contains(&peer),
            _ => false,
        });
        if cut && !inner.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            inner.wakers.push(context.waker().clone());
        }
        cut
    }

    /// On the writer's thread, before a sync: waits as long as the fault says, or until it is over.
    pub fn hold_sync(&self) {
        let begun = Instant::now();
        while let Some(by) = self.slow_disk()
            && let Some(left) = by.checked_sub(begun.elapsed()).filter(|left| !left.is_zero())
        {
            std::thread::park_timeout(left.min(LOOK));
        }
    }

    fn slow_disk(&self) -> Option<Duration> {
        let inner = self.broken()?;
        inner.faults.iter().find_map(|(fault, _)| match fault {
            Fault::SlowDisk(by) => Some(*by),
            _ => None,
        })
    }

    /// Whether the disk shall count as full.
    pub fn disk_is_full(&self) -> bool {
        self.broken().is_some_and(|inner| inner.faults.iter().any(|(fault, _)| *fault == Fault::FullDisk))
    }

    /// The faults of now; none, and cheaply so, while nothing is broken.
    fn broken(&self) -> Option<MutexGuard<'_, Inner>> {
        let shared = self.0.as_ref()?;
        shared.any.load(Ordering::Acquire).then(|| shared.now())
    }
}

/// How often a held-up sync looks whether it may go on.
const LOOK: Duration = Duration::from_millis(20);

impl Inner {
    fn in_session(&self, id: &str) -> Result<(), DrillRefused> {
        match &self.session {
            Some(session) if session.id == id => Ok(()),
            _ => Err(DrillRefused::NoSession(id.into())),
        }
    }
}

impl Shared {
    /// As it is now: what is over has ended.
    fn now(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().expect("nobody panics while holding the faults");
        if inner.expire(Instant::now()) {
            inner.wake();
        }
        if inner.faults.is_empty() {
            self.any.store(false, Ordering::Release);
        }
        inner
    }

    /// The dead man's timer: streams that stand still look at no clock.
    async fn watch(&self) {
        loop {
            let next = {
                let inner = self.now();
                let session = inner.session.as_ref().map(|session| session.until);
                match inner.faults.iter().map(|(_, until)| *until).chain(session).min() {
                    Some(next) if !inner.faults.is_empty() => next,
                    _ => return,
                }
            };
            tokio::time::sleep_until(next).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::{future::poll_fn, task::noop_waker};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cut(members: &[u64]) -> Fault {
        Fault::Cut(members.iter().copied().map(MemberId).collect())
    }

    fn held(drills: &Drills, peer: u64) -> bool {
        drills.holds_up(Some(MemberId(peer)), &Context::from_waker(&noop_waker()))
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_part_is_never_broken() {
        let (drills, tasks) = (Drills::forbidden(), Tasks::here());
        assert_eq!(drills.begin("d", "cli", SECOND), Err(DrillRefused::Forbidden));
        assert_eq!(drills.inject("d", cut(&[]), SECOND, &tasks), Err(DrillRefused::Forbidden));
        assert!(!held(&drills, 2) && !drills.disk_is_full() && !drills.look().allowed);
    }

    #[tokio::test(start_paused = true)]
    async fn one_drill_at_a_time_and_nothing_outside_of_one() {
        let (drills, tasks) = (Drills::allowed(), Tasks::here());
        assert!(matches!(drills.inject("a", cut(&[]), SECOND, &tasks), Err(DrillRefused::NoSession(_))));
        drills.begin("a", "alice", SECOND * 10).unwrap();
        assert!(matches!(drills.begin("b", "bob", SECOND), Err(DrillRefused::Busy { .. })));
        for (fault, within) in
            [(cut(&[]), FAULT_MAX * 2), (cut(&[]), Duration::ZERO), (Fault::SlowDisk(SLOW_MAX * 2), SECOND)]
        {
            assert!(matches!(drills.inject("a", fault, within, &tasks), Err(DrillRefused::Unfit(_))));
        }
        assert!(drills.begin("a", "alice", SESSION_MAX * 2).is_err());
        drills.inject("a", cut(&[3]), SECOND, &tasks).unwrap();
        assert!(held(&drills, 3) && !held(&drills, 2));
        assert!(!drills.holds_up(None, &Context::from_waker(&noop_waker())));
        assert!(matches!(drills.heal("b"), Err(DrillRefused::NoSession(_))));
        drills.heal("a").unwrap();
        assert!(!held(&drills, 3));
        drills.inject("a", Fault::FullDisk, SECOND, &tasks).unwrap();
        assert!(drills.disk_is_full());
        drills.end("a").unwrap();
        assert!(!drills.disk_is_full());
        drills.begin("b", "bob", SECOND).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_member_heals_itself_when_the_time_is_over() {
        let (drills, tasks) = (Drills::allowed(), Tasks::here());
        drills.begin("a", "alice", SECOND * 60).unwrap();
        drills.inject("a", cut(&[]), SECOND * 5, &tasks).unwrap();
        let begun = Instant::now();
        // A stream that stands still is woken by nobody else.
        poll_fn(|context| if drills.holds_up(None, context) { Poll::Pending } else { Poll::Ready(()) }).await;
        assert_eq!(begun.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn the_member_heals_itself_when_the_driver_is_gone() {
        let (drills, tasks) = (Drills::allowed(), Tasks::here());
        drills.begin("a", "alice", SECOND * 3).unwrap();
        drills.inject("a", cut(&[]), SECOND * 100, &tasks).unwrap();
        let begun = Instant::now();
        tokio::time::sleep(SECOND * 2).await;
        drills.begin("a", "alice", SECOND * 3).unwrap();
        poll_fn(|context| if drills.holds_up(None, context) { Poll::Pending } else { Poll::Ready(()) }).await;
        assert_eq!(begun.elapsed().as_secs(), 5);
        assert_eq!(drills.look(), DrillView { allowed: true, ..DrillView::default() });
        drills.begin("b", "bob", SECOND).unwrap();
    }
}
