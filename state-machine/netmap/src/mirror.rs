//! What a client remembers of the frames it was sent.
//!
//! Strict where Go and Rust clients differ: a frame that one of them would refuse, or that they would understand
//! differently, is an error. For tests and simulated clients.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::contract::{self, Violation};

/// A client's memory of its map.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    node: Option<Value>,
    peers: BTreeMap<u64, Value>,
    profiles: BTreeMap<u64, Value>,
    filters: BTreeMap<String, Value>,
    /// Pages that replace each other whole, by name.
    pages: BTreeMap<String, Value>,
    pings: Vec<Value>,
    frames: u64,
}

impl Mirror {
    /// Takes in one frame: its JSON, without length and compression. After an error the mirror is of no more use.
    pub fn apply(&mut self, frame: &[u8]) -> Result<(), Violation> {
        contract::check(frame)?;
        let pages: Map<String, Value> = serde_json::from_slice(frame).map_err(|error| wrong("frame", error))?;
        if pages.contains_key("KeepAlive") {
            self.pings.extend(pages.get("PingRequest").cloned());
            return Ok(());
        }
        if self.node.is_none() && !pages.contains_key("Node") {
            return Err(wrong("Node", "is missing in the first frame"));
        }
        self.frames += 1;
        // The order in which Go takes them in: the lists of peers first, patches last.
        if let Some(peers) = pages.get("Peers") {
            self.peers.clear();
            self.upsert(peers);
        }
        for id in list(pages.get("PeersRemoved")) {
            let id = id.as_u64().unwrap_or_default();
            self.peers.remove(&id).ok_or_else(|| wrong("PeersRemoved", format!("{id} is no peer")))?;
        }
        pages.get("PeersChanged").into_iter().for_each(|peers| self.upsert(peers));
        for patch in list(pages.get("PeersChangedPatch")) {
            self.patch(patch)?;
        }
        for profile in list(pages.get("UserProfiles")) {
            self.profiles.insert(id_of(profile, "ID"), profile.clone());
        }
        self.replace_filters(pages.get("PacketFilters"));
        for (name, page) in pages {
            match name.as_str() {
                "Node" => self.node = Some(page),
                "PingRequest" => self.pings.push(page),
                "Peers" | "PeersRemoved" | "PeersChanged" | "PeersChangedPatch" | "UserProfiles" | "PacketFilters" => {}
                "ControlTime" | "PopBrowserURL" => {}
                _ => _ = self.pages.insert(name, page),
            }
        }
        self.check_whole()
    }

    /// The node the frames were for; absent before the first.
    pub fn node(&self) -> Option<&Value> {
        self.node.as_ref()
    }

    /// Peers by id.
    pub fn peers(&self) -> &BTreeMap<u64, Value> {
        &self.peers
    }

    /// One peer by the first label of its name.
    pub fn peer_named(&self, label: &str) -> Option<&Value> {
        let is_it = |peer: &&Value| peer["Name"].as_str().and_then(|name| name.split('.').next()) == Some(label);
        self.peers.values().find(is_it)
    }

    /// A page that is sent whole: `DERPMap`, `DNSConfig`, `Domain`, `SSHPolicy`, ….
    pub fn page(&self, name: &str) -> Option<&Value> {
        self.pages.get(name)
    }

    /// Named packet filters.
    pub fn filters(&self) -> &BTreeMap<String, Value> {
        &self.filters
    }

    /// Profiles of users by id.
    pub fn profiles(&self) -> &BTreeMap<u64, Value> {
        &self.profiles
    }

    /// Takes the pings that arrived since the last call.
    pub fn take_pings(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.pings)
    }

    /// How many frames changed it; keep-alives do not count.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// All that counts, in one form for one content, so that two mirrors can be compared. Leaves out what the protocol
    /// cannot take back and clients do not look at: when an online peer was last seen, profiles of nobody, orders that
    /// were given once (`Debug`, `DefaultAutoUpdate`), and what the node said of itself.
    pub fn picture(&self) -> Value {
        let mut node = self.node.clone().unwrap_or_default();
        for own in ["Cap", "DiscoKey", "Endpoints", "HomeDERP", "Hostinfo", "LastSeen", "Online"] {
            node.as_object_mut().and_then(|node| node.remove(own));
        }
        let owners: BTreeSet<u64> = self.owners().collect();
        let mut pages = self.pages.clone();
        pages.remove("Debug");
        pages.remove("DefaultAutoUpdate");
        json!({
            "Node": node,
            "Peers": self.peers.iter().map(|(id, peer)| (id.to_string(), normal(peer))).collect::<Map<_, _>>(),
            "UserProfiles": self.profiles.iter().filter(|(id, _)| owners.contains(id)).map(|(_, it)| it).collect::<Vec<_>>(),
            "PacketFilters": self.filters,
            "Pages": pages,
        })
    }

    fn upsert(&mut self, peers: &Value) {
        for peer in list(Some(peers)) {
            self.peers.insert(id_of(peer, "ID"), peer.clone());
        }
    }

    fn patch(&mut self, patch: &Value) -> Result<(), Violation> {
        let id = id_of(patch, "NodeID");
        let peer = self.peers.get_mut(&id).and_then(Value::as_object_mut);
        let peer = peer.ok_or_else(|| wrong("PeersChangedPatch", format!("{id} is no peer")))?;
        for (name, value) in patch.as_object().into_iter().flatten() {
            let field = match name.as_str() {
                "NodeID" => continue,
                "DERPRegion" => "HomeDERP",
                other => other,
            };
            peer.insert(field.to_owned(), value.clone());
        }
        Ok(())
    }

    fn replace_filters(&mut self, filters: Option<&Value>) {
        let Some(filters) = filters.and_then(Value::as_object) else { return };
        if filters.get("*").is_some_and(Value::is_null) {
            self.filters.clear();
        }
        for (name, rules) in filters.iter().filter(|(name, _)| *name != "*") {
            if rules.is_null() {
                self.filters.remove(name);
            } else {
                self.filters.insert(name.clone(), rules.clone());
            }
        }
    }

    /// What must hold between frames.
    fn check_whole(&self) -> Result<(), Violation> {
        let own = self.node.as_ref().map(|node| id_of(node, "ID")).unwrap_or_default();
        if self.peers.contains_key(&own) {
            return Err(wrong("Peers", "hold the node itself"));
        }
        match self.owners().find(|owner| !self.profiles.contains_key(owner)) {
            Some(owner) => Err(wrong("UserProfiles", format!("lack {owner}, who owns a node"))),
            None => Ok(()),
        }
    }

    fn owners(&self) -> impl Iterator<Item = u64> + '_ {
        self.node.iter().chain(self.peers.values()).map(|node| id_of(node, "User"))
    }
}

fn normal(peer: &Value) -> Value {
    let mut peer = peer.clone();
    if peer["Online"] == Value::Bool(true) {
        peer.as_object_mut().and_then(|peer| peer.remove("LastSeen"));
    }
    peer
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn id_of(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_default()
}

fn wrong(at: &str, why: impl std::fmt::Display) -> Violation {
    Violation { at: at.to_owned(), why: why.to_string() }
}
