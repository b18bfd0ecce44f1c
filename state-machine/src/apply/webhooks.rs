//! Whoever outside is told what changes. What there is to tell is the audit log; a webhook remembers how far it was
//! told, so that another leader goes on from there.

use crate::{
    model::*,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{check_text, invalid, not_found, secrets::check_secret};

const WEBHOOKS_MAX: usize = 32;
const URL_BYTES_MAX: usize = 2_048;

impl State {
    pub(super) fn create_webhook(&mut self, webhook: Webhook, secret: SealedSecret) -> Answer {
        let refuse = |why: String| Err(invalid(What::Webhook, why));
        let Webhook { id, url, events, .. } = webhook;
        if id.len() != 8 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return refuse("an id has 8 hexadecimal digits".into());
        }
        if self.webhooks().contains_key(&id) {
            return Err(Refusal::Taken { what: What::Webhook, name: id });
        }
        if self.webhooks().len() >= WEBHOOKS_MAX {
            return refuse(format!("there are {WEBHOOKS_MAX} already; delete one first: hsraft webhooks delete"));
        }
        check_text(What::Webhook, "URL", &url, URL_BYTES_MAX)?;
        let host = url.strip_prefix("https://").or(url.strip_prefix("http://"));
        if !host.is_some_and(|host| !host.is_empty() && !host.starts_with('/') && !host.contains(char::is_whitespace)) {
            return refuse("the URL must start with https:// or http:// and name a host".into());
        }
        if let Some(unknown) = events.iter().find(|event| !Webhook::EVENTS.contains(&event.as_str())) {
            let known = Webhook::EVENTS.join(", ");
            return refuse(format!("{unknown:?} never happens; there are {known}"));
        }
        let name = Webhook::secret(&id);
        check_secret(&name, &secret)?;
        self.check_seal(&secret)?;
        let delivered = self.audit_log().get_max().map_or(0, |(number, _)| *number);
        self.put_secret(name, secret);
        self.put_webhook(Webhook { id, url, events, created_at: self.now(), delivered });
        Ok(Outcome::Done)
    }

    pub(super) fn delete_webhook(&mut self, id: &str) -> Answer {
        self.webhooks().get(id).ok_or_else(|| not_found(What::Webhook, id))?;
        self.drop_webhook(id);
        self.drop_secret(&Webhook::secret(id));
        Ok(Outcome::Done)
    }

    /// Never goes back: an earlier leader may say late what a later one has said.
    pub(super) fn webhook_told(&mut self, id: &str, through: u64) -> Answer {
        let webhook = self.webhooks().get(id).cloned().ok_or_else(|| not_found(What::Webhook, id))?;
        let newest = self.audit_log().get_max().map_or(0, |(number, _)| *number);
        if through <= webhook.delivered || through > newest {
            return Ok(Outcome::Unchanged);
        }
        self.put_webhook(Webhook { delivered: through, ..(*webhook).clone() });
        Ok(Outcome::Done)
    }
}
