//! What a relay answers on its paths besides `/derp`: probes, captive-portal checks, names for clients without DNS.
//! Pure.

use std::{collections::BTreeMap, net::IpAddr};

use crate::http::Head;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A relayed connection.
    Derp,
    /// How far away are you?
    Probe,
    /// Is there a captive portal between us?
    Generate204,
    /// Where are the servers, my DNS does not work?
    BootstrapDns,
    /// A person or a crawler.
    Home,
    Robots,
    /// Nothing of ours.
    Other,
}

impl Asked {
    /// Sorts a path.
    pub fn of(path: &str) -> Asked {
        match path {
            "/derp" => Asked::Derp,
            "/derp/probe" | "/derp/latency-check" => Asked::Probe,
            "/generate_204" => Asked::Generate204,
            "/bootstrap-dns" => Asked::BootstrapDns,
            "/" => Asked::Home,
            "/robots.txt" => Asked::Robots,
            _ => Asked::Other,
        }
    }

    /// A label for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Asked::Derp => "derp",
            Asked::Probe => "probe",
            Asked::Generate204 => "generate_204",
            Asked::BootstrapDns => "bootstrap_dns",
            Asked::Home => "home",
            Asked::Robots => "robots",
            Asked::Other => "other",
        }
    }
}

/// How a request for a relayed connection is to be treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// Speak DERP after a 101.
    Derp,
    /// Speak DERP at once, no HTTP answer: the client knows our key from the certificate.
    FastStart,
    /// Refused, with this answer.
    Refused(Answer),
}

/// Decides on a request for `/derp`. Neither the method nor the host matters: Go sends GET, Rust sends POST, and
/// people dial by address.
pub fn upgrade(head: &Head) -> Upgrade {
    let word = head.header("upgrade").unwrap_or_default().trim().to_ascii_lowercase();
    let wants_web_socket = word == "websocket" && head.header_says("sec-websocket-protocol", "derp");
    match word.as_str() {
        _ if wants_web_socket => Upgrade::Refused(Answer::text(
            501,
            "Not Implemented",
            "DERP over WebSocket is not offered by this relay; connect with Upgrade: DERP\n",
        )),
        // Clients that said "WebSocket" without the subprotocol meant plain DERP.
        "derp" | "websocket" if head.header("derp-fast-start") == Some("1") => Upgrade::FastStart,
        "derp" | "websocket" => Upgrade::Derp,
        _ => Upgrade::Refused(
            Answer::text(426, "Upgrade Required", "DERP requires connection upgrade\n").with("Upgrade", "DERP"),
        ),
    }
}

/// A short HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    reason: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn empty(status: u16, reason: &'static str) -> Answer {
        Answer { status, reason, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn text(status: u16, reason: &'static str, body: &str) -> Answer {
        let answer = Answer { body: body.as_bytes().to_vec(), ..Answer::empty(status, reason) };
        answer.with("Content-Type", "text/plain; charset=utf-8")
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    /// The bytes to write. The body of an answer to HEAD is only announced.
    pub fn to_wire(&self, head_only: bool, keep_alive: bool) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {} {}\r\n", self.status, self.reason).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if self.status != 204 {
            out.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        if !keep_alive {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !head_only {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

/// The relay is going away and sends clients elsewhere.
pub fn draining() -> Answer {
    Answer::text(503, "Service Unavailable", "this relay is shutting down; connect to another one\n")
}

/// Answers everything but [`Asked::Derp`].
pub fn answer(asked: Asked, head: &Head, draining_now: bool, names: &BTreeMap<String, Vec<IpAddr>>) -> Answer {
    if !matches!(head.method.as_str(), "GET" | "HEAD") {
        return Answer::text(405, "Method Not Allowed", "only GET and HEAD\n").with("Allow", "GET, HEAD");
    }
    match asked {
        Asked::Probe if draining_now => draining(),
        Asked::Probe => Answer::empty(200, "OK").with("Access-Control-Allow-Origin", "*"),
        Asked::Generate204 => generate_204(head),
        Asked::BootstrapDns => bootstrap_dns(head, names),
        Asked::Home => Answer::text(
            200,
            "OK",
            "This is a DERP relay for Tailscale clients, run by hsraft. There is nothing to see for browsers.\n",
        ),
        Asked::Robots => Answer::text(200, "OK", "User-agent: *\nDisallow: /\n"),
        Asked::Derp | Asked::Other => Answer::text(404, "Not Found", "not found\n"),
    }
}

/// The challenge proves to a client that the answer is ours and not a captive portal's.
fn generate_204(head: &Head) -> Answer {
    let answer = Answer::empty(204, "No Content")
        .with("Cache-Control", "no-cache, no-store, must-revalidate, no-transform, max-age=0");
    let fair = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    match head.header("x-tailscale-challenge") {
        Some(challenge) if challenge.len() <= 64 && !challenge.is_empty() && challenge.chars().all(fair) => {
            answer.with("X-Tailscale-Response", format!("response {challenge}"))
        }
        _ => answer,
    }
}

/// All names, or the one that is asked for when it is known.
fn bootstrap_dns(head: &Head, names: &BTreeMap<String, Vec<IpAddr>>) -> Answer {
    let asked = head.query.split('&').find_map(|pair| pair.strip_prefix("q="));
    let body = match asked.and_then(|name| names.get_key_value(name)) {
        Some((name, addresses)) => serde_json::json!({ name: addresses }),
        None => serde_json::json!(names),
    };
    Answer { body: body.to_string().into_bytes(), ..Answer::empty(200, "OK") }.with("Content-Type", "application/json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    fn head(text: &str) -> Head {
        http::parse(format!("{text}\r\n\r\n").as_bytes()).unwrap().unwrap().0
    }

    fn ask(text: &str) -> String {
        let head = head(text);
        let names = BTreeMap::from([
            ("a.example.com".to_owned(), vec!["192.0.2.1".parse().unwrap()]),
            ("b.example.com".to_owned(), vec!["2001:db8::1".parse().unwrap()]),
        ]);
        let answer = answer(Asked::of(&head.path), &head, false, &names);
        String::from_utf8(answer.to_wire(head.method == "HEAD", true)).unwrap()
    }

    #[test]
    fn probes() {
        let expected = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(ask("GET /derp/latency-check HTTP/1.1"), expected);
        assert_eq!(ask("HEAD /derp/probe HTTP/1.1"), expected);
        assert!(ask("POST /derp/probe HTTP/1.1").starts_with("HTTP/1.1 405 "));
    }

    #[test]
    fn captive_portals() {
        let answer = ask("GET /generate_204 HTTP/1.1\r\nX-Tailscale-Challenge: ts_derp1.example.com");
        assert!(answer.starts_with("HTTP/1.1 204 No Content\r\nCache-Control: no-cache, no-store"));
        assert!(answer.contains("\r\nX-Tailscale-Response: response ts_derp1.example.com\r\n"));
        assert!(!ask("GET /generate_204 HTTP/1.1\r\nX-Tailscale-Challenge: a b").contains("X-Tailscale-Response"));
    }

    #[test]
    fn names_for_clients_without_dns() {
        let one = r#"{"a.example.com":["192.0.2.1"]}"#;
        assert!(ask("GET /bootstrap-dns?q=a.example.com HTTP/1.1").ends_with(one));
        let all = r#"{"a.example.com":["192.0.2.1"],"b.example.com":["2001:db8::1"]}"#;
        assert!(ask("GET /bootstrap-dns?q=other HTTP/1.1").ends_with(all));
        assert!(!ask("HEAD /bootstrap-dns HTTP/1.1").contains('{'));
    }

    #[test]
    fn upgrades() {
        let of = |text: &str| upgrade(&head(&format!("GET /derp HTTP/1.1\r\n{text}")));
        assert_eq!(of("Upgrade: DERP"), Upgrade::Derp);
        assert_eq!(of("Upgrade: derp\r\nDerp-Fast-Start: 1"), Upgrade::FastStart);
        assert_eq!(of("Upgrade: WebSocket"), Upgrade::Derp);
        let Upgrade::Refused(answer) = of("Upgrade: websocket\r\nSec-WebSocket-Protocol: derp") else { panic!() };
        assert_eq!(answer.status, 501);
        let Upgrade::Refused(answer) = of("Host: h") else { panic!() };
        assert_eq!((answer.status, answer.body.as_slice()), (426, &b"DERP requires connection upgrade\n"[..]));
    }

    #[test]
    fn everything_else_is_not_here() {
        assert!(ask("GET /other HTTP/1.1").starts_with("HTTP/1.1 404 "));
        assert!(ask("GET /robots.txt HTTP/1.1").ends_with("Disallow: /\n"));
        assert!(ask("GET / HTTP/1.1").starts_with("HTTP/1.1 200 "));
    }
}
