//! People proving who they are: the page a client sends them to.

use http::StatusCode;
use state_machine::{LoginId, LoginResult, SshCheckResult, State};

use crate::control::body::{Answer, text, with_type};

/// `GET /register/<id>`: what to run to let the node in. The page tells nothing about the node: whoever guesses ids
/// shall not learn names.
pub fn page(state: &State, id: &str) -> Answer {
    if !is_id(id) {
        return text(StatusCode::BAD_REQUEST, "not a login id");
    }
    let (heading, more) = match state.login(&LoginId(id.to_owned())).map(|login| &login.result) {
        Some(LoginResult::Registered(_)) => ("The machine is in", String::new()),
        Some(LoginResult::Rejected(_)) => ("This login was refused", String::new()),
        // Another member may have begun it a moment ago, so an unknown id is shown like a known one.
        Some(LoginResult::Waiting) | None => (
            "A machine asks to be let in",
            format!(
                "<p>On a server, run this with the name of the user it shall belong to:</p>\
                 <pre>hsraft nodes register --key {id} --user USERNAME</pre>"
            ),
        ),
    };
    html(heading, &more)
}

/// `GET /auth/<id>`: what to run to let a connection by SSH in. Tells nothing about it, as above.
pub fn check_page(state: &State, id: &str) -> Answer {
    if !is_id(id) {
        return text(StatusCode::BAD_REQUEST, "not the id of a connection");
    }
    let (heading, more) = match state.ssh_check(id).map(|check| &check.result) {
        Some(SshCheckResult::Approved { .. }) => ("The connection was approved", String::new()),
        Some(SshCheckResult::Rejected { .. }) => ("The connection was turned away", String::new()),
        // Another member may have begun it a moment ago, so an unknown id is shown like a known one.
        Some(SshCheckResult::Waiting) | None => (
            "A connection by SSH asks to be let in",
            format!("<p>On a server, run:</p><pre>hsraft ssh approve {id}</pre>"),
        ),
    };
    html(heading, &more)
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn html(heading: &str, more: &str) -> Answer {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>hsraft</title>\
         <style>body{{font:1.1em/1.5 system-ui;max-width:44em;margin:4em auto;padding:0 1em}}\
         pre{{background:#f2f2f2;padding:1em;overflow-x:auto;border-radius:.4em}}</style></head>\
         <body><h1>{heading}</h1>{more}</body></html>"
    );
    with_type(StatusCode::OK, "text/html; charset=utf-8", html.into())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn the_page_shows_the_command() {
        let state = State::default();
        let answer = page(&state, "abcDEF123456abcDEF123456");
        let html = answer.into_body().collect().await.unwrap().to_bytes();
        let html = String::from_utf8(html.to_vec()).unwrap();
        assert!(html.contains("hsraft nodes register --key abcDEF123456abcDEF123456 --user"), "{html}");
    }

    #[test]
    fn only_ids_are_shown() {
        for id in ["", "<script>", "a b", &"x".repeat(65)] {
            assert_eq!(page(&State::default(), id).status(), StatusCode::BAD_REQUEST, "{id}");
            assert_eq!(check_page(&State::default(), id).status(), StatusCode::BAD_REQUEST, "{id}");
        }
    }
}
