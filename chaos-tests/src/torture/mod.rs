//! Torture: real members, real faults, and a report that says what they cost.
//!
//! | file | holds |
//! |---|---|
//! | `crew.rs` | members as children of this process |
//! | `ground.rs` | where they live: loopback, or a network namespace each |
//! | `weather.rs` | relays between members that pass bytes on late |
//! | `canaries.rs` | who writes, reads and registers all the while, and remembers every answer |
//! | `guests.rs` | devices with a stream and the timers of the real client |
//! | `verdict.rs` | the truth afterwards, asked of every member, against what was answered |
//! | `kills.rs` | rounds of kill, freeze, and all at once, in an order a seed decides |
//! | `failpoints.rs` | members stopped at every named point of the code, one after the other |
//! | `corruption.rs` | folders damaged, emptied, put back to an earlier day |
//! | `goals/` | the times of R1 to R12, each measured at least fifty times |
//! | `report.rs` | figures, goals, verdicts |
//!
//! A run in which too little was written proves nothing: it is VOID and fails. What is not possible on a machine is
//! skipped with its reason.

pub mod canaries;
pub mod corruption;
pub mod crew;
pub mod failpoints;
pub mod goals;
pub mod ground;
pub mod guests;
pub mod kills;
pub mod report;
pub mod verdict;
pub mod weather;

/// SplitMix64: the same order of faults for the same seed.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// The same things in another order.
    pub fn shuffled<T>(&mut self, mut things: Vec<T>) -> Vec<T> {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last + 1));
        }
        things
    }
}
