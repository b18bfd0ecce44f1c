//! A tailnet that lives by dice: a State driven by commands, the same for the same seed.
#![allow(dead_code, reason = "each test uses its own part")]

pub mod naive;
#[path = "../../../policy/tests/common/dice.rs"]
pub mod policy_dice;
#[path = "../../../policy/tests/common/naive.rs"]
pub mod policy_naive;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use netmap::Moment;
use serde_json::Value;
use state_machine::*;
use tailcfg::{DiscoKey, MachineKey, NodeKey};

pub struct Tailnet {
    pub state: State,
    pub now: Timestamp,
    revision: u64,
    dice: u64,
    counter: u64,
}

const SECRET: [u8; 32] = [9; 32];

impl Tailnet {
    pub fn new(seed: u64) -> Tailnet {
        let mut tailnet = Tailnet {
            state: State::default(),
            now: Timestamp::parse("2026-01-01T00:00:00Z").unwrap(),
            revision: 0,
            dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            counter: 0,
        };
        let settings = Settings {
            server_url: "https://hs.example.com:8443".into(),
            base_domain: "tail.example.net".into(),
            ..Settings::default()
        };
        // Half of them as young clusters are.
        let feature_level = if seed.is_multiple_of(2) { FEATURE_LEVEL } else { 0 };
        let relay = Some(relay("relay1"));
        let founder = Member { id: MemberId(1), name: "hs1".into(), relay, feature_level, ..Member::default() };
        tailnet.must(Command::Found { cluster_id: "c1".into(), member: founder, settings, secrets: vec![] });
        tailnet
    }

    pub fn latest(&self) -> Arc<State> {
        Arc::new(self.state.clone())
    }

    pub fn moment(&self) -> Moment {
        Moment { control_time: self.now }
    }

    pub fn apply(&mut self, command: Command) -> Answer {
        self.revision += 1;
        self.state.apply(Stamp { at: self.now, revision: Revision(self.revision) }, command)
    }

    pub fn must(&mut self, command: Command) -> Outcome {
        let text = format!("{command:?}");
        self.apply(command).unwrap_or_else(|refusal| panic!("{text}: {refusal}"))
    }

    pub fn wait(&mut self, span: Duration) {
        self.now = self.now.after(span);
        self.must(Command::Elapse);
    }

    pub fn user(&mut self, name: &str) -> UserId {
        match self.must(Command::CreateUser {
            name: name.into(),
            display_name: String::new(),
            email: String::new(),
            profile_pic_url: String::new(),
        }) {
            Outcome::User(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn key(&mut self, user: Option<UserId>, tags: &[&str], ephemeral: bool) -> String {
        self.counter += 1;
        let prefix = format!("key{:09}", self.counter);
        let tags = tags.iter().map(|tag| tag.to_string()).collect();
        let key = PreAuthKey {
            prefix: prefix.clone(),
            secret_sha256: SECRET,
            user,
            tags,
            ephemeral,
            reusable: true,
            ..PreAuthKey::default()
        };
        self.must(Command::CreatePreAuthKey { key });
        prefix
    }

    /// A new node with all a client usually tells.
    pub fn join(&mut self, key: &str, hostname: &str) -> NodeId {
        let machine = self.fresh();
        let id = self.register(key, hostname, machine);
        let node = self.state.node(id).unwrap().clone();
        let number = id.0;
        let report = Report {
            node: id,
            node_key: node.node_key,
            disco_key: Some(DiscoKey(bytes(number ^ 0xd15c0))),
            endpoints: Some(vec![endpoint(number, 41641), endpoint(number ^ 7, 41642)]),
            home_derp: Some(901),
            ..Report::default()
        };
        self.must(Command::Report { reports: vec![report] });
        id
    }

    pub fn register(&mut self, key: &str, hostname: &str, machine: u64) -> NodeId {
        let client = Registration {
            machine_key: MachineKey(bytes(machine)),
            node_key: NodeKey(bytes(self.fresh())),
            hostname: hostname.into(),
            hostinfo: hostinfo(hostname, &[]),
            capability_version: 131,
            ..Registration::default()
        };
        match self.must(Command::RegisterWithKey { client, prefix: key.into(), secret_sha256: SECRET }) {
            Outcome::Registered(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn fresh(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub fn report(&mut self, node: NodeId, change: impl FnOnce(&mut Report)) {
        let node_key = self.state.node(node).unwrap().node_key;
        let mut report = Report { node, node_key, ..Report::default() };
        change(&mut report);
        self.must(Command::Report { reports: vec![report] });
    }

    pub fn presence(&mut self, node: NodeId, session: u64, here: bool) {
        let change = PresenceChange { node, session: SessionId(session), here };
        self.must(Command::Presence { member: MemberId(1), changes: vec![change] });
    }

    /// xorshift64*
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        (self.dice.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    pub fn some_node(&mut self) -> Option<NodeId> {
        let nodes: Vec<NodeId> = self.state.nodes().keys().copied().collect();
        if nodes.is_empty() { None } else { Some(nodes[self.roll(nodes.len() as u64) as usize]) }
    }

    fn some_user(&mut self) -> Option<UserId> {
        let users: Vec<UserId> = self.state.users().keys().copied().collect();
        if users.is_empty() { None } else { Some(users[self.roll(users.len() as u64) as usize]) }
    }

    /// One random thing happens; refusals are fine.
    pub fn live(&mut self) {
        let Some(user) = self.some_user() else {
            self.user("first");
            return;
        };
        let Some(node) = self.some_node() else {
            let key = self.key(Some(user), &[], false);
            self.join(&key, "first");
            return;
        };
        let row = self.state.node(node).unwrap().clone();
        let fresh = self.fresh();
        match self.roll(34) {
            0 => {
                let command = Command::CreateUser {
                    name: [format!("u{}", fresh % 4), format!("user{fresh}")][self.roll(2) as usize].clone(),
                    display_name: ["", "Ann \"Q\" \\ Public", "名字"][self.roll(3) as usize].into(),
                    email: [String::new(), format!("u{}@example.com", fresh % 4)][self.roll(2) as usize].clone(),
                    profile_pic_url: ["", "https://example.com/a.png", "not a url"][self.roll(3) as usize].into(),
                };
                let _ = self.apply(command);
            }
            1 => _ = self.apply(Command::RenameUser { user, name: format!("renamed{fresh}") }),
            2 => _ = self.apply(Command::DeleteUser { user }),
            3 | 4 => {
                let key = self.key(Some(user), &[], false);
                self.join(&key, ["laptop", "Bob's \"phone\"", "名"][fresh as usize % 3]);
            }
            5 => {
                let tags: [&[&str]; 3] = [&["tag:ci", "tag:prod"], &["tag:db", "tag:web"], &["tag:exit", "tag:router"]];
                let tags = tags[self.roll(3) as usize];
                let key = self.key(None, tags, fresh.is_multiple_of(2));
                self.join(&key, "runner");
            }
            6 => {
                // The same machine again, with a new node key.
                let key = self.key(row.user, if row.is_tagged() { &["tag:ci"] } else { &[] }, false);
                let client = Registration {
                    machine_key: row.machine_key,
                    node_key: NodeKey(bytes(fresh)),
                    hostname: row.hostname.clone(),
                    hostinfo: row.hostinfo.clone(),
                    capability_version: 131,
                    ..Registration::default()
                };
                let _ = self.apply(Command::RegisterWithKey { client, prefix: key, secret_sha256: SECRET });
            }
            7 => _ = self.apply(Command::Logout { machine_key: row.machine_key, node_key: row.node_key }),
            8 | 9 => {
                let expiry = match self.roll(4) {
                    0 => None,
                    1 => Some(self.now),
                    _ => Some(self.now.after(Duration::from_secs(self.roll(600)))),
                };
                let _ = self.apply(Command::SetNodeExpiry { node, expiry });
            }
            10..=12 => {
                let endpoints = (0..self.roll(3)).map(|n| endpoint(fresh + n, 41641)).collect();
                self.report(node, |report| report.endpoints = Some(endpoints));
            }
            13 => self.report(node, |report| report.home_derp = Some(901 + fresh as u32 % 3)),
            14 => self.report(node, |report| report.disco_key = Some(DiscoKey(bytes(fresh)))),
            15 | 16 => {
                let routes: [&[&str]; 4] =
                    [&[], &["10.1.0.0/16"], &["10.1.0.0/16", "fd00:1::/64"], &["0.0.0.0/0", "::/0"]];
                let hostname = ["web", "db \"main\"", "x\\y"][self.roll(3) as usize];
                let hostinfo = hostinfo(hostname, routes[self.roll(4) as usize]);
                self.report(node, |report| {
                    report.hostinfo = Some(hostinfo);
                    report.hostname = Some(hostname.into());
                });
            }
            17 => self.report(node, |report| report.capability_version = Some(113 + fresh as u16 % 30)),
            18 | 19 => self.presence(node, fresh, true),
            20 => {
                if let Some(session) = self.state.presence(node).and_then(|presence| presence.session) {
                    self.presence(node, session.id.0, false);
                }
            }
            21 => {
                let seconds = self.roll(90);
                self.wait(Duration::from_secs(seconds));
            }
            22 => _ = self.apply(Command::RenameNode { node, name: format!("name{fresh}") }),
            23 if self.state.nodes().len() > 3 => _ = self.apply(Command::DeleteNode { node }),
            24 => {
                let tags: BTreeSet<String> =
                    if self.roll(2) == 0 { BTreeSet::new() } else { BTreeSet::from(["tag:web".to_owned()]) };
                let _ = self.apply(Command::SetNodeTags { node, tags });
            }
            25 => {
                let routes = ["10.1.0.0/16", "fd00:1::/64", "0.0.0.0/0"].iter().take(self.roll(4) as usize);
                let routes = routes.map(|route| route.parse().unwrap()).collect();
                let _ = self.apply(Command::ApproveRoutes { node, routes });
            }
            26 => _ = self.apply(Command::MoveNode { node, user }),
            27 => {
                let mut settings = (**self.state.settings()).clone();
                match self.roll(7) {
                    0 => settings.base_domain = ["tail.example.net", "other.example"][self.roll(2) as usize].into(),
                    1 => settings.taildrop = !settings.taildrop,
                    2 => settings.nameservers = vec!["1.1.1.1".into(), "https://dns.example.com/q".into()],
                    3 => settings.magic_dns = !settings.magic_dns,
                    // Refused below its level.
                    6 => {
                        settings.node_certificates =
                            [NodeCertificates::Off, NodeCertificates::Answered, NodeCertificates::Updated]
                                [self.roll(3) as usize];
                    }
                    4 => settings.randomize_client_port = !settings.randomize_client_port,
                    _ => {
                        settings.server_url =
                            ["https://hs.example.com", "http://[fd7a::1]:80/x"][self.roll(2) as usize].into()
                    }
                }
                let _ = self.apply(Command::ApplySettings { settings });
            }
            33 => {
                let approved = self.roll(3) > 0;
                let _ = self.apply(Command::SetNodeApproval { node, approved });
            }
            30..=32 => {
                let mut dice = policy_dice::Dice::new(fresh ^ self.dice);
                // Texts that cannot be read are another test's matter.
                let text = if dice.roll(8) == 0 { "{}".to_owned() } else { dice.policy().to_string() };
                let _ = self.apply(Command::SetPolicy { text: text.into(), author: "dice".into() });
            }
            28 => {
                let relay = (self.roll(3) > 0).then(|| relay(["relay1", "relay2"][self.roll(2) as usize]));
                let member = Member { relay, ..(**self.state.member(MemberId(1)).unwrap()).clone() };
                let _ = self.apply(Command::AnnounceMember { member });
            }
            _ => {
                let region = DerpRegion {
                    id: 910,
                    code: format!("r{}", self.roll(3)),
                    name: "A \"far\" place".into(),
                    nodes: vec![DerpNode {
                        name: "910a".into(),
                        host_name: "far.example".into(),
                        ..DerpNode::default()
                    }],
                };
                let regions = if self.roll(2) == 0 { vec![] } else { vec![region] };
                let _ = self.apply(Command::SetDerpRegions { regions });
            }
        }
    }
}

pub fn hostinfo(hostname: &str, routes: &[&str]) -> Hostinfo {
    let request = serde_json::json!({"Hostinfo": {
        "OS": "linux", "IPNVersion": "1.92.3", "Hostname": hostname, "RoutableIPs": routes, "Distro": "debian",
        "DistroVersion": "13", "GoArch": "amd64", "GoVersion": "go1.25.5", "Machine": "x86_64",
        "Services": [{"Proto": "peerapi4", "Port": 41234}, {"Proto": "peerapi6", "Port": 41234}],
        "Userspace": false, "UserspaceRouter": false, "StateEncrypted": true, "NetInfo": {"PreferredDERP": 901},
    }});
    let request: tailcfg::MapRequest = tailcfg::from_client_json(request.to_string().as_bytes()).unwrap();
    let info = request.hostinfo.unwrap();
    Hostinfo {
        raw: info.raw.into(),
        routable_ips: info.routable_ips,
        request_tags: info.request_tags,
        os: info.os,
        ipn_version: info.ipn_version,
        ssh_server: info.ssh_server,
    }
}

pub fn relay(host: &str) -> RelayFacts {
    RelayFacts {
        region_code: host.into(),
        region_name: String::new(),
        host_name: format!("{host}.example.com"),
        ipv4: "203.0.113.9".into(),
        ipv6: "none".into(),
        derp_port: 8443,
        stun_port: -1,
        can_port_80: false,
        insecure_for_tests: false,
    }
}

pub fn endpoint(number: u64, port: u16) -> Endpoint {
    let ip = std::net::Ipv4Addr::new(203, 0, (number >> 8) as u8, number as u8);
    Endpoint { addr: (ip, port).into(), kind: 2 }
}

pub fn bytes(number: u64) -> [u8; 32] {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Where two values differ first; maps are too long to print.
pub fn difference(left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let get = |map: &serde_json::Map<String, Value>, key| map.get(key).cloned().unwrap_or_default();
            keys.into_iter().find_map(|key| Some(format!(".{key}{}", difference(&get(a, key), &get(b, key))?)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(place, (a, b))| Some(format!("[{place}]{}", difference(a, b)?)))
        }
        _ if left == right => None,
        _ => Some(format!(": {left} and {right}")),
    }
}
