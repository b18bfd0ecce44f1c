//! The log: openraft, storage, transport; one door: [`Cluster`].
//!
//! A member starts with [`Cluster::start`], asks for changes with [`Cluster::propose`] and sees them through
//! [`Cluster::watch`]. Everything of openraft stays in here, and State and Command are opaque but for `apply.rs` (which
//! applies) and the members table (who belongs, where they are).
//!
//! | file | holds |
//! |---|---|
//! | `cluster.rs`, `options.rs`, `error.rs` | the door, what it needs, what can go wrong |
//! | `start.rs`, `founding.rs`, `renewal.rs` | a member starts, a cluster begins, certificates are replaced |
//! | `forward.rs`, `read.rs` | a command's way into the log; reading what is certainly current |
//! | `membership.rs`, `join.rs`, `token.rs` | who votes; how a member comes in |
//! | `apply.rs`, `publish.rs`, `snapshot.rs` | the state machine openraft sees, and the State everybody watches |
//! | `log.rs`, `store/` | the log openraft sees, on one RocksDB |
//! | `peers/` | members calling members |
//! | `pki.rs`, `seal.rs`, `identity.rs` | certificates, sealed secrets, who this member is |
//! | `keyring.rs`, `rotation.rs` | where a member's sealing key lies; another one for all members |
//! | `renewal.rs`, `certificates.rs` | a member's papers follow the clock and the authority; what operators ask of them |
//! | `types.rs`, `runtime.rs`, `encode.rs` | openraft's type table, seeded dice, our words on disk and wire |
//! | `archive/` | backups: taken, read, and made into a cluster again |
//! | `upgrade.rs` | what each program can apply, and when the cluster may rely on it |
//! | `drills.rs` | faults on purpose, and the timers that end them |
//! | `slow_disk.rs`, `fitness.rs` | a leader with a slow disk steps aside; which timing profile a machine can hold |
//! | `agreement.rs`, `integrity.rs` | whether all members came to the same State, and what follows when not |
//! | `wipe.rs` | a member that left takes its data out of its folder |
//! | `space.rs`, `scrub.rs` | room on the disk; whether it still gives back what it was given |
//! | `status.rs`, `board.rs`, `metrics.rs`, `tasks.rs` | where a member stands, how the others are; tasks that die with it |
//!
//! Start reading at `cluster.rs`, then follow a command: `forward.rs`, `log.rs`, `apply.rs`.

mod agreement;
mod apply;
pub mod archive;
mod board;
mod certificates;
mod cluster;
#[cfg(test)]
mod conformance;
pub mod drills;
mod encode;
#[cfg(test)]
mod encode_samples;
mod error;
pub mod fitness;
mod forward;
mod founding;
mod identity;
mod integrity;
mod join;
mod keyring;
mod log;
mod membership;
mod metrics;
mod options;
mod peers;
mod pki;
mod publish;
mod read;
mod renewal;
mod rotation;
pub mod runtime;
mod scrub;
mod seal;
mod slow_disk;
mod snapshot;
mod space;
mod start;
mod status;
mod store;
mod tasks;
mod token;
mod types;
mod upgrade;
pub mod wipe;

pub use agreement::{Agreement, Fingerprint};
pub use board::{Board, Report, Seen};
pub use certificates::{AuthorityFacts, ClientCertificate, MemberCertificate};
pub use cluster::{Applied, Cluster, REMOVED, TokenWish};
pub use drills::{DrillRefused, DrillView, Drills, Fault};
pub use error::{OUTDATED, ProposeError, ReadError, StartError};
pub use identity::is_taken;
pub use integrity::{Comparison, QUARANTINED, fatal_exit_code};
pub use log::LogFact;
pub use membership::CLOCK_OFF_MS;
pub use metrics::Metrics;
pub use options::{JOIN_WITHIN, Options, StartAs, Timing};
pub use renewal::Renewed;
pub use rotation::Rotated;
pub use scrub::{Scrubbed, Scrubbing, verify_folder};
pub use space::{Room, Space};
pub use status::{Arriving, Progress, Role, Status};
pub use world::World;
