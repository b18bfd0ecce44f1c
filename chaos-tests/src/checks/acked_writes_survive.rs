//! What was answered is there at every member in the end.

use state_machine::State;

use super::{Law, Sight};
use crate::history::{Fate, History};

/// Looks every promise up.
pub struct AckedWritesSurvive;

impl Law for AckedWritesSurvive {
    fn name(&self) -> &'static str {
        "acknowledged writes survive"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (name, winners) in &sight.history.races {
            if winners.len() > 1 {
                return Err(format!("{name:?} was given to users {winners:?}"));
            }
        }
        match sight.history.broken.first() {
            Some(broken) => Err(broken.clone()),
            None => Ok(()),
        }
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        self.watch(sight)?;
        for (member, state) in sight.states {
            look_up(state, sight.history).map_err(|lost| format!("member {member}: {lost}"))?;
        }
        Ok(())
    }
}

fn look_up(state: &State, history: &History) -> Result<(), String> {
    if state.revision() < history.floor {
        return Err(format!("stands at revision {}, but {} was answered", state.revision(), history.floor));
    }
    for (id, book) in &history.users {
        match (state.user(*id), book.fate) {
            (Some(user), Fate::Here | Fate::Perhaps) if book.names.contains(&user.name) => {}
            (Some(user), Fate::Here | Fate::Perhaps) => {
                return Err(format!("user {id} is called {:?} and not {:?}", user.name, book.names));
            }
            (None, Fate::Gone | Fate::Perhaps) => {}
            (found, fate) => return Err(format!("user {id} should be {fate:?} and is {found:?}")),
        }
    }
    for (key, id) in &history.nodes {
        match state.node(*id) {
            Some(node) if node.node_key == *key => {}
            Some(node) => return Err(format!("node {id} has key {} and not {key}", node.node_key)),
            None => return Err(format!("node {id} ({key}) is gone")),
        }
    }
    Ok(())
}
