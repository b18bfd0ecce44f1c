//! What can go wrong, and what the process should end with.

use std::{io, path::Path};

use state_machine::{
    MemberId, Refusal,
    codes::{self, Code},
};

/// How a reason of [`Cluster::fatal`](crate::Cluster::fatal) begins when this member was left behind by the others.
pub const OUTDATED: &str = "left behind: ";

/// For people.
pub fn outdated(theirs: u64, ours: u64) -> String {
    format!(
        "{OUTDATED}the others show certificates of authority {theirs}, this folder knows {ours}: it is from an earlier day, \
         or this member was removed; look at hsraft members on another member and replace this one: hsraft join --replace"
    )
}

/// A member could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "storage integrity: {0}; this member takes part in nothing; keep the folder for inspection, remove the \
             member from the cluster and join again with an empty folder"
    )]
    Integrity(String),
    #[error("the folder belongs to another member or cluster: {0}; use another data_dir")]
    Foreign(String),
    #[error("join token: {why}")]
    Token { why: String, code: &'static Code },
    #[error(
        "the server at {0} is not of the cluster the token names, or the certificate authority was replaced since the token was made; check the address, then make a new token with: hsraft token create"
    )]
    WrongPin(String),
    #[error("no member could be reached: {0}; check the addresses and that a majority of members is up")]
    Unreachable(String),
    #[error("version skew: {0}")]
    Skew(String),
    /// Positive: this member's clock is behind.
    #[error("this machine's clock is {0} ms behind the cluster's; set it (NTP) and join again")]
    Clock(i64),
    #[error("admitted, but still catching up with the log; start again, it is safe")]
    CatchingUp,
    #[error("this member was removed from the cluster; join again with an empty folder and a new token")]
    Removed,
    /// The generation of the others' authority, and of the newest this folder knows.
    #[error("{}", outdated(*.0, *.1))]
    Outdated(u64, u64),
    #[error(
        "no cluster is founded in this folder: {why}; run hsraft join, as before or with a new token; to found a new cluster \
         here on purpose, remove {file} first"
    )]
    NotForFounding { why: &'static str, file: String },
    #[error("this member is locked: its sealing key belongs into {file}, and {why}")]
    Locked { why: &'static str, file: String },
    #[error("there is nothing to continue in {0}; found a cluster or join one")]
    NothingThere(String),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error("{path}: {source}")]
    Disk { path: String, source: io::Error },
    #[error("{0}")]
    Unfit(String),
    #[error("invalid option: {0}")]
    Option(String),
    /// The cluster said no, for a reason that lies in what this member is.
    #[error("{why}")]
    Refused { why: String, code: &'static Code },
    #[error("raft: {0}")]
    Engine(String),
}

impl StartError {
    /// The process's exit code.
    pub fn exit_code(&self) -> i32 {
        match self {
            StartError::Refused { code, .. } if **code == codes::PROGRAM_TOO_OLD => 13,
            StartError::Option(_) | StartError::NothingThere(_) | StartError::Refused { .. } => 2,
            StartError::Token { .. } => 10,
            StartError::WrongPin(_) => 11,
            StartError::Unreachable(_) | StartError::Outdated(..) => 12,
            StartError::Skew(_) => 13,
            StartError::Foreign(_) | StartError::Removed | StartError::NotForFounding { .. } => 14,
            StartError::Clock(_) => 15,
            StartError::Listen { .. } | StartError::Disk { .. } | StartError::Unfit(_) | StartError::Locked { .. } => {
                16
            }
            StartError::CatchingUp => 20,
            StartError::Integrity(_) => 40,
            StartError::Engine(_) => 70,
        }
    }

    /// Its line in the table of codes.
    pub fn code(&self) -> &'static Code {
        match self {
            StartError::Option(_) => &codes::START_OPTION,
            StartError::NothingThere(_) => &codes::START_NOTHING,
            StartError::Token { code, .. } | StartError::Refused { code, .. } => code,
            StartError::WrongPin(_) => &codes::START_WRONG_PIN,
            StartError::Unreachable(_) => &codes::START_UNREACHABLE,
            StartError::Skew(_) => &codes::START_SKEW,
            StartError::Foreign(_) => &codes::START_FOREIGN,
            StartError::Removed => &codes::START_REMOVED,
            StartError::Outdated(..) => &codes::START_OUTDATED,
            StartError::Locked { .. } => &codes::START_LOCKED,
            StartError::NotForFounding { .. } => &codes::START_NOT_FOR_FOUNDING,
            StartError::Clock(_) => &codes::START_CLOCK,
            StartError::Listen { .. } => &codes::START_PLACE,
            StartError::Disk { .. } => &codes::START_DISK,
            StartError::Unfit(_) => &codes::START_UNFIT,
            StartError::CatchingUp => &codes::START_CATCHING_UP,
            StartError::Integrity(_) => &codes::START_INTEGRITY,
            StartError::Engine(_) => &codes::START_FATAL,
        }
    }

    pub(crate) fn disk(path: &Path, source: io::Error) -> StartError {
        StartError::Disk { path: path.display().to_string(), source }
    }

    pub(crate) fn engine(error: impl std::fmt::Display) -> StartError {
        StartError::Engine(error.to_string())
    }
}

impl From<crate::store::OpenError> for StartError {
    fn from(error: crate::store::OpenError) -> StartError {
        match error {
            crate::store::OpenError::Integrity(what) => StartError::Integrity(what),
            crate::store::OpenError::Io(source) => StartError::Disk { path: "database".into(), source },
        }
    }
}

/// A command was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Retries under one request id went on until the deadline, or until the leader was alone. One of them may have been
    /// written all the same, and may yet be applied: nobody knows until a majority answers.
    #[error("no majority of members answered in time: {0}; check hsraft status")]
    Deadline(String),
    /// No attempt got as far as a log: the command was not written, and will not be.
    #[error("no majority of members answers: {0}; nothing was written; check hsraft status")]
    NoQuorum(String),
    /// The command was not written.
    #[error("the command is too large: {0} bytes, at most {1}")]
    TooLarge(usize, usize),
    /// The command was not written.
    #[error("the leader cannot read the command: {0}; upgrade all members to one version")]
    Malformed(String),
    /// No changes are taken now; the command was not written. The number is one of the table of codes.
    #[error("no changes are taken: {why}")]
    Closed { code: u16, why: String },
    /// Something has to be done first. The number is one of the table of codes.
    #[error("{why}")]
    Unready { code: u16, why: String },
    /// The wish itself cannot be granted now.
    #[error("{0}")]
    Impossible(String),
    /// Apply, or the leader before it, said no.
    #[error("{0}")]
    Refused(Refusal),
    #[error("the leader handed over to nobody: {0}")]
    NoSuccessor(MemberId),
    #[error("this member is shutting down")]
    Stopped,
}

/// A read could not be confirmed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("no majority of members confirmed in time: {0}; check hsraft status")]
    Deadline(String),
    #[error("this member is shutting down")]
    Stopped,
}
