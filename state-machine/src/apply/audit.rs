//! Every change is written down by the entry that makes it: who, what, before, after, from where.
//!
//! What changed is found by comparing the tables before and after, so that no verb can forget to say it; what is told of
//! a row is a list in `facts.rs`, so that no secret can slip in. What nodes and strangers do by themselves (endpoints,
//! presence, asking to be let in) is not written down: it would push out what people did.

mod facts;
mod json;

use std::{fmt, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};

use crate::{
    command::{Command, Entry},
    model::*,
    state::{State, Tables},
};

use super::features;
use facts::{Facts, List};
use json::Json;

/// Changes of one entry that are told in full; an import makes thousands.
const CHANGES_MAX: usize = 64;

impl State {
    /// The tables as they are before a command that shall be written down.
    pub(super) fn before_audited(&self, command: &Command) -> Option<Tables> {
        let by_itself = matches!(
            command,
            Command::Report { .. }
                | Command::Presence { .. }
                | Command::ForgetSessions { .. }
                | Command::MemberSilence { .. }
                | Command::BeginLogin { .. }
                | Command::BeginSshCheck { .. }
                | Command::BeginSignIn { .. }
                | Command::ProveSignIn { .. }
                | Command::TouchApiKey { .. }
                | Command::WebhookTold { .. }
                | Command::SetTextRecord { .. }
                | Command::AcknowledgeTextRecord { .. }
                | Command::ForgetTextRecord { .. }
                | Command::LearnApiKey { .. }
                | Command::LearnPreAuthKey { .. }
        );
        let writes = self.feature_level() >= features::OPERATION || !self.is_founded();
        (writes && !by_itself).then(|| self.tables.clone())
    }

    /// Writes down what an entry has changed; nothing when it changed nothing worth telling.
    pub(super) fn audit(&mut self, before: &Tables, entry: &Entry) {
        if self.feature_level() < features::OPERATION {
            return;
        }
        let changes = changes(before, &self.tables);
        if changes.is_empty() {
            return;
        }
        let last = self.tables.audit.get_max().map(|(_, row)| row.clone());
        let (number, hash) = last.map_or((1, [0; 32]), |row| (row.number + 1, row.hash));
        let text = self.audit_text(number, entry, changes);
        let row = AuditRow { number, hash: AuditRow::chain(&hash, &text), text: text.into() };
        self.tables.audit.insert(number, Arc::new(row));
        let keep = usize::try_from(self.settings().audit_rows).unwrap_or(usize::MAX).max(1);
        while self.tables.audit.len() > keep
            && let Some((oldest, _)) = self.tables.audit.get_min().cloned()
        {
            self.tables.audit.remove(&oldest);
        }
    }

    fn audit_text(&self, number: u64, entry: &Entry, mut changes: Vec<Json>) -> String {
        let (by, from) = actor(&entry.by);
        let left_out = changes.len().saturating_sub(CHANGES_MAX) as u64;
        changes.truncate(CHANGES_MAX);
        let mut fields = vec![
            ("number", Json::Number(number)),
            ("index", Json::Number(self.revision().0)),
            ("at", Json::Text(self.now().to_string())),
            ("by", Json::Text(by.to_owned())),
            ("from", Json::Text(from.to_owned())),
            ("what", Json::Text(verb(&entry.command))),
            ("changes", Json::List(changes)),
        ];
        if left_out > 0 {
            fields.push(("left_out", Json::Number(left_out)));
        }
        Json::Object(fields).to_string()
    }
}

/// Who and where: `api key ab12… from 192.0.2.7`. Callers on the member itself have no address.
fn actor(by: &str) -> (&str, &str) {
    match by.rsplit_once(" from ") {
        Some((who, from)) if from.parse::<std::net::IpAddr>().is_ok() => (who, from),
        _ => (by, ""),
    }
}

/// `RenameUser` → `rename user`.
fn verb(command: &Command) -> String {
    /// Takes the first word of what is written to it and no more.
    struct Name(String);
    impl fmt::Write for Name {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for c in text.chars() {
                match c {
                    c if c.is_ascii_uppercase() && !self.0.is_empty() => {
                        self.0.push(' ');
                        self.0.push(c.to_ascii_lowercase());
                    }
                    c if c.is_ascii_alphanumeric() => self.0.push(c.to_ascii_lowercase()),
                    _ => return Err(fmt::Error),
                }
            }
            Ok(())
        }
    }
    let mut name = Name(String::new());
    // Ends early, on purpose, at the end of the variant's name.
    let _ = fmt::write(&mut name, format_args!("{command:?}"));
    name.0
}

fn changes(before: &Tables, after: &Tables) -> Vec<Json> {
    let mut changes = Vec::new();
    compare(&mut changes, "user", &before.users, &after.users);
    compare(&mut changes, "node", &before.nodes, &after.nodes);
    compare(&mut changes, "pre-auth key", &before.pre_auth_keys, &after.pre_auth_keys);
    compare(&mut changes, "api key", &before.api_keys, &after.api_keys);
    compare(&mut changes, "policy", &before.policies, &after.policies);
    compare(&mut changes, "login", &before.logins, &after.logins);
    compare(&mut changes, "ssh check", &before.ssh_checks, &after.ssh_checks);
    compare(&mut changes, "member", &before.members, &after.members);
    compare(&mut changes, "join token", &before.join_tokens, &after.join_tokens);
    compare(&mut changes, "secret", &before.secrets, &after.secrets);
    compare(&mut changes, "webhook", &before.webhooks, &after.webhooks);
    compare(&mut changes, "relay region", &before.derp_regions, &after.derp_regions);
    if !Arc::ptr_eq(&before.settings, &after.settings) {
        push(&mut changes, "settings", String::new(), Some(&before.settings.facts()), Some(&after.settings.facts()));
    }
    if before.cluster.feature_level != after.cluster.feature_level {
        let level = |level: u32| vec![("feature_level", Json::Number(u64::from(level)))];
        let (old, new) = (level(before.cluster.feature_level), level(after.cluster.feature_level));
        push(&mut changes, "cluster", String::new(), Some(&old), Some(&new));
    }
    changes
}

fn compare<K: Ord + Clone + fmt::Display, V: Facts + PartialEq>(
    changes: &mut Vec<Json>,
    object: &'static str,
    before: &OrdMap<K, Arc<V>>,
    after: &OrdMap<K, Arc<V>>,
) {
    if before.ptr_eq(after) {
        return;
    }
    for item in before.diff(after) {
        let (key, old, new) = match item {
            DiffItem::Add(key, new) => (key, None, Some(new)),
            DiffItem::Update { old: (key, old), new: (_, new) } => (key, Some(old), Some(new)),
            DiffItem::Remove(..) if !V::TOLD_WHEN_GONE => continue,
            DiffItem::Remove(key, old) => (key, Some(old), None),
        };
        let (old, new) = (old.map(|row| row.facts()), new.map(|row| row.facts()));
        push(changes, object, key.to_string(), old.as_ref(), new.as_ref());
    }
}

/// Of an object that stays, only what differs is told; of one that comes or goes, all there is to tell.
fn push(changes: &mut Vec<Json>, object: &'static str, id: String, before: Option<&List>, after: Option<&List>) {
    let find = |facts: Option<&List>, name: &str| {
        let found = facts.and_then(|facts| facts.iter().find(|(known, _)| *known == name));
        found.map_or(Json::Null, |(_, fact)| fact.clone())
    };
    let told = |facts: Option<&List>, other: Option<&List>| {
        let fields = facts?.iter().filter(|(name, fact)| find(other, name) != *fact).cloned().collect::<List>();
        (!fields.is_empty()).then_some(Json::Object(fields))
    };
    let (before, after) = match (told(before, after), told(after, before)) {
        (None, None) => return,
        (before, after) => (before.unwrap_or(Json::Null), after.unwrap_or(Json::Null)),
    };
    changes.push(Json::Object(vec![
        ("object", Json::Text(object.to_owned())),
        ("id", Json::Text(id)),
        ("before", before),
        ("after", after),
    ]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_actor_is_taken_apart() {
        assert_eq!(actor("api key abc from 192.0.2.7"), ("api key abc", "192.0.2.7"));
        assert_eq!(actor("oidc ann from x from 2001:db8::1"), ("oidc ann from x", "2001:db8::1"));
        assert_eq!(actor("oidc ann from nowhere"), ("oidc ann from nowhere", ""));
        assert_eq!(actor("cli"), ("cli", ""));
    }

    #[test]
    fn a_command_says_its_name_and_nothing_else() {
        let secret = Command::RegisterWithKey {
            client: crate::Registration::default(),
            prefix: "p".into(),
            secret_sha256: [7; 32],
        };
        assert_eq!(verb(&secret), "register with key");
        assert_eq!(verb(&Command::Elapse), "elapse");
    }
}
