//! The time of day of a simulated host: runs with simulated time, starts off a little wrong, drifts and can be set.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use world::Clock;

/// Where every simulation's calendar begins: 2026-01-01T00:00:00Z.
pub const EPOCH_MS: u64 = 1_767_225_600_000;

/// One host's clock.
pub struct SimClock {
    /// How far it is off, in milliseconds.
    offset_ms: AtomicI64,
    /// How much too fast it runs, in millionths.
    drift_ppm: i64,
}

impl SimClock {
    /// A clock that is `offset_ms` off and runs `drift_ppm` millionths too fast.
    pub fn new(offset_ms: i64, drift_ppm: i64) -> SimClock {
        SimClock { offset_ms: AtomicI64::new(offset_ms), drift_ppm }
    }

    /// Somebody sets the clock.
    pub fn jump(&self, by_ms: i64) {
        self.offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    fn at(&self, elapsed: Duration) -> u64 {
        let elapsed_ms = elapsed.as_millis() as i64;
        let drifted = elapsed_ms + elapsed_ms * self.drift_ppm / 1_000_000;
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
    }
}
