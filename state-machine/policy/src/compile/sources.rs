//! Sources as nodes are told of them: a list of addresses, prefixes and ranges, written once for all who need it.

use std::sync::OnceLock;

use ipnet::IpNet;

use super::{classes::Class, table::SourceSet};
use crate::{ranges::internet, tailnet::Tailnet};

/// The addresses of a tailnet: 100.64.0.0/10 without what Chrome OS uses for itself, and Tailscale's own prefix.
const TAILNET: [&str; 3] = ["100.64.0.0-100.115.91.255", "100.115.94.0-100.127.255.255", "fd7a:115c:a1e0::/48"];

/// A list of sources.
#[derive(Debug, Default)]
pub struct Sources {
    /// `*`, an address, a prefix without host bits, or `first-last`.
    words: Vec<String>,
    json: OnceLock<String>,
}

impl PartialEq for Sources {
    fn eq(&self, other: &Sources) -> bool {
        std::ptr::eq(self, other) || self.words == other.words
    }
}

impl Sources {
    pub(crate) fn render(set: &SourceSet, classes: &[Class], tailnet: &Tailnet, subnets: &[IpNet]) -> Sources {
        let mut words: Vec<String> = Vec::new();
        if set.anything {
            return Sources { words: vec!["*".to_owned()], json: OnceLock::new() };
        }
        if set.tailnet {
            words.extend(TAILNET.map(str::to_owned));
            words.extend(subnets.iter().map(word_of));
        }
        if set.internet {
            words.extend(internet_words());
        }
        // In the order of ids, so that the list does not depend on how nodes fall into classes.
        let mut members: Vec<u64> =
            set.classes.iter().flat_map(|class| classes[class].members.iter().copied()).collect();
        members.sort_unstable();
        for node in members.iter().filter_map(|member| tailnet.nodes.get(member)) {
            words.extend(node.addresses().map(|address| address.to_string()));
        }
        words.extend(set.nets.iter().map(word_of));
        if set.tailnet && !set.nets.is_empty() {
            words.sort_unstable();
            words.dedup();
        }
        Sources { words, json: OnceLock::new() }
    }

    /// The words: `*`, an address, a prefix without host bits, or `first-last`.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The words as a JSON list, written once for all who need it. No word needs an escape.
    pub fn json(&self) -> &str {
        self.json.get_or_init(|| match self.words.is_empty() {
            true => "[]".to_owned(),
            false => format!("[\"{}\"]", self.words.join("\",\"")),
        })
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
