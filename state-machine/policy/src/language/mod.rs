//! The language: text → [`Document`](document::Document).

pub(crate) mod alias;
pub(crate) mod document;
pub(crate) mod duration;
pub(crate) mod fields;
pub(crate) mod names;
pub(crate) mod ports;
pub(crate) mod read;
pub(crate) mod rules;
pub(crate) mod ssh;
pub(crate) mod tree;
