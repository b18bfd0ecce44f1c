//! Clocks that are wrong.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use world::{Clock, World};

/// The machine's clock, put forward or back by so many milliseconds.
pub struct Off(pub AtomicI64);

impl Clock for Off {
    fn now_ms(&self) -> u64 {
        world::real::world().clock.now_ms().saturating_add_signed(self.0.load(Ordering::Relaxed))
    }
}

/// A world whose clock is off, and the screw to turn it.
pub fn off_by(ms: i64) -> (World, Arc<Off>) {
    let clock = Arc::new(Off(ms.into()));
    (World { clock: clock.clone(), ..world::real::world() }, clock)
}
