//! When the trouble is over, all members serve again without anybody's help.

use std::collections::BTreeSet;

use super::{Law, Sight};

/// Counts who is there.
pub struct ClusterHeals;

impl Law for ClusterHeals {
    fn name(&self) -> &'static str {
        "the cluster heals"
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        let up: BTreeSet<u64> = sight.states.keys().copied().collect();
        if up != *sight.members {
            return Err(format!("members {up:?} run instead of {:?}", sight.members));
        }
        let answered = |member: &u64| sight.acknowledged_when_healed.get(member).copied().unwrap_or(0);
        match sight.members.iter().find(|member| answered(member) == 0) {
            Some(member) => Err(format!("member {member} answers no writes, though everything is healed")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::staged::{Stage, founded};

    #[test]
    fn members_that_are_gone_or_silent_are_noticed() {
        let mut stage = Stage { members: BTreeSet::from([1, 2]), ..Stage::default() };
        stage.acknowledged.extend([(1, 3), (2, 3)]);
        stage.show(1, &founded());
        assert!(ClusterHeals.end(&stage.sight()).unwrap_err().contains("{1} run instead of {1, 2}"));
        stage.show(2, &founded());
        ClusterHeals.end(&stage.sight()).unwrap();
        stage.acknowledged.insert(2, 0);
        assert!(ClusterHeals.end(&stage.sight()).unwrap_err().contains("member 2 answers no writes"));
    }
}
