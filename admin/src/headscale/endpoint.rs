//! `/api/v1/cluster/import` and `/export`: rows with their ids, into the cluster and out of it.

use axum::{Extension, Json as Reply, Router, extract::State as Shared, routing::post};
use serde::{Deserialize, Serialize};
use state_machine::{Command, Import, Outcome};

use super::{Holdings, Place};
use crate::{
    Api,
    auth::Caller,
    request::{Json, Query},
    status::ApiError,
};

/// The paths, below `/api/v1`.
pub fn routes() -> Router<Api> {
    Router::new()
        .route("/cluster/import", post(import).get(place))
        // Not a GET: hashes are nothing for keys that may only read.
        .route("/cluster/export", post(export))
}

/// The feature level that knows imported rows.
const IMPORT_LEVEL: u32 = 2;

/// How many rows were new.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Imported {
    pub changed: u64,
}

async fn place(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Place>, ApiError> {
    let state = api.read(&query).await?;
    Ok(Reply(Place {
        noise_key: api.options.noise_key.clone(),
        prefix_v4: state.settings().prefix_v4,
        prefix_v6: state.settings().prefix_v6,
        users: state.users().len() as u64,
        nodes: state.nodes().len() as u64,
        policy: state.policy().map(|policy| policy.text.to_string()),
    }))
}

async fn import(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(batch): Json<Import>,
) -> Result<Reply<Imported>, ApiError> {
    if api.current().await?.feature_level() < IMPORT_LEVEL {
        return Err(ApiError::invalid(
            "a member runs a program that cannot import; bring all members to one version first",
        ));
    }
    match api.propose(&caller, Command::Import { batch }).await? {
        Outcome::Changed(changed) => Ok(Reply(Imported { changed })),
        _ => Ok(Reply(Imported::default())),
    }
}

async fn export(Shared(api): Shared<Api>) -> Result<Reply<Holdings>, ApiError> {
    let state = api.current().await?;
    let seen = |id| state.presence(id).and_then(|presence| presence.last_seen);
    let rows = Import {
        users: state.users().values().map(|user| (**user).clone()).collect(),
        pre_auth_keys: state.pre_auth_keys().values().map(|key| (**key).clone()).collect(),
        api_keys: state.api_keys().values().map(|key| (**key).clone()).collect(),
        nodes: state.nodes().values().map(|node| (**node).clone()).collect(),
        last_seen: state.nodes().keys().filter_map(|id| Some((*id, seen(*id)?))).collect(),
    };
    Ok(Reply(Holdings { rows, policy: state.policy().map(|policy| policy.text.to_string()) }))
}
