//! No device is ever shown a peer that the policy forbids.
//!
//! Maps are on their way for a while, and a member that is cut off serves the policy it knows. So a device may show a
//! peer that the policy of some running member allowed within the last [`LAG`]; everything else is a breach. One user
//! ("alone") is named by no policy at all: what belongs to it must never be seen by anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use imbl::OrdMap;
use netmap::Atlas;
use state_machine::{Command, Node, NodeId, Stamp, State};

use super::{Law, Sight};

/// The longest a frame can be under way: links are held for five seconds at most, and a stalled stream is ended.
const LAG: Duration = Duration::from_secs(20);

/// Remembers who was last allowed to see whom.
#[derive(Default)]
pub struct NobodySeesMore {
    members: BTreeMap<u64, Known>,
    /// When a pair was last allowed by a member that does not allow it any more.
    until: BTreeMap<(NodeId, NodeId), Duration>,
    frames: BTreeMap<u64, u64>,
}

struct Known {
    atlas: Atlas,
    policy: u64,
    nodes: OrdMap<NodeId, Arc<Node>>,
    devices: Vec<NodeId>,
    allowed: BTreeSet<(NodeId, NodeId)>,
}

/// The nodes of devices; what operators bring in opens no stream.
fn devices_of(state: &State) -> Vec<NodeId> {
    state.nodes().values().filter(|node| node.hostname.starts_with("device")).map(|node| node.id).collect()
}

fn allowed(atlas: &Atlas, devices: &[NodeId]) -> BTreeSet<(NodeId, NodeId)> {
    let pairs = devices.iter().flat_map(|viewer| devices.iter().map(|peer| (*viewer, *peer)));
    pairs.filter(|(viewer, peer)| atlas.meaning().sees(viewer.0, peer.0)).collect()
}

impl NobodySeesMore {
    fn follow(&mut self, sight: &Sight<'_>) {
        let gone: Vec<u64> = self.members.keys().filter(|member| !sight.states.contains_key(member)).copied().collect();
        for member in gone {
            let known = self.members.remove(&member).expect("just listed");
            self.until.extend(known.allowed.into_iter().map(|pair| (pair, sight.at)));
        }
        for (member, state) in sight.states {
            let number = state.policy().map_or(0, |policy| policy.number);
            let before = self.members.get(member);
            if before.is_some_and(|known| known.policy == number && known.nodes.ptr_eq(state.nodes())) {
                continue;
            }
            let (nodes, devices) = (state.nodes().clone(), devices_of(state));
            // Which device sees which depends on the policy and on which there are; what else comes, goes and moves does
            // not matter.
            if let Some(known) = self.members.get_mut(member)
                && known.policy == number
                && known.devices == devices
            {
                known.nodes = nodes;
                continue;
            }
            let before = self.members.get(member);
            let atlas = before.map_or_else(|| Atlas::draw(state), |known| known.atlas.redraw(state));
            let allowed = self::allowed(&atlas, &devices);
            if let Some(known) = before {
                // Policies that were in force between two looks, with those that came in meanwhile.
                for passed in known.policy..number {
                    let Some(policy) = state.policy_history().get(&passed) else { continue };
                    let mut past = State::clone(state);
                    let stamp = Stamp { at: past.now(), revision: past.revision() };
                    let command = Command::SetPolicy { text: policy.text.clone(), author: policy.author.clone() };
                    if past.apply(stamp, command).is_ok() {
                        let past = atlas.redraw(&Arc::new(past));
                        self.until.extend(self::allowed(&past, &devices).into_iter().map(|pair| (pair, sight.at)));
                    }
                }
                self.until.extend(known.allowed.difference(&allowed).map(|pair| (*pair, sight.at)));
            }
            self.members.insert(*member, Known { atlas, policy: number, nodes, devices, allowed });
        }
    }

    fn may_see(&self, pair: (NodeId, NodeId), at: Duration) -> bool {
        self.members.values().any(|known| known.allowed.contains(&pair))
            || self.until.get(&pair).is_some_and(|until| at <= *until + LAG)
    }
}

impl Law for NobodySeesMore {
    fn name(&self) -> &'static str {
        "nobody sees more than the policy allows"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        self.follow(sight);
        let owners: BTreeMap<NodeId, u64> =
            sight.devices.iter().filter_map(|(number, device)| Some((device.node?, *number))).collect();
        for (number, device) in sight.devices {
            let frames = device.mirror.frames() + device.streams;
            let Some(viewer) = device.node.filter(|_| self.frames.insert(*number, frames) != Some(frames)) else {
                continue;
            };
            for peer in device.mirror.peers().keys().map(|peer| NodeId(*peer)) {
                if owners.contains_key(&peer) && !self.may_see((viewer, peer), sight.at) {
                    return Err(format!("device {number} (node {viewer}) was shown node {peer}"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use netmap::Moment;

    use super::*;
    use crate::{
        checks::staged::{Stage, apply, create_user, founded, register},
        workload::device::Device,
    };

    #[test]
    fn a_map_of_a_policy_of_long_ago_is_noticed() {
        let mut state = founded();
        let user = create_user(&mut state, "anna");
        let (one, two) = (register(&mut state, user, 1), register(&mut state, user, 2));
        let open = r#"{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}"#;
        apply(&mut state, Command::SetPolicy { text: open.into(), author: "anna".into() });
        let map = netmap::full(&Atlas::draw(&Arc::new(state.clone())), one, &Moment { control_time: state.now() });
        let mut device = Device { node: Some(one), ..Device::default() };
        device.mirror.apply(&map.unwrap()).unwrap();
        assert!(device.mirror.peers().contains_key(&two.0));

        let (mut law, mut stage) = (NobodySeesMore::default(), Stage::default());
        stage.devices.insert(101, device);
        stage.devices.insert(102, Device { node: Some(two), ..Device::default() });
        stage.show(1, &state);
        law.watch(&stage.sight()).unwrap();

        apply(&mut state, Command::SetPolicy { text: r#"{"acls":[]}"#.into(), author: "anna".into() });
        stage.show(1, &state);
        stage.at = Duration::from_secs(5);
        stage.devices.get_mut(&101).unwrap().streams += 1;
        law.watch(&stage.sight()).unwrap();
        stage.at = Duration::from_secs(30);
        stage.devices.get_mut(&101).unwrap().streams += 1;
        assert!(law.watch(&stage.sight()).unwrap_err().contains("was shown node 2"));
    }
}
