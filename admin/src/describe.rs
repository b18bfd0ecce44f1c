//! What the API offers, for programs and people: Swagger 2.0 under Headscale's old path, OpenAPI 3.1 under its new one,
//! and a page to read.
//!
//! One table of operations and one of objects; the documents are written from them, and a test asks the router whether
//! the table tells the truth.

mod objects;
mod operations;
mod page;

use axum::{
    Json as Reply, Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Map, Value, json};

use crate::{Api, version};
use operations::{Family, Operation};

/// The documents, open to everybody: they tell what every copy of this program tells.
pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/swagger", get(page::reply))
        .route("/swagger/v1/openapiv2.json", get(async || Reply(swagger())))
        .route("/api/v1/docs", get(page::reply))
        .route("/api/v1/openapi.json", get(async || Reply(openapi())))
        .route("/api/v1/openapi.yaml", get(yaml))
}

async fn yaml() -> Response {
    let text = serde_yaml_ng::to_string(&openapi()).expect("JSON can be written as YAML");
    ([(header::CONTENT_TYPE, "application/yaml")], text).into_response()
}

/// OpenAPI 3.1.
fn openapi() -> Value {
    let mut paths = Map::new();
    for operation in operations::all() {
        let (kind, schema) = match operation.reply {
            ("", media) if media.contains('/') => (media, json!({"type": "string"})),
            reply => ("application/json", referred(reply, "#/components/schemas/")),
        };
        let reply = json!({"description": "Done.", "content": {kind: {"schema": schema}}});
        let problem = json!({"description": "Not done; `message` says why.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}});
        let mut described = json!({
            "operationId": operation.id,
            "tags": [operation.tag()],
            "summary": operation.summary,
            "parameters": parameters(operation, |kind| json!({"schema": objects::reference(kind, "")})),
            "responses": {"200": reply, "default": problem},
        });
        described["responses"]["429"] = json!({"description": "Too many failed attempts from this address.", "content": {"text/plain": {"schema": {"type": "string"}}}});
        // Consoles know a bad key by this one word, not by JSON.
        if operation.family() != Family::Tailscale {
            described["responses"]["401"] = json!({"description": "The API key is missing, wrong or over.", "content": {"text/plain": {"schema": {"type": "string"}}}});
        }
        if !operation.body.is_empty() {
            described["requestBody"] = json!({
                "required": true,
                "content": {"application/json": {"schema": body(operation)}},
            });
        }
        insert(&mut paths, operation, described);
    }
    json!({
        "openapi": "3.1.0",
        "info": info(),
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": objects::all("#/components/schemas/"),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key: hsraft apikeys create"}},
        },
    })
}

/// Swagger 2.0, for clients that were generated from Headscale's.
fn swagger() -> Value {
    let mut paths = Map::new();
    // Generated clients of Headscale's want Headscale's operations and no others.
    for operation in operations::all().filter(|operation| operation.family() == Family::Headscale) {
        let mut parameters = parameters(operation, |kind| objects::reference(kind, ""));
        if !operation.body.is_empty() {
            parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": body(operation)}));
        }
        let reply = json!({"description": "Done.", "schema": referred(operation.reply, "#/definitions/v1")});
        let problem =
            json!({"description": "Not done; `message` says why.", "schema": {"$ref": "#/definitions/v1Problem"}});
        let described = json!({
            "operationId": format!("HeadscaleService_{}", operation.id),
            "tags": ["HeadscaleService"],
            "summary": operation.summary,
            "parameters": parameters,
            "responses": {"200": reply, "default": problem},
        });
        insert(&mut paths, operation, described);
    }
    let named = objects::all("#/definitions/v1");
    let definitions: Map<String, Value> =
        named.into_iter().map(|(name, schema)| (format!("v1{name}"), schema)).collect();
    json!({
        "swagger": "2.0",
        "info": info(),
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": {"key": {"type": "apiKey", "name": "Authorization", "in": "header"}},
        "security": [{"key": []}],
        "paths": paths,
        "definitions": definitions,
    })
}

fn info() -> Value {
    json!({
        "title": "hsraft",
        "description": "The API of Headscale 0.29, ours below /api/v1/cluster, and of Tailscale's what a cluster has below \
                        /api/v2; served by every member.",
        "version": version::this().version,
    })
}

fn insert(paths: &mut Map<String, Value>, operation: &Operation, described: Value) {
    let path = paths.entry(operation.path).or_insert_with(|| json!({}));
    path[operation.method.to_lowercase()] = described;
}

fn parameters(operation: &Operation, kind: impl Fn(&str) -> Value) -> Vec<Value> {
    let in_path = operation.path_names().map(|name| (name, "path", "string"));
    let in_query = operation.query.iter().map(|(name, kind)| (*name, "query", *kind));
    let described = |(name, place, of): (&str, &str, &str)| {
        let mut parameter = json!({"name": name, "in": place, "required": place == "path"});
        let kind = kind(of);
        parameter.as_object_mut().expect("made above").extend(kind.as_object().cloned().unwrap_or_default());
        parameter
    };
    in_path.chain(in_query).map(described).collect()
}

/// A reply is an object around a value, or nothing.
fn referred(reply: (&str, &str), prefix: &str) -> Value {
    let (field, kind) = reply;
    match field {
        "" => json!({"type": "object"}),
        // The object is the reply itself.
        "." => objects::reference(kind, prefix),
        field => json!({"type": "object", "properties": {field: objects::reference(kind, prefix)}}),
    }
}

fn body(operation: &Operation) -> Value {
    let fields = operation.body.iter().map(|(name, kind)| (name.to_string(), objects::reference(kind, "")));
    json!({"type": "object", "properties": fields.collect::<Map<_, _>>()})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::lone::Lone;

    async fn ask(method: &str, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = Lone::new().router(true).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn every_operation_exists() {
        let mut seen = BTreeSet::new();
        for operation in operations::all() {
            // Follows what happens, for ever.
            if operation.id == "FollowEvents" {
                continue;
            }
            assert!(seen.insert(operation.id), "{} is described twice", operation.id);
            let path = operation.path.replace(['{', '}'], "");
            let (status, text) = ask(operation.method, &path).await;
            assert!(status != 405 && !text.contains("no such path"), "{} {path}: {status} {text}", operation.method);
        }
    }

    /// What is served is described: of ours all, of Tailscale's all.
    #[test]
    fn every_route_is_described() {
        let sources = [
            (include_str!("cluster.rs"), "/api/v1/cluster"),
            (include_str!("headscale/endpoint.rs"), "/api/v1"),
            (include_str!("v2.rs"), "/api/v2"),
        ];
        let shape = |path: &str| {
            let parts: Vec<&str> =
                path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect();
            parts.join("/")
        };
        let told: BTreeSet<(String, String)> =
            operations::all().map(|one| (one.method.to_owned(), shape(one.path))).collect();
        let mut count = 0;
        for (source, below) in sources {
            for (method, path) in crate::access::routes_in(source, below) {
                assert!(told.contains(&(method.clone(), shape(&path))), "{method} {path} is not described");
                count += 1;
            }
        }
        assert!(count > 60, "{count}");
    }

    #[tokio::test]
    async fn references_lead_somewhere() {
        for path in ["/api/v1/openapi.json", "/swagger/v1/openapiv2.json"] {
            let (status, text) = ask("GET", path).await;
            assert_eq!(status, 200, "{path}");
            let document: Value = serde_json::from_str(&text).unwrap();
            for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
                assert!(document.pointer(reference).is_some(), "{path}: {reference}");
            }
        }
        assert!(ask("GET", "/api/v1/openapi.yaml").await.1.contains("\nopenapi: 3.1.0\n"));
        let (status, page) = ask("GET", "/swagger").await;
        assert!(status == 200 && page.contains("/api/v1/node/{nodeId}/approve_routes"), "{page}");
    }
}
