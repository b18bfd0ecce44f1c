//! One simulated machine: what survives the members that run on it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use world::{Entropy, World};

use super::{clock::SimClock, disk::SimDisk, net::SimNet, trace};

/// A machine of the simulation.
pub struct Machine {
    /// Its name on the simulated network: `hs1`, `c3`.
    pub name: String,
    /// For the trace; members count from 1, clients from 101.
    pub number: u64,
    pub disk: Arc<SimDisk>,
    pub clock: Arc<SimClock>,
    seed: u64,
    lives: AtomicU64,
}

impl Machine {
    /// A machine whose dice and clock come from the seed of the run.
    pub fn new(name: &str, number: u64, seed: u64) -> Machine {
        let seed = mix(seed, number);
        let mut dice = SmallRng::seed_from_u64(seed);
        // Machines that keep time by NTP: off by less than a quarter of a second, drifting by less than 50 ppm.
        let offset_ms = (dice.next_u64() % 500) as i64 - 250;
        let drift_ppm = (dice.next_u64() % 100) as i64 - 50;
        Machine {
            name: name.to_string(),
            number,
            disk: Arc::default(),
            clock: Arc::new(SimClock::new(offset_ms, drift_ppm)),
            seed,
            lives: AtomicU64::new(0),
        }
    }

    /// The number of the life that begins and its doors: the same disk and clock, fresh dice.
    pub fn world(&self) -> (u64, World) {
        let life = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        trace::event("start", self.number, &life.to_le_bytes());
        let mut dice = SmallRng::seed_from_u64(mix(self.seed, life));
        let world = World {
            clock: self.clock.clone(),
            entropy: Entropy::new(move |bytes| dice.fill_bytes(bytes)),
            net: Arc::new(SimNet { host: self.number }),
            disk: self.disk.clone(),
        };
        (life, world)
    }
}

/// Two numbers into one, so that neighbouring seeds share nothing (the finaliser of SplitMix64).
pub fn mix(seed: u64, stream: u64) -> u64 {
    let mut z = seed.wrapping_add(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
