//! One number for everything that happened: equal seeds must give equal numbers.
//!
//! Order, simulated time and content of every event go into the hash. With [`keep`](start) the events are also kept as
//! text, so that two runs that differ can be compared line by line.

use std::cell::RefCell;

use sha2::{Digest, Sha256};

struct Trace {
    hash: Sha256,
    events: u64,
    lines: Option<Vec<String>>,
}

thread_local! {
    // A simulation is one thread: all hosts take turns on it.
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

/// What a trace came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The first half of the SHA-256, in hex.
    pub hash: String,
    pub events: u64,
    /// Only when asked for.
    pub lines: Vec<String>,
}

/// Begins a trace on this thread. `keep`: remember the events as text.
pub fn start(keep: bool) {
    TRACE.set(Some(Trace { hash: Sha256::new(), events: 0, lines: keep.then(Vec::new) }));
}

/// Adds an event: what, at which host, with which content.
pub fn event(what: &str, host: u64, content: &[u8]) {
    TRACE.with_borrow_mut(|trace| {
        let Some(trace) = trace else { return };
        let at = turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_nanos() as u64);
        for part in [what.as_bytes(), &host.to_le_bytes(), &at.to_le_bytes(), content] {
            trace.hash.update((part.len() as u64).to_le_bytes());
            trace.hash.update(part);
        }
        trace.events += 1;
        if let Some(lines) = &mut trace.lines {
            let content: String = match std::str::from_utf8(content) {
                Ok(text) if text.chars().all(|c| !c.is_control()) => text.into(),
                _ => hex::encode(content),
            };
            lines.push(format!("{:.6} {what} {host} {content}", at as f64 / 1e9));
        }
    });
}

/// Ends the trace.
pub fn stop() -> Summary {
    let Some(trace) = TRACE.take() else { return Summary::default() };
    Summary {
        hash: hex::encode(&trace.hash.finalize()[..16]),
        events: trace.events,
        lines: trace.lines.unwrap_or_default(),
    }
}
