//! The time of day of a simulated host: runs with simulated time, starts off a little wrong, drifts and can be set.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use world::Clock;

/// Where every simulation's calendar begins: 2026-01-01T00:00:00Z.
pub const EPOCH_MS: u64 = 1_767_225_600_000;

/// One host's clock.
pub struct SimClock {
    /// How far it is off, in milliseconds.
    offset_ms: AtomicI64,
    /// How much too fast it runs, in millionths, and since when, in milliseconds of simulated time.
    drift: Mutex<(i64, i64)>,
}

impl SimClock {
    /// A clock that is `offset_ms` off and runs `drift_ppm` millionths too fast.
    pub fn new(offset_ms: i64, drift_ppm: i64) -> SimClock {
        SimClock { offset_ms: AtomicI64::new(offset_ms), drift: Mutex::new((drift_ppm, 0)) }
    }

    /// Somebody sets the clock.
    pub fn jump(&self, by_ms: i64) {
        self.offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// From now on it runs so many millionths too fast. What it gained until now stays.
    pub fn drift(&self, now: Duration, ppm: i64) {
        let now_ms = now.as_millis() as i64;
        let mut drift = self.drift.lock().expect("no panic while locked");
        self.offset_ms.fetch_add((now_ms - drift.1) * drift.0 / 1_000_000, Ordering::Relaxed);
        *drift = (ppm, now_ms);
    }

    fn at(&self, elapsed: Duration) -> u64 {
        let elapsed_ms = elapsed.as_millis() as i64;
        let (ppm, since_ms) = *self.drift.lock().expect("no panic while locked");
        let drifted = elapsed_ms + (elapsed_ms - since_ms) * ppm / 1_000_000;
        EPOCH_MS.saturating_add_signed(drifted + self.offset_ms.load(Ordering::Relaxed))
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        self.at(turmoil::sim_elapsed().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_off_drift_and_jump() {
        let clock = SimClock::new(250, 100);
        assert_eq!(clock.at(Duration::ZERO), EPOCH_MS + 250);
        assert_eq!(clock.at(Duration::from_secs(1000)), EPOCH_MS + 250 + 1_000_000 + 100);
        clock.jump(-1250);
        assert_eq!(clock.at(Duration::ZERO), EPOCH_MS - 1000);
        // A second and a half behind, it gains one second in a hundred from now on.
        clock.drift(Duration::from_secs(1000), 10_000);
        let then = EPOCH_MS - 1000 + 1_000_000 + 100;
        assert_eq!(clock.at(Duration::from_secs(1000)), then);
        assert_eq!(clock.at(Duration::from_secs(1100)), then + 101_000);
    }
}
