//! `/api/v1/cluster/drill`: the door through which a drill breaks this very member, for a while and on purpose.
//!
//! Only where `cluster.drills` is set, only for the local socket or an API key of role admin, only within a session that
//! the driver keeps renewing. The member ends faults and sessions by itself when their time is over.

use std::{collections::BTreeSet, time::Duration};

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
};
use raft::{DrillRefused, Fault};
use serde::{Deserialize, Serialize};
use state_machine::{MemberId, codes};

use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query},
    status::ApiError,
};

/// How this member stands, for whoever watches a drill.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Look {
    /// `cluster.drills` is set here.
    pub allowed: bool,
    pub member: String,
    /// Who leads, as this member knows; absent when it knows nobody.
    pub leader: Option<String>,
    pub term: u64,
    pub applied: u64,
    /// The drill under way, who runs it, and how long it lasts unless renewed.
    pub drill: Option<String>,
    pub by: Option<String>,
    pub lasts_ms: Option<u64>,
    pub faults: Vec<Broken>,
    /// The end of the freeze window this member is in.
    pub frozen_until: Option<String>,
    /// `?hash=true`: the state's revision and its hash.
    pub revision: u64,
    pub state_hash: Option<String>,
}

/// One fault.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Broken {
    pub kind: String,
    pub lasts_ms: u64,
}

/// `GET /cluster/drill`.
pub(crate) async fn look(Shared(api): Shared<Api>, query: Query) -> Reply<Look> {
    let (view, standing, state) = (api.backend.drills().look(), api.backend.standing(), api.backend.latest());
    let name = |id: MemberId| state.member(id).map_or_else(|| format!("member {id}"), |member| member.name.clone());
    let millis = |span: Duration| span.as_millis() as u64;
    let (drill, by, lasts_ms) = match view.session {
        Some((id, by, lasts)) => (Some(id), Some(by), Some(millis(lasts))),
        None => (None, None, None),
    };
    let state_hash = match view.allowed && query.is_true("hash") {
        true => hash(state.clone()).await,
        false => None,
    };
    Reply(Look {
        allowed: view.allowed,
        member: name(standing.me),
        leader: standing.leader.map(name),
        term: standing.term,
        applied: standing.applied,
        drill,
        by,
        lasts_ms,
        faults: view
            .faults
            .iter()
            .map(|(fault, lasts)| Broken { kind: fault.name().into(), lasts_ms: millis(*lasts) })
            .collect(),
        frozen_until: frozen_until(&api),
        revision: state.revision().0,
        state_hash,
    })
}

/// Away from the tasks that serve clients: a large state takes a while.
async fn hash(state: std::sync::Arc<state_machine::State>) -> Option<String> {
    let (done, wait) = tokio::sync::oneshot::channel();
    let work = move || drop(done.send(hex::encode(state.hash())));
    std::thread::Builder::new().name("state-hash".into()).spawn(work).ok()?;
    wait.await.ok()
}

fn frozen_until(api: &Api) -> Option<String> {
    let now = (api.options.now)();
    let span = api.options.drills_freeze.iter().find(|(from, until)| *from <= now && now < *until);
    span.map(|(_, until)| until.to_string())
}

/// A drill that begins, or goes on.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Begin {
    id: String,
    /// The session lasts so long unless renewed.
    for_secs: u64,
    /// Also within a freeze window: who does that says so.
    despite_freeze: bool,
}

/// Longer names say nothing more.
const ID_LEN_MAX: usize = 64;

/// `POST /cluster/drill`: opens the session, or renews it.
pub(crate) async fn begin(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Begin>,
) -> Result<Reply<Empty>, ApiError> {
    let fits = |id: &str| id.len() <= ID_LEN_MAX && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if wish.id.is_empty() || !fits(&wish.id) {
        return Err(ApiError::invalid(format!("a drill's id has 1 to {ID_LEN_MAX} letters, digits and dashes")));
    }
    let drills = api.backend.drills();
    let goes_on = drills.look().session.is_some_and(|(id, ..)| id == wish.id);
    if let Some(until) = frozen_until(&api).filter(|_| !wish.despite_freeze && !goes_on) {
        let why = format!("this member is in a freeze window until {until} (cluster.drills_freeze): no drill begins");
        return Err(refused(&DrillRefused::Unfit(why)));
    }
    drills.begin(&wish.id, &caller.by, Duration::from_secs(wish.for_secs)).map_err(|why| refused(&why))?;
    Ok(Reply(Empty {}))
}

/// What shall break, and how long.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Wish {
    /// `crash`, `cut`, `slow-disk` or `full-disk`.
    kind: String,
    for_ms: u64,
    /// Of a cut: names or ids; none: all members.
    members: Vec<String>,
    /// Of a slow disk: how much longer a sync takes.
    delay_ms: u64,
}

/// `POST /cluster/drill/{id}/faults`.
pub(crate) async fn inject(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(wish): Json<Wish>,
) -> Result<Reply<Empty>, ApiError> {
    let fault = match wish.kind.as_str() {
        "crash" => Fault::Crash,
        "cut" => {
            let state = api.backend.latest();
            let named = wish.members.iter().map(|name| super::members::find(&state, name));
            Fault::Cut(named.collect::<Result<BTreeSet<MemberId>, ApiError>>()?)
        }
        "slow-disk" => Fault::SlowDisk(Duration::from_millis(wish.delay_ms)),
        "full-disk" => Fault::FullDisk,
        other => {
            return Err(ApiError::invalid(format!("kind is {other:?}; it can be crash, cut, slow-disk or full-disk")));
        }
    };
    tracing::warn!(by = caller.by, drill = id, fault = fault.name(), "a fault was asked for");
    api.backend.inject(&id, fault, Duration::from_millis(wish.for_ms)).map_err(|why| refused(&why))?;
    Ok(Reply(Empty {}))
}

/// `DELETE /cluster/drill/{id}/faults`: all faults end, the drill goes on.
pub(crate) async fn heal(Shared(api): Shared<Api>, Path(id): Path<String>) -> Result<Reply<Empty>, ApiError> {
    api.backend.drills().heal(&id).map_err(|why| refused(&why))?;
    Ok(Reply(Empty {}))
}

/// `DELETE /cluster/drill/{id}`: the drill is over here.
pub(crate) async fn end(Shared(api): Shared<Api>, Path(id): Path<String>) -> Result<Reply<Empty>, ApiError> {
    api.backend.drills().end(&id).map_err(|why| refused(&why))?;
    Ok(Reply(Empty {}))
}

/// `DELETE /cluster/drill`: whatever is under way here is over.
pub(crate) async fn stop(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Reply<Empty>, ApiError> {
    tracing::warn!(by = caller.by, "whatever drill is under way shall end");
    api.backend.drills().end("").map_err(|why| refused(&why))?;
    Ok(Reply(Empty {}))
}

fn refused(why: &DrillRefused) -> ApiError {
    ApiError::unfit(&codes::DRILL_REFUSED, why.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        client::{Client, Target},
        lone::Lone,
    };

    #[tokio::test]
    async fn a_member_takes_no_part_unless_told_so() {
        let client = Client::new(Target::Direct(Lone::new().router(true)), Duration::from_secs(5));
        let look: Look = client.get("/api/v1/cluster/drill?hash=true").await.unwrap();
        assert!(!look.allowed && look.state_hash.is_none() && look.drill.is_none());
        let begun = client.post::<Value>("/api/v1/cluster/drill", json!({ "id": "d1", "forSecs": 10 })).await;
        let problem = begun.unwrap_err();
        assert_eq!(problem.code(), &codes::DRILL_REFUSED);
        assert!(problem.to_string().contains("cluster.drills: true"), "{problem}");
        let fault = json!({ "kind": "crash", "forMs": 1000 });
        assert!(client.post::<Value>("/api/v1/cluster/drill/d1/faults", fault).await.is_err());
        for id in ["", "a b", "../x", &"x".repeat(65)] {
            let problem = client.post::<Value>("/api/v1/cluster/drill", json!({ "id": id })).await.unwrap_err();
            assert_eq!(problem.code(), &codes::INVALID, "{id}");
        }
    }
}
