//! Members calling members: gRPC over mutual TLS 1.3.
//!
//! | file | holds |
//! |---|---|
//! | `dial.rs` | where a member is, and a channel to it |
//! | `client.rs` | openraft's network: append, vote, snapshot, hand-over |
//! | `listen.rs` | accepting connections and learning who calls |
//! | `server.rs` | the methods |
//! | `gate.rs` | a stream that a drill can hold up |
//!
//! Who is who is settled by certificates alone: a dialled member must show the certificate of the id that was
//! addressed, and a caller is the member its certificate names. Whoever shows none may only ask to join.

mod client;
mod dial;
mod gate;
mod listen;
mod server;

pub use client::Network;
pub use dial::{AddressBook, Dialer};
pub use listen::{Caller, serve};
pub use server::Service;

/// Generated from `proto/peers.proto`.
#[allow(clippy::all, missing_docs)]
pub mod proto {
    tonic::include_proto!("hsraft.peers");
}

/// A channel to one member.
pub type Client = proto::peers_client::PeersClient<tonic::transport::Channel>;

/// Largest message of any method.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Largest command; several fit into a message.
pub const COMMAND_BYTES_MAX: usize = 4 << 20;
/// Largest snapshot a member takes.
pub const SNAPSHOT_BYTES_MAX: usize = 2 << 30;
/// Snapshots travel in pieces of this size.
pub const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;
