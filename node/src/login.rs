//! People proving who they are.
//!
//! | file | holds |
//! |---|---|
//! | `flow.rs` | off to the login provider, back, yes or no: the pages and what they propose |
//! | `provider.rs` | what is asked of the provider, and when its answer is believed |
//! | `rules.rs` | whom the configuration lets in, and what is kept of what the provider says |
//! | `pages.rs` | what people see |

pub mod flow;
pub mod pages;
pub mod provider;
pub mod rules;
