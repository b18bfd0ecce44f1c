//! A whole backup over the API, and the key that opens it.

use axum::{Extension, Json as Reply, extract::State as Shared};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    Api,
    auth::Caller,
    cli::backup::Saved,
    request::{Empty, Json},
    status::ApiError,
};

/// `GET /cluster/backup`: the state as it certainly is now. Secrets in it are sealed.
pub(crate) async fn save(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Reply<Saved>, ApiError> {
    api.current().await?;
    tracing::info!(by = caller.by, "a backup is handed out");
    let (file, bytes) = api.backend.full_backup()?;
    Ok(Reply(Saved { file, data: BASE64_STANDARD.encode(bytes) }))
}

/// A recovery key, on its way out or in.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Key {
    key: String,
}

/// `POST /cluster/recovery-key`: shown this once.
pub(crate) async fn create_key(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(_): Json<Empty>,
) -> Result<Reply<Key>, ApiError> {
    tracing::info!(by = caller.by, "a new recovery key is made");
    let key = api.backend.create_recovery_key(&caller.by).await?;
    Ok(Reply(Key { key }))
}

/// `POST /cluster/recovery-key/confirm`.
pub(crate) async fn confirm_key(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(said): Json<Key>,
) -> Result<Reply<Empty>, ApiError> {
    match api.backend.confirm_recovery_key(&said.key, &caller.by).await?? {
        true => Ok(Reply(Empty {})),
        false => Err(ApiError::invalid(
            "this is not the recovery key of now: look for a typing error, or make a new one: hsraft recovery-key create",
        )),
    }
}
