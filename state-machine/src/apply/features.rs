//! New behaviour during a rolling upgrade.
//!
//! Old and new programs must apply every entry alike, to the last byte of every row: members compare their hashes. A
//! change is therefore given a level, and until the cluster has come to it
//!
//! * a new command is refused, by the leader before it enters the log (an older program could not read the entry) and
//!   by apply: it gets a line in [`Command::feature_level`];
//! * a new field of a row or of a command keeps its default, and a default is not written
//!   (`#[serde(default, skip_serializing_if = …)]`): the verb that would set it asks [`State::need_level`];
//! * verbs behave, and refuse, as they did: they ask [`State::feature_level`] before they do it the new way.
//!
//! Levels up to [`RISES_BY_ITSELF_TO`] came by themselves, as soon as the last active member announced a program that
//! can; programs of that day still do so, and so must this one. Later levels are raised by an operator's
//! [`Command::RaiseFeatureLevel`] (`hsraft upgrade finalize`): until then every member may go back to the older
//! program. A cluster is founded at the level of its founder's program. A level never falls.

use crate::{
    command::Command,
    model::*,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::invalid;

/// The highest level this program can apply.
///
/// | level | brought |
/// |---|---|
/// | 1 | everything before policies were understood |
/// | 2 | a policy is judged before it enters force; owners of tags, automatic approval of routes, SSH checks; rows of another server's database |
/// | 3 | what a cluster needs for its whole life (`OPERATION`): levels raised by an operator; certificates and secrets that are replaced while the cluster runs; members' addresses and the dial plan; people sign in at a login provider; every change is written down |
/// | 4 | what operators ask for beyond Headscale (`BEYOND`): chosen addresses and ranges, nodes that wait for an approval, webhooks; OAuth clients, changes over what their author saw |
/// | 5 | what trust rests on (`TRUST`): nodes prove their names to certificate authorities |
pub const FEATURE_LEVEL: u32 = TRUST;

/// The level that brought the policy's meaning into apply.
pub(super) const POLICY: u32 = 2;

/// The level of everything that keeps a cluster alive: upgrades, tokens with conditions, rotation, repair.
pub const OPERATION: u32 = 3;

/// The level of what operators ask for and Headscale has not.
pub const BEYOND: u32 = 4;

/// The level of what lets others trust a node's name and a member's keys.
pub const TRUST: u32 = 5;

/// Levels up to here were raised by apply itself.
pub const RISES_BY_ITSELF_TO: u32 = POLICY;

impl Command {
    /// The level a cluster must have come to before this command may enter the log.
    pub fn feature_level(&self) -> u32 {
        match self {
            // RaiseFeatureLevel is what leads there: the leader asks every member's program instead.
            Command::RaiseFeatureLevel { .. } => 0,
            // A field of a later level: an older program would leave it out, or not read the entry at all.
            Command::ApplySettings { settings } if !settings.node_certificates.is_off() => TRUST,
            Command::ReplaceSettings { settings, .. } if !settings.node_certificates.is_off() => TRUST,
            Command::SetTextRecord { .. }
            | Command::AcknowledgeTextRecord { .. }
            | Command::ForgetTextRecord { .. } => TRUST,
            Command::ApplySettings { settings } if settings.node_approval => BEYOND,
            Command::ApplySettings { settings } if settings.dial_plan || settings.audit_rows != AUDIT_ROWS => OPERATION,
            Command::Import { batch } if batch.users.iter().any(|user| !user.ranges.is_empty()) => BEYOND,
            Command::Import { batch } if batch.nodes.iter().any(|node| node.unapproved) => BEYOND,
            Command::SetUserRanges { .. }
            | Command::SetNodeAddresses { .. }
            | Command::SetNodeApproval { .. }
            | Command::CreateWebhook { .. }
            | Command::DeleteWebhook { .. }
            | Command::WebhookTold { .. } => BEYOND,
            Command::CreateJoinToken { token } if token.uses > 1 || !token.from.is_empty() => OPERATION,
            Command::CreateApiKey { key } if is_client(key) => BEYOND,
            Command::CreateApiKey { key } if is_users(key) => OPERATION,
            Command::CreatePreAuthKey { key } if !key.description.is_empty() => BEYOND,
            Command::ReplacePolicy { .. } | Command::ReplaceSettings { .. } => BEYOND,
            Command::Import { batch } if batch.api_keys.iter().any(is_users) => OPERATION,
            Command::SetMemberRole { insist: true, .. }
            | Command::SetMemberAddresses { .. }
            | Command::ResealSecrets { .. }
            | Command::ConfirmRecoveryKey { .. }
            | Command::RotateAuthority { .. }
            | Command::MoveCertificate { .. }
            | Command::WantCertificate { .. }
            | Command::OrderCertificate { .. }
            | Command::IssueCertificate { .. }
            | Command::FailCertificate { .. }
            | Command::BeginSignIn { .. }
            | Command::ProveSignIn { .. }
            | Command::FinishSignIn { .. } => OPERATION,
            _ => 0,
        }
    }
}

/// An OAuth client: narrower than its role.
fn is_client(key: &ApiKey) -> bool {
    !(key.scopes.is_empty() && key.tags.is_empty() && key.description.is_empty())
}

fn is_users(key: &ApiKey) -> bool {
    key.role == Role::User || key.user.is_some()
}

impl State {
    /// Whether a command may enter the log, and be applied.
    pub fn admits(&self, command: &Command) -> Result<(), Refusal> {
        self.need_level(command.feature_level())
    }

    /// Refuses what the cluster has not come to yet.
    pub fn need_level(&self, needs: u32) -> Result<(), Refusal> {
        let at = self.feature_level();
        if at < needs { Err(Refusal::LevelTooLow { needs, at }) } else { Ok(()) }
    }

    /// Refuses a program that cannot apply what the cluster already does.
    pub(super) fn check_feature_level(&self, member: &Member) -> Result<(), Refusal> {
        let level = self.feature_level();
        if member.feature_level >= level {
            return Ok(());
        }
        if level >= OPERATION {
            return Err(Refusal::ProgramTooOld { has: member.feature_level, needs: level });
        }
        let why = format!(
            "its program applies feature level {}, the cluster is at {level}; run a newer program",
            member.feature_level
        );
        Err(invalid(What::Member, why))
    }

    /// To be called whenever the active members or their programs changed.
    pub(super) fn raise_feature_level(&mut self) {
        let Some(common) = self.common_level().map(|common| common.min(RISES_BY_ITSELF_TO)) else { return };
        if common > self.feature_level() {
            self.cluster_mut().feature_level = common;
        }
    }

    /// The founder's program alone decides.
    pub(super) fn begin_feature_level(&mut self, level: u32) {
        self.cluster_mut().feature_level = level;
    }

    /// The highest level all active members announced; none: nobody is active. Below [`OPERATION`] nobody announces
    /// more than [`RISES_BY_ITSELF_TO`], whatever its program can.
    fn common_level(&self) -> Option<u32> {
        let active = self.members().values().filter(|member| member.state == MemberState::Active);
        active.map(|member| member.feature_level).min()
    }

    /// The leader has asked every active member; what it was told becomes their rows.
    pub(super) fn raise_feature_level_to(&mut self, level: u32) -> Answer {
        if level <= self.feature_level() {
            return Ok(Outcome::Unchanged);
        }
        if level <= RISES_BY_ITSELF_TO {
            return Err(invalid(What::Settings, format!("level {level} comes by itself")));
        }
        if self.feature_level() >= OPERATION
            && let Some(has) = self.common_level().filter(|common| *common < level)
        {
            return Err(Refusal::ProgramTooOld { has, needs: level });
        }
        let behind: Vec<Member> = self
            .members()
            .values()
            .filter(|member| member.state == MemberState::Active && member.feature_level < level)
            .map(|member| Member { feature_level: level, ..(**member).clone() })
            .collect();
        behind.into_iter().for_each(|member| self.put_member(member));
        self.cluster_mut().feature_level = level;
        Ok(Outcome::Done)
    }
}
