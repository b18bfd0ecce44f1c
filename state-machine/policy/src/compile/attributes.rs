//! What `nodeAttrs` gives to nodes.

use super::{classes::Role, filter::Capabilities, program::Program};

/// Of all nodes of a class: attribute → values, mostly none.
pub(crate) fn of_role(program: &Program, role: &Role) -> Capabilities {
    let mut attributes = Capabilities::new();
    for (code, entry) in program.attributes.iter().zip(&program.document.node_attributes) {
        if code.everybody || code.targets.meets(&role.words) {
            for attribute in &entry.attributes {
                attributes.entry(attribute.clone()).or_default();
            }
            for (name, values) in &entry.app {
                attributes.entry(name.clone()).or_default().extend(values.iter().cloned());
            }
        }
    }
    if program.document.randomize_client_port {
        attributes.entry("randomize-client-port".to_owned()).or_default();
    }
    if program.document.disable_ipv4 {
        attributes.entry(DISABLE_IPV4.to_owned()).or_default();
    }
    attributes
}

/// The attribute that hides a node's IPv4 address (`tailcfg.NodeAttrDisableIPv4`).
pub const DISABLE_IPV4: &str = "disable-ipv4";
