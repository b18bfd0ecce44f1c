//! Sources as nodes are told of them: a list of addresses, prefixes and ranges, written once for all who need it.

use std::sync::Arc;

use ipnet::IpNet;

use super::{classes::Class, table::SourceSet};
use crate::{ranges::internet, tailnet::Tailnet};

/// The addresses of a tailnet: 100.64.0.0/10 without what Chrome OS uses for itself, and Tailscale's own prefix.
const TAILNET: [&str; 3] = ["100.64.0.0-100.115.91.255", "100.115.94.0-100.127.255.255", "fd7a:115c:a1e0::/48"];

/// A list of sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// `*`, an address, a prefix without host bits, or `first-last`.
    pub words: Vec<String>,
}

impl Sources {
    pub(crate) fn render(set: &SourceSet, classes: &[Class], tailnet: &Tailnet, subnets: &[IpNet]) -> Sources {
        let mut words: Vec<String> = Vec::new();
        if set.anything {
            return Sources { words: vec!["*".to_owned()] };
        }
        if set.tailnet {
            words.extend(TAILNET.map(str::to_owned));
            words.extend(subnets.iter().map(word_of));
        }
        if set.internet {
            words.extend(internet_words());
        }
        for class in set.classes.iter() {
            for member in classes[class].members.iter() {
                let node = tailnet.nodes.get(member);
                words.extend(node.into_iter().flat_map(|node| node.addresses()).map(|address| address.to_string()));
            }
        }
        words.extend(set.nets.iter().map(word_of));
        if set.tailnet && !set.nets.is_empty() {
            words.sort_unstable();
            words.dedup();
        }
        Sources { words }
    }

    /// Whether two lists say the same; the order does not matter and is the same for equal sets.
    pub fn same(a: &Arc<Sources>, b: &Arc<Sources>) -> bool {
        Arc::ptr_eq(a, b) || a == b
    }
}

/// A prefix, or an address alone.
pub(crate) fn word_of(net: &IpNet) -> String {
    match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    }
}

/// The public internet.
pub(crate) fn internet_words() -> Vec<String> {
    internet().ends().iter().map(|(first, last)| format!("{first}-{last}")).collect()
}
