//! Names of things. Ids are given out once and never again.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A person or a service that owns nodes. Below 2^53, so that every JSON reader keeps it.
    UserId
);
id!(
    /// A machine of the tailnet (`tailcfg.NodeID`). Below 2^53.
    NodeId
);
id!(PreAuthKeyId);
id!(ApiKeyId);
id!(
    /// One hsraft server: the log index of the entry that admitted it (1 for the founder).
    MemberId
);
id!(
    /// One map stream of one node at one member; random, so that a late "gone" cannot undo a newer "here".
    SessionId
);
id!(
    /// The log position a state reflects.
    Revision
);

/// One wish of one proposer: a retry carries the same id and is applied once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u128);

/// A pending login, as it stands in the URL a person opens: 24 URL-safe characters of entropy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LoginId(pub String);

impl fmt::Display for LoginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
