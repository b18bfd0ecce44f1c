//! Certificate authorities ask DNS whether a node's name is its own (RFC 8555, section 8.4).
//!
//! What a node proves lies in State ([`state_machine::TextRecord`]). Either every member answers for it (`zone.rs` says
//! what, `serve.rs` to whom), or the leader tells a DNS server of the operator's (`update.rs`; `chores/text_records.rs`
//! says when).

pub mod serve;
pub mod update;
pub mod zone;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Messages of strangers are taken apart by a library. Should it panic over one, that message was unreadable, and no
/// more: a task that ends with a panic would take the member with it.
fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    // What it was given is not used again.
    let read = catch_unwind(AssertUnwindSafe(read));
    if read.is_err() {
        tracing::error!(
            "a DNS message was left unread after a panic, which is a fault of the program; please report it"
        );
    }
    read.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_over_a_message_is_the_end_of_that_message_only() {
        assert_eq!(guarded(|| 7), Some(7));
        assert_eq!(guarded(|| -> u8 { panic!("a fault of a library") }), None);
    }
}
