//! State → what one node is told.
//!
//! A map is a function of an [`Atlas`] and a viewer ([`full`]); what to say next is a function of two atlases
//! ([`delta`]). Nothing here knows sessions, sockets or clocks. Start reading at `atlas.rs`, then `delta.rs`.
//!
//! | file | holds |
//! |---|---|
//! | `atlas.rs` | [`Atlas`]: one state made ready for drawing; `redraw` reuses what did not move |
//! | `map.rs` | [`full`]: everything one node should know |
//! | `delta.rs` | [`delta`]: what to say next, by comparing two atlases; computed once for all viewers of a class |
//! | `node.rs` | a node as its peers may see it, and as it sees itself |
//! | `inventory.rs` | the policy in force, compiled for the tailnet |
//! | `view.rs` | what of a node depends on who looks |
//! | `filter.rs` `ssh.rs` `dns.rs` `derp.rs` `dial_plan.rs` `profiles.rs` | the other pages of a map |
//! | `preview.rs` | what nodes would be told under a policy, without a server |
//! | `capability.rs` | what older clients understand |
//! | `wire.rs` | the one serializer of frames |
//! | `contract.rs` | what every frame must obey so that Go and Rust clients both live; for tests |
//! | `mirror.rs` | what a client remembers; for tests and simulated clients |

mod atlas;
pub mod capability;
pub mod contract;
mod delta;
mod derp;
mod dial_plan;
mod dns;
mod filter;
mod inventory;
mod map;
pub mod mirror;
mod node;
pub mod preview;
mod profiles;
mod ssh;
mod view;
pub mod wire;

pub use atlas::Atlas;
pub use delta::{Delta, delta};
pub use map::{Moment, full};
pub use mirror::Mirror;
pub use profiles::{TAGGED_DEVICES, profile};
pub use ssh::accepted as ssh_accepted;
