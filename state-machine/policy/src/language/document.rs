//! A policy as it was written, read once: every name resolved, every rule in its section.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::Value;

use super::{
    alias::{Alias, Names},
    ports::Ports,
};

/// All sections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    pub names: Names,
    /// Grants, then ACLs: the order in which nodes are told of them.
    pub rules: Vec<Rule>,
    /// Whether there is an `acls` or `grants` section at all; without one everything is allowed.
    pub restricts: bool,
    pub ssh: Vec<SshRule>,
    pub node_attributes: Vec<NodeAttributes>,
    /// `randomizeClientPort`.
    pub randomize_client_port: bool,
    /// `disableIPv4`.
    pub disable_ipv4: bool,
    pub approvers: Vec<(IpNet, Vec<Alias>)>,
    pub exit_approvers: Vec<Alias>,
    pub tests: Vec<Test>,
    pub ssh_tests: Vec<SshTest>,
}

/// An ACL or a grant.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Where it stands.
    pub at: u32,
    pub section: Section,
    /// Its place in its section, from 0.
    pub index: usize,
    pub sources: Vec<Alias>,
    pub targets: Vec<Target>,
    /// What passes; a grant may have several protocols.
    pub traffic: Vec<Traffic>,
    /// Capability → values.
    pub app: BTreeMap<String, Vec<Value>>,
    /// Tags of the routers that lead there; empty = any.
    pub via: Vec<String>,
}

/// Where rules stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    Grants,
    Acls,
}

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub alias: Alias,
    /// Of an ACL; a grant has its ports in [`Rule::traffic`].
    pub ports: Vec<Ports>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// `None` is the default set.
    pub protocol: Option<u8>,
    /// Of a grant.
    pub ports: Vec<Ports>,
}

#[derive(Clone, Debug)]
pub(crate) struct SshRule {
    pub at: u32,
    pub check: bool,
    pub check_period: CheckPeriod,
    pub sources: Vec<Alias>,
    pub targets: Vec<Alias>,
    pub users: Vec<SshUser>,
    pub accept_env: Vec<String>,
    /// Tags of session recorders.
    pub recorders: Vec<String>,
    pub enforce_recorder: bool,
}

/// How long a check holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckPeriod {
    /// Every connection is checked.
    Always,
    Secs(u64),
}

impl Default for CheckPeriod {
    /// Twelve hours: Tailscale's documentation of `checkPeriod`.
    fn default() -> CheckPeriod {
        CheckPeriod::Secs(12 * 3600)
    }
}

/// Whose shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SshUser {
    Name(String),
    /// `autogroup:nonroot`.
    NonRoot,
    /// `localpart:*@domain`: each user as what stands before the `@`.
    LocalPart(String),
}

#[derive(Clone, Debug)]
pub(crate) struct NodeAttributes {
    pub targets: Vec<Alias>,
    pub attributes: Vec<String>,
    /// Capability → values.
    pub app: BTreeMap<String, Vec<Value>>,
    /// Where addresses of the targets come from.
    pub pools: Vec<IpNet>,
}

/// One of the policy's own tests. What it names is looked up when it runs: a name that does not exist is a failed test.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub at: u32,
    pub index: usize,
    pub source: String,
    pub protocol: String,
    pub accept: Vec<String>,
    pub deny: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct SshTest {
    pub at: u32,
    pub index: usize,
    pub source: String,
    pub targets: Vec<Alias>,
    pub accept: Vec<String>,
    pub deny: Vec<String>,
    pub check: Vec<String>,
}
