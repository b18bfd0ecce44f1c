//! Moving between Headscale's database and a cluster.
//!
//! | file | holds |
//! |---|---|
//! | `read.rs` | a database of Headscale 0.23 to 0.30 as it is, dirt included; from a SQLite file |
//! | `postgres.rs` | the same from Postgres |
//! | `repair.rs` | that as rows of ours, and what had to be mended |
//! | `meet.rs` | what of it is in the cluster already, and what has to give way |
//! | `write.rs` | rows of ours as a SQLite file that Headscale 0.29 opens |
//! | `endpoint.rs` | the way into and out of the cluster |

pub(crate) mod endpoint;
pub mod meet;
pub mod postgres;
pub mod read;
pub mod repair;
#[cfg(test)]
mod tests;
pub mod write;

use serde::{Deserialize, Serialize};
use state_machine::Import;

/// What a cluster holds that Headscale would keep in its database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Holdings {
    pub rows: Import,
    /// The policy in force.
    pub policy: Option<String>,
}

/// What an importer should know of a cluster before it begins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Place {
    /// `mkey:…`, what clients expect of the server; empty when this member was not told.
    pub noise_key: String,
    pub prefix_v4: Option<ipnet::Ipv4Net>,
    pub prefix_v6: Option<ipnet::Ipv6Net>,
    pub users: u64,
    pub nodes: u64,
    pub policy: Option<String>,
}
