//! When everything rests, the cluster knows exactly who is connected, and where.

use super::{Law, Sight};

/// Compares presences with streams.
pub struct PresenceSettles;

impl Law for PresenceSettles {
    fn name(&self) -> &'static str {
        "presence settles"
    }

    fn watch(&mut self, _sight: &Sight<'_>) -> Result<(), String> {
        Ok(())
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (member, state) in sight.states {
            let mut connected = std::collections::BTreeSet::new();
            for (number, device) in sight.devices {
                let Some(node) = device.node else { return Err(format!("device {number} never came in")) };
                let Some(server) = device.connected else {
                    return Err(format!("device {number} has no stream, though everything is healed"));
                };
                connected.insert(node);
                let presence = state.presence(node);
                let session = presence.and_then(|presence| presence.session);
                let there = sight.statuses.get(&server).map(|status| status.me);
                match session {
                    None => return Err(format!("member {member}: node {node} is connected and not known to be")),
                    Some(session) if Some(session.member) != there => {
                        return Err(format!(
                            "member {member}: node {node} is connected to hs{server} and said to be at member {}",
                            session.member
                        ));
                    }
                    Some(_) => {}
                }
                if !presence.is_some_and(|presence| presence.online) {
                    return Err(format!("member {member}: node {node} is connected and said to be offline"));
                }
            }
            for (node, presence) in state.presences() {
                if presence.session.is_some() && !connected.contains(node) {
                    return Err(format!("member {member}: node {node} is said to be connected and is not"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raft::Status;
    use state_machine::{Command, MemberId, PresenceChange, SessionId};

    use super::*;
    use crate::{
        checks::staged::{Stage, apply, create_user, founded, register},
        workload::device::Device,
    };

    #[test]
    fn a_stream_nobody_knows_of_and_one_that_is_gone_are_noticed() {
        let mut state = founded();
        let user = create_user(&mut state, "anna");
        let node = register(&mut state, user, 1);
        let mut stage = Stage::default();
        stage.statuses.insert(1, Status { me: MemberId(1), ..Status::default() });
        stage.devices.insert(101, Device { node: Some(node), connected: Some(1), ..Device::default() });
        stage.show(1, &state);
        assert!(PresenceSettles.end(&stage.sight()).unwrap_err().contains("not known to be"));
        let changes = vec![PresenceChange { node, session: SessionId(7), here: true }];
        apply(&mut state, Command::Presence { member: MemberId(1), changes });
        stage.show(1, &state);
        PresenceSettles.end(&stage.sight()).unwrap();
        stage.devices.clear();
        assert!(PresenceSettles.end(&stage.sight()).unwrap_err().contains("and is not"));
    }
}
