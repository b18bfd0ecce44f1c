//! May this key enter? Asked of whoever embeds the relay.

use tailcfg::NodeKey;

/// Who may use the relay. Asked when a client introduces itself and again on every `Relay::recheck`.
pub trait Admission: Send + Sync {
    /// Whether the holder of `key` may enter, or stay.
    fn admits(&self, key: &NodeKey) -> bool;
}

impl<F: Fn(&NodeKey) -> bool + Send + Sync> Admission for F {
    fn admits(&self, key: &NodeKey) -> bool {
        self(key)
    }
}
