//! A whole cluster in one thread, from one seed.
//!
//! A run has two phases. In the *storm* operators and devices work while the nemesis breaks things, and every law looks
//! on. Then everything is healed and the *calm* begins: all members must serve again by themselves, rest at the same
//! revision, and have kept everything that was acknowledged.
//!
//! | file | holds |
//! |---|---|
//! | `plan.rs` | what to simulate, how it ended |
//! | `run.rs` | the phases of a run |
//! | `strike.rs` | blows land and are made good again |
//! | `seats.rs` | members come, go and are replaced |
//! | `member.rs`, `host.rs` | a member's life, a machine |
//! | `net.rs`, `disk.rs`, `clock.rs` | the doors of `world`, simulated |
//! | `trace.rs` | everything that happened, as one number |

pub mod clock;
pub mod disk;
pub mod host;
pub mod member;
pub mod net;
pub mod plan;
mod run;
mod seats;
mod strike;
pub mod trace;

pub use plan::{Class, Plan, Verdict};
pub use run::run;
