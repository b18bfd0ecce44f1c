//! Why a policy is not taken, and what in one that is taken deserves a second look.

use std::fmt;

/// A place in a text; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

impl Place {
    /// The place of a byte position.
    pub(crate) fn of(text: &str, at: u32) -> Place {
        let mut at = (at as usize).min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let line = before.bytes().filter(|byte| *byte == b'\n').count() as u32 + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() as u32 + 1;
        Place { line, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a policy is refused: where, in the words of the hosted control plane, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub message: String,
    /// Absent where the whole policy is meant.
    pub place: Option<Place>,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for Rejection {}

impl From<crate::hujson::SyntaxError> for Rejection {
    fn from(error: crate::hujson::SyntaxError) -> Rejection {
        let place = Some(Place { line: error.line, column: error.column });
        Rejection { message: error.what.to_string(), place, hint: None }
    }
}

/// Something that is taken, but is written in a way that will not last or does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub message: String,
    pub place: Option<Place>,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.iter().try_for_each(|place| write!(f, "{place}: "))?;
        f.write_str(&self.message)
    }
}

/// A complaint while reading: a byte position, what, and how to mend it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub at: u32,
    pub message: String,
    pub hint: Option<String>,
}

impl Fault {
    pub fn new(at: u32, message: impl Into<String>) -> Fault {
        Fault { at, message: message.into(), hint: None }
    }

    pub fn hint(self, hint: impl Into<String>) -> Fault {
        Fault { hint: Some(hint.into()), ..self }
    }

    pub fn in_text(self, text: &str) -> Rejection {
        Rejection { place: Some(Place::of(text, self.at)), message: self.message, hint: self.hint }
    }
}
