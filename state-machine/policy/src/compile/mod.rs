//! Compiling: document and tailnet → meaning, class to class.
//!
//! | file | holds |
//! |---|---|
//! | `program.rs` | the document's words in numbers, and which of them mean a node |
//! | `classes.rs` | nodes of equal role |
//! | `table.rs` | who stands where in every rule, who sees whom |
//! | `sources.rs` `filter.rs` | what lets packets in, node by node |
//! | `ssh.rs` `attributes.rs` `routes.rs` | the other things a node is told |
//! | `why.rs` | which rule lets a connection through |

pub(crate) mod attributes;
pub(crate) mod bits;
pub(crate) mod classes;
pub(crate) mod filter;
pub(crate) mod program;
pub(crate) mod routes;
pub(crate) mod sources;
pub(crate) mod ssh;
pub(crate) mod table;
pub(crate) mod why;
