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
//! | `upkeep.rs` | certificates, authorities and keys are replaced; backups are restored on trial |
//! | `member.rs`, `host.rs` | a member's life, a machine |
//! | `net.rs`, `disk.rs`, `clock.rs`, `shelf.rs` | the doors of `world`, simulated |
//! | `trace.rs` | everything that happened, as one number |

pub mod clock;
pub mod disk;
pub mod host;
pub mod member;
pub mod net;
pub mod plan;
mod run;
mod seats;
pub mod shelf;
mod strike;
pub mod trace;
mod upkeep;

pub use plan::{Class, Plan, Verdict};
pub use run::run;
