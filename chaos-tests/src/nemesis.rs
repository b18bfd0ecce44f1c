//! What goes wrong, and when it is made good again.
//!
//! The nemesis only decides; the simulation does. One blow at a time may be in the air per member, and blows overlap.

use std::time::Duration;

use rand::{RngExt, rngs::SmallRng};

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blow {
    /// The machine loses power; `torn`: files keep a random part of what was not synced.
    PowerLoss { member: u64, torn: bool, down: Duration },
    /// `kill -9`; the page cache survives.
    Kill { member: u64, down: Duration },
    /// The member hears nobody and nobody hears it; `devices`: neither do they.
    Isolate { member: u64, devices: bool, lasting: Duration },
    /// Two members do not hear each other.
    Divide { member: u64, other: u64, lasting: Duration },
    /// Somebody sets a clock.
    SetClock { member: u64, by_ms: i64 },
    /// A planned change of leadership.
    HandOver { member: u64 },
}

/// Decides what goes wrong next.
pub struct Nemesis {
    dice: SmallRng,
    members: u64,
    next: Duration,
}

impl Nemesis {
    /// Starts after `calm` of peace.
    pub fn new(dice: SmallRng, members: u64, calm: Duration) -> Nemesis {
        Nemesis { dice, members, next: calm }
    }

    /// What goes wrong now, if anything.
    pub fn strike(&mut self, now: Duration, leader: Option<u64>) -> Option<Blow> {
        if now < self.next {
            return None;
        }
        self.next = now + self.span(300, 2500);
        // Most trouble worth having happens to leaders.
        let member = match leader {
            Some(leader) if self.dice.random_bool(0.6) => leader,
            _ => self.dice.random_range(1..=self.members),
        };
        Some(match self.dice.random_range(0..100) {
            0..30 => Blow::PowerLoss { member, torn: self.dice.random_bool(0.5), down: self.down() },
            30..45 => Blow::Kill { member, down: self.down() },
            45..65 => Blow::Isolate { member, devices: self.dice.random_bool(0.5), lasting: self.span(200, 5000) },
            65..80 => {
                let other = member % self.members + 1;
                Blow::Divide { member, other, lasting: self.span(200, 5000) }
            }
            80..90 => Blow::SetClock { member, by_ms: self.dice.random_range(-2000..=2000) },
            _ => Blow::HandOver { member },
        })
    }

    /// Some members are back at once, as a supervisor restarts them; some stay away through elections.
    fn down(&mut self) -> Duration {
        match self.dice.random_bool(0.3) {
            true => self.span(1, 30),
            false => self.span(50, 4000),
        }
    }

    fn span(&mut self, min_ms: u64, max_ms: u64) -> Duration {
        Duration::from_millis(self.dice.random_range(min_ms..max_ms))
    }
}
