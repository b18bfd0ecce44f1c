//! Everything that can be answered.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::*;

/// What apply answered, kept with the request id so that a retry hears the same.
pub type Answer = Result<Outcome, Refusal>;

/// Done, with this value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    /// Nothing had to change.
    Unchanged,
    User(UserId),
    Node(NodeId),
    PreAuthKey(PreAuthKeyId),
    ApiKey(ApiKeyId),
    Member(MemberId),
    Login(LoginId),
    Policy(u64),
    SshCheck(String),
    /// The client is in as this node.
    Registered(NodeId),
    /// The node was there but its key has expired: the client must make a new one.
    KeyExpired(NodeId),
    /// Logged out; `deleted` for ephemeral nodes.
    LoggedOut {
        node: NodeId,
        deleted: bool,
    },
    /// How many things changed (backfill, elapse, reports).
    Changed(u64),
}

/// Not done, for this reason. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Nothing of that kind under that name.
    NotFound {
        what: What,
        name: String,
    },
    /// The name, prefix or key is another's.
    Taken {
        what: What,
        name: String,
    },
    /// The value does not fit; the text says why and what would.
    Invalid {
        what: What,
        why: String,
    },
    /// The user still has this many nodes.
    UserHasNodes {
        nodes: u64,
    },
    KeyUnknown,
    KeyExpired,
    KeyUsed,
    /// The node key belongs to another machine.
    WrongMachine,
    /// Tags were asked for that the client may not have.
    TagsNotPermitted {
        tags: Vec<String>,
    },
    /// The prefix has no address left.
    AddressesExhausted {
        prefix: String,
    },
    /// The address is another node's.
    AddressTaken {
        address: String,
        node: NodeId,
    },
    /// The tailnet cannot give this address, or no address of this range; the text says why.
    AddressUnfit {
        address: String,
        why: String,
    },
    TokenUnknown,
    TokenExpired,
    TokenUsed,
    /// The token names an authority that was replaced since.
    TokenOutdated,
    /// A node asked for a record at a name that is not its own.
    NameNotOwn {
        own: String,
    },
    /// The node has so many records already.
    TooManyRecords {
        most: u64,
    },
    /// One authority is replacing another, and waits for these members.
    RotationUnderWay {
        waiting: Vec<String>,
    },
    /// The secrets changed while they were read.
    SecretsChanged,
    AlreadyFounded,
    NotFounded,
    /// The login has another end already.
    LoginOver,
    PolicyRejected {
        why: String,
    },
    /// Somebody else changed it since the proposer looked.
    Changed {
        what: What,
    },
    /// The cluster does not behave the new way yet; from the leader, before anything is written.
    LevelTooLow {
        needs: u32,
        at: u32,
    },
    /// The level may not be raised now; from the leader, before anything is written.
    UpgradeNotYet {
        why: String,
    },
    /// A member's program cannot apply what the cluster does, or shall do.
    ProgramTooOld {
        has: u32,
        needs: u32,
    },
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    User,
    Node,
    PreAuthKey,
    ApiKey,
    Login,
    Member,
    JoinToken,
    Settings,
    Policy,
    Route,
    Tag,
    Name,
    Region,
    SshCheck,
    Certificate,
    SignIn,
    Webhook,
    TextRecord,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::User => "user",
            What::Node => "node",
            What::PreAuthKey => "pre-auth key",
            What::ApiKey => "API key",
            What::Login => "login",
            What::Member => "member",
            What::JoinToken => "join token",
            What::Settings => "settings",
            What::Policy => "policy",
            What::Route => "route",
            What::Tag => "tag",
            What::Name => "name",
            What::Region => "DERP region",
            What::SshCheck => "SSH check",
            What::Certificate => "certificate",
            What::SignIn => "sign-in",
            What::Webhook => "webhook",
            What::TextRecord => "TXT record",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotFound { what, name } => write!(f, "{what} {name:?} not found"),
            Refusal::Taken { what, name } => write!(f, "{what} {name:?} exists already"),
            Refusal::Invalid { what, why } => write!(f, "invalid {what}: {why}"),
            Refusal::UserHasNodes { nodes } => {
                write!(f, "the user still has {nodes} node(s); delete or move them first")
            }
            Refusal::KeyUnknown => f.write_str("invalid pre auth key"),
            Refusal::KeyExpired => f.write_str("AuthKey expired"),
            Refusal::KeyUsed => f.write_str("AuthKey has already been used"),
            Refusal::WrongMachine => f.write_str("the node key belongs to another machine"),
            Refusal::TagsNotPermitted { tags } => {
                write!(f, "requested tags [{}] are invalid or not permitted", tags.join(", "))
            }
            Refusal::AddressesExhausted { prefix } => write!(f, "no address left in {prefix}; widen the prefix"),
            Refusal::AddressTaken { address, node } => write!(f, "{address} is the address of node {node}"),
            Refusal::AddressUnfit { address, why } => write!(f, "{address} cannot be used: {why}"),
            Refusal::NameNotOwn { own } => write!(f, "a node may set {own} and no other name"),
            Refusal::TooManyRecords { most } => {
                write!(f, "the node has {most} TXT records already; the oldest ends within ten minutes")
            }
            Refusal::TokenUnknown => f.write_str("no such join token; make one with: hsraft token create"),
            Refusal::TokenExpired => {
                f.write_str("the join token has expired; make a new one with: hsraft token create")
            }
            Refusal::TokenUsed => {
                f.write_str("the join token was used already; make a new one with: hsraft token create")
            }
            Refusal::TokenOutdated => f.write_str(
                "the join token names a certificate authority that was replaced since; make a new one with: hsraft token create",
            ),
            Refusal::RotationUnderWay { waiting } => write!(
                f,
                "the certificate authority is being replaced and waits for {}; start what is down, or take it out: hsraft member remove",
                waiting.join(", ")
            ),
            Refusal::SecretsChanged => f.write_str("a secret changed meanwhile; nothing was done, ask again"),
            Refusal::Changed { what } => {
                write!(f, "the {what} changed since you read it, invalid old hash; read it again and ask again")
            }
            Refusal::AlreadyFounded => f.write_str("the cluster exists already"),
            Refusal::NotFounded => f.write_str("the cluster has not been founded"),
            Refusal::LoginOver => f.write_str("the login was finished, rejected or has expired"),
            Refusal::PolicyRejected { why } => write!(f, "policy rejected: {why}"),
            Refusal::LevelTooLow { needs, at } => write!(
                f,
                "this needs feature level {needs}, the cluster is at {at}; when all members run the new program: \
                 hsraft upgrade finalize"
            ),
            Refusal::UpgradeNotYet { why } => write!(f, "the upgrade cannot be finished yet: {why}"),
            Refusal::ProgramTooOld { has, needs } => {
                write!(f, "a program applies feature level {has} at most, {needs} is needed; run a newer program")
            }
        }
    }
}

impl std::error::Error for Refusal {}
