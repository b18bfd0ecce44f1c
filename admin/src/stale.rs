//! Answers that may be old say so.
//!
//! Without a majority a member still answers what it knows. A handler that had to do with that marks the request, and the
//! answer carries a header; programs that must not act on old facts look for it, or ask with
//! `?consistency=linearizable`.

use std::cell::Cell;

use axum::{extract::Request, http::HeaderValue, middleware::Next, response::Response};

/// On answers read from this member's own state because nobody confirmed that it is current.
pub const HEADER: &str = "x-hsraft-stale";

tokio::task_local! {
    static STALE: Cell<bool>;
}

/// The answer to the request under way may be old.
pub(crate) fn mark() {
    // Outside a request there is nobody to tell.
    let _ = STALE.try_with(|stale| stale.set(true));
}

/// Puts the header on marked answers.
pub(crate) async fn tell(request: Request, next: Next) -> Response {
    let answer = async {
        let answer = next.run(request).await;
        (answer, STALE.with(Cell::get))
    };
    let (mut answer, stale) = STALE.scope(Cell::new(false), answer).await;
    if stale {
        answer.headers_mut().insert(HEADER, HeaderValue::from_static("true"));
    }
    answer
}
