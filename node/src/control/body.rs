//! Bodies of answers: a few bytes, or the frames of a map stream.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use state_machine::codes::{self, Code};
use tokio::sync::mpsc;

/// The body of an answer inside Noise or on the client port.
pub enum Body {
    /// All of it; `None` once sent.
    Whole(Option<Bytes>),
    /// Whatever the session says, until it drops its end.
    Frames(mpsc::Receiver<Bytes>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Body::Whole(bytes) => bytes.take(),
            Body::Frames(frames) => ready!(frames.poll_recv(cx)),
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Body::Frames(_) => SizeHint::default(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::Whole((!bytes.is_empty()).then_some(bytes))
    }
}

/// An answer of the control server.
pub type Answer = Response<Body>;

/// A refusal: its text and its line in the table of codes; clients show at most 200 characters of it.
pub fn no(status: StatusCode, code: &'static Code, said: impl std::fmt::Display) -> Answer {
    text(status, format!("{said} [{code}]"))
}

/// A short text with a status that is no refusal.
pub fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", text.into().into())
}

/// No body at all.
pub fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::Whole(None));
    *answer.status_mut() = status;
    answer
}

/// A JSON document.
pub fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_type(StatusCode::OK, "application/json", bytes.into()),
        Err(_) => no(StatusCode::INTERNAL_SERVER_ERROR, &codes::INTERNAL, "the answer could not be written"),
    }
}

/// Bytes of a given type.
pub fn with_type(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Answer {
    let mut answer = Response::new(Body::from(bytes));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}
