//! What goes to the disk and over the wire, in words of our own: a version byte, then MessagePack with field names.
//!
//! openraft's types change with its versions; these do not. A field is only ever added, with a default. Samples of
//! each released form lie in `tests/old`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use openraft::{EntryPayload, vote::RaftVote};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::DeserializeOwned};

use crate::types::{self, AppendError, Payload, Seat, log_id};

/// The version byte of everything below.
const VERSION: u8 = 1;

/// The bytes are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("nothing to decode")]
    Empty,
    #[error("written by a newer version of hsraft (format {0}); upgrade this member")]
    Version(u8),
    #[error("malformed: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    #[error("checksum {found:08x} does not match {expected:08x}")]
    Checksum { expected: u32, found: u32 },
    #[error("contradicts itself: {0}")]
    Contradiction(String),
}

impl From<DecodeError> for std::io::Error {
    fn from(error: DecodeError) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Writes `value` with its version.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    rmp_serde::encode::write_named(&mut bytes, value).expect("our own structs have only what MessagePack can carry");
    bytes
}

/// Reads what [`encode`] wrote.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (&version, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    Ok(rmp_serde::from_slice(body)?)
}

/// Bytes as bytes: a plain `Vec<u8>` would be written as a list of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(pub Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(bytes)))
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// [`types::LogId`] in our words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    #[serde(rename = "t")]
    pub term: u64,
    /// The leader that wrote the entry.
    #[serde(rename = "m")]
    pub member: u64,
    #[serde(rename = "i")]
    pub index: u64,
}

impl From<types::LogId> for Position {
    fn from(id: types::LogId) -> Position {
        Position { term: id.leader_id.term, member: id.leader_id.node_id, index: id.index }
    }
}

impl From<Position> for types::LogId {
    fn from(position: Position) -> types::LogId {
        log_id(position.term, position.member, position.index)
    }
}

/// [`types::Vote`] in our words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    pub term: u64,
    pub member: u64,
    pub committed: bool,
}

impl From<types::Vote> for Ballot {
    fn from(vote: types::Vote) -> Ballot {
        Ballot { term: vote.leader_id.term, member: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<Ballot> for types::Vote {
    fn from(ballot: Ballot) -> types::Vote {
        let leader = types::LeaderId { term: ballot.term, node_id: ballot.member };
        types::Vote::from_leader_id(leader, ballot.committed)
    }
}

/// Who votes, who only listens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seating {
    /// One set of voters, or two while one replaces the other.
    pub voters: Vec<BTreeSet<u64>>,
    pub seats: BTreeMap<u64, SeatRow>,
}

/// [`types::Seat`] in our words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatRow {
    pub address: String,
    #[serde(default)]
    pub learner_only: bool,
}

impl From<&types::Membership> for Seating {
    fn from(membership: &types::Membership) -> Seating {
        let row = |seat: &Seat| SeatRow { address: seat.address.clone(), learner_only: seat.learner_only };
        Seating {
            voters: membership.get_joint_config().clone(),
            seats: membership.nodes().map(|(id, seat)| (*id, row(seat))).collect(),
        }
    }
}

impl TryFrom<Seating> for types::Membership {
    type Error = DecodeError;
    fn try_from(seating: Seating) -> Result<types::Membership, DecodeError> {
        let seat = |row: SeatRow| Seat { address: row.address, learner_only: row.learner_only };
        let seats: BTreeMap<u64, Seat> = seating.seats.into_iter().map(|(id, row)| (id, seat(row))).collect();
        types::Membership::new(seating.voters, seats).map_err(|error| DecodeError::Contradiction(error.to_string()))
    }
}

/// A membership and the entry that brought it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSeating {
    pub at: Option<Position>,
    pub seating: Seating,
}

impl From<&types::StoredMembership> for StoredSeating {
    fn from(stored: &types::StoredMembership) -> StoredSeating {
        StoredSeating { at: stored.log_id().map(Position::from), seating: stored.membership().into() }
    }
}

impl TryFrom<StoredSeating> for types::StoredMembership {
    type Error = DecodeError;
    fn try_from(stored: StoredSeating) -> Result<types::StoredMembership, DecodeError> {
        Ok(types::StoredMembership::new(stored.at.map(Into::into), stored.seating.try_into()?))
    }
}

/// One entry of the log.
#[derive(Serialize, Deserialize)]
struct EntryRow {
    #[serde(rename = "p")]
    position: Position,
    #[serde(rename = "b")]
    body: Body,
}

#[derive(Serialize, Deserialize)]
enum Body {
    /// A new leader says hello.
    #[serde(rename = "n")]
    Nothing,
    #[serde(rename = "c")]
    Command(Blob),
    #[serde(rename = "s")]
    Seating(Seating),
}

impl EntryRow {
    fn new(entry: &types::Entry) -> EntryRow {
        let body = match &entry.payload {
            EntryPayload::Blank => Body::Nothing,
            EntryPayload::Normal(payload) => Body::Command(Blob(payload.0.clone())),
            EntryPayload::Membership(membership) => Body::Seating(membership.into()),
        };
        EntryRow { position: entry.log_id.into(), body }
    }

    fn entry(self) -> Result<types::Entry, DecodeError> {
        let payload = match self.body {
            Body::Nothing => EntryPayload::Blank,
            Body::Command(blob) => EntryPayload::Normal(Payload(blob.0)),
            Body::Seating(seating) => EntryPayload::Membership(seating.try_into()?),
        };
        Ok(types::Entry { log_id: self.position.into(), payload })
    }
}

/// A log entry as a row on disk: CRC32C of the rest, then the entry.
pub fn entry_to_row(entry: &types::Entry) -> Vec<u8> {
    let mut row = vec![0; 4];
    row.push(VERSION);
    rmp_serde::encode::write_named(&mut row, &EntryRow::new(entry))
        .expect("an entry has only what MessagePack can carry");
    let sum = crc32c::crc32c(&row[4..]);
    row[..4].copy_from_slice(&sum.to_le_bytes());
    row
}

/// Reads what [`entry_to_row`] wrote; a flipped bit is an error.
pub fn entry_from_row(row: &[u8]) -> Result<types::Entry, DecodeError> {
    let (sum, body) = row.split_first_chunk::<4>().ok_or(DecodeError::Empty)?;
    let (expected, found) = (u32::from_le_bytes(*sum), crc32c::crc32c(body));
    if expected != found {
        return Err(DecodeError::Checksum { expected, found });
    }
    decode::<EntryRow>(body)?.entry()
}

/// Kinds of [`Frame`](crate::peers::proto::Frame)s that `Call` carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    Vote = 1,
    PreVote = 2,
    Append = 3,
    Transfer = 4,
    ReadIndex = 5,
    HandOver = 6,
    /// A member tells of itself (board.rs).
    Report = 7,
    /// What is remembered of a member that is about to start (board.rs).
    Remember = 8,
    /// Somebody wants this member to have a new certificate (renewal.rs).
    Renew = 20,
    /// A sealing key to be put beside the one in force (rotation.rs).
    TakeSealingKey = 21,
}

impl Call {
    /// Reads a frame's kind.
    pub fn from_wire(kind: u32) -> Option<Call> {
        use Call::{Append, HandOver, PreVote, ReadIndex, Remember, Renew, Report, TakeSealingKey, Transfer, Vote};
        [Vote, PreVote, Append, Transfer, ReadIndex, HandOver, Report, Remember, Renew, TakeSealingKey]
            .into_iter()
            .find(|call| *call as u32 == kind)
    }
}

/// A value that has a form on the wire.
pub trait Wire: Sized {
    /// Our words for it.
    fn to_wire(&self) -> Vec<u8>;
    /// Reads our words.
    fn from_wire(bytes: &[u8]) -> Result<Self, DecodeError>;
}

#[derive(Serialize, Deserialize)]
struct AppendRequestRow {
    vote: Ballot,
    prev: Option<Position>,
    entries: Vec<EntryRow>,
    commit: Option<Position>,
}

impl Wire for types::AppendRequest {
    fn to_wire(&self) -> Vec<u8> {
        encode(&AppendRequestRow {
            vote: self.vote.into(),
            prev: self.prev_log_id.map(Into::into),
            entries: self.entries.iter().map(EntryRow::new).collect(),
            commit: self.leader_commit.map(Into::into),
        })
    }

    fn from_wire(bytes: &[u8]) -> Result<Self, DecodeError> {
        let row: AppendRequestRow = decode(bytes)?;
        Ok(types::AppendRequest {
            vote: row.vote.into(),
            prev_log_id: row.prev.map(Into::into),
            entries: row.entries.into_iter().map(EntryRow::entry).collect::<Result<_, _>>()?,
            leader_commit: row.commit.map(Into::into),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AppendResponseRow {
    Success,
    PartialSuccess(Option<Position>),
    Conflict,
    HigherVote(Ballot),
}

impl Wire for types::AppendResponse {
    fn to_wire(&self) -> Vec<u8> {
        encode(&match self {
            types::AppendResponse::Success => AppendResponseRow::Success,
            types::AppendResponse::PartialSuccess(upto) => AppendResponseRow::PartialSuccess(upto.map(Into::into)),
            types::AppendResponse::Conflict => AppendResponseRow::Conflict,
            types::AppendResponse::HigherVote(vote) => AppendResponseRow::HigherVote((*vote).into()),
        })
    }

    fn from_wire(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match decode(bytes)? {
            AppendResponseRow::Success => types::AppendResponse::Success,
            AppendResponseRow::PartialSuccess(upto) => types::AppendResponse::PartialSuccess(upto.map(Into::into)),
            AppendResponseRow::Conflict => types::AppendResponse::Conflict,
            AppendResponseRow::HigherVote(vote) => types::AppendResponse::HigherVote(vote.into()),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AppendResultRow {
    Matches(Option<Position>),
    Conflict(Position),
    HigherVote(Ballot),
}

impl Wire for types::AppendResult {
    fn to_wire(&self) -> Vec<u8> {
        encode(&match self {
            Ok(upto) => AppendResultRow::Matches(upto.map(Into::into)),
            Err(AppendError::Conflict(at)) => AppendResultRow::Conflict((*at).into()),
            Err(AppendError::HigherVote(vote)) => AppendResultRow::HigherVote((*vote).into()),
        })
    }

    fn from_wire(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match decode(bytes)? {
            AppendResultRow::Matches(upto) => Ok(upto.map(Into::into)),
            AppendResultRow::Conflict(at) => Err(AppendError::Conflict(at.into())),
            AppendResultRow::HigherVote(vote) => Err(AppendError::HigherVote(vote.into())),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct VoteRequestRow {
    vote: Ballot,
    last: Option<Position>,
    #[serde(default)]
    transfer: bool,
}

impl Wire for types::VoteRequest {
    fn to_wire(&self) -> Vec<u8> {
        encode(&VoteRequestRow {
            vote: self.vote.into(),
            last: self.last_log_id.map(Into::into),
            transfer: self.leadership_transfer,
        })
    }

    fn from_wire(bytes: &[u8]) -> Result<Self, DecodeError> {
        let row: VoteRequestRow = decode(bytes)?;
        let mut request = types::VoteRequest::new(row.vote.into(), row.last.map(Into::into));
        request.leadership_transfer = row.transfer;
        Ok(request)
    }
}

#[derive(Serialize, Deserialize)]
struct VoteResponseRow {
    vote: Ballot,
    granted: bool,
    last: Option<Position>,
}

impl Wire for types::VoteResponse {
    fn to_wire(&self) -> Vec<u8> {
        encode(&VoteResponseRow {
            vote: self.vote.into(),
            granted: self.vote_granted,
            last: self.last_log_id.map(Into::into),
        })
    }

    fn from_wire(bytes: &[u8]) -> Result<Self, DecodeError> {
        let row: VoteResponseRow = decode(bytes)?;
        Ok(types::VoteResponse {
            vote: row.vote.into(),
            vote_granted: row.granted,
            last_log_id: row.last.map(Into::into),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct TransferRequestRow {
    from: Ballot,
    to: u64,
    last: Option<Position>,
}

impl Wire for types::TransferRequest {
    fn to_wire(&self) -> Vec<u8> {
        encode(&TransferRequestRow {
            from: (*self.from_leader()).into(),
            to: *self.to_node_id(),
            last: self.last_log_id().map(|id| (*id).into()),
        })
    }

    fn from_wire(bytes: &[u8]) -> Result<Self, DecodeError> {
        let row: TransferRequestRow = decode(bytes)?;
        Ok(types::TransferRequest::new(row.from.into(), row.to, row.last.map(Into::into)))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TransferResponseRow {
    Accepted,
    VoteChanged { expected: Ballot, actual: Ballot },
    LogNotFlushed { expected: Option<Position>, actual: Option<Position> },
}

impl Wire for types::TransferResponse {
    fn to_wire(&self) -> Vec<u8> {
        use openraft::raft::TransferLeaderError::{LogNotFlushed, VoteChanged};
        encode(&match self {
            Ok(()) => TransferResponseRow::Accepted,
            Err(VoteChanged { expected, actual }) => {
                TransferResponseRow::VoteChanged { expected: (*expected).into(), actual: (*actual).into() }
            }
            Err(LogNotFlushed { expected, actual }) => TransferResponseRow::LogNotFlushed {
                expected: expected.map(Into::into),
                actual: actual.map(Into::into),
            },
        })
    }

    fn from_wire(bytes: &[u8]) -> Result<Self, DecodeError> {
        use openraft::raft::TransferLeaderError::{LogNotFlushed, VoteChanged};
        Ok(match decode(bytes)? {
            TransferResponseRow::Accepted => Ok(()),
            TransferResponseRow::VoteChanged { expected, actual } => {
                Err(VoteChanged { expected: expected.into(), actual: actual.into() })
            }
            TransferResponseRow::LogNotFlushed { expected, actual } => {
                Err(LogNotFlushed { expected: expected.map(Into::into), actual: actual.map(Into::into) })
            }
        })
    }
}

/// What stands before a snapshot's bytes, in a file as on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHead {
    pub last: Option<Position>,
    pub seating: StoredSeating,
    /// The sender's vote; on the wire only.
    #[serde(default)]
    pub vote: Option<Ballot>,
    /// How many bytes follow; on the wire only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl SnapshotHead {
    /// From openraft's meta.
    pub fn new(meta: &types::SnapshotMeta, vote: Option<types::Vote>) -> SnapshotHead {
        SnapshotHead {
            last: meta.last_log_id.map(Into::into),
            seating: (&meta.last_membership).into(),
            vote: vote.map(Into::into),
            bytes: None,
        }
    }

    /// To openraft's meta.
    pub fn meta(self) -> Result<types::SnapshotMeta, DecodeError> {
        Ok(types::SnapshotMeta { last_log_id: self.last.map(Into::into), last_membership: self.seating.try_into()? })
    }
}

/// Why a leader could not take a forwarded command or answer a read index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Declined {
    /// Another member leads, if it is known; nothing was written.
    NotLeader(Option<u64>),
    /// Leads, but has not heard from a quorum; nothing was written. Ask again soon.
    NotYet,
    /// May or may not have been written: ask again under the same request id.
    Unknown(String),
    /// No changes are taken, under this number of the table of codes and for this reason.
    Closed(u16, String),
    /// Cannot be read or is too large.
    Malformed(String),
}

/// Commands on their way to the leader: number, bytes of the entry (the leader stamps the time).
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ProposeBatch {
    pub commands: Vec<(u64, Blob)>,
}

/// Answers on their way back, by the numbers of the commands.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct AnswerBatch {
    pub answers: Vec<(u64, Result<Applied, Declined>)>,
}

/// A command was applied at the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub revision: u64,
    pub answer: Blob,
}
