//! One number for everything that happened: equal seeds must give equal numbers.
//!
//! Order, simulated time and content of every event go into the hash. With [`keep`](start) the events are also kept as
//! text, with what moved in the states of members, so that a run can be read event by event and two runs that differ
//! can be compared line by line.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use sha2::{Digest, Sha256};

struct Trace {
    hash: Sha256,
    events: u64,
    lines: Option<Vec<String>>,
}

thread_local! {
    // A simulation is one thread: all hosts take turns on it.
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
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

/// What time it is between the turns of hosts.
pub fn set_now(now: Duration) {
    NOW.set(now);
}

fn now() -> u64 {
    turmoil::sim_elapsed().unwrap_or_else(|| NOW.get()).as_nanos() as u64
}

/// Adds an event: what, at which host, with which content.
pub fn event(what: &str, host: u64, content: &[u8]) {
    TRACE.with_borrow_mut(|trace| {
        let Some(trace) = trace else { return };
        let at = now();
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

/// Adds to the text, not to the hash: a row of a member's state that moved. Costs nothing when no text is kept.
pub fn remark(member: u64, name: &[u8], row: Option<&[u8]>) {
    TRACE.with_borrow_mut(|trace| {
        let Some(lines) = trace.as_mut().and_then(|trace| trace.lines.as_mut()) else { return };
        let (table, id) = name.split_first().map_or((0, name), |(table, id)| (*table, id));
        let row = row.map_or_else(|| "gone".into(), readable);
        lines.push(format!("{:.6} row {member} table {table} id {} {row}", now() as f64 / 1e9, hex::encode(id)));
    });
}

/// The words and printable names in a row; its numbers are left to those who read bytes.
fn readable(row: &[u8]) -> String {
    row.chunk_by(|one, other| (b' '..0x7f).contains(one) == (b' '..0x7f).contains(other))
        .map(|chunk| match chunk.iter().all(|byte| (b' '..0x7f).contains(byte)) {
            true => String::from_utf8_lossy(chunk).into_owned(),
            false => format!("<{}>", hex::encode(chunk)),
        })
        .collect()
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
