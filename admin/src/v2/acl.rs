//! The policy, with an ETag, so that nobody undoes what another wrote meanwhile.

use axum::{
    Extension,
    extract::State as Shared,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use policy::hujson;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use state_machine::{BEYOND, Command, Refusal, State, What};

use crate::{
    Api,
    auth::Caller,
    request::{Query, Text},
    status::ApiError,
    v1::policy::{judge, refuse_in_file_mode},
};

/// What is in force where no policy was ever set: every node reaches every other.
const NONE_YET: &str = "{\n\t\"acls\": [{\"action\": \"accept\", \"src\": [\"*\"], \"dst\": [\"*:*\"]}]\n}\n";

/// What programs say in `If-Match` for that.
const IS_NONE_YET: &str = "ts-default";

const HUJSON: &str = "application/hujson";

fn text(state: &State) -> &str {
    state.policy().map_or(NONE_YET, |version| &version.text)
}

fn etag(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

fn written(state: &State, as_hujson: bool) -> Result<Response, ApiError> {
    let text = text(state);
    let tag = HeaderValue::from_str(&format!("\"{}\"", etag(text))).expect("digits in quotes");
    let (kind, body) = match as_hujson {
        true => (HUJSON, text.to_owned()),
        false => {
            ("application/json", hujson::standardize(text).map_err(|error| ApiError::internal(error.to_string()))?)
        }
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::ETAG, tag)], body).into_response())
}

fn says(headers: &HeaderMap, name: header::HeaderName) -> bool {
    headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("hujson"))
}

/// `GET acl`: JSON, or as it was written for whoever takes `application/hujson`.
pub async fn show(Shared(api): Shared<Api>, headers: HeaderMap, query: Query) -> Result<Response, ApiError> {
    written(&*api.read(&query).await?, says(&headers, header::ACCEPT))
}

/// `POST acl`; with `If-Match` only over what the caller has seen.
pub async fn set(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Text(wish): Text,
) -> Result<Response, ApiError> {
    refuse_in_file_mode(&api)?;
    let state = api.current().await?;
    let over = state.policy().map_or(0, |version| version.number);
    let seen = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()).map(|tag| tag.trim_matches('"'));
    let fits = match seen {
        None | Some("") => true,
        Some(IS_NONE_YET) => over == 0,
        Some(tag) => tag == etag(text(&state)),
    };
    if !fits {
        return Err(Refusal::Changed { what: What::Policy }.into());
    }
    judge(&wish, &state)?;
    let (text, author) = (wish.into(), caller.by.clone());
    let command = match seen {
        // Between this look and the log somebody else may write: apply looks again.
        Some(_) if state.feature_level() >= BEYOND => Command::ReplacePolicy { over, text, author },
        _ => Command::SetPolicy { text, author },
    };
    api.propose(&caller, command).await?;
    let as_hujson = says(&headers, header::ACCEPT)
        || (!headers.contains_key(header::ACCEPT) && says(&headers, header::CONTENT_TYPE));
    written(&api.backend.latest(), as_hujson)
}

/// `POST acl/validate`: a policy, or a list of tests for the one in force. An answer without `message` is a yes.
pub async fn validate(Shared(api): Shared<Api>, Text(wish): Text) -> Result<Response, ApiError> {
    let state = api.current().await?;
    let judged = match hujson::parse(&wish).ok().filter(Value::is_array) {
        Some(tests) => {
            let mut now = hujson::parse(text(&state)).map_err(|error| ApiError::internal(error.to_string()))?;
            now["tests"] = tests;
            judge(&now.to_string(), &state)
        }
        None => judge(&wish, &state),
    };
    let body = match judged {
        Ok(_) => json!({}),
        Err(error) => json!({ "message": error.message(), "data": [], "status": StatusCode::BAD_REQUEST.as_u16() }),
    };
    Ok(axum::Json(body).into_response())
}
