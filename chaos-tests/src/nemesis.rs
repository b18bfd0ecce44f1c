//! What goes wrong, and when it is made good again.
//!
//! The whole storm is drawn from the seed before it begins, so that single blows can be left out when a run is made
//! shorter (`cargo sim --minimise`). Only whom a blow hits may depend on the run: most trouble worth having happens to
//! leaders. Blows overlap.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// Whom a blow hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Whoever leads at that moment; when nobody does, the member with this number.
    Leader(u64),
    Member(u64),
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blow {
    /// The machine loses power; `torn`: files keep a random part of what was not synced. Nobody hears a goodbye.
    PowerLoss { torn: bool, down: Duration },
    /// `kill -9`; the page cache survives, and connections are reset.
    Kill { down: Duration },
    /// The disk becomes slow, and before it has caught up the power fails; the machine is back at once.
    Blackout { sync: Duration, after: Duration, down: Duration },
    /// Everybody is killed at once and comes back one after the other.
    KillAll { down: Duration },
    /// The member hears no other member, and none hears it: segments are lost. `devices`: what they send and get waits.
    Isolate { devices: bool, lasting: Duration },
    /// This member and the next do not hear each other.
    Divide { lasting: Duration },
    /// What the member says is lost (or, turned round, what it is told); the other way works.
    OneWay { deaf: bool, lasting: Duration },
    /// Everything from and to the member waits and then arrives at once: a machine that was paused, as others see it.
    Hold { lasting: Duration },
    /// The link to the next member comes and goes.
    Flap { times: u32, each: Duration },
    /// Segments from and to the member take long and overtake each other, as with loss and retransmission.
    Slow { latency: Duration, lasting: Duration },
    /// Syncs take so long.
    SlowDisk { sync: Duration, lasting: Duration },
    /// Somebody sets a clock.
    SetClock { by_ms: i64 },
    /// A clock runs wrong, in millionths.
    Drift { ppm: i64, lasting: Duration },
    /// A planned change of leadership.
    HandOver,
    /// A device loses power and comes back; nobody hears a goodbye. Counted from the first.
    DeviceOff { device: u64, down: Duration },
}

impl Blow {
    /// For the table of what was exercised.
    pub fn kind(&self) -> &'static str {
        match self {
            Blow::PowerLoss { torn: true, .. } => "power loss, torn",
            Blow::PowerLoss { .. } => "power loss",
            Blow::Kill { .. } => "kill",
            Blow::Blackout { .. } => "power loss, slow disk",
            Blow::KillAll { .. } => "kill all",
            Blow::Isolate { .. } => "isolate",
            Blow::Divide { .. } => "divide",
            Blow::OneWay { .. } => "one-way cut",
            Blow::Hold { .. } => "hold",
            Blow::Flap { .. } => "flap",
            Blow::Slow { .. } => "slow network",
            Blow::SlowDisk { .. } => "slow disk",
            Blow::SetClock { .. } => "clock jump",
            Blow::Drift { .. } => "clock drift",
            Blow::HandOver => "hand-over",
            Blow::DeviceOff { .. } => "device off",
        }
    }
}

/// A blow and its moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Its number in the schedule of the seed.
    pub number: usize,
    /// Since the storm began.
    pub at: Duration,
    pub whom: Whom,
    pub blow: Blow,
}

/// Draws a storm. `only`: the strikes that are kept; the others leave no trace in what follows.
pub fn storm(seed: u64, members: u64, lasting: Duration, only: Option<&BTreeSet<usize>>) -> Vec<Strike> {
    let mut dice = Dice(SmallRng::seed_from_u64(seed));
    let (mut strikes, mut at) = (Vec::new(), dice.span(100, 1500));
    while at < lasting {
        let member = dice.0.random_range(1..=members);
        let whom = if dice.0.random_bool(0.6) { Whom::Leader(member) } else { Whom::Member(member) };
        strikes.push(Strike { number: strikes.len(), at, whom, blow: dice.blow() });
        at += dice.span(300, 2200);
    }
    strikes.retain(|strike| only.is_none_or(|only| only.contains(&strike.number)));
    strikes
}

struct Dice(SmallRng);

impl Dice {
    fn blow(&mut self) -> Blow {
        match self.0.random_range(0..100) {
            0..20 => Blow::PowerLoss { torn: self.0.random_bool(0.5), down: self.down() },
            20..24 => Blow::Blackout { sync: self.span(100, 300), after: self.span(40, 250), down: self.span(1, 20) },
            24..36 => Blow::Kill { down: self.down() },
            36..39 => Blow::KillAll { down: self.down() },
            39..53 => Blow::Isolate { devices: self.0.random_bool(0.5), lasting: self.span(200, 5000) },
            53..60 => Blow::Divide { lasting: self.span(200, 5000) },
            60..67 => Blow::OneWay { deaf: self.0.random_bool(0.5), lasting: self.span(200, 4000) },
            67..73 => Blow::Hold { lasting: self.span(200, 3000) },
            73..76 => Blow::Flap { times: self.0.random_range(2..6), each: self.span(100, 600) },
            76..82 => Blow::Slow { latency: self.span(10, 120), lasting: self.span(500, 4000) },
            82..86 => Blow::SlowDisk { sync: self.span(20, 250), lasting: self.span(500, 4000) },
            86..91 => Blow::SetClock { by_ms: self.0.random_range(-2000..=2000) },
            91..94 => Blow::Drift { ppm: self.0.random_range(-10_000..=10_000), lasting: self.span(500, 5000) },
            94..97 => Blow::HandOver,
            _ => Blow::DeviceOff { device: self.0.random_range(0..100), down: self.span(200, 6000) },
        }
    }

    /// Some members are back at once, as a supervisor restarts them; some stay away through elections.
    fn down(&mut self) -> Duration {
        match self.0.random_bool(0.3) {
            true => self.span(1, 30),
            false => self.span(50, 4000),
        }
    }

    fn span(&mut self, min_ms: u64, max_ms: u64) -> Duration {
        Duration::from_millis(self.0.random_range(min_ms..max_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_its_seeds_and_what_is_left_out_changes_nothing_else() {
        let minute = Duration::from_secs(60);
        let whole = storm(7, 3, minute, None);
        assert_eq!(whole, storm(7, 3, minute, None));
        assert_ne!(whole, storm(8, 3, minute, None));
        let kept = storm(7, 3, minute, Some(&BTreeSet::from([2, 5])));
        assert_eq!(kept, [whole[2].clone(), whole[5].clone()]);
    }

    #[test]
    fn every_blow_is_struck_sooner_or_later() {
        let kinds: BTreeSet<&str> = (0..20)
            .flat_map(|seed| storm(seed, 3, Duration::from_secs(60), None))
            .map(|strike| strike.blow.kind())
            .collect();
        assert_eq!(kinds.len(), 16, "{kinds:?}");
    }
}
