//! What people see: one sheet, few words, in English and Chinese. Everything shown is escaped here.

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use state_machine::codes::Code;

/// In which language a browser wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    /// The first of the browser's languages that is one of ours.
    pub fn of(headers: &http::HeaderMap) -> Language {
        let wanted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let first =
            wanted.split(',').map(|word| word.trim().to_ascii_lowercase()).find_map(|word| match word.get(..2) {
                Some("zh") => Some(Language::Chinese),
                Some("en") => Some(Language::English),
                _ => None,
            });
        first.unwrap_or(Language::English)
    }

    /// The text in this language.
    pub fn say(self, english: &'static str, chinese: &'static str) -> &'static str {
        match self {
            Language::English => english,
            Language::Chinese => chinese,
        }
    }
}

/// A page: a heading and paragraphs of HTML that is already escaped.
pub fn page(status: StatusCode, language: Language, heading: &str, inner: &str) -> Response {
    let lang = language.say("en", "zh-CN");
    let heading = escaped(heading);
    let html = format!(
        "<!doctype html><html lang=\"{lang}\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{heading}</title>\
         <style>{STYLE}</style></head><body><main><p class=\"mark\">hsraft</p><h1>{heading}</h1>{inner}</main></body></html>"
    );
    let mut answer = Response::new(Body::from(html));
    *answer.status_mut() = status;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in headers {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Why it did not work, what to do next, and the code somebody can look up.
pub fn trouble(status: StatusCode, language: Language, code: &Code, detail: &str) -> Response {
    let heading = capital(code.what);
    let mut inner = String::new();
    if !detail.is_empty() {
        inner += &format!("<p class=\"why\">{}</p>", escaped(&capital(detail)));
    }
    inner += &format!(
        "<p>{}</p><h2>{}</h2><p>{}</p><p class=\"code\">{code}</p>",
        escaped(&capital(code.why)),
        language.say("What now", "怎么办"),
        escaped(&capital(code.next)),
    );
    page(status, language, &heading, &inner)
}

/// Names and values, one a line.
pub fn facts(rows: &[(&str, String)]) -> String {
    let mut html = String::from("<dl>");
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        html += &format!("<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value));
    }
    html + "</dl>"
}

/// A command to type.
pub fn command(text: &str) -> String {
    format!("<pre>{}</pre>", escaped(text))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Text as HTML; what does not end is cut.
pub fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars().take(600) {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c if c.is_control() => html.push(' '),
            // Text that runs backwards could make a page say what it does not.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c => html.push(c),
        }
    }
    html
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--sheet:#fff;--ground:#eef1f5;--line:#d9dee6;--deed:#1f5fd0}\
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf2;--soft:#9aa6b6;--sheet:#1b212b;--ground:#11151b;--line:#323b48;--deed:#6ea0ff}}\
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);\
font:1rem/1.6 system-ui,\"PingFang SC\",\"Microsoft YaHei\",\"Noto Sans CJK SC\",sans-serif}\
main{max-width:34rem;margin:12vh auto 2rem;padding:2rem 2.25rem;background:var(--sheet);border:1px solid var(--line);border-radius:.75rem}\
@media(max-width:40rem){main{margin:0;min-height:100vh;border:0;border-radius:0;padding:1.5rem}}\
.mark{margin:0 0 1.25rem;color:var(--soft);font-weight:600;letter-spacing:.02em}h1{font-size:1.45rem;line-height:1.3;margin:0 0 1rem}\
h2{font-size:1rem;margin:1.5rem 0 .25rem}p{margin:.5rem 0}.why{font-weight:600}.code{margin-top:1.75rem;color:var(--soft);font:.85rem ui-monospace,monospace}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1.25rem;margin:1.25rem 0}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}\
pre{background:var(--ground);padding:.9rem 1rem;border-radius:.4rem;white-space:pre-wrap;overflow-wrap:anywhere;font:.9rem/1.5 ui-monospace,monospace}\
form{display:flex;gap:.75rem;margin-top:1.75rem;flex-wrap:wrap}button{font:inherit;padding:.6rem 1.4rem;border-radius:.45rem;border:1px solid var(--line);\
background:transparent;color:inherit;cursor:pointer}button.yes{background:var(--deed);border-color:var(--deed);color:var(--sheet);font-weight:600}\
button:focus-visible{outline:3px solid var(--deed);outline-offset:2px}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shown_is_markup() {
        assert_eq!(escaped("<b a='\"'>&\n\u{202e}x"), "&lt;b a=&#39;&quot;&#39;&gt;&amp; x");
        assert_eq!(escaped(&"x".repeat(1_000)).len(), 600);
        assert_eq!(facts(&[("A", "<".into()), ("B", String::new())]), "<dl><dt>A</dt><dd>&lt;</dd></dl>");
    }

    #[test]
    fn the_browser_chooses_the_language() {
        let of = |text: &'static str| {
            Language::of(&[(header::ACCEPT_LANGUAGE, HeaderValue::from_static(text))].into_iter().collect())
        };
        assert_eq!(of("zh-CN,zh;q=0.9,en;q=0.8"), Language::Chinese);
        assert_eq!(of("de,en;q=0.7"), Language::English);
        assert_eq!(of("de"), Language::English);
    }
}
