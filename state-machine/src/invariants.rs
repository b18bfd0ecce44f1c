//! What must hold after every command. Every bug leaves a line here.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    indexes::Indexes,
    model::*,
    names, primaries,
    state::{REGION_BEFORE_FIRST, State, Tables},
};

impl State {
    /// Asserts the invariants; for tests and simulations. Looks at every row.
    pub fn check(&self) {
        let tables = &self.tables;
        assert!(self.indexes == Indexes::build(tables), "indexes agree with the tables");
        check_cluster(tables);
        check_users(tables);
        check_keys(tables);
        tables.nodes.iter().for_each(|(id, node)| check_node(tables, *id, node));
        check_uniqueness(tables);
        check_presences(tables);
        check_primaries(self);
        check_logins(tables);
        check_requests(tables);
        check_ssh_checks(tables);
        check_certificates(tables);
        check_sign_ins(tables);
        check_audit(tables);
        check_webhooks(tables);
        check_text_records(tables);
        if let Some((at, why)) = self.next_deadline() {
            assert!(at > Timestamp(0), "a deadline ({why}) lies after the epoch");
        }
    }
}

fn check_cluster(tables: &Tables) {
    let facts = &tables.cluster;
    assert_eq!(facts.id.is_empty(), tables.members.is_empty(), "a founded cluster has members");
    let (mut names, mut regions) = (BTreeSet::new(), BTreeSet::new());
    for (id, member) in &tables.members {
        assert_eq!(*id, member.id, "a member stands under its id");
        assert!(regions.insert(member.region_id), "region {} is one member's", member.region_id);
        let range = REGION_BEFORE_FIRST + 1..=facts.last_region;
        assert!(range.contains(&member.region_id), "region {} was counted", member.region_id);
        assert!(!tables.derp_regions.contains_key(&member.region_id), "region {} is not foreign", member.region_id);
        if member.state == MemberState::Active {
            assert!(names.insert(&member.name), "name {:?} is one active member's", member.name);
            assert!(member.feature_level >= facts.feature_level, "member {id} can apply what the cluster does");
        }
    }
    assert!(tables.members.is_empty() || !names.is_empty(), "somebody is active");
    for (id, token) in &tables.join_tokens {
        assert_eq!(*id, token.id, "a token stands under its id");
        assert!(token.used <= token.uses, "token {id} let in no more than it may");
        assert!(token.used_by.is_none_or(|member| tables.members.contains_key(&member)), "token {id} let a member in");
    }
    for number in tables.policies.keys() {
        assert!(*number >= 1 && *number <= facts.last_policy, "policy {number} was counted");
    }
    assert!(tables.policies.len() <= 100, "the history of policies is bounded");
}

fn check_users(tables: &Tables) {
    let mut names = BTreeSet::new();
    for (id, user) in &tables.users {
        assert_eq!(*id, user.id, "a user stands under its id");
        assert!(id.0 >= 1 && id.0 <= tables.cluster.last_user, "user {id} was counted");
        assert!(names.insert(&user.name), "name {:?} is one user's", user.name);
        assert!(user.ranges.iter().all(|range| *range == range.trunc()), "ranges of user {id} are masked");
    }
}

fn check_keys(tables: &Tables) {
    let mut prefixes = BTreeSet::new();
    for (id, key) in &tables.pre_auth_keys {
        assert_eq!(*id, key.id, "a key stands under its id");
        assert!(id.0 >= 1 && id.0 <= tables.cluster.last_pre_auth_key, "pre-auth key {id} was counted");
        assert!(prefixes.insert(&key.prefix), "prefix {:?} is one key's", key.prefix);
        assert!(key.user.is_some() || !key.tags.is_empty(), "key {id} makes nodes that are somebody's");
        assert!(key.user.is_none_or(|user| tables.users.contains_key(&user)), "key {id} has a known user");
        let nodes = tables.nodes.values().filter(|node| node.pre_auth_key == Some(*id)).count();
        assert!(key.used || nodes == 0, "key {id} let {nodes} nodes in and is marked used");
        assert!(key.reusable || nodes <= 1, "one-use key {id} let {nodes} nodes in");
    }
    let mut prefixes = BTreeSet::new();
    for (id, key) in &tables.api_keys {
        assert_eq!(*id, key.id, "a key stands under its id");
        assert!(id.0 >= 1 && id.0 <= tables.cluster.last_api_key, "API key {id} was counted");
        assert!(prefixes.insert(&key.prefix), "prefix {:?} is one key's", key.prefix);
    }
}

fn check_node(tables: &Tables, id: NodeId, node: &Node) {
    assert_eq!(id, node.id, "a node stands under its id");
    assert!(id.0 >= 1 && id.0 <= tables.cluster.last_node, "node {id} was counted");
    assert!(!node.machine_key.is_zero() && !node.node_key.is_zero(), "node {id} has keys");
    assert!(node.ipv4.is_some() || node.ipv6.is_some(), "node {id} has an address");
    assert!(node.user.is_some() || node.is_tagged(), "node {id} is somebody's");
    assert!(node.user.is_none_or(|user| tables.users.contains_key(&user)), "node {id} has a known user");
    let key = node.pre_auth_key;
    assert!(key.is_none_or(|key| tables.pre_auth_keys.contains_key(&key)), "node {id} has a known key");
    names::check_label(&node.given_name).unwrap_or_else(|why| panic!("node {id} has a DNS label: {why}"));
    assert_eq!(
        node.approved_routes.contains(&"0.0.0.0/0".parse().expect("a prefix")),
        node.approved_routes.contains(&"::/0".parse().expect("a prefix")),
        "node {id} has both exit routes or none"
    );
    let routes = node.approved_routes.iter();
    routes.for_each(|route| assert_eq!(*route, route.trunc(), "node {id}: approved routes are masked"));
}

fn check_uniqueness(tables: &Tables) {
    let (mut keys, mut names) = (BTreeSet::new(), BTreeSet::new());
    let (mut ipv4, mut ipv6) = (BTreeSet::new(), BTreeSet::new());
    for (id, node) in &tables.nodes {
        assert!(keys.insert(node.node_key), "the node key of {id} is its own");
        assert!(names.insert(&node.given_name), "the name of {id} is its own");
        assert!(node.ipv4.is_none_or(|address| ipv4.insert(address)), "the IPv4 address of {id} is its own");
        assert!(node.ipv6.is_none_or(|address| ipv6.insert(address)), "the IPv6 address of {id} is its own");
    }
}

fn check_presences(tables: &Tables) {
    for (id, presence) in &tables.presences {
        assert!(tables.nodes.contains_key(id), "presence {id} is a node's");
        if let Some(session) = presence.session {
            assert!(presence.online && presence.offline_at.is_none(), "node {id} has a stream and is online");
            let member = tables.members.get(&session.member).expect("the session's member is known");
            assert_eq!(member.state, MemberState::Active, "the session of {id} is at an active member");
        } else {
            assert_eq!(presence.online, presence.offline_at.is_some(), "node {id} is online until its grace ends");
        }
    }
}

fn check_primaries(state: &State) {
    let tables = &state.tables;
    for (route, id) in &tables.primaries {
        let node = tables.nodes.get(id).expect("a primary is a node");
        assert!(!primaries::is_exit_route(route), "exit routes have no primary");
        assert!(primaries::subnet_routes(node).contains(route), "primary {id} of {route} offers it");
    }
    for (id, node) in &tables.nodes {
        if !state.is_online(*id) || state.is_expired(*id) {
            continue;
        }
        for route in primaries::subnet_routes(node) {
            let primary = tables.primaries.get(&route).expect("a route that somebody can serve is served");
            assert!(state.is_online(*primary) && !state.is_expired(*primary), "{route} is served by one who can");
        }
    }
}

fn check_logins(tables: &Tables) {
    assert!(tables.logins.len() <= 4_096, "logins are bounded");
    let mut waiting = BTreeSet::new();
    for (id, login) in &tables.logins {
        assert_eq!(*id, login.id, "a login stands under its id");
        if login.result == LoginResult::Waiting {
            assert!(waiting.insert((login.machine_key, login.node_key)), "one login waits for each node key");
        }
    }
}

fn check_ssh_checks(tables: &Tables) {
    assert!(tables.ssh_checks.len() <= 4_096, "SSH checks are bounded");
    for (id, check) in &tables.ssh_checks {
        assert_eq!(*id, check.id, "a check stands under its id");
        for node in [check.source, check.target] {
            assert!(tables.nodes.contains_key(&node), "check {id} is about known nodes");
        }
    }
}

fn check_certificates(tables: &Tables) {
    assert!(tables.authorities.len() <= 2, "one authority replaces one other");
    if let Some((_, newest)) = tables.authorities.get_max() {
        assert_eq!(newest.settled_at.is_none(), tables.authorities.len() == 2, "two are trusted while members move");
        assert!(newest.generation > 0 && !newest.certificate.0.is_empty(), "the founder's is never the newest");
    }
    for (name, certificate) in &tables.certificates {
        assert_eq!(*name, certificate.wish.name, "a certificate stands under its name");
        assert!(!certificate.wanted_by.is_empty(), "certificate {name} is wanted by somebody");
        for member in &certificate.wanted_by {
            let member = tables.members.get(member).expect("whoever wants a certificate is known");
            assert_eq!(member.state, MemberState::Active, "a removed member wants nothing");
        }
        let has = |secret| tables.secrets.contains_key(&secret);
        assert!(certificate.chain.is_empty() || has(ManagedCertificate::key(name)), "certificate {name} has its key");
        assert!(certificate.order.is_none() || has(ManagedCertificate::next_key(name)), "order {name} has its key");
    }
}

fn check_sign_ins(tables: &Tables) {
    assert!(tables.sign_ins.len() <= 4_096, "sign-ins are bounded");
    for (id, sign_in) in &tables.sign_ins {
        assert_eq!(*id, sign_in.id, "a sign-in stands under its id");
        assert!(sign_in.expires_at >= sign_in.created_at, "sign-in {id} ends after it began");
    }
}

fn check_webhooks(tables: &Tables) {
    assert!(tables.webhooks.len() <= 32, "webhooks are bounded");
    for (id, webhook) in &tables.webhooks {
        assert_eq!(*id, webhook.id, "a webhook stands under its id");
        assert!(tables.secrets.contains_key(&Webhook::secret(id)), "webhook {id} can sign");
        let newest = tables.audit.get_max().map_or(0, |(number, _)| *number);
        assert!(webhook.delivered <= newest, "webhook {id} was told what happened");
    }
}

fn check_text_records(tables: &Tables) {
    let mut live: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (key, record) in &tables.text_records {
        assert_eq!(*key, TextRecord::key(&record.name, &record.value), "a TXT record stands under name and value");
        assert!(record.name.starts_with(TextRecord::PREFIX) && record.value.len() == 43, "{key} proves a name");
        assert!(record.elsewhere || tables.nodes.contains_key(&record.node), "{key} is a node's");
        assert!(record.elsewhere || !record.acknowledged, "nobody acknowledges what members answer themselves");
        if record.ends_at > tables.clock.now {
            assert!(tables.nodes.contains_key(&record.node), "what is left of a node has ended");
            let count = live.entry(record.node).or_default();
            *count += 1;
        }
    }
    assert!(live.values().all(|count| *count <= 8), "TXT records of a node are bounded");
}

/// Without gaps, and each row vouches for the one before it.
fn check_audit(tables: &Tables) {
    assert!(tables.audit.len() as u64 <= tables.settings.audit_rows.max(1), "the audit log is bounded");
    let mut before: Option<&AuditRow> = None;
    for (number, row) in &tables.audit {
        assert_eq!(*number, row.number, "an audit row stands under its number");
        assert!(!row.text.contains('\n'), "audit row {number} is one line");
        if let Some(before) = before {
            assert_eq!(row.number, before.number + 1, "no audit row is missing");
            assert_eq!(row.hash, AuditRow::chain(&before.hash, &row.text), "audit row {number} follows from the last");
        }
        before = Some(row);
    }
}

fn check_requests(tables: &Tables) {
    assert!(tables.requests.len() <= 16_384, "remembered requests are bounded");
    let mut revisions = BTreeSet::new();
    for remembered in tables.requests.values() {
        assert!(remembered.revision <= tables.clock.revision, "a remembered request was applied");
        assert!(revisions.insert(remembered.revision), "an entry of the log has one request id");
    }
}
