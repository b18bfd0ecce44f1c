//! What is told of a row. A list for each kind, written by hand: what does not stand here is never told, so hashes, keys
//! and sealed secrets cannot slip in.

use std::{collections::BTreeSet, fmt::Display};

use sha2::{Digest, Sha256};

use super::json::Json;
use crate::model::*;

/// Names and values of fields; `null`: nothing worth telling.
pub type List = Vec<(&'static str, Json)>;

/// Something people change.
pub trait Facts {
    /// Whether somebody must be told when it goes. What runs out by itself was told when it was decided.
    const TOLD_WHEN_GONE: bool = true;

    fn facts(&self) -> List;
}

fn text(text: &str) -> Json {
    if text.is_empty() { Json::Null } else { Json::Text(text.to_owned()) }
}

fn shown(value: Option<impl Display>) -> Json {
    value.map_or(Json::Null, |value| Json::Text(value.to_string()))
}

fn flag(flag: bool) -> Json {
    if flag { Json::Flag(true) } else { Json::Null }
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> Json {
    let items: Vec<Json> = items.into_iter().map(|item| Json::Text(item.to_string())).collect();
    if items.is_empty() { Json::Null } else { Json::List(items) }
}

fn number(number: impl Into<u64>) -> Json {
    Json::Number(number.into())
}

impl Facts for User {
    fn facts(&self) -> List {
        vec![
            ("name", text(&self.name)),
            ("display_name", text(&self.display_name)),
            ("email", text(&self.email)),
            ("provider_id", text(&self.provider_id)),
            ("groups", list(&self.groups)),
            ("ranges", list(&self.ranges)),
        ]
    }
}

impl Facts for Node {
    fn facts(&self) -> List {
        vec![
            ("name", text(&self.given_name)),
            ("hostname", text(&self.hostname)),
            ("user", shown(self.user)),
            ("tags", list(&self.tags)),
            (
                "addresses",
                list(self.ipv4.map(|ip| ip.to_string()).into_iter().chain(self.ipv6.map(|ip| ip.to_string()))),
            ),
            ("expires", shown(self.expiry)),
            ("approved_routes", list(&self.approved_routes)),
            ("ephemeral", flag(self.ephemeral)),
            // Public keys; which machine and which key a node came with is what an auditor asks first.
            ("machine_key", text(&self.machine_key.to_string())),
            ("node_key", text(&self.node_key.to_string())),
            ("pre_auth_key", shown(self.pre_auth_key)),
            ("registered_by", text(method(self.register_method))),
            ("waits_for_approval", flag(self.unapproved)),
        ]
    }
}

fn method(method: RegisterMethod) -> &'static str {
    match method {
        RegisterMethod::Cli => "cli",
        RegisterMethod::AuthKey => "auth key",
        RegisterMethod::Oidc => "oidc",
    }
}

impl Facts for PreAuthKey {
    fn facts(&self) -> List {
        vec![
            ("prefix", text(&self.prefix)),
            ("user", shown(self.user)),
            ("reusable", flag(self.reusable)),
            ("ephemeral", flag(self.ephemeral)),
            ("used", flag(self.used)),
            ("tags", list(&self.tags)),
            ("description", text(&self.description)),
            ("expires", shown(self.expiration)),
        ]
    }
}

impl Facts for ApiKey {
    fn facts(&self) -> List {
        let role = match self.role {
            Role::Admin => "admin",
            Role::ReadOnly => "read-only",
            Role::User => "user",
        };
        vec![
            ("prefix", text(&self.prefix)),
            ("role", text(role)),
            ("user", shown(self.user)),
            ("scopes", list(&self.scopes)),
            ("tags", list(&self.tags)),
            ("description", text(&self.description)),
            ("expires", shown(self.expiration)),
        ]
    }
}

impl Facts for PolicyVersion {
    const TOLD_WHEN_GONE: bool = false;

    /// The text itself lies in the history of policies; its hash says which one it was.
    fn facts(&self) -> List {
        let digits = Sha256::digest(self.text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        vec![("author", text(&self.author)), ("sha256", text(&digits)), ("bytes", number(self.text.len() as u64))]
    }
}

impl Facts for Login {
    const TOLD_WHEN_GONE: bool = false;

    /// One that ends well is told by its node.
    fn facts(&self) -> List {
        match &self.result {
            LoginResult::Rejected(reason) => vec![("hostname", text(&self.hostname)), ("rejected", text(reason))],
            LoginResult::Waiting | LoginResult::Registered(_) => Vec::new(),
        }
    }
}

impl Facts for SshCheck {
    const TOLD_WHEN_GONE: bool = false;

    fn facts(&self) -> List {
        let (result, by) = match &self.result {
            SshCheckResult::Waiting => return Vec::new(),
            SshCheckResult::Approved { by, .. } => ("approved", by),
            SshCheckResult::Rejected { by, .. } => ("rejected", by),
        };
        vec![
            ("source", shown(Some(self.source))),
            ("target", shown(Some(self.target))),
            ("local_user", text(&self.local_user)),
            ("result", text(result)),
            ("decided_by", text(by)),
        ]
    }
}

impl Facts for Member {
    fn facts(&self) -> List {
        let state = match self.state {
            MemberState::Active => "active",
            MemberState::Removed => "removed",
        };
        let role = match self.role {
            JoinRole::Voter => "voter",
            JoinRole::Learner => "learner",
        };
        vec![
            ("name", text(&self.name)),
            ("state", text(state)),
            ("role", text(role)),
            ("peer_address", text(&self.peer_address)),
            ("client_url", text(&self.client_url)),
            ("version", text(&self.version)),
            ("draining", flag(self.draining)),
        ]
    }
}

impl Facts for JoinToken {
    fn facts(&self) -> List {
        vec![("name", text(&self.name)), ("expires", shown(Some(self.expires_at))), ("used_by", shown(self.used_by))]
    }
}

impl Facts for SealedSecret {
    /// That it changed, and nothing of what it is.
    fn facts(&self) -> List {
        let digits =
            Sha256::digest(&self.ciphertext).iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
        vec![("sealed_with", number(u64::from(self.key_id))), ("version", text(&digits))]
    }
}

impl Facts for Webhook {
    /// Receivers give out URLs that are secrets themselves, so only the host is told.
    fn facts(&self) -> List {
        vec![("to", text(self.origin())), ("events", list(&self.events))]
    }
}

impl Facts for DerpRegion {
    fn facts(&self) -> List {
        vec![
            ("code", text(&self.code)),
            ("name", text(&self.name)),
            ("hosts", list(self.nodes.iter().map(|node| &node.host_name))),
        ]
    }
}

impl Facts for Settings {
    fn facts(&self) -> List {
        let records: BTreeSet<String> = self
            .extra_records
            .iter()
            .map(|record| format!("{} {} {}", record.name, record.kind, record.value))
            .collect();
        let split = self.split_dns.iter().map(|(suffix, servers)| format!("{suffix}: {}", servers.join(" ")));
        let allocation = match self.allocation {
            Allocation::Sequential => "sequential",
            Allocation::Random => "random",
        };
        let certificates = match self.node_certificates {
            NodeCertificates::Off => "off",
            NodeCertificates::Answered => "answered",
            NodeCertificates::Updated => "updated",
        };
        vec![
            ("prefix_v4", shown(self.prefix_v4)),
            ("prefix_v6", shown(self.prefix_v6)),
            ("allocation", text(allocation)),
            ("server_url", text(&self.server_url)),
            ("base_domain", text(&self.base_domain)),
            ("magic_dns", flag(self.magic_dns)),
            ("override_local_dns", flag(self.override_local_dns)),
            ("nameservers", list(&self.nameservers)),
            ("split_dns", list(split)),
            ("search_domains", list(&self.search_domains)),
            ("extra_records", list(&records)),
            ("node_expiry_secs", number(self.node_expiry_secs)),
            ("ephemeral_inactivity_secs", number(self.ephemeral_inactivity_secs)),
            ("presence_grace_secs", number(self.presence_grace_secs)),
            ("member_loss_grace_secs", number(self.member_loss_grace_secs)),
            ("randomize_client_port", flag(self.randomize_client_port)),
            ("logtail", flag(self.logtail)),
            ("taildrop", flag(self.taildrop)),
            ("dial_plan", flag(self.dial_plan)),
            ("audit_rows", number(self.audit_rows)),
            ("node_approval", flag(self.node_approval)),
            ("node_certificates", text(certificates)),
        ]
    }
}
