//! Random policies and tailnets, the same for the same seed.
#![allow(dead_code, reason = "each test uses its own part")]

use std::sync::Arc;

use policy::{Node, Role, Tailnet, User};
use serde_json::{Map, Value, json};

pub struct Dice(u64);

const TAGS: [&str; 4] = ["tag:web", "tag:db", "tag:router", "tag:exit"];
const ROUTES: [&str; 5] = ["10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "192.168.1.0/24", "fd00:1::/64"];

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// xorshift64*
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize]
    }

    fn some<T: Copy>(&mut self, of: &[T], most: u64) -> Vec<T> {
        let count = 1 + self.roll(most);
        (0..count).map(|_| self.one(of)).collect()
    }

    pub fn tailnet(&mut self) -> Tailnet {
        let mut tailnet = Tailnet::default();
        for id in 1..=3 + self.roll(3) {
            tailnet.users.insert(id, Arc::new(self.user(id)));
        }
        for id in 1..=2 + self.roll(14) {
            let node = self.node(id, &tailnet);
            put(&mut tailnet, node);
        }
        tailnet
    }

    pub fn user(&mut self, id: u64) -> User {
        let domain = self.one(&["example.com", "example.com", "example.org"]);
        let email = if self.roll(5) == 0 { String::new() } else { format!("u{id}@{domain}") };
        User { id, name: format!("u{id}"), email, role: Role::Admin, ..User::default() }
    }

    pub fn node(&mut self, id: u64, tailnet: &Tailnet) -> Node {
        let users: Vec<u64> = tailnet.users.keys().copied().collect();
        let mut tags: Vec<String> = match self.roll(5) {
            0 | 1 => self.some(&TAGS, 2).into_iter().map(str::to_owned).collect(),
            _ => vec![],
        };
        tags.sort();
        tags.dedup();
        let mut routes: Vec<ipnet::IpNet> = match self.roll(4) {
            0 => self.some(&ROUTES, 3).into_iter().map(|route| route.parse().unwrap()).collect(),
            _ => vec![],
        };
        if self.roll(8) == 0 {
            routes.extend(["0.0.0.0/0", "::/0"].map(|route| route.parse::<ipnet::IpNet>().unwrap()));
        }
        routes.sort();
        routes.dedup();
        let user = Some(self.one(&users)).filter(|_| tags.is_empty());
        let low = id as u16;
        Node {
            id,
            user,
            tags,
            ipv4: Some(std::net::Ipv4Addr::from_bits(0x6440_0000 + u32::from(low))),
            ipv6: Some(std::net::Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, low)),
            online: routes.is_empty() || self.roll(4) > 0,
            routes,
        }
    }

    fn source(&mut self) -> String {
        match self.roll(12) {
            0 => "*".into(),
            1 => "autogroup:member".into(),
            2 => "autogroup:tagged".into(),
            3 | 4 => self.one(&TAGS).into(),
            5 | 6 => self.one(&["group:a", "group:b", "group:none"]).into(),
            7 | 8 => self.person(),
            9 => self.one(&["office", "box", "fd7a:115c:a1e0::3"]).into(),
            10 => self.one(&["10.1.0.0/16", "100.64.0.2", "100.64.0.0/30", "192.168.1.7"]).into(),
            _ => self.one(&["autogroup:danger-all", "autogroup:member"]).into(),
        }
    }

    fn person(&mut self) -> String {
        self.one(&["u1@", "u2@", "u3@example.com", "u1@example.com", "u2@example.org", "nobody@"]).into()
    }

    fn target(&mut self) -> String {
        match self.roll(12) {
            0 => "*".into(),
            1 => "autogroup:internet".into(),
            2 => self.one(&["8.8.8.0/24", "2001:db8::1"]).into(),
            3 => self.one(&["10.0.0.0/8", "10.1.2.3", "192.168.0.0/16", "fd00:1::/64", "100.64.0.0/29"]).into(),
            _ => match self.source().as_str() {
                "autogroup:danger-all" => "autogroup:tagged".into(),
                word => word.to_owned(),
            },
        }
    }

    fn people(&mut self) -> Vec<String> {
        (0..=self.roll(2))
            .map(|_| if self.roll(2) == 0 { self.person() } else { self.one(&["group:a", "autogroup:member"]).into() })
            .collect()
    }

    fn sources(&mut self, own: bool) -> Vec<String> {
        if own {
            return self.people();
        }
        (0..=self.roll(3)).map(|_| self.source()).collect()
    }

    fn acl(&mut self) -> Value {
        let own = self.roll(6) == 0;
        let mut dst: Vec<String> = (0..=self.roll(2)).map(|_| self.target()).collect();
        if own {
            dst.push("autogroup:self".into());
        }
        let proto = self.one(&["", "", "tcp", "udp", "icmp"]);
        let ports = if proto == "icmp" { &["*"][..] } else { &["*", "22", "80,443", "1000-2000"] };
        let dst: Vec<String> = dst.into_iter().map(|word| format!("{word}:{}", self.one(ports))).collect();
        let mut acl = json!({"action": "accept", "src": self.sources(own), "dst": dst});
        if !proto.is_empty() {
            acl["proto"] = json!(proto);
        }
        acl
    }

    fn grant(&mut self) -> Value {
        let own = self.roll(6) == 0;
        let mut dst: Vec<String> = (0..=self.roll(2)).map(|_| self.target()).collect();
        if own {
            dst.push("autogroup:self".into());
        }
        let app = self.roll(3) == 0 && !dst.iter().any(|word| word == "autogroup:internet");
        let mut grant = json!({"src": self.sources(own), "dst": dst});
        if !app || self.roll(2) == 0 {
            grant["ip"] = json!(self.some(&["*", "22", "tcp:443", "udp:53", "icmp:*", "80-90", "tcp:22"], 3));
        }
        if app {
            let mut caps = Map::new();
            for name in self.some(&["example.com/cap/x", "tailscale.com/cap/drive", "tailscale.com/cap/relay"], 2) {
                caps.insert(name.into(), json!([{"v": self.roll(3)}]));
            }
            grant["app"] = Value::Object(caps);
        } else if self.roll(3) == 0 {
            grant["via"] = json!(self.some(&["tag:router", "tag:exit"], 2));
            let leads = self.some(&["10.1.0.0/16", "10.0.0.0/8", "autogroup:internet", "192.168.1.0/24"], 2);
            grant["dst"] = json!(leads);
        }
        grant
    }

    fn shell(&mut self) -> Value {
        let users = self.some(&["root", "autogroup:nonroot", "ubuntu", "localpart:*@example.com"], 3);
        let action = self.one(&["accept", "accept", "check"]);
        let (src, dst) = match self.roll(4) {
            0 => (self.people(), vec!["autogroup:self"]),
            1 => (self.people(), vec!["autogroup:self", "tag:web"]),
            2 => (vec!["tag:web".into(), "autogroup:member".into()], vec!["tag:db", "autogroup:tagged"]),
            _ => (self.people(), self.some(&TAGS, 2)),
        };
        json!({"action": action, "src": src, "dst": dst, "users": users})
    }

    pub fn policy(&mut self) -> Value {
        let owners: Map<String, Value> = TAGS.iter().map(|tag| ((*tag).to_owned(), json!(["u1@"]))).collect();
        let mut policy = json!({
            "groups": {"group:a": ["u1@", "u2@example.com"], "group:b": ["u3@example.com", "u2@"], "group:none": []},
            "hosts": {"office": "10.1.0.0/16", "box": "100.64.0.3"},
            "tagOwners": owners,
        });
        if self.roll(4) > 0 {
            policy["acls"] = (0..self.roll(6)).map(|_| self.acl()).collect();
        }
        if self.roll(3) > 0 {
            policy["grants"] = (0..self.roll(5)).map(|_| self.grant()).collect();
        }
        if self.roll(3) > 0 {
            policy["ssh"] = (0..self.roll(4)).map(|_| self.shell()).collect();
        }
        let entry = |dice: &mut Dice| {
            let target = dice.some(&["*", "tag:web", "autogroup:member", "group:b", "u1@", "box", "10.1.0.0/16"], 2);
            json!({"target": target, "attr": dice.some(&["drive:share", "randomize-client-port", "custom:x"], 2)})
        };
        if self.roll(2) == 0 {
            policy["nodeAttrs"] = (0..self.roll(3)).map(|_| entry(self)).collect();
        }
        policy
    }
}

/// Puts a node in its place; the lowest id serves a route.
pub fn put(tailnet: &mut Tailnet, node: Node) {
    let id = node.id;
    tailnet.nodes.insert(id, Arc::new(node));
    elect(tailnet);
}

pub fn elect(tailnet: &mut Tailnet) {
    let mut primaries = imbl::OrdMap::new();
    for (id, node) in &tailnet.nodes {
        for route in node.routes.iter().filter(|route| route.prefix_len() > 0) {
            if !primaries.contains_key(route) {
                primaries.insert(*route, *id);
            }
        }
    }
    if primaries != tailnet.primaries {
        tailnet.primaries = primaries;
    }
}
