//! What was answered is there at every member in the end.

use state_machine::State;

use super::{Law, Sight};
use crate::history::{Breach, Fate, History};

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
        sight.history.breach(Breach::NewId)
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
        if history.deleted_nodes.contains(id) {
            continue;
        }
        match state.node(*id) {
            Some(node) if node.node_key == *key => {}
            Some(node) => return Err(format!("node {id} has key {} and not {key}", node.node_key)),
            None => return Err(format!("node {id} ({key}) is gone")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use state_machine::{Command, UserId};

    use super::*;
    use crate::{
        checks::staged::{Stage, apply, create_user, founded},
        history::UserBook,
    };

    fn promise(stage: &mut Stage, id: UserId, name: &str, fate: Fate) {
        let book = UserBook { names: BTreeSet::from([name.to_string()]), fate };
        stage.history.users.insert(id, book);
    }

    #[test]
    fn a_user_that_was_promised_and_is_not_there_is_noticed() {
        let (mut state, mut stage) = (founded(), Stage::default());
        let user = create_user(&mut state, "anna");
        promise(&mut stage, user, "anna", Fate::Here);
        stage.show(1, &state);
        AckedWritesSurvive.end(&stage.sight()).unwrap();
        promise(&mut stage, UserId(user.0 + 1), "berta", Fate::Here);
        assert!(AckedWritesSurvive.end(&stage.sight()).unwrap_err().contains("should be Here"));
    }

    #[test]
    fn a_user_that_was_deleted_and_is_back_is_noticed() {
        let (mut state, mut stage) = (founded(), Stage::default());
        let user = create_user(&mut state, "anna");
        promise(&mut stage, user, "anna", Fate::Gone);
        stage.show(1, &state);
        assert!(AckedWritesSurvive.end(&stage.sight()).is_err());
        apply(&mut state, Command::DeleteUser { user });
        stage.show(1, &state);
        AckedWritesSurvive.end(&stage.sight()).unwrap();
    }

    #[test]
    fn a_name_that_two_were_given_and_a_state_behind_its_promises_are_noticed() {
        let mut stage = Stage::default();
        stage.show(1, &founded());
        stage.history.floor = state_machine::Revision(2);
        assert!(AckedWritesSurvive.end(&stage.sight()).unwrap_err().contains("stands at revision 1"));
        stage.history.races.insert("darling".into(), BTreeSet::from([UserId(1), UserId(2)]));
        assert!(AckedWritesSurvive.watch(&stage.sight()).is_err());
    }
}
