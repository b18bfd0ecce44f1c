//! Leadership only goes forward: nobody who knows of a leader follows an older one.
//!
//! openraft orders leaders by term and then by member: a term may see two leaders, the second of whom has the higher
//! number. So it is not terms that belong to one leader each; that what two leaders of a term write is still one log is
//! for `log_matching` to say.
//!
//! Nor does a member forget a term it has shown for a while: its vote was on disk before anybody heard of it.

use std::{collections::BTreeMap, time::Duration};

use raft::Role;
use state_machine::MemberId;

use super::{Law, Sight};

/// A vote shown for so long is on disk, however slow that is: several syncs of the slowest one.
const ON_DISK: Duration = Duration::from_millis(1500);

/// Remembers the newest leader each running member has followed, and the terms each has shown.
#[derive(Default)]
pub struct ElectionSafety {
    followed: BTreeMap<u64, (u64, MemberId)>,
    shown: BTreeMap<u64, Shown>,
}

/// The terms of the member on one machine, over all its lives.
#[derive(Default)]
struct Shown {
    member: MemberId,
    term: u64,
    since: Duration,
    on_disk: u64,
}

impl Shown {
    fn look(&mut self, member: MemberId, term: u64, at: Duration) -> Result<(), String> {
        if self.member != member {
            *self = Shown { member, term, since: at, on_disk: 0 };
        }
        if term < self.on_disk {
            return Err(format!("member {member} had voted in term {} and knows of term {term} only", self.on_disk));
        }
        if term != self.term {
            (self.term, self.since) = (term, at);
        }
        if at >= self.since + ON_DISK {
            self.on_disk = term;
        }
        Ok(())
    }
}

impl Law for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        // A vote that was given a moment before a life ended may not have reached the disk.
        self.followed.retain(|member, _| sight.statuses.contains_key(member));
        for (member, shown) in &mut self.shown {
            if !sight.statuses.contains_key(member) {
                shown.since = sight.at;
            }
        }
        for (member, status) in sight.statuses {
            // An engine that has not begun shows nothing yet.
            if status.last_log.is_some() {
                self.shown.entry(*member).or_default().look(status.me, status.term, sight.at)?;
            }
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

    #[test]
    fn a_vote_that_was_forgotten_is_noticed_and_one_that_was_just_given_is_not() {
        let (mut law, mut stage) = (ElectionSafety::default(), Stage::default());
        let mut show = |law: &mut ElectionSafety, at_ms, member, term| {
            stage.at = Duration::from_millis(at_ms);
            let status = Status { me: MemberId(member), term, last_log: Some(1), ..Status::default() };
            stage.statuses = term.checked_sub(1).map(|_| (1, status)).into_iter().collect();
            law.watch(&stage.sight())
        };
        show(&mut law, 0, 7, 3).unwrap();
        show(&mut law, 2000, 7, 3).unwrap();
        show(&mut law, 2010, 7, 4).unwrap();
        // It is down, and comes back without the vote it had just given.
        show(&mut law, 9000, 7, 0).unwrap();
        show(&mut law, 9010, 7, 3).unwrap();
        assert!(show(&mut law, 9020, 7, 2).unwrap_err().contains("had voted in term 3"));
        // Another member on the same machine has promised nothing.
        show(&mut law, 9030, 8, 1).unwrap();
    }
}
