//! Settings of the tailnet, as far as a cluster has them.

use axum::{Extension, Json as Reply, extract::State as Shared};
use serde_json::{Map, Value, json};
use state_machine::Settings;

use super::dns::change as change_settings;
use crate::{
    Api,
    auth::Caller,
    request::{Json, Query},
    status::ApiError,
};

const DAY_SECS: u64 = 24 * 3600;

/// Longer than anybody needs: a hundred years.
const DAYS_MAX: u64 = 36_500;

/// What can be changed here.
const KEY_DAYS: &str = "devicesKeyDurationDays";
const APPROVAL: &str = "devicesApprovalOn";

fn view(settings: &Settings) -> Map<String, Value> {
    let all = json!({
        "aclsExternallyManagedOn": false,
        "aclsExternalLink": "",
        APPROVAL: settings.node_approval,
        "devicesAutoUpdatesOn": false,
        KEY_DAYS: settings.node_expiry_secs / DAY_SECS,
        "usersApprovalOn": false,
        "usersRoleAllowedToJoinExternalTailnets": "none",
        "networkFlowLoggingOn": false,
        "regionalRoutingOn": false,
        "postureIdentityCollectionOn": false,
        "httpsEnabled": false,
    });
    match all {
        Value::Object(fields) => fields,
        _ => unreachable!("an object is written above"),
    }
}

/// `GET settings`.
pub async fn show(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Map<String, Value>>, ApiError> {
    Ok(Reply(view(api.read(&query).await?.settings())))
}

/// `PATCH settings`: what is `null` or says what is so already stays; what a cluster has not cannot be turned on.
pub async fn change(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Map<String, Value>>,
) -> Result<Reply<Map<String, Value>>, ApiError> {
    let now = view(api.current().await?.settings());
    let (mut days, mut approval) = (None, None);
    for (name, value) in wish.iter().filter(|(_, value)| !value.is_null()) {
        match now.get(name) {
            None => return Err(ApiError::invalid(format!("no such setting: {name:?}"))),
            Some(is) if is == value => {}
            Some(_) if name == KEY_DAYS => {
                let wished = value.as_u64().filter(|days| *days <= DAYS_MAX);
                let why =
                    || ApiError::invalid(format!("{KEY_DAYS} is a whole number up to {DAYS_MAX}; 0: keys do not end"));
                days = Some(wished.ok_or_else(why)?);
            }
            Some(_) if name == APPROVAL => {
                let why = || ApiError::invalid(format!("{APPROVAL} is true or false"));
                approval = Some(value.as_bool().ok_or_else(why)?);
            }
            Some(is) => {
                return Err(ApiError::not_implemented(format!("{name} is {is} here and cannot be changed")));
            }
        }
    }
    let edit = |settings: &mut Settings| {
        settings.node_expiry_secs = days.map_or(settings.node_expiry_secs, |days| days * DAY_SECS);
        settings.node_approval = approval.unwrap_or(settings.node_approval);
        Ok(())
    };
    let settings = match days.is_some() || approval.is_some() {
        true => change_settings(&api, &caller, edit).await?,
        false => (**api.backend.latest().settings()).clone(),
    };
    Ok(Reply(view(&settings)))
}
