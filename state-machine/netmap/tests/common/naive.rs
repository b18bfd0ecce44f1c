//! The oracle: what a viewer should know, straight from the State, pair by pair, with nothing reused.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use state_machine::*;

use super::policy_naive::Naive;

/// In the form of [`netmap::Mirror::picture`].
pub fn picture(state: &State, viewer: NodeId) -> Value {
    let tailnet = tailnet(state);
    let text = state.policy().map(|version| serde_json::from_str::<Value>(&version.text).expect("plain JSON"));
    let naive = Naive { policy: text.as_ref(), tailnet: &tailnet };
    let eye = tailnet.nodes.get(&viewer.0);

    let own = state.node(viewer).unwrap();
    assert_eq!(own.unapproved, eye.is_none());
    let offered = eye.map(|eye| eye.routes.clone()).unwrap_or_default();
    let mut node = node(state, own, &offered, &primaries(state, viewer));
    let object = node.as_object_mut().unwrap();
    for own in ["Cap", "DiscoKey", "Endpoints", "HomeDERP", "Hostinfo", "LastSeen", "Online"] {
        object.remove(own);
    }
    let mut caps = json!({
        "https://tailscale.com/cap/is-admin": [], "https://tailscale.com/cap/ssh": [], "default-auto-update": [false],
    });
    if state.settings().taildrop {
        caps["https://tailscale.com/cap/file-sharing"] = json!([]);
    }
    if state.settings().node_certificates != NodeCertificates::Off {
        caps["https"] = json!([]);
    }
    if state.settings().randomize_client_port {
        caps["randomize-client-port"] = json!([]);
    }
    eye.map(|eye| naive.attributes(eye)).into_iter().flatten().for_each(|attribute| caps[attribute] = json!([]));
    object.insert("CapMap".into(), caps);

    // Who waits for an approval sees nobody, and nobody sees it.
    let sees = |other: &&Arc<Node>| match (eye, tailnet.nodes.get(&other.id.0)) {
        (Some(eye), Some(other)) => naive.sees(eye, other),
        _ => false,
    };
    let others = state.nodes().values().filter(sees);
    let (mut peers, mut owners) = (Map::new(), BTreeSet::from([owner(own)]));
    for peer in others {
        let routes = naive.routes(eye.unwrap(), &tailnet.nodes[&peer.id.0]);
        let subnets: Vec<IpNet> = routes.iter().filter(|route| route.prefix_len() > 0).copied().collect();
        let mut node = self::node(state, peer, &routes, &subnets);
        if subnets.len() < routes.len() {
            node["CapMap"] = json!({"suggest-exit-node": []});
        }
        peers.insert(peer.id.to_string(), node);
        owners.insert(owner(peer));
    }
    json!({
        "Node": node,
        "Peers": peers,
        "UserProfiles": owners.into_iter().map(|owner| profile(state, owner)).collect::<Vec<_>>(),
        "PacketFilters": {"base": eye.map(|eye| naive.filter(eye)).unwrap_or_default()},
        "Pages": pages(state, own, eye.map(|eye| naive.ssh(eye)).unwrap_or_default()),
    })
}

/// A mirror's picture with filters and shells in the oracle's words.
pub fn translated(mut picture: Value) -> Value {
    let rules = picture["PacketFilters"]["base"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let strings = |list: &Value| -> BTreeSet<String> {
        list.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let filters = rules.into_iter().map(|rule| match rule.get("CapGrant") {
        Some(grants) => json!({
            "src": strings(&rule["SrcIPs"]), "dsts": strings(&grants[0]["Dsts"]), "caps": grants[0]["CapMap"],
        }),
        None => {
            let ports = |ports: &Value| match (ports["First"].as_u64(), ports["Last"].as_u64()) {
                (Some(0), Some(65535)) => "*".to_owned(),
                (first, last) if first == last => first.unwrap().to_string(),
                (first, last) => format!("{}-{}", first.unwrap(), last.unwrap()),
            };
            let spelled = |entry: &Value| match entry["IP"].as_str().unwrap() {
                word if word.starts_with("0.0.0.0-") => Some(format!("internet:{}", ports(&entry["Ports"]))),
                word if word.contains('-') => None,
                word => Some(format!("{word}:{}", ports(&entry["Ports"]))),
            };
            let mut dst: Vec<String> = rule["DstPorts"].as_array().unwrap().iter().filter_map(spelled).collect();
            dst.sort();
            json!({"src": strings(&rule["SrcIPs"]), "dst": dst, "proto": rule["IPProto"].get(0).unwrap_or(&Value::Null)})
        }
    });
    picture["PacketFilters"]["base"] = filters.collect();
    let shells = picture["Pages"]["SSHPolicy"]["rules"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let shells = shells.into_iter().map(|rule| {
        let from: BTreeSet<&str> =
            rule["principals"].as_array().unwrap().iter().map(|one| one["nodeIP"].as_str().unwrap()).collect();
        json!({"from": from, "users": rule["sshUsers"], "check": rule["action"].get("holdAndDelegate").is_some()})
    });
    picture["Pages"]["SSHPolicy"] = shells.collect();
    picture
}

/// The facts of a State, written down once more.
fn tailnet(state: &State) -> policy::Tailnet {
    let mut tailnet = policy::Tailnet::default();
    for (id, row) in state.users() {
        let user = policy::User {
            id: id.0,
            name: row.name.clone(),
            email: row.email.clone(),
            provider_id: row.provider_id.clone(),
            groups: row.groups.clone(),
            role: policy::Role::Admin,
        };
        tailnet.users.insert(id.0, user.into());
    }
    for (id, row) in state.nodes().iter().filter(|(_, row)| !row.unapproved) {
        let routes: BTreeSet<IpNet> = row.hostinfo.routable_ips.intersection(&row.approved_routes).copied().collect();
        let node = policy::Node {
            id: id.0,
            user: row.user.filter(|_| row.tags.is_empty()).map(|user| user.0),
            tags: row.tags.iter().cloned().collect(),
            ipv4: row.ipv4,
            ipv6: row.ipv6,
            routes: routes.into_iter().collect(),
            online: state.presence(*id).is_some_and(|presence| presence.online),
        };
        tailnet.nodes.insert(id.0, node.into());
    }
    tailnet.primaries = state.primaries().iter().map(|(route, node)| (*route, node.0)).collect();
    tailnet
}

fn primaries(state: &State, node: NodeId) -> Vec<IpNet> {
    state.primaries().iter().filter(|(_, primary)| **primary == node).map(|(route, _)| *route).collect()
}

fn node(state: &State, row: &Node, routes: &[IpNet], primary: &[IpNet]) -> Value {
    let presence = state.presence(row.id).map(|presence| (**presence).clone()).unwrap_or_default();
    let addresses = [format!("{}/32", row.ipv4.unwrap()), format!("{}/128", row.ipv6.unwrap())];
    let mut allowed: Vec<IpNet> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    allowed.extend(routes);
    allowed.sort();
    let domain = &state.settings().base_domain;
    let mut node = json!({
        "ID": row.id.0,
        "StableID": row.id.0.to_string(),
        "Name": format!("{}.{domain}.", row.given_name),
        "User": owner(row),
        "Key": row.node_key.to_string(),
        "Machine": row.machine_key.to_string(),
        "Addresses": addresses,
        "AllowedIPs": allowed.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Endpoints": row.endpoints.iter().map(|endpoint| endpoint.addr.to_string()).collect::<Vec<_>>(),
        "Hostinfo": serde_json::from_str::<Value>(&row.hostinfo.raw).unwrap(),
        "Created": row.created_at.to_string(),
        "Online": presence.online,
        "MachineAuthorized": !row.unapproved,
    });
    let mut set = |name: &str, value: Value| _ = node.as_object_mut().unwrap().insert(name.into(), value);
    if let Some(expiry) = row.expiry {
        set("KeyExpiry", json!(expiry.to_string()));
        if expiry <= state.now() {
            set("Expired", json!(true));
        }
    }
    if !row.disco_key.is_zero() {
        set("DiscoKey", json!(row.disco_key.to_string()));
    }
    if row.home_derp != 0 {
        set("HomeDERP", json!(row.home_derp));
    }
    if row.capability_version != 0 {
        set("Cap", json!(row.capability_version));
    }
    if !row.tags.is_empty() {
        set("Tags", json!(row.tags));
    }
    if !primary.is_empty() {
        set("PrimaryRoutes", json!(primary.iter().map(ToString::to_string).collect::<Vec<_>>()));
    }
    if let Some(last_seen) = presence.last_seen.filter(|_| !presence.online) {
        set("LastSeen", json!(last_seen.to_string()));
    }
    node
}

fn owner(row: &Node) -> u64 {
    if row.tags.is_empty() { row.user.unwrap().0 } else { 2_147_455_555 }
}

fn profile(state: &State, owner: u64) -> Value {
    if owner == 2_147_455_555 {
        return json!({"ID": owner, "LoginName": "tagged-devices", "DisplayName": "Tagged Devices"});
    }
    let user = state.user(UserId(owner)).unwrap();
    let login = if user.email.is_empty() { &user.name } else { &user.email };
    let display = if user.display_name.is_empty() { login } else { &user.display_name };
    let mut profile = json!({"ID": owner, "LoginName": login, "DisplayName": display.replace(['"', '\\'], "")});
    if user.profile_pic_url.starts_with("https://") {
        profile["ProfilePicURL"] = json!(user.profile_pic_url);
    }
    profile
}

fn pages(state: &State, row: &Node, shells: Vec<Value>) -> Value {
    let settings = state.settings();
    let mut dns = json!({"Domains": [settings.base_domain]});
    let mut routes: BTreeMap<String, Value> = BTreeMap::new();
    if settings.magic_dns {
        dns["Proxied"] = json!(true);
        routes.insert(settings.base_domain.clone(), json!([]));
        routes.insert("0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa".into(), json!([]));
        routes.extend((64..128).map(|octet| (format!("{octet}.100.in-addr.arpa"), json!([]))));
        dns["Routes"] = json!(routes);
    }
    if !settings.nameservers.is_empty() {
        let resolvers: Vec<_> = settings.nameservers.iter().map(|addr| json!({"Addr": addr})).collect();
        dns["FallbackResolvers"] = json!(resolvers);
    }
    if settings.node_certificates != NodeCertificates::Off {
        dns["CertDomains"] = json!([format!("{}.{}", row.given_name, settings.base_domain)]);
    }
    let mut regions = Map::new();
    for (id, region) in state.derp_regions() {
        let nodes =
            region.nodes.iter().map(|node| json!({"Name": node.name, "RegionID": id, "HostName": node.host_name}));
        let name = region.name.replace('"', "");
        let region =
            json!({"RegionID": id, "RegionCode": region.code, "RegionName": name, "Nodes": nodes.collect::<Vec<_>>()});
        regions.insert(id.to_string(), region);
    }
    for member in state.members().values() {
        let Some(relay) = member.relay.as_ref().filter(|_| member.state == MemberState::Active) else { continue };
        let id = member.region_id;
        let node = json!({
            "Name": format!("{id}a"), "RegionID": id, "HostName": relay.host_name, "IPv4": relay.ipv4, "IPv6": relay.ipv6,
            "STUNPort": relay.stun_port, "DERPPort": relay.derp_port,
        });
        let region =
            json!({"RegionID": id, "RegionCode": relay.region_code, "RegionName": member.name, "Nodes": [node]});
        regions.insert(id.to_string(), region);
    }
    let url = &settings.server_url;
    let domain = if url.contains("[fd7a::1]") { "fd7a::1" } else { "hs.example.com" };
    json!({
        "CollectServices": false, "Domain": domain, "DNSConfig": dns,
        "DERPMap": {"Regions": regions, "omitDefaultRegions": true}, "SSHPolicy": shells,
        // Nobody here has turned it on.
        "ControlDialPlan": {"Candidates": []},
    })
}
