//! The one way to change a [`State`]: stamp → match → verb.
//!
//! A verb looks first and changes last, so that a refusal changes nothing. One family of verbs a file.

mod addresses;
mod api_keys;
mod audit;
mod certificates;
mod cluster;
mod elapse;
mod features;
mod import;
mod login;
mod members;
mod nodes;
mod policy;
mod pre_auth_keys;
mod presence;
mod register;
mod report;
mod requests;
mod routes;
mod secrets;
mod settings;
mod sign_in;
mod ssh_checks;
pub(crate) mod text_records;
mod users;
mod webhooks;

pub use features::{BEYOND, FEATURE_LEVEL, OPERATION, RISES_BY_ITSELF_TO, TRUST};

use crate::{
    command::{Command, Entry},
    model::*,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

/// Where in the log and when a command is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The leader's clock; the state takes the later of its own time and this.
    pub at: Timestamp,
    pub revision: Revision,
}

impl State {
    /// Applies one entry of the log. An entry whose request id was answered before hears the same answer again and
    /// changes nothing but the revision.
    pub fn apply_entry(&mut self, revision: Revision, entry: &Entry) -> Answer {
        if let Some(answer) = entry.request.and_then(|id| self.answer_to(id).cloned()) {
            self.advance(revision);
            return answer;
        }
        let before = self.before_audited(&entry.command);
        let answer = self.apply(Stamp { at: entry.at, revision }, entry.command.clone());
        if let (Some(before), Ok(_)) = (before, &answer) {
            self.audit(&before, entry);
        }
        if let Some(id) = entry.request {
            self.remember(id, &answer);
        }
        answer
    }

    /// Passes an entry of the log that carried no command.
    pub fn advance(&mut self, revision: Revision) {
        self.tables.clock.revision = self.tables.clock.revision.max(revision);
    }

    /// Applies one command. Never fails otherwise than by a [`Refusal`], never waits, reads nothing but its arguments.
    pub fn apply(&mut self, stamp: Stamp, command: Command) -> Answer {
        self.advance(stamp.revision);
        self.pass_time(stamp.at);
        if !self.is_founded() && !matches!(command, Command::Found { .. }) {
            return Err(Refusal::NotFounded);
        }
        self.admits(&command)?;
        match command {
            Command::Found { cluster_id, member, settings, secrets } => {
                self.found(cluster_id, member, settings, secrets)
            }
            Command::Refound { cluster_id, member, secrets } => self.refound(cluster_id, member, secrets),
            Command::RaiseFeatureLevel { level, .. } => self.raise_feature_level_to(level),
            Command::ApplySettings { settings } => self.apply_settings(settings),
            Command::CreateJoinToken { token } => self.create_join_token(token),
            Command::RevokeJoinToken { id } => self.revoke_join_token(&id),
            Command::AdmitMember { token, member, replaces } => {
                self.admit_member(MemberId(stamp.revision.0), &token, member, &replaces)
            }
            Command::AnnounceMember { member } => self.announce_member(member),
            Command::RemoveMember { id } => self.remove_member(id),
            Command::SetMemberRole { id, role, insist } => self.set_member_role(id, role, insist),
            Command::SetMemberDraining { id, draining } => self.set_member_draining(id, draining),
            Command::SetMemberAddresses { id, addresses } => self.set_member_addresses(id, addresses),
            Command::PutSecret { name, secret } => self.replace_secret(name, secret),
            Command::ResealSecrets { seen, secrets, dropped } => self.reseal_secrets(seen, secrets, &dropped),
            Command::ConfirmRecoveryKey { key } => self.confirm_recovery_key(key),
            Command::RotateAuthority { before, certificate, cross, key } => {
                self.rotate_authority(before, certificate, cross, key)
            }
            Command::MoveCertificate { member, generation } => self.move_certificate(member, generation),
            Command::WantCertificate { member, wish } => self.want_certificate(member, wish),
            Command::OrderCertificate { name, order, key } => self.order_certificate(&name, order, key),
            Command::IssueCertificate { name, chain, not_before, not_after, key } => {
                self.issue_certificate(&name, chain, not_before, not_after, key)
            }
            Command::FailCertificate { name, error, retry_at } => self.fail_certificate(&name, error, retry_at),
            Command::SetDerpRegions { regions } => self.set_derp_regions(regions),

            Command::CreateUser { name, display_name, email, profile_pic_url } => {
                self.create_user(name, display_name, email, profile_pic_url)
            }
            Command::RenameUser { user, name } => self.rename_user(user, name),
            Command::DeleteUser { user } => self.delete_user(user),
            Command::SetUserRanges { user, ranges } => self.set_user_ranges(user, ranges),

            Command::CreatePreAuthKey { key } => self.create_pre_auth_key(key),
            Command::ExpirePreAuthKey { id } => self.expire_pre_auth_key(id),
            Command::DeletePreAuthKey { id } => self.delete_pre_auth_key(id),
            Command::CreateApiKey { key } => self.create_api_key(key),
            Command::ExpireApiKey { prefix } => self.expire_api_key(&prefix),
            Command::DeleteApiKey { prefix } => self.delete_api_key(&prefix),
            Command::TouchApiKey { prefix } => self.touch_api_key(&prefix),

            Command::LearnApiKey { prefix, secret_sha256 } => self.learn_api_key(&prefix, secret_sha256),
            Command::LearnPreAuthKey { prefix, secret_sha256 } => self.learn_pre_auth_key(&prefix, secret_sha256),
            Command::Import { batch } => self.import(batch),

            Command::RegisterWithKey { client, prefix, secret_sha256 } => {
                self.register_with_key(client, &prefix, secret_sha256)
            }
            Command::BeginLogin { client, id } => self.begin_login(client, id),
            Command::FinishLogin { id, user, method, expiry, seed } => {
                self.finish_login(&id, user, method, expiry, seed)
            }
            Command::RejectLogin { id, reason } => self.reject_login(&id, reason),
            Command::Logout { machine_key, node_key } => self.log_out(&machine_key, &node_key),
            Command::ExpireSooner { machine_key, node_key, expiry } => {
                self.expire_sooner(&machine_key, &node_key, expiry)
            }
            Command::Report { reports } => self.take_reports(reports),
            Command::Presence { member, changes } => self.change_presence(member, &changes),
            Command::ForgetSessions { member } => self.forget_sessions_of(member),
            Command::MemberSilence { member, silent } => self.member_silence(member, silent),

            Command::RenameNode { node, name } => self.rename_node(node, name),
            Command::SetNodeExpiry { node, expiry } => self.set_node_expiry(node, expiry),
            Command::DeleteNode { node } => self.delete_node(node),
            Command::SetNodeTags { node, tags } => self.set_node_tags(node, tags),
            Command::ApproveRoutes { node, routes } => self.approve_routes(node, routes),
            Command::MoveNode { node, user } => self.move_node(node, user),
            Command::SetNodeAddresses { node, ipv4, ipv6 } => self.set_node_addresses(node, ipv4, ipv6),
            Command::SetNodeApproval { node, approved } => self.set_node_approval(node, approved),
            Command::BackfillAddresses { seed } => self.backfill_addresses(seed),

            Command::SetPolicy { text, author } => self.set_policy(text, author),
            Command::ReplacePolicy { over, text, author } => self.replace_policy(over, text, author),
            Command::ReplaceSettings { seen, settings } => self.replace_settings(&seen, *settings),

            Command::CreateWebhook { webhook, secret } => self.create_webhook(webhook, secret),
            Command::DeleteWebhook { id } => self.delete_webhook(&id),
            Command::WebhookTold { id, through } => self.webhook_told(&id, through),

            Command::BeginSignIn { id, subject, provider } => self.begin_sign_in(id, subject, provider),
            Command::ProveSignIn { id, identity, confirm_sha256 } => self.prove_sign_in(&id, identity, confirm_sha256),
            Command::FinishSignIn { id, confirm_sha256, accept, seed } => {
                self.finish_sign_in(&id, confirm_sha256, accept, seed)
            }

            Command::BeginSshCheck { id, source, target, local_user } => {
                self.begin_ssh_check(id, source, target, local_user)
            }
            Command::ApproveSshCheck { id, by } => self.approve_ssh_check(&id, by),
            Command::RejectSshCheck { id, by } => self.reject_ssh_check(&id, by),

            Command::SetTextRecord { machine_key, node_key, name, value } => {
                self.set_text_record(&machine_key, &node_key, &name, &value)
            }
            Command::AcknowledgeTextRecord { name, value } => self.acknowledge_text_record(&name, &value),
            Command::ForgetTextRecord { name, value } => self.forget_text_record(&name, &value),

            Command::Elapse => self.elapse(),
        }
    }
}

/// "There is no such thing", for `ok_or_else`.
fn not_found(what: What, name: impl ToString) -> Refusal {
    Refusal::NotFound { what, name: name.to_string() }
}

fn invalid(what: What, why: impl Into<String>) -> Refusal {
    Refusal::Invalid { what, why: why.into() }
}

/// How much changed, or that nothing did.
fn changed(count: u64) -> Answer {
    Ok(if count == 0 { Outcome::Unchanged } else { Outcome::Changed(count) })
}

/// Free text from people and providers: bounded, and without control characters.
fn check_text(what: What, field: &str, text: &str, bytes_max: usize) -> Result<(), Refusal> {
    if text.len() > bytes_max {
        return Err(invalid(what, format!("the {field} has {} bytes, at most {bytes_max} are allowed", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(what, format!("the {field} contains control characters")));
    }
    Ok(())
}
