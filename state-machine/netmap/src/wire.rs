//! The one serializer of frames.
//!
//! A frame is one JSON object. Its pages were serialised before, most of them once for all viewers, and are spliced
//! here as bytes. Whatever is spliced came out of a type of `tailcfg`, which writes neither `null` nor escapes.

use std::sync::Arc;

use serde::Serialize;
use tailcfg::{ControlDialPlan, PingRequest, Time};

use crate::map::Moment;

/// A serialised piece of a frame, shared by all that show it.
pub(crate) type Bytes = Arc<[u8]>;

/// The frame that only keeps a stream alive. Always the same bytes: clients then need not read it.
pub fn keep_alive() -> &'static [u8] {
    tailcfg::KEEP_ALIVE
}

/// A frame that carries a ping and changes nothing.
pub fn ping(ping: &PingRequest, moment: &Moment) -> Vec<u8> {
    let mut frame = Frame::new(256);
    frame.page("PingRequest", &to_bytes(ping));
    frame.finish(moment)
}

/// A frame that tells where to dial next time.
pub fn dial_plan(plan: &ControlDialPlan, moment: &Moment) -> Vec<u8> {
    let mut frame = Frame::new(256);
    frame.page("ControlDialPlan", &to_bytes(plan));
    frame.finish(moment)
}

/// A page as bytes.
pub(crate) fn to_bytes<T: Serialize>(page: &T) -> Bytes {
    serde_json::to_vec(page).expect("pages have text keys and cannot fail").into()
}

/// A frame being put together.
pub(crate) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(capacity: usize) -> Frame {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.push(b'{');
        Frame { bytes }
    }

    /// Whether nothing was written yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == 1
    }

    /// Pages that were put together before, as [`Frame::into_body`] gave them.
    pub(crate) fn body(&mut self, body: &[u8]) {
        if !body.is_empty() {
            self.comma();
            self.bytes.extend_from_slice(body);
        }
    }

    pub(crate) fn page(&mut self, name: &'static str, page: &[u8]) {
        self.name(name);
        self.bytes.extend_from_slice(page);
    }

    /// A list of pages; left out when it is empty, because clients differ about what that means.
    pub(crate) fn list<'a>(&mut self, name: &'static str, pages: impl IntoIterator<Item = &'a [u8]>) {
        let mut pages = pages.into_iter().peekable();
        if pages.peek().is_none() {
            return;
        }
        self.name(name);
        self.bytes.push(b'[');
        for page in pages {
            self.bytes.extend_from_slice(page);
            self.bytes.push(b',');
        }
        self.bytes.pop();
        self.bytes.push(b']');
    }

    /// The pages without the braces around them.
    pub(crate) fn into_body(mut self) -> Vec<u8> {
        self.bytes.remove(0);
        self.bytes
    }

    /// The frame; the time is the one thing that differs each time it is sent.
    pub(crate) fn finish(mut self, moment: &Moment) -> Vec<u8> {
        self.name("ControlTime");
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(time(moment.control_time).to_string().as_bytes());
        self.bytes.extend_from_slice(b"\"}");
        self.bytes
    }

    fn name(&mut self, name: &'static str) {
        self.comma();
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
    }

    fn comma(&mut self) {
        if !self.is_empty() {
            self.bytes.push(b',');
        }
    }
}

/// A moment of the log as it travels.
pub(crate) fn time(at: state_machine::Timestamp) -> Time {
    Time::from_millis(i64::try_from(at.0).unwrap_or(i64::MAX))
}
