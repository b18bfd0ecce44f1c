//! Counts what people and their programs ask, and how long they wait for the answer to begin.

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::Response,
};
use tokio::time::Instant;

use crate::observe::Metrics;

/// The same router, counted.
pub fn counted(router: Router, metrics: &Metrics) -> Router {
    router.layer(middleware::from_fn_with_state(metrics.clone(), count))
}

async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    // The template of the path: what strangers write there would fill the memory of whoever collects.
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = known(request.method().as_str());
    let begun = Instant::now();
    let answer = next.run(request).await;
    metrics.api_seconds.with_label_values(&[method, path.as_str()]).observe(begun.elapsed().as_secs_f64());
    metrics.api_requests.with_label_values(&[method, path.as_str(), answer.status().as_str()]).inc();
    answer
}

fn known(method: &str) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    METHODS.into_iter().find(|known| *known == method).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use prometheus::Registry;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn paths_are_counted_by_their_template() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let inner = Router::new().route("/node/{id}", get(async || "x"));
        let router = counted(Router::new().nest("/api/v1", inner), &metrics);
        for (method, path) in [("GET", "/api/v1/node/1"), ("GET", "/api/v1/node/2"), ("BREW", "/coffee")] {
            let request = http::Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap();
        }
        let count = |labels: &[&str]| metrics.api_requests.with_label_values(labels).get();
        assert_eq!(count(&["GET", "/api/v1/node/{id}", "200"]), 2);
        assert_eq!(count(&["other", "other", "404"]), 1);
        assert_eq!(metrics.api_seconds.with_label_values(&["GET", "/api/v1/node/{id}"]).get_sample_count(), 2);
    }
}
