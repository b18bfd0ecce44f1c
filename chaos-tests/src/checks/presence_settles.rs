//! When everything rests, the cluster knows exactly who is connected, and where.
//!
//! And once nothing goes wrong any more, it never takes a node for gone whose stream lives: neither the late goodbye of
//! an older stream nor anything else may end it, not even for the moment until the session insists.

use std::collections::BTreeMap;

use state_machine::Session;

use super::{Law, Sight};

/// Compares presences with streams.
#[derive(Default)]
pub struct PresenceSettles {
    /// By device: the session the cluster knows of.
    known: BTreeMap<u64, Known>,
}

struct Known {
    session: Session,
    /// Of the device, when the session was first seen: what it had open before it lost power may end at any time.
    power_losses: u64,
    /// Of the device, when the session was last seen.
    streams: u64,
}

impl Law for PresenceSettles {
    fn name(&self) -> &'static str {
        "presence settles"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        let newest = sight.states.values().max_by_key(|state| state.revision());
        let Some(state) = newest.filter(|_| sight.settled) else {
            self.known.clear();
            return Ok(());
        };
        for (number, device) in sight.devices {
            let Some(node) = device.node else { continue };
            match (state.presence(node).and_then(|presence| presence.session), self.known.get_mut(number)) {
                (Some(session), Some(known)) if known.session == session => known.streams = device.streams,
                (Some(session), _) => {
                    let (power_losses, streams) = (device.power_losses, device.streams);
                    self.known.insert(*number, Known { session, power_losses, streams });
                }
                (None, Some(known))
                    if device.connected.is_some()
                        && (known.power_losses, known.streams) == (device.power_losses, device.streams) =>
                {
                    return Err(format!("node {node} is said to be gone, but the stream of device {number} lives"));
                }
                (None, _) => {}
            }
        }
        Ok(())
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        for (member, state) in sight.states {
            let mut connected = std::collections::BTreeSet::new();
            for (number, device) in sight.devices.iter().filter(|(_, device)| !device.off) {
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
        let mut law = PresenceSettles::default();
        assert!(law.end(&stage.sight()).unwrap_err().contains("not known to be"));
        let changes = vec![PresenceChange { node, session: SessionId(7), here: true }];
        apply(&mut state, Command::Presence { member: MemberId(1), changes });
        stage.show(1, &state);
        law.end(&stage.sight()).unwrap();
        stage.devices.get_mut(&101).unwrap().switch_off();
        assert!(law.end(&stage.sight()).unwrap_err().contains("and is not"));
    }

    #[test]
    fn a_living_stream_that_is_taken_for_gone_is_noticed_and_one_that_lost_power_is_not() {
        let mut state = founded();
        let user = create_user(&mut state, "anna");
        let node = register(&mut state, user, 1);
        let mut stage = Stage { settled: true, ..Stage::default() };
        stage.devices.insert(101, Device { node: Some(node), connected: Some(1), streams: 1, ..Device::default() });
        let mut law = PresenceSettles::default();
        let mut tell = |stage: &mut Stage, session, here| {
            let changes = vec![PresenceChange { node, session: SessionId(session), here }];
            apply(&mut state, Command::Presence { member: MemberId(1), changes });
            stage.show(1, &state);
            law.watch(&stage.sight())
        };
        tell(&mut stage, 7, true).unwrap();
        let device = stage.devices.get_mut(&101).unwrap();
        device.switch_off();
        (device.connected, device.streams) = (Some(1), 2);
        tell(&mut stage, 7, false).unwrap();
        tell(&mut stage, 8, true).unwrap();
        assert!(tell(&mut stage, 8, false).unwrap_err().contains("lives"));
    }
}
