//! One program after the other: what each member's program can apply, and when the cluster may begin to rely on it.
//!
//! Until a level is raised every member can go back to the older program, so nothing an older one could not read may
//! enter the log, and nobody announces in State more than older programs would act on. What a program really can is
//! said in the reports of `board.rs`, once a second, by whoever runs now.

use std::{sync::Arc, time::Duration};

use state_machine::{Command, MemberState, OPERATION, RISES_BY_ITSELF_TO, Refusal, State};

use crate::{
    cluster::Core,
    status::{Role, Status},
};

/// All programs must have been able for so long, unless the operator knows better.
pub const ABLE_FOR: Duration = Duration::from_secs(300);

/// What a member tells State of its program.
pub fn announced(level: u32, state: &State) -> u32 {
    if state.feature_level() >= OPERATION { level } else { level.min(RISES_BY_ITSELF_TO) }
}

/// How [`too_old`] is known again among the reasons an engine stopped for.
pub const TOO_OLD: &str = "is more than this program applies";

/// Why a program cannot go on.
pub fn too_old(has: u32, needs: u32) -> String {
    format!("the cluster's feature level {needs} {TOO_OLD} ({has}); run the newer program")
}

impl Core {
    /// What the program of every active member can apply, as they said a moment ago; none unless all of them did and
    /// this member leads.
    pub fn common_level(&self, status: &Status) -> Option<u32> {
        if status.role != Role::Leader {
            return None;
        }
        let state = self.latest.borrow().clone();
        let active = state.members().values().filter(|member| member.state == MemberState::Active);
        let levels = active.map(|member| match member.id == self.me {
            true => Some(self.feature_level),
            false => self.boards.report_of(member.id).map(|report| report.feature_level.max(RISES_BY_ITSELF_TO)),
        });
        levels.collect::<Option<Vec<u32>>>()?.into_iter().min()
    }

    /// Whether a command may enter the log now; for the leader to ask.
    pub async fn admits(self: &Arc<Self>, command: &Command) -> Result<(), Refusal> {
        if let Command::RaiseFeatureLevel { level, at_once } = command {
            return self.may_raise(*level, *at_once);
        }
        let seen = self.latest.borrow().admits(command);
        if seen.is_ok() {
            return seen;
        }
        // A new leader may not have applied yet what a former one raised.
        match self.confirm(Duration::from_secs(1)).await {
            Ok(state) => state.admits(command),
            Err(_) => seen,
        }
    }

    fn may_raise(&self, level: u32, at_once: bool) -> Result<(), Refusal> {
        let state = self.latest.borrow().clone();
        if level <= state.feature_level() {
            return Ok(());
        }
        let not_now = |why: String| Refusal::UpgradeNotYet { why };
        for member in state.members().values().filter(|member| member.state == MemberState::Active) {
            let has = match member.id == self.me {
                true => self.feature_level,
                false => match self.boards.report_of(member.id) {
                    Some(report) => report.feature_level.max(RISES_BY_ITSELF_TO),
                    None => {
                        return Err(not_now(format!(
                            "{} does not answer, so nobody knows what program it runs; start it, or take it out: \
                             hsraft member remove {}",
                            member.name, member.name
                        )));
                    }
                },
            };
            if has < level {
                return Err(Refusal::ProgramTooOld { has, needs: level });
            }
        }
        match self.boards.able() {
            _ if at_once => Ok(()),
            Some((common, since)) if common >= level && since >= ABLE_FOR => Ok(()),
            able => {
                let since = able.filter(|(common, _)| *common >= level).map_or(0, |(_, since)| since.as_secs());
                Err(not_now(format!(
                    "all programs have been able for {since} s as this leader saw it, {} s are wanted; wait, or use \
                     --now where a surprise does no harm",
                    ABLE_FOR.as_secs()
                )))
            }
        }
    }
}
