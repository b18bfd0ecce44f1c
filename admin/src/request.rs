//! Reading requests the way Headscale's consoles send them: JSON under any `Content-Type` or none, an empty body for
//! `{}`, parameters in the query, the body or both.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, de::DeserializeOwned};

use crate::status::ApiError;

/// The longest body that is read: 1 MiB.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// A JSON body.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = read(request.into_body()).await?;
        let text = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes[..] };
        parsed(text).map(Json)
    }
}

fn parsed<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(text)
        .map_err(|error| ApiError::invalid(format!("the body is not the JSON object asked for: {error}")))
}

/// A JSON body that must be there: where it replaces what there is, nothing must not be taken for emptiness.
pub struct Given<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Given<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = read(request.into_body()).await?;
        if bytes.trim_ascii().is_empty() {
            return Err(ApiError::invalid("the body is empty, and nothing was changed: write what shall be there"));
        }
        parsed(&bytes).map(Given)
    }
}

/// A body that is text.
pub struct Text(pub String);

impl<S: Sync> FromRequest<S> for Text {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = read(request.into_body()).await?;
        String::from_utf8(bytes.into()).map(Text).map_err(|_| ApiError::invalid("the body is not text in UTF-8"))
    }
}

async fn read(body: Body) -> Result<bytes::Bytes, ApiError> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::too_large(format!("the body is longer than {BODY_BYTES_MAX} bytes")))
        }
        Err(error) => Err(ApiError::invalid(format!("the body ended early: {error}"))),
    }
}

/// The query of the URL. A name that occurs twice keeps its first value.
#[derive(Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// A query of these values; empty ones are as good as absent.
    pub fn of<const N: usize>(values: [(&str, &str); N]) -> Query {
        Query(values.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The value of `name`; absent and empty are the same.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The value of `name`, or what the body said.
    pub fn or<'a>(&'a self, name: &str, body: &'a str) -> &'a str {
        self.get(name).unwrap_or(body.trim())
    }

    /// Whether `name` is `true` (or `1`).
    pub fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let text = parts.uri.query().unwrap_or_default();
        let mut values = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            values.entry(name.into_owned()).or_insert(value.into_owned());
        }
        Ok(Query(values))
    }
}

/// A number in a path or a query, such as a node's id.
pub fn number(what: &str, text: &str) -> Result<u64, ApiError> {
    text.trim().parse().map_err(|_| ApiError::invalid(format!("{text:?} is not a {what} id (a whole number)")))
}

/// `{}`.
#[derive(Debug, Default, Deserialize, serde::Serialize)]
pub struct Empty {}
