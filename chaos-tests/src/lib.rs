//! The proof: the production server under a simulated world, and real processes under real trouble.
//!
//! Three storeys, cheapest first: scripts and laws live in the pure crates; [`sim`] runs whole clusters from one seed
//! in simulated time; [`fleet`] starts real processes and real Tailscale clients. Start reading at [`sim`].

#[cfg(not(tokio_unstable))]
compile_error!(
    "the simulation needs RUSTFLAGS to contain `--cfg tokio_unstable` (see .cargo/config.toml): without it turmoil \
     cannot seed tokio and no run could be repeated; a RUSTFLAGS variable in the environment overrides that file"
);

pub mod checks;
pub mod client;
pub mod fault;
pub mod fleet;
pub mod history;
pub mod nemesis;
pub mod sim;
pub mod torture;
pub mod workload;
