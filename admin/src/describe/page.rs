//! The page: every operation, without scripts and without anybody else's server.

use axum::response::Html;

use super::operations::OPERATIONS;

/// The page.
pub async fn reply() -> Html<String> {
    let rows: String = OPERATIONS
        .iter()
        .map(|operation| {
            let fields = |fields: &[(&str, &str)]| {
                let told = fields.iter().map(|(name, kind)| format!("<code>{name}</code> {kind}"));
                told.collect::<Vec<_>>().join("<br>")
            };
            format!(
                "<tr><td><code>{}</code></td><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>",
                operation.method,
                operation.path,
                operation.summary,
                fields(operation.query),
                fields(operation.body),
            )
        })
        .collect();
    Html(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>hsraft API</title>\
         <style>body{{font:1em/1.5 system-ui;max-width:75em;margin:2em auto;padding:0 1em}}\
         table{{border-collapse:collapse;width:100%}}th,td{{text-align:left;vertical-align:top;padding:.4em .6em;\
         border-bottom:1px solid #ddd}}</style></head><body><h1>hsraft API</h1>\
         <p>Call with <code>Authorization: Bearer KEY</code>; make a key with <code>hsraft apikeys create</code>. \
         For programs: <a href=\"/api/v1/openapi.yaml\">OpenAPI 3.1</a>, \
         <a href=\"/swagger/v1/openapiv2.json\">Swagger 2.0</a>.</p>\
         <table><tr><th>Method</th><th>Path</th><th>What</th><th>Query</th><th>Body</th></tr>{rows}</table></body></html>"
    ))
}
