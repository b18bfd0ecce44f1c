//! What clients tell about themselves while they are connected.

use crate::{command::Report, model::*, outcome::Answer, state::State};

use super::{changed, check_text, register::check_hostinfo};
use crate::outcome::What;

/// More than any machine has interfaces for.
const ENDPOINTS_MAX: usize = 256;

impl State {
    /// Parts that are too large are left out: the edge bounds them, and a report must never hold up its batch.
    pub(super) fn take_reports(&mut self, reports: Vec<Report>) -> Answer {
        let mut count = 0;
        for report in reports {
            let Some(node) = self.node(report.node).cloned() else { continue };
            if node.node_key != report.node_key {
                continue;
            }
            let mut next = (*node).clone();
            let advertises = report.hostinfo.is_some();
            self.take_report(&mut next, report);
            if advertises {
                next = self.with_approvals(next);
            }
            if next != *node {
                self.put_node(next);
                count += 1;
            }
        }
        changed(count)
    }

    fn take_report(&self, node: &mut Node, report: Report) {
        if let Some(disco_key) = report.disco_key.filter(|key| !key.is_zero()) {
            node.disco_key = disco_key;
        }
        if let Some(hostinfo) = report.hostinfo.filter(|hostinfo| check_hostinfo(hostinfo).is_ok()) {
            node.hostinfo = hostinfo;
        }
        let hostname = report.hostname.filter(|name| !name.is_empty());
        if let Some(name) = hostname.filter(|name| check_text(What::Node, "host name", name, 255).is_ok()) {
            self.take_hostname(node, name);
        }
        if let Some(endpoints) = report.endpoints.filter(|endpoints| endpoints.len() <= ENDPOINTS_MAX) {
            node.endpoints = endpoints;
        }
        // A home region cannot be taken back, only replaced: clients cannot be told otherwise.
        if let Some(region) = report.home_derp.filter(|region| *region != 0) {
            node.home_derp = region;
        }
        if let Some(version) = report.capability_version.filter(|version| *version != 0) {
            node.capability_version = version;
        }
    }
}
