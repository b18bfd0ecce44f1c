//! When the trouble is over, all members serve again without anybody's help.

use super::{Law, Sight};

/// Counts who is there.
pub struct ClusterHeals;

impl Law for ClusterHeals {
    fn name(&self) -> &'static str {
        "the cluster heals"
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        let up = sight.states.len() as u64;
        if up != sight.members {
            return Err(format!("only {up} of {} members run", sight.members));
        }
        match sight.acknowledged_when_healed.iter().find(|(_, answered)| **answered == 0) {
            Some((member, _)) => Err(format!("member {member} answers no writes, though everything is healed")),
            None => Ok(()),
        }
    }
}
