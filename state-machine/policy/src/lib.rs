//! The policy: text in, meaning out. Knows no State and no wire.
//!
//! [`Policy::parse`] reads a text, [`Meaning::compile`] says what it means for a [`Tailnet`]. Start reading there.
//!
//! | file | holds |
//! |---|---|
//! | `hujson.rs` | the text format: JSON with comments and trailing commas |
//! | `language/` | text → document: every section, every word, every complaint |
//! | `policy.rs` | [`Policy`]: what can be asked of the document alone: owners of tags, approvers of routes |
//! | `tailnet.rs` | [`Tailnet`]: users and nodes as plain facts |
//! | `compile/` | document and tailnet → meaning, class to class |
//! | `meaning.rs` | [`Meaning`]: filters, shells, attributes, routes, who sees whom |
//! | `checks.rs` `parties.rs` | the policy's own tests |
//! | `ranges.rs` | sets of addresses |

pub mod hujson;

mod checks;
mod compile;
mod language;
mod meaning;
mod parties;
mod policy;
mod ranges;
mod rejection;
mod tailnet;

pub use compile::{
    attributes::DISABLE_IPV4,
    filter::{Capabilities, FilterRule, Template},
    sources::Sources,
    ssh::SshRule,
    why::{Reason, Verdict},
};
pub use language::{
    document::CheckPeriod,
    ports::{DEFAULT_PROTOCOLS, Ports, protocol_name},
};
pub use meaning::Meaning;
pub use policy::{Parsed, Policy};
pub use rejection::{Place, Rejection, Warning};
pub use tailnet::{Node, Role, Tailnet, User, is_exit_route};
