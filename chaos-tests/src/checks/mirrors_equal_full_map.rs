//! In the end every device has in memory exactly the map a member would draw for it anew.
//!
//! Whatever deltas a device was sent, over however many streams of however many members, they must add up.

use std::{collections::BTreeSet, sync::Arc};

use netmap::{Atlas, Moment, mirror::Mirror};
use serde_json::Value;

use super::{Law, Sight};

/// Compares memories with fresh maps.
pub struct MirrorsEqualFullMap;

impl Law for MirrorsEqualFullMap {
    fn name(&self) -> &'static str {
        "mirrors equal the full map"
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        let Some(state) = sight.states.values().next() else { return Ok(()) };
        let atlas = Atlas::draw(&Arc::clone(state));
        for (number, device) in sight.devices.iter().filter(|(_, device)| !device.off) {
            let Some(node) = device.node else { return Err(format!("device {number} never came in")) };
            let moment = Moment { control_time: state.now() };
            let Some(map) = netmap::full(&atlas, node, &moment) else {
                return Err(format!("device {number} is node {node}, which has no map"));
            };
            let mut fresh = Mirror::default();
            fresh.apply(&map).map_err(|error| format!("a fresh map of node {node} makes no sense: {error}"))?;
            if let Some(difference) = difference("", &fresh.picture(), &device.mirror.picture()) {
                return Err(format!("device {number} (node {node}) remembers another map: {difference}"));
            }
        }
        Ok(())
    }
}

/// Enough of a value to know it by.
fn shown(value: &Value) -> String {
    const SHOWN: usize = 160;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

/// The first place where two values differ.
fn difference(path: &str, drawn: &Value, remembered: &Value) -> Option<String> {
    match (drawn, remembered) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            names.into_iter().find_map(|name| {
                let (one, other) = (one.get(name).unwrap_or(&Value::Null), other.get(name).unwrap_or(&Value::Null));
                difference(&format!("{path}/{name}"), one, other)
            })
        }
        (one, other) if one == other => None,
        (one, other) => Some(format!("at {path} a fresh map has {} and the device {}", shown(one), shown(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checks::staged::{Stage, apply, create_user, founded, register},
        workload::device::Device,
    };

    #[test]
    fn a_device_that_missed_a_delta_is_noticed() {
        let mut state = founded();
        let user = create_user(&mut state, "anna");
        let (one, two) = (register(&mut state, user, 1), register(&mut state, user, 2));
        let mut device = Device { node: Some(one), ..Device::default() };
        let moment = Moment { control_time: state.now() };
        let map = netmap::full(&Atlas::draw(&Arc::new(state.clone())), one, &moment).unwrap();
        device.mirror.apply(&map).unwrap();
        let mut stage = Stage::default();
        stage.devices.insert(101, device);
        stage.show(1, &state);
        MirrorsEqualFullMap.end(&stage.sight()).unwrap();
        apply(&mut state, state_machine::Command::RenameNode { node: two, name: "elsewhere".into() });
        stage.show(1, &state);
        assert!(MirrorsEqualFullMap.end(&stage.sight()).unwrap_err().contains("remembers another map"));
    }
}
