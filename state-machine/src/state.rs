//! The whole truth of a tailnet at one revision: tables and their indexes.
//!
//! Tables are persistent maps with shared rows: a clone costs about a microsecond and two states are compared in time
//! proportional to what differs. Reading is here, changing a row is in `tables.rs`, and nothing else may change one.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tailcfg::{MachineKey, NodeKey};

use crate::{indexes::Indexes, model::*, outcome::Answer};

/// The tables, and what can be derived from them. The default is the state before the first command.
#[derive(Clone)]
pub struct State {
    pub(crate) tables: Tables,
    pub(crate) indexes: Indexes,
}

impl Default for State {
    fn default() -> State {
        State::of(Tables::default())
    }
}

/// What is written to disk and into snapshots: nothing else is true.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Tables {
    pub clock: Clock,
    pub cluster: Arc<ClusterFacts>,
    pub settings: Arc<Settings>,
    pub users: OrdMap<UserId, Arc<User>>,
    pub nodes: OrdMap<NodeId, Arc<Node>>,
    pub presences: OrdMap<NodeId, Arc<Presence>>,
    pub pre_auth_keys: OrdMap<PreAuthKeyId, Arc<PreAuthKey>>,
    pub api_keys: OrdMap<ApiKeyId, Arc<ApiKey>>,
    pub logins: OrdMap<LoginId, Arc<Login>>,
    pub policies: OrdMap<u64, Arc<PolicyVersion>>,
    pub members: OrdMap<MemberId, Arc<Member>>,
    pub join_tokens: OrdMap<String, Arc<JoinToken>>,
    pub secrets: OrdMap<String, Arc<SealedSecret>>,
    pub derp_regions: OrdMap<u32, Arc<DerpRegion>>,
    pub primaries: OrdMap<IpNet, NodeId>,
    pub requests: OrdMap<RequestId, Arc<Remembered>>,
    pub ssh_checks: OrdMap<String, Arc<SshCheck>>,
    pub authorities: OrdMap<u64, Arc<Authority>>,
    pub certificates: OrdMap<String, Arc<ManagedCertificate>>,
    pub sign_ins: OrdMap<String, Arc<SignIn>>,
    pub audit: OrdMap<u64, Arc<AuditRow>>,
    pub webhooks: OrdMap<String, Arc<Webhook>>,
    pub text_records: OrdMap<String, Arc<TextRecord>>,
}

/// Where in the log and in time a state stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Clock {
    pub revision: Revision,
    /// The latest time a command brought; never goes back.
    pub now: Timestamp,
}

/// What belongs to the cluster as such, and the counters behind ids. Counters hold the last number given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ClusterFacts {
    /// Empty before the cluster is founded.
    pub id: String,
    pub feature_level: u32,
    pub last_user: u64,
    pub last_node: u64,
    pub last_pre_auth_key: u64,
    pub last_api_key: u64,
    pub last_policy: u64,
    /// The last DERP region given to a member.
    pub last_region: u32,
    /// The last address given in order; the next search starts behind it.
    pub last_ipv4: Option<Ipv4Addr>,
    pub last_ipv6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_confirmed: Option<RecoveryConfirmed>,
}

/// Regions up to here are for relays that are not ours.
pub(crate) const REGION_BEFORE_FIRST: u32 = 900;

impl Default for ClusterFacts {
    fn default() -> ClusterFacts {
        ClusterFacts {
            id: String::new(),
            feature_level: 0,
            last_user: 0,
            last_node: 0,
            last_pre_auth_key: 0,
            last_api_key: 0,
            last_policy: 0,
            last_region: REGION_BEFORE_FIRST,
            last_ipv4: None,
            last_ipv6: None,
            recovery_confirmed: None,
        }
    }
}

/// The answer to a request, for a proposer that asks again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub revision: Revision,
    pub at: Timestamp,
    pub answer: Answer,
}

impl State {
    pub(crate) fn of(tables: Tables) -> State {
        State { indexes: Indexes::build(&tables), tables }
    }

    /// The log position this state reflects.
    pub fn revision(&self) -> Revision {
        self.tables.clock.revision
    }

    /// Log time of the last command.
    pub fn now(&self) -> Timestamp {
        self.tables.clock.now
    }

    /// The cluster's name for itself, unique in the world; empty before it is founded.
    pub fn cluster_id(&self) -> &str {
        &self.tables.cluster.id
    }

    /// Whether the first command has been applied.
    pub fn is_founded(&self) -> bool {
        !self.tables.cluster.id.is_empty()
    }

    /// The behaviour every active member can apply; only ever rises.
    pub fn feature_level(&self) -> u32 {
        self.tables.cluster.feature_level
    }

    /// What all members share.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.tables.settings
    }

    pub fn users(&self) -> &OrdMap<UserId, Arc<User>> {
        &self.tables.users
    }

    pub fn user(&self, id: UserId) -> Option<&Arc<User>> {
        self.tables.users.get(&id)
    }

    pub fn user_by_name(&self, name: &str) -> Option<&Arc<User>> {
        self.user(*self.indexes.users_by_name.get(name)?)
    }

    /// The user with this identity at a login provider (`issuer/subject`).
    pub fn user_by_provider_id(&self, provider_id: &str) -> Option<&Arc<User>> {
        let from = (provider_id.to_owned(), UserId(0));
        let ((found, id), ()) = self.indexes.users_by_provider_id.range(from..).next()?;
        self.user(*id).filter(|_| found == provider_id)
    }

    /// Nodes this user registered or owns, tagged ones included.
    pub fn nodes_of_user(&self, user: UserId) -> impl Iterator<Item = &Arc<Node>> {
        let range = (user, NodeId(0))..=(user, NodeId(u64::MAX));
        self.indexes.nodes_by_user.range(range).filter_map(|((_, node), ())| self.node(*node))
    }

    pub fn nodes(&self) -> &OrdMap<NodeId, Arc<Node>> {
        &self.tables.nodes
    }

    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.tables.nodes.get(&id)
    }

    pub fn node_by_key(&self, key: &NodeKey) -> Option<&Arc<Node>> {
        self.node(*self.indexes.nodes_by_key.get(key)?)
    }

    /// The nodes of one installation: one for each owner that logged in on it. Ordered by id.
    pub fn nodes_of_machine(&self, key: &MachineKey) -> Vec<Arc<Node>> {
        let range = (*key, NodeId(0))..=(*key, NodeId(u64::MAX));
        let ids = self.indexes.nodes_by_machine.range(range);
        ids.filter_map(|((_, node), ())| self.node(*node).cloned()).collect()
    }

    pub fn node_by_name(&self, given_name: &str) -> Option<&Arc<Node>> {
        self.node(*self.indexes.nodes_by_name.get(given_name)?)
    }

    pub fn node_by_ipv4(&self, address: Ipv4Addr) -> Option<&Arc<Node>> {
        self.node(*self.indexes.nodes_by_ipv4.get(&address)?)
    }

    pub fn node_by_ipv6(&self, address: Ipv6Addr) -> Option<&Arc<Node>> {
        self.node(*self.indexes.nodes_by_ipv6.get(&address)?)
    }

    /// Nodes whose key has expired at [`State::now`], with the moment it did. Compare two states' tables to learn
    /// which nodes expired in between: the node rows do not change when time passes.
    pub fn expired(&self) -> &OrdMap<NodeId, Timestamp> {
        &self.indexes.expired
    }

    /// Whether the node's key has expired at [`State::now`].
    pub fn is_expired(&self, id: NodeId) -> bool {
        self.indexes.expired.contains_key(&id)
    }

    pub fn presences(&self) -> &OrdMap<NodeId, Arc<Presence>> {
        &self.tables.presences
    }

    pub fn presence(&self, id: NodeId) -> Option<&Arc<Presence>> {
        self.tables.presences.get(&id)
    }

    /// What peers are told.
    pub fn is_online(&self, id: NodeId) -> bool {
        self.presence(id).is_some_and(|presence| presence.online)
    }

    pub fn pre_auth_keys(&self) -> &OrdMap<PreAuthKeyId, Arc<PreAuthKey>> {
        &self.tables.pre_auth_keys
    }

    pub fn pre_auth_key(&self, id: PreAuthKeyId) -> Option<&Arc<PreAuthKey>> {
        self.tables.pre_auth_keys.get(&id)
    }

    pub fn pre_auth_key_by_prefix(&self, prefix: &str) -> Option<&Arc<PreAuthKey>> {
        self.pre_auth_key(*self.indexes.pre_auth_keys_by_prefix.get(prefix)?)
    }

    pub fn api_keys(&self) -> &OrdMap<ApiKeyId, Arc<ApiKey>> {
        &self.tables.api_keys
    }

    pub fn api_key_by_prefix(&self, prefix: &str) -> Option<&Arc<ApiKey>> {
        self.tables.api_keys.get(self.indexes.api_keys_by_prefix.get(prefix)?)
    }

    pub fn logins(&self) -> &OrdMap<LoginId, Arc<Login>> {
        &self.tables.logins
    }

    pub fn login(&self, id: &LoginId) -> Option<&Arc<Login>> {
        self.tables.logins.get(id)
    }

    /// The policy in force; absent while none was ever set.
    pub fn policy(&self) -> Option<&Arc<PolicyVersion>> {
        self.tables.policies.get_max().map(|(_, version)| version)
    }

    /// The last hundred policies by number.
    pub fn policy_history(&self) -> &OrdMap<u64, Arc<PolicyVersion>> {
        &self.tables.policies
    }

    pub fn ssh_checks(&self) -> &OrdMap<String, Arc<SshCheck>> {
        &self.tables.ssh_checks
    }

    pub fn ssh_check(&self, id: &str) -> Option<&Arc<SshCheck>> {
        self.tables.ssh_checks.get(id)
    }

    /// All checks of connections from one node to another.
    pub fn ssh_checks_of(&self, source: NodeId, target: NodeId) -> impl Iterator<Item = &Arc<SshCheck>> {
        let from = (source, target, String::new());
        let checks = self.indexes.ssh_checks_by_pair.range(from..);
        let of_pair = checks.take_while(move |((from, to, _), ())| (*from, *to) == (source, target));
        of_pair.filter_map(|((_, _, id), ())| self.ssh_check(id))
    }

    /// The newest moment somebody approved connections from one node to another. How long it counts is the policy's
    /// to say.
    pub fn ssh_approved_at(&self, source: NodeId, target: NodeId) -> Option<Timestamp> {
        self.ssh_checks_of(source, target).filter_map(|check| check.approved_at()).max()
    }

    pub fn sign_ins(&self) -> &OrdMap<String, Arc<SignIn>> {
        &self.tables.sign_ins
    }

    /// By the hash of its `state`.
    pub fn sign_in(&self, id: &str) -> Option<&Arc<SignIn>> {
        self.tables.sign_ins.get(id)
    }

    /// The latest changes, by number; bounded by the settings.
    pub fn audit_log(&self) -> &OrdMap<u64, Arc<AuditRow>> {
        &self.tables.audit
    }

    /// Whoever outside is told what changes, by id.
    pub fn webhooks(&self) -> &OrdMap<String, Arc<Webhook>> {
        &self.tables.webhooks
    }

    /// What nodes set to prove their names, by [`TextRecord::key`]; also what has ended and a DNS server may still know.
    pub fn text_records(&self) -> &OrdMap<String, Arc<TextRecord>> {
        &self.tables.text_records
    }

    /// Every member there ever was; removed ones keep their row.
    pub fn members(&self) -> &OrdMap<MemberId, Arc<Member>> {
        &self.tables.members
    }

    pub fn member(&self, id: MemberId) -> Option<&Arc<Member>> {
        self.tables.members.get(&id)
    }

    pub fn join_tokens(&self) -> &OrdMap<String, Arc<JoinToken>> {
        &self.tables.join_tokens
    }

    pub fn join_token(&self, id: &str) -> Option<&Arc<JoinToken>> {
        self.tables.join_tokens.get(id)
    }

    pub fn secrets(&self) -> &OrdMap<String, Arc<SealedSecret>> {
        &self.tables.secrets
    }

    /// The authorities whose certificates members take; none before the first rotation (see [`Authority`]).
    pub fn authorities(&self) -> &OrdMap<u64, Arc<Authority>> {
        &self.tables.authorities
    }

    /// Certificates for clients that the cluster fetches itself, by name.
    pub fn certificates(&self) -> &OrdMap<String, Arc<ManagedCertificate>> {
        &self.tables.certificates
    }

    /// Regions of relays that are not ours.
    pub fn derp_regions(&self) -> &OrdMap<u32, Arc<DerpRegion>> {
        &self.tables.derp_regions
    }

    /// Which node serves an approved, advertised subnet route now. Exit routes have no primary.
    pub fn primaries(&self) -> &OrdMap<IpNet, NodeId> {
        &self.tables.primaries
    }
}

impl std::fmt::Debug for State {
    /// A summary: a state may hold tens of thousands of rows.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("revision", &self.revision())
            .field("now", &self.now())
            .field("cluster_id", &self.cluster_id())
            .field("users", &self.users().len())
            .field("nodes", &self.nodes().len())
            .finish_non_exhaustive()
    }
}
