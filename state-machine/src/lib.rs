//! The pure half's heart: the whole truth of a tailnet ([`State`]) and the one way to change it ([`State::apply`]).
//!
//! Values in, values out. No clock, no dice, no doors, no log lines: time and randomness arrive inside commands.
//! Start reading at [`command`], then [`apply`](State::apply) and one verb under `apply/`, then one file of
//! `tests/scripts`.
//!
//! | file | holds |
//! |---|---|
//! | `model/` | the nouns |
//! | `command.rs`, `outcome.rs` | all questions, all answers |
//! | `state.rs` | the tables, and how they are read; cloning is cheap |
//! | `tables.rs`, `indexes.rs` | the only places that change a row, and what is kept beside the rows |
//! | `apply.rs`, `apply/` | the verbs, one family a file |
//! | `allocate.rs`, `free_ranges.rs`, `names.rs`, `primaries.rs` | deterministic choices |
//! | `inventory.rs` | the tailnet as policies see it |
//! | `deadlines.rs` | what will happen by itself, when, and why |
//! | `rows.rs`, `snapshot.rs`, `codec.rs` | State ⇄ bytes, with versions |
//! | `invariants.rs` | what must hold after every command |
//! | `mutants.rs` | errors the simulation must find; in no build but its own |

mod allocate;
mod apply;
pub mod codec;
pub mod codes;
pub mod command;
mod deadlines;
mod free_ranges;
mod indexes;
mod invariants;
pub mod inventory;
pub mod model;
pub mod mutants;
mod names;
pub mod outcome;
mod primaries;
mod rows;
mod snapshot;
mod state;
mod tables;

pub use apply::{BEYOND, FEATURE_LEVEL, OPERATION, RISES_BY_ITSELF_TO, Stamp, TRUST};
pub use codec::DecodeError;
pub use command::{Command, Entry, Import, PresenceChange, Registration, Report};
pub use model::*;
pub use outcome::{Answer, Outcome, Refusal, What};
pub use state::State;
