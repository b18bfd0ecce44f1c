//! A whole cluster in one thread, from one seed.

pub mod clock;
pub mod disk;
pub mod host;
pub mod net;
pub mod trace;
