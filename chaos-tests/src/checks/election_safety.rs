//! Leadership only goes forward: nobody who knows of a leader follows an older one.
//!
//! openraft orders leaders by term and then by member: a term may see two leaders, the second of whom has the higher
//! number. So it is not terms that belong to one leader each; that what two leaders of a term write is still one log is
//! for `log_matching` to say.

use std::collections::BTreeMap;

use raft::Role;
use state_machine::MemberId;

use super::{Law, Sight};

/// Remembers the newest leader each running member has followed.
#[derive(Default)]
pub struct ElectionSafety {
    followed: BTreeMap<u64, (u64, MemberId)>,
}

impl Law for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        // A vote that was given a moment before a life ended may not have reached the disk.
        self.followed.retain(|member, _| sight.statuses.contains_key(member));
        for (member, status) in sight.statuses {
            let leader = match status.role {
                Role::Leader => Some(status.me),
                _ => status.leader,
            };
            let Some(leader) = leader else { continue };
            let now = (status.term, leader);
            let newest = self.followed.entry(*member).or_insert(now);
            if now < *newest {
                let (term, before) = *newest;
                return Err(format!(
                    "hs{member} followed member {before} in term {term}, and now member {leader} in term {}",
                    status.term
                ));
            }
            *newest = now;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raft::Status;

    use super::*;
    use crate::checks::staged::Stage;

    #[test]
    fn whoever_goes_back_to_an_older_leader_is_noticed() {
        let (mut law, mut stage) = (ElectionSafety::default(), Stage::default());
        let follows = |leader, term| Status { leader: Some(MemberId(leader)), term, ..Status::default() };
        for (leader, term) in [(1, 4), (2, 4), (1, 5)] {
            stage.statuses.insert(3, follows(leader, term));
            law.watch(&stage.sight()).unwrap();
        }
        stage.statuses.insert(3, follows(2, 4));
        assert!(law.watch(&stage.sight()).unwrap_err().contains("in term 4"));
        stage.statuses.insert(3, Status { role: Role::Leader, me: MemberId(3), term: 4, ..Status::default() });
        assert!(law.watch(&stage.sight()).is_err());
    }
}
