//! Consoles that a browser loaded from elsewhere: whom browsers may let ask (`http.cors.allowed_origins`).
//!
//! Nobody unless a name stands in the list. Keys travel in a header the page itself writes, so no cookie is involved.

use axum::{
    extract::{Request, State as Shared},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::Api;

/// What browsers are told, on top of what the answer says.
const TOLD: [(HeaderName, HeaderValue); 3] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS")),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type, if-match")),
    (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
];

/// Answers a browser's question beforehand, and marks answers for pages that may read them.
pub(crate) async fn check(Shared(api): Shared<Api>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).filter(|origin| is_allowed(&api, origin)).cloned();
    let is_asked_before =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let Some(origin) = origin else { return next.run(request).await };
    let mut answer = match is_asked_before {
        true => StatusCode::NO_CONTENT.into_response(),
        false => next.run(request).await,
    };
    mark(answer.headers_mut(), origin, is_asked_before);
    answer
}

fn is_allowed(api: &Api, origin: &HeaderValue) -> bool {
    let allowed = &api.options.allowed_origins;
    allowed.iter().any(|name| name == "*" || name.trim_end_matches('/').as_bytes() == origin.as_bytes())
}

fn mark(headers: &mut HeaderMap, origin: HeaderValue, is_asked_before: bool) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if is_asked_before {
        headers.extend(TOLD.map(|(name, value)| (Some(name), value)));
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use crate::lone::Lone;

    async fn ask(method: &str, origin: &str) -> (u16, Vec<(String, String)>) {
        let request = axum::http::Request::builder()
            .method(method)
            .uri("/api/v1/user")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .body(Body::empty())
            .unwrap();
        let answer = Lone::new().router(false).oneshot(request).await.unwrap();
        let told = answer.headers().iter().filter(|(name, _)| name.as_str().starts_with("access-control"));
        let told = told.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        (answer.status().as_u16(), told.collect())
    }

    #[tokio::test]
    async fn only_pages_from_the_list_may_ask() {
        let (status, told) = ask("OPTIONS", "https://ui.example.com").await;
        assert_eq!(status, 204);
        assert!(told.contains(&("access-control-allow-origin".into(), "https://ui.example.com".into())), "{told:?}");
        assert!(told.iter().any(|(name, value)| name.ends_with("allow-headers") && value.contains("authorization")));
        // The page may read that its key was refused.
        let (status, told) = ask("GET", "https://ui.example.com").await;
        assert_eq!((status, told.len()), (401, 1));
        for origin in ["https://evil.example.com", "https://ui.example.com.evil.org", "null"] {
            let (status, told) = ask("GET", origin).await;
            assert_eq!((status, told), (401, vec![]), "{origin}");
            assert_eq!(ask("OPTIONS", origin).await.1, vec![], "{origin}");
        }
    }
}
