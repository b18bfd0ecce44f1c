//! TXT records by which nodes prove to certificate authorities that their names are their own.
//!
//! A node may set one name: `_acme-challenge.` before its own. Names below it are refused, because no map tells a client
//! that it may have a certificate for one; and a certificate for `*.NODE` is proved under the same name as NODE's.

use std::{sync::Arc, time::Duration};

use tailcfg::{MachineKey, NodeKey};

use crate::{
    model::*,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::invalid;

/// An authority looks within seconds, and again for a minute or two; a DNS server that others copy from may need as
/// long. What is left behind must not answer for a name for ever.
const LIVES: Duration = Duration::from_secs(10 * 60);
/// One for the name, one for everything below it, by two authorities, and all of it once more.
const RECORDS_MAX: usize = 8;
/// How long the DNS server is asked to forget a record that ended.
pub(crate) const GOODBYE: Duration = Duration::from_secs(3_600);
/// A name in DNS (RFC 1035, 2.3.4), as it is written.
const NAME_BYTES_MAX: usize = 254;
/// SHA-256 in base64url without padding (RFC 8555, 8.4).
const VALUE_BYTES: usize = 43;

impl State {
    pub(super) fn set_text_record(
        &mut self,
        machine_key: &MachineKey,
        node_key: &NodeKey,
        name: &str,
        value: &str,
    ) -> Answer {
        match self.text_record(machine_key, node_key, name, value)? {
            Some(record) => {
                self.put_text_record(record);
                Ok(Outcome::Done)
            }
            None => Ok(Outcome::Unchanged),
        }
    }

    /// The row a node's wish would become, or none when it is there and far from its end; refused where apply would
    /// refuse it.
    pub fn text_record(
        &self,
        machine_key: &MachineKey,
        node_key: &NodeKey,
        name: &str,
        value: &str,
    ) -> Result<Option<TextRecord>, Refusal> {
        let refuse = |why: &str| Err(invalid(What::TextRecord, why));
        let elsewhere = match self.settings().node_certificates {
            NodeCertificates::Off => return refuse("nodes get no certificates here (cluster.cert_dns.mode)"),
            NodeCertificates::Answered => false,
            NodeCertificates::Updated => true,
        };
        let node = self.node_with_keys(machine_key, node_key)?;
        if self.is_expired(node.id) {
            return refuse("the node's key has expired; log in again: tailscale up");
        }
        if node.unapproved {
            return refuse("the node waits for an approval: hsraft nodes approve");
        }
        if name.len() > NAME_BYTES_MAX {
            return refuse("the name is longer than names are");
        }
        let (name, own) = (name.trim_end_matches('.').to_ascii_lowercase(), self.challenge_name(&node));
        if name != own {
            return Err(Refusal::NameNotOwn { own });
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if value.len() != VALUE_BYTES || !value.bytes().all(fits) {
            return refuse("a value has 43 characters of A-Z, a-z, 0-9, - and _");
        }
        let now = self.now();
        let known = self.text_records().get(&TextRecord::key(&name, value)).cloned();
        // Set anew are also those that ended, were another node's of this name, or were for another way out.
        let known = known.filter(|known| known.ends_at > now && known.node == node.id && known.elsewhere == elsewhere);
        if known.as_ref().is_some_and(|known| known.ends_at.since(now) > LIVES / 2) {
            return Ok(None);
        }
        let key = TextRecord::key(&name, value);
        let others = self.text_records_of_node(node.id).filter(|(other, row)| **other != key && row.ends_at > now);
        if others.count() >= RECORDS_MAX {
            return Err(Refusal::TooManyRecords { most: RECORDS_MAX as u64 });
        }
        let (set_at, acknowledged) = known.map_or((now, false), |known| (known.set_at, known.acknowledged));
        let (node, ends_at) = (node.id, now.after(LIVES));
        let value = value.to_owned();
        Ok(Some(TextRecord { name, value, node, set_at, ends_at, elsewhere, acknowledged }))
    }

    /// The DNS server knows it.
    pub(super) fn acknowledge_text_record(&mut self, name: &str, value: &str) -> Answer {
        let known = self.text_records().get(&TextRecord::key(name, value)).cloned();
        match known.filter(|known| known.elsewhere && !known.acknowledged && known.ends_at > self.now()) {
            Some(known) => {
                self.put_text_record(TextRecord { acknowledged: true, ..(*known).clone() });
                Ok(Outcome::Done)
            }
            None => Ok(Outcome::Unchanged),
        }
    }

    /// The DNS server has forgotten it. One that was set again meanwhile stays, and is told again.
    pub(super) fn forget_text_record(&mut self, name: &str, value: &str) -> Answer {
        let key = TextRecord::key(name, value);
        let Some(known) = self.text_records().get(&key).cloned() else { return Ok(Outcome::Unchanged) };
        if known.ends_at <= self.now() {
            self.drop_text_record(&key);
            return Ok(Outcome::Done);
        }
        if !known.acknowledged {
            return Ok(Outcome::Unchanged);
        }
        self.put_text_record(TextRecord { acknowledged: false, ..(*known).clone() });
        Ok(Outcome::Done)
    }

    /// A node goes: what it proved is over at once. What a DNS server was told is kept until it was told again.
    pub(crate) fn end_text_records(&mut self, node: NodeId) {
        let now = self.now();
        let rows: Vec<_> = self.text_records_of_node(node).map(|(_, row)| row.clone()).collect();
        for row in rows {
            match row.elsewhere {
                true if row.ends_at > now => self.put_text_record(TextRecord { ends_at: now, ..(*row).clone() }),
                true => {}
                false => self.drop_text_record(&TextRecord::key(&row.name, &row.value)),
            }
        }
    }

    /// Where this node proves that its name is its own.
    fn challenge_name(&self, node: &Node) -> String {
        format!("{}{}.{}", TextRecord::PREFIX, node.given_name, self.settings().base_domain).to_ascii_lowercase()
    }

    /// All records of a node, by what they stand under; names it had before and what has ended included.
    fn text_records_of_node(&self, node: NodeId) -> impl Iterator<Item = (&String, &Arc<TextRecord>)> {
        let rows = self.indexes.text_records_by_node.range((node, String::new())..);
        let own = rows.take_while(move |((owner, _), ())| *owner == node);
        own.filter_map(|((_, key), ())| Some((key, self.text_records().get(key)?)))
    }

    /// The records of a name that have not ended, whosever they are.
    fn text_records_of(&self, name: &str) -> impl Iterator<Item = &Arc<TextRecord>> {
        let from = TextRecord::key(name, "");
        let (now, end) = (self.now(), from.clone());
        let rows = self.text_records().range(from..).take_while(move |(key, _)| key.starts_with(&end));
        rows.map(|(_, row)| row).filter(move |row| row.ends_at > now)
    }

    /// What the world is told of a name (lower case, no dot at the end): the values that were set by the node that bears
    /// the name now. A node that was renamed proves nothing about the name it had, and one that has expired nothing.
    pub fn text_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let label = name.strip_prefix(TextRecord::PREFIX).and_then(|rest| rest.split('.').next()).unwrap_or_default();
        let owner = self.node_by_name(label).filter(|node| self.challenge_name(node) == name);
        let owner = owner.map(|node| node.id).filter(|id| !self.is_expired(*id));
        let rows = self.text_records_of(name).filter(move |row| Some(row.node) == owner);
        rows.map(|row| row.value.as_str())
    }
}
