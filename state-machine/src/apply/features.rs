//! New behaviour during a rolling upgrade.
//!
//! Old and new programs must apply every entry alike. A change of what `apply` does is therefore given a level, and
//! the code asks [`State::feature_level`] before it behaves the new way. The level rises at one log position: when
//! the last active member announces a program that can. It never falls.

use crate::{
    model::*,
    outcome::{Refusal, What},
    state::State,
};

use super::invalid;

/// The highest level this program can apply.
///
/// | level | brought |
/// |---|---|
/// | 1 | everything before policies were understood |
/// | 2 | a policy is judged before it enters force; owners of tags, automatic approval of routes, SSH checks; rows of another server's database |
/// | 3 | certificates and secrets that are replaced while the cluster runs |
pub const FEATURE_LEVEL: u32 = 3;

/// The level that brought the policy's meaning into apply.
pub(super) const POLICY: u32 = 2;

/// The level that brought rotation of authorities and data keys, and certificates fetched by the cluster.
pub(super) const CERTIFICATES: u32 = 3;

impl State {
    /// Refuses a program that cannot apply what the cluster already does.
    pub(super) fn check_feature_level(&self, member: &Member) -> Result<(), Refusal> {
        let level = self.feature_level();
        if member.feature_level < level {
            let why = format!(
                "its program applies feature level {}, the cluster is at {level}; run a newer program",
                member.feature_level
            );
            return Err(invalid(What::Member, why));
        }
        Ok(())
    }

    /// Refuses a command that not every member could apply.
    pub(super) fn require_level(&self, level: u32) -> Result<(), Refusal> {
        if self.feature_level() >= level {
            return Ok(());
        }
        let why = format!(
            "this needs feature level {level} and the cluster is at {}; run the newer program on every member first",
            self.feature_level()
        );
        Err(invalid(What::Member, why))
    }

    /// To be called whenever the active members or their programs changed.
    pub(super) fn raise_feature_level(&mut self) {
        let active = self.members().values().filter(|member| member.state == MemberState::Active);
        let Some(common) = active.map(|member| member.feature_level).min() else { return };
        if common > self.feature_level() {
            self.cluster_mut().feature_level = common;
        }
    }
}
