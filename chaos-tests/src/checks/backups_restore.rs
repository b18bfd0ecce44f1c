//! What lies on the share of backups leads, entry by entry, to the very state the members have.

use state_machine::Revision;

use super::{Law, Sight};

/// What a restore on trial gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub revision: Revision,
    /// Of all rows.
    pub hash: [u8; 32],
    /// Why the log on the share could not be read to its end.
    pub stopped: Option<String>,
}

/// Looks at the end, at a restore that was made then.
pub struct BackupsRestore;

impl Law for BackupsRestore {
    fn name(&self) -> &'static str {
        "backups restore"
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for restored in sight.restored {
            let restored = restored.as_ref().map_err(Clone::clone)?;
            if let Some(why) = &restored.stopped {
                return Err(format!("the backup ends at revision {}: {why}", restored.revision));
            }
            for (member, state) in sight.states {
                if state.revision() != restored.revision {
                    let (theirs, ours) = (state.revision(), restored.revision);
                    return Err(format!("the backup leads to revision {ours}, hs{member} is at {theirs}"));
                }
                if state.hash() != restored.hash {
                    return Err(format!(
                        "the backup leads to another state than hs{member} has at {}",
                        state.revision()
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::staged::{Stage, founded};

    #[test]
    fn a_backup_that_is_short_or_different_is_noticed() {
        let mut stage = Stage::default();
        let state = founded();
        stage.show(1, &state);
        BackupsRestore.end(&stage.sight()).unwrap();
        let whole = Restored { revision: state.revision(), hash: state.hash(), stopped: None };
        let mut broken = |restored: Result<Restored, String>| {
            stage.restored = vec![restored];
            BackupsRestore.end(&stage.sight()).err()
        };
        assert_eq!(broken(Ok(whole.clone())), None);
        let says = |error: Option<String>, what: &str| assert!(error.unwrap().contains(what));
        says(broken(Ok(Restored { revision: Revision(0), ..whole.clone() })), "leads to revision");
        says(broken(Ok(Restored { hash: [0; 32], ..whole.clone() })), "another state");
        says(broken(Ok(Restored { stopped: Some("a gap".into()), ..whole })), "a gap");
        says(broken(Err("no full".into())), "no full");
    }
}
