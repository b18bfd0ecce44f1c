//! The policy: text in, meaning out. Knows no State and no wire.
//!
//! Start reading at [`Policy::parse`]; [`hujson`] is the text format below it.

pub mod hujson;

mod diagnostics;
mod document;

pub use diagnostics::{Diagnostic, Diagnostics};
pub use document::Policy;
