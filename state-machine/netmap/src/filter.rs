//! Who may reach the viewer. Every node may reach every node on every port.

use std::collections::BTreeMap;

use tailcfg::{FilterRule, NetPortRange, NetworkRule, PortRange};

/// Named filters; clients replace them name by name and deny what no rule allows.
pub(crate) fn filters() -> BTreeMap<&'static str, Vec<FilterRule>> {
    let everything = NetworkRule {
        src_ips: vec!["*".to_owned()],
        dst_ports: vec![NetPortRange { ip: "*".to_owned(), ports: PortRange::ALL }],
        ip_proto: Vec::new(),
    };
    BTreeMap::from([("base", vec![FilterRule::Network(everything)])])
}
