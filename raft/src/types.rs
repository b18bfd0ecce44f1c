//! openraft's type table. Nothing of openraft leaves this crate.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use state_machine::Answer;

/// A command as the log carries it: the bytes of [`state_machine::codec`], written once by the leader.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

// openraft's `serde` feature wants these two of every payload; our own encoding (encode.rs) does not use them.
impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Payload;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Payload, E> {
                Ok(Payload(Bytes::copy_from_slice(bytes)))
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Payload, E> {
                Ok(Payload(bytes.into()))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// What apply answers; nothing for entries that carry no command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reply(pub Option<Answer>);

/// What Raft's membership knows of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// `host:port` as it was when the member came. The members table of State is asked first.
    pub address: String,
    /// Follows the log and is never promoted.
    pub learner_only: bool,
}

openraft::declare_raft_types!(
    pub Types:
        D = Payload,
        R = Reply,
        NodeId = u64,
        Node = Seat,
        AsyncRuntime = crate::runtime::Runtime,
);

pub type Raft = openraft::Raft<Types, crate::apply::Machine>;
pub type LeaderId = openraft::type_config::alias::LeaderIdOf<Types>;
pub type Vote = openraft::type_config::alias::VoteOf<Types>;
pub type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub type Entry = openraft::type_config::alias::EntryOf<Types>;
#[cfg(test)]
pub type EntryPayload = openraft::EntryPayload<Payload, u64, Seat>;
pub type Membership = openraft::Membership<u64, Seat>;
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
/// A whole snapshot in memory: State is held in memory as well, and serialised it is smaller.
pub type SnapshotData = Bytes;
pub type Snapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotData>;
pub type AppendRequest = openraft::raft::AppendEntriesRequest<Types>;
pub type AppendResponse = openraft::raft::AppendEntriesResponse<Types>;
pub type AppendResult = openraft::raft::StreamAppendResult<Types>;
pub type AppendError = openraft::raft::StreamAppendError<Types>;
pub type VoteRequest = openraft::raft::VoteRequest<Types>;
pub type VoteResponse = openraft::raft::VoteResponse<Types>;
pub type TransferRequest = openraft::raft::TransferLeaderRequest<Types>;
pub type TransferResponse = openraft::raft::TransferLeaderResponse<Types>;

/// A log id from its three numbers.
pub fn log_id(term: u64, member: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: member }, index }
}
