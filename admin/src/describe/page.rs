//! The page: every operation, without scripts and without anybody else's server.

use axum::response::Html;

use super::operations::{self, Family, Operation};

/// Its chapters.
const CHAPTERS: [(Family, &str, &str, &str); 3] = [
    (
        Family::Headscale,
        "headscale",
        "Headscale",
        "As Headscale 0.29 has it; consoles and generated clients work unchanged.",
    ),
    (
        Family::Cluster,
        "cluster",
        "The cluster",
        "Ours: members, tokens, drills, certificates, what changes and who changed it.",
    ),
    (
        Family::Tailscale,
        "tailscale",
        "Tailscale",
        "What programs for Tailscale's API use of it, with API keys (the user name of Basic) or OAuth clients and scopes.",
    ),
];

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:76rem;margin:2.5rem auto;padding:0 1.5rem;\
color:#1b2430;background:#fff}h1{margin-bottom:.25rem}h2{margin:2.5rem 0 .25rem}h3{margin:1.75rem 0 .5rem;\
font-size:1rem;text-transform:capitalize;color:#5b6675}p{margin:.25rem 0 1rem}a{color:#1f5fd0}nav a{margin-right:1rem}\
table{border-collapse:collapse;width:100%;table-layout:fixed}th,td{text-align:left;vertical-align:top;\
padding:.45rem .6rem;border-bottom:1px solid #e3e7ec;overflow-wrap:anywhere}th{font-size:.8rem;color:#5b6675}\
.m{width:5.5rem}.p{width:32%}.a{width:26%}code{font:.85em ui-monospace,monospace}\
.v{display:inline-block;min-width:3.9rem;padding:.05rem .4rem;border-radius:.3rem;text-align:center;font-weight:600;\
background:#e8eef9;color:#1f4fa8}.POST{background:#e6f4ea;color:#1d6b36}.PUT,.PATCH{background:#fdf3df;color:#855b06}\
.DELETE{background:#fbe8e6;color:#9d2b1f}small{color:#5b6675}";

/// The page.
pub async fn reply() -> Html<String> {
    let mut chapters = String::new();
    for (family, id, title, about) in CHAPTERS {
        chapters += &format!("<h2 id=\"{id}\">{title}</h2><p>{about}</p>");
        let mut noun = "";
        for operation in operations::all().filter(|operation| operation.family() == family) {
            if operation.tag() != noun {
                chapters += if noun.is_empty() { "" } else { "</table>" };
                noun = operation.tag();
                if family == Family::Headscale {
                    chapters += &format!("<h3>{noun}</h3>");
                }
                chapters += "<table><tr><th class=\"m\">Method</th><th class=\"p\">Path</th><th>What</th>\
                             <th class=\"a\">Query and body</th></tr>";
            }
            chapters += &row(operation);
        }
        chapters += "</table>";
    }
    Html(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>hsraft API</title>\
         <style>{STYLE}</style></head><body><h1>hsraft API</h1>\
         <p>Call any member with <code>Authorization: Bearer KEY</code>; make a key with \
         <code>hsraft apikeys create</code>. For programs: <a href=\"/api/v1/openapi.yaml\">OpenAPI 3.1</a>, \
         <a href=\"/swagger/v1/openapiv2.json\">Swagger 2.0</a>.</p>\
         <nav><a href=\"#headscale\">Headscale</a><a href=\"#cluster\">The cluster</a><a href=\"#tailscale\">Tailscale</a>\
         </nav>{chapters}</body></html>"
    ))
}

fn row(operation: &Operation) -> String {
    let fields = |mark: &str, fields: &[(&str, &str)]| -> String {
        fields.iter().map(|(name, kind)| format!("{mark}<code>{name}</code> <small>{kind}</small><br>")).collect()
    };
    let (method, path, summary) = (operation.method, operation.path, operation.summary);
    let (query, body) = (fields("?", operation.query), fields("", operation.body));
    format!(
        "<tr><td><span class=\"v {method}\">{method}</span></td><td><code>{path}</code></td><td>{summary}</td>\
         <td>{query}{body}</td></tr>"
    )
}
