//! Certificate authorities ask DNS whether a node's name is its own (RFC 8555, section 8.4).
//!
//! What a node proves lies in State ([`state_machine::TextRecord`]). Either every member answers for it (`zone.rs` says
//! what, `serve.rs` to whom), or the leader tells a DNS server of the operator's (`update.rs`; `chores/text_records.rs`
//! says when).

pub mod serve;
pub mod update;
pub mod zone;
