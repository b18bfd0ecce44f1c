use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Somebody outside who is told what changes, by HTTP. Its secret lies sealed under [`Webhook::secret`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Webhook {
    /// Made by whoever proposes it: 8 hexadecimal digits.
    pub id: String,
    /// `https://…` or `http://…`. May hold a token of the receiver, so it is shown to administrators only.
    pub url: String,
    /// Names out of [`Webhook::EVENTS`]; empty: all.
    pub events: BTreeSet<String>,
    pub created_at: Timestamp,
    /// The number of the last audit row that was told, or that the webhook came too late for.
    pub delivered: u64,
}

impl Webhook {
    /// What can happen, by Tailscale's names.
    pub const EVENTS: [&str; 7] = [
        "nodeApproved",
        "nodeCreated",
        "nodeDeleted",
        "nodeNeedsApproval",
        "policyUpdate",
        "userCreated",
        "userDeleted",
    ];

    /// Where the secret of a webhook lies among the cluster's.
    pub fn secret(id: &str) -> String {
        format!("webhook.{id}")
    }

    /// Whether it is to be told of this.
    pub fn wants(&self, event: &str) -> bool {
        self.events.is_empty() || self.events.contains(event)
    }

    /// The URL without what may be secret: scheme and host.
    pub fn origin(&self) -> &str {
        let from = self.url.find("://").map_or(0, |at| at + 3);
        let end = self.url[from..].find(['/', '?', '#']).map_or(self.url.len(), |at| from + at);
        match self.url[from..end].rfind('@') {
            Some(at) => &self.url[from + at + 1..end],
            None => &self.url[..end],
        }
    }
}
