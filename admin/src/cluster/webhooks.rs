//! `/api/v1/cluster/webhooks`: whoever outside is told what changes.

use std::collections::BTreeSet;

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
};
use serde::{Deserialize, Serialize};
use state_machine::{Command, Timestamp, codes};

use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query},
    secret_text,
    status::ApiError,
    v1::types::moment,
};

/// What the secret of a webhook starts with.
const SECRET: &str = "hswhsec-";

/// A webhook without its secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Webhook {
    pub id: String,
    pub url: String,
    /// Empty: all there are.
    pub events: Vec<String>,
    #[serde(with = "moment")]
    pub created_at: Option<Timestamp>,
    /// Rows of the audit log it has not been told of yet, whether it wants them or not.
    pub behind: u64,
}

/// Reply around webhooks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Webhooks {
    pub webhooks: Vec<Webhook>,
}

/// A new webhook, with what it signs with; shown once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NewWebhook {
    pub id: String,
    pub secret: String,
}

/// Where to, and of what.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Create {
    url: String,
    events: BTreeSet<String>,
}

/// `GET /cluster/webhooks`. URLs may be secrets of their receivers, so this is for administrators.
pub(crate) async fn list(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Webhooks>, ApiError> {
    let state = api.read(&query).await?;
    let newest = state.audit_log().get_max().map_or(0, |(number, _)| *number);
    let view = |row: &state_machine::Webhook| Webhook {
        id: row.id.clone(),
        url: row.url.clone(),
        events: row.events.iter().cloned().collect(),
        created_at: Some(row.created_at),
        behind: newest.saturating_sub(row.delivered),
    };
    Ok(Reply(Webhooks { webhooks: state.webhooks().values().map(|row| view(row)).collect() }))
}

/// `POST /cluster/webhooks`.
pub(crate) async fn create(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Create>,
) -> Result<Reply<NewWebhook>, ApiError> {
    url::Url::parse(&wish.url).map_err(|why| ApiError::invalid(format!("{:?} is no URL: {why}", wish.url)))?;
    let mut id = [0; 4];
    (api.options.random)(&mut id);
    let id = hex::encode(id);
    let secret = format!("{SECRET}{}", secret_text::letters(secret_text::SECRET_LEN, &*api.options.random));
    let sealed = api.backend.seal(&state_machine::Webhook::secret(&id), secret.as_bytes())?;
    let webhook = state_machine::Webhook {
        id: id.clone(),
        url: wish.url,
        events: wish.events,
        ..state_machine::Webhook::default()
    };
    api.propose(&caller, Command::CreateWebhook { webhook, secret: sealed }).await?;
    Ok(Reply(NewWebhook { id, secret }))
}

/// What a receiver said to a test event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tried {
    /// Its HTTP status.
    pub status: u16,
}

/// `POST /cluster/webhooks/{id}/test`: from this member, whoever leads; nothing is repeated or written down.
pub(crate) async fn test(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Reply<Tried>, ApiError> {
    let state = api.current().await?;
    let webhook = state.webhooks().get(&id).cloned();
    let webhook =
        webhook.ok_or_else(|| ApiError::not_found(format!("there is no webhook {id:?}: hsraft webhooks list")))?;
    match (api.options.tell)(webhook, caller.by).await {
        Ok(status) => Ok(Reply(Tried { status: status.as_u16() })),
        Err(why) => {
            Err(ApiError::unfit(&codes::WEBHOOK_DEAF, format!("the receiver did not take the test event: {why}")))
        }
    }
}

/// `DELETE /cluster/webhooks/{id}`.
pub(crate) async fn delete(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Reply<Empty>, ApiError> {
    api.propose(&caller, Command::DeleteWebhook { id }).await?;
    Ok(Reply(Empty {}))
}
