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
//! | `state.rs` | the tables and their indexes; cloning is cheap |
//! | `apply.rs`, `apply/` | the verbs, one family a file |
//! | `allocate.rs`, `names.rs`, `primaries.rs` | deterministic choices |
//! | `deadlines.rs` | what will happen by itself, when, and why |
//! | `rows.rs`, `snapshot.rs`, `codec.rs` | State ⇄ bytes, with versions |
//! | `invariants.rs` | what must hold after every command |

pub mod command;
pub mod model;
pub mod outcome;

pub use command::{Command, Entry, PresenceChange, Registration, Report};
pub use model::*;
pub use outcome::{Answer, Outcome, Refusal, What};
