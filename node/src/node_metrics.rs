//! `/metrics/nodes`: a few series for each node, under the names exporters and alert rules have for them.
//!
//! Apart from `/metrics`, because ten thousand nodes are a hundred thousand series: who wants them scrapes this path too,
//! at one member.

use std::collections::BTreeMap;

use prometheus::{GaugeVec, Opts, Registry};
use state_machine::{Node, State};

use crate::observe;

/// Tags that name a stage of somebody's own.
const STAGES: [&str; 8] = ["prod", "production", "staging", "stage", "test", "testing", "dev", "development"];

/// All of them in Prometheus' text form.
pub fn render(state: &State) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    let gauges = |name: &str, help: &str, labels: &[&str]| {
        let metric = GaugeVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(metric.clone()))?;
        Ok::<_, prometheus::Error>(metric)
    };
    let node = ["id", "name"];
    let info = gauges(
        "headscale_nodes_info",
        "1 for each node, with what is known of it.",
        &["id", "name", "hostname", "user", "os", "version", "ip_addresses", "tags", "ephemeral"],
    )?;
    let online = gauges("headscale_nodes_online", "1 while the node is told online.", &node)?;
    let seen = gauges("headscale_nodes_last_seen_timestamp", "When the node was last seen, coarsely.", &node)?;
    let expiry = gauges("headscale_nodes_expiry_timestamp", "When the node's key ends; absent: never.", &node)?;
    let approved = gauges("headscale_nodes_approved_routes", "Routes the node may serve.", &node)?;
    let available = gauges("headscale_nodes_available_routes", "Routes the node offers.", &node)?;
    let serving = gauges("headscale_nodes_subnet_routes", "Subnet routes the node serves now.", &node)?;
    let up = gauges("tailscale_up", "1 while the node is told online.", &["hostname", "user", "env"])?;

    let mut primary = BTreeMap::new();
    for id in state.primaries().values() {
        *primary.entry(*id).or_insert(0_u32) += 1;
    }
    for one in state.nodes().values() {
        let (id, user) = (one.id.to_string(), owner(state, one));
        let is_online = f64::from(u8::from(state.is_online(one.id)));
        let labels = [id.as_str(), one.given_name.as_str()];
        let addresses: Vec<String> =
            one.ipv4.map(|ip| ip.to_string()).into_iter().chain(one.ipv6.map(|ip| ip.to_string())).collect();
        let tags = one.tags.iter().cloned().collect::<Vec<_>>().join(",");
        let all = [
            id.as_str(),
            &one.given_name,
            &one.hostname,
            &user,
            &one.hostinfo.os,
            &one.hostinfo.ipn_version,
            &addresses.join(","),
            &tags,
            if one.ephemeral { "true" } else { "false" },
        ];
        info.with_label_values(&all).set(1.0);
        online.with_label_values(&labels).set(is_online);
        if let Some(at) = state.presence(one.id).and_then(|presence| presence.last_seen) {
            seen.with_label_values(&labels).set(at.0 as f64 / 1e3);
        }
        if let Some(at) = one.expiry {
            expiry.with_label_values(&labels).set(at.0 as f64 / 1e3);
        }
        approved.with_label_values(&labels).set(one.approved_routes.len() as f64);
        available.with_label_values(&labels).set(one.hostinfo.routable_ips.len() as f64);
        serving.with_label_values(&labels).set(primary.get(&one.id).copied().unwrap_or_default().into());
        up.with_label_values(&[one.given_name.as_str(), &user, stage(one)]).set(is_online);
    }
    Ok(observe::render(&registry))
}

fn owner(state: &State, node: &Node) -> String {
    match node.is_tagged() {
        true => "tagged-devices".to_owned(),
        false => node.user.and_then(|id| state.user(id)).map(|user| user.name.clone()).unwrap_or_default(),
    }
}

/// `prod` of `tag:prod` or `tag:env-prod`; empty where no tag says it.
fn stage(node: &Node) -> &str {
    let names = node.tags.iter().filter_map(|tag| tag.strip_prefix("tag:"));
    let mut stages = names.filter_map(|name| match name.strip_prefix("env-") {
        Some(stage) => Some(stage),
        None => STAGES.contains(&name).then_some(name),
    });
    stages.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use state_machine::*;

    use super::*;

    #[test]
    fn each_node_has_its_series() {
        let mut state = State::default();
        let member = Member { id: MemberId(1), name: "hs1".into(), feature_level: FEATURE_LEVEL, ..Member::default() };
        let key = PreAuthKey {
            prefix: "k".repeat(12),
            tags: ["tag:env-prod".to_owned(), "tag:web".to_owned()].into(),
            ..PreAuthKey::default()
        };
        let client = Registration {
            machine_key: tailcfg::MachineKey([1; 32]),
            node_key: tailcfg::NodeKey([1; 32]),
            hostname: "web".into(),
            ..Registration::default()
        };
        let here = PresenceChange { node: NodeId(1), session: SessionId(1), here: true };
        let commands = [
            Command::Found { cluster_id: "c".into(), member, settings: Settings::default(), secrets: vec![] },
            Command::CreatePreAuthKey { key },
            Command::RegisterWithKey { client, prefix: "k".repeat(12), secret_sha256: [0; 32] },
            Command::Presence { member: MemberId(1), changes: vec![here] },
            Command::SetNodeExpiry { node: NodeId(1), expiry: Some(Timestamp(1_900_000_000_000)) },
        ];
        for (index, command) in commands.into_iter().enumerate() {
            let stamp = Stamp { at: Timestamp(1_800_000_000_000), revision: Revision(index as u64 + 1) };
            state.apply(stamp, command).unwrap();
        }
        let text = render(&state).unwrap();
        for line in [
            "tailscale_up{env=\"prod\",hostname=\"web\",user=\"tagged-devices\"} 1",
            "headscale_nodes_online{id=\"1\",name=\"web\"} 1",
            "headscale_nodes_expiry_timestamp{id=\"1\",name=\"web\"} 1900000000",
            "headscale_nodes_last_seen_timestamp{id=\"1\",name=\"web\"} 1800000000",
            "headscale_nodes_available_routes{id=\"1\",name=\"web\"} 0",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
    }
}
