//! No device is ever sent a frame that does not fit what it was sent before.

use super::{Law, Sight};
use crate::history::Breach;

/// Reads the book: devices write down what their mirror refused.
pub struct DeltasGapFree;

impl Law for DeltasGapFree {
    fn name(&self) -> &'static str {
        "deltas are gap-free"
    }

    fn watch(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        sight.history.breach(Breach::Gap)
    }
}

#[cfg(test)]
mod tests {
    use netmap::mirror::Mirror;

    use super::*;
    use crate::checks::staged::Stage;

    #[test]
    fn a_delta_for_a_peer_nobody_told_of_is_noticed() {
        let mut mirror = Mirror::default();
        let refused = mirror.apply(br#"{"PeersRemoved":[7]}"#).unwrap_err();
        let mut stage = Stage::default();
        DeltasGapFree.watch(&stage.sight()).unwrap();
        stage.history.gap(101, &refused.to_string());
        assert!(DeltasGapFree.watch(&stage.sight()).unwrap_err().contains("device 101"));
    }
}
