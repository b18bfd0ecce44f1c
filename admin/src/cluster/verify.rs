//! Whether all members hold the same state, and whether this member's disk gives back what it was given.

use axum::{Extension, Json as Reply, extract::State as Shared};
use raft::{Agreement, Comparison};
use serde::{Deserialize, Serialize};
use state_machine::State;

use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json},
    status::ApiError,
    v1::types::id,
};

/// Reply of `POST /cluster/verify`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Compared {
    /// The log index at which everybody looked.
    #[serde(with = "id")]
    pub revision: u64,
    /// All told, and all hold one state.
    pub same: bool,
    pub members: Vec<Holder>,
}

/// What one member holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Holder {
    #[serde(with = "id")]
    pub id: u64,
    pub name: String,
    /// The beginning of its state's hash, in hex; absent when it did not tell in time.
    pub hash: Option<String>,
    /// `same`, `differs` (a majority of the voters holds another), `no_majority` or `unknown`.
    pub verdict: String,
}

fn compared(state: &State, comparison: &Comparison) -> Compared {
    let members: Vec<Holder> = comparison
        .members
        .iter()
        .map(|(id, print, agreement)| Holder {
            id: id.0,
            name: state.member(*id).map(|member| member.name.clone()).unwrap_or_default(),
            hash: print.map(|print| format!("{:016x}", print.hash)),
            verdict: match agreement {
                // One member alone agrees with itself.
                _ if print.is_some() && comparison.members.len() == 1 => "same",
                Agreement::Unknown => "unknown",
                Agreement::Same => "same",
                Agreement::Differs => "differs",
                Agreement::NoMajority => "no_majority",
            }
            .into(),
        })
        .collect();
    let same = !members.is_empty() && members.iter().all(|member| member.verdict == "same");
    Compared { revision: comparison.revision, same, members }
}

/// `POST /cluster/verify`: all members take a fingerprint of their state at one log index.
pub(crate) async fn compare(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(_): Json<Empty>,
) -> Result<Reply<Compared>, ApiError> {
    tracing::info!(by = caller.by, "states are compared");
    let comparison = api.backend.compare_states().await?;
    Ok(Reply(compared(&api.backend.latest(), &comparison)))
}

/// `POST /cluster/scrub`: begins to read the disk of the member that answers, unless it is being read.
pub(crate) async fn begin_scrub(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(_): Json<Empty>,
) -> Result<Reply<raft::Scrubbing>, ApiError> {
    tracing::info!(by = caller.by, "the disk is read through");
    Ok(Reply(api.backend.begin_scrub()?))
}

/// `GET /cluster/scrub`: how that goes.
pub(crate) async fn scrub(Shared(api): Shared<Api>) -> Result<Reply<raft::Scrubbing>, ApiError> {
    Ok(Reply(api.backend.scrubbing()?))
}

#[cfg(test)]
mod tests {
    use raft::Fingerprint;
    use state_machine::MemberId;

    use super::*;

    #[test]
    fn who_did_not_tell_is_not_taken_for_the_same() {
        let print = Some(Fingerprint { revision: 9, hash: 7 });
        let mut comparison = Comparison {
            revision: 9,
            members: vec![(MemberId(1), print, Agreement::Same), (MemberId(2), None, Agreement::Unknown)],
        };
        let said = compared(&State::default(), &comparison);
        assert!(!said.same && said.members[1].hash.is_none());
        assert_eq!(said.members[0].hash.as_deref(), Some("0000000000000007"));
        comparison.members.pop();
        comparison.members[0].2 = Agreement::Unknown;
        assert!(compared(&State::default(), &comparison).same, "a member alone");
    }
}
