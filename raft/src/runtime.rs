//! tokio with dice that can be seeded: the same type in production and in simulation.
//!
//! openraft rolls dice for election timeouts and the phase of its ticks, and only through
//! [`AsyncRuntime::thread_rng`]. A simulation runs on one thread, so a generator of that thread, seeded once, makes
//! everything repeatable. In a process that simulates, dice of the operating system are refused: they would make a
//! seed mean nothing, and nobody would notice.

use std::{
    cell::RefCell,
    future::Future,
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use rand::{Rng, SeedableRng, rngs::SmallRng};

static SIMULATED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static DICE: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
}

/// From now on this process is a simulation, and dice rolled on this thread come from `seed`.
/// Dice rolled on a thread that was not seeded panic.
pub fn seed_thread(seed: u64) {
    SIMULATED.store(true, Ordering::SeqCst);
    DICE.with(|dice| *dice.borrow_mut() = Some(SmallRng::seed_from_u64(seed)));
}

fn roll() -> u64 {
    DICE.with(|dice| match &mut *dice.borrow_mut() {
        Some(dice) => dice.next_u64(),
        None => {
            assert!(
                !SIMULATED.load(Ordering::SeqCst),
                "this process is a simulation and this thread has no seed: call raft::runtime::seed_thread"
            );
            world::real::entropy().u64()
        }
    })
}

/// openraft's runtime: tokio, but for the dice.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, F: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, F>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<F>(future: F) -> Self::JoinHandle<F::Output>
    where
        F: Future + OptionalSend + 'static,
        F::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(span: Duration) -> Self::Sleep {
        TokioRuntime::sleep(span)
    }

    fn sleep_until(until: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(until)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(span: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(span, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(at: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(at, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(error)
    }

    fn thread_rng() -> SmallRng {
        SmallRng::seed_from_u64(roll())
    }

    fn new(threads: usize) -> Runtime {
        Runtime(TokioRuntime::new(threads))
    }

    fn block_on<F, R>(&mut self, future: F) -> R
    where
        F: Future<Output = R>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        TokioRuntime::spawn_blocking(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_dice() {
        let draw = || {
            DICE.with(|dice| *dice.borrow_mut() = Some(SmallRng::seed_from_u64(7)));
            [Runtime::thread_rng().next_u64(), Runtime::thread_rng().next_u64()]
        };
        let (first, second) = (draw(), draw());
        DICE.with(|dice| *dice.borrow_mut() = None);
        assert_eq!(first, second);
        assert_ne!(first[0], first[1]);
    }
}
