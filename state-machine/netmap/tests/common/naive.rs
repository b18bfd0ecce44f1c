//! The oracle: what a viewer should know, straight from the State, pair by pair, with nothing reused.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use state_machine::*;

/// In the form of [`netmap::Mirror::picture`].
pub fn picture(state: &State, viewer: NodeId) -> Value {
    let own = state.node(viewer).unwrap();
    let mut node = node(state, own);
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
    if state.settings().randomize_client_port {
        caps["randomize-client-port"] = json!([]);
    }
    object.insert("CapMap".into(), caps);

    let others = state.nodes().values().filter(|other| other.id != viewer);
    let peers: Map<String, Value> = others.map(|peer| (peer.id.to_string(), self::node(state, peer))).collect();
    let owners: BTreeSet<u64> = state.nodes().values().map(|node| owner(node)).collect();
    json!({
        "Node": node,
        "Peers": peers,
        "UserProfiles": owners.into_iter().map(|owner| profile(state, owner)).collect::<Vec<_>>(),
        "PacketFilters": {"base": [{"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}]}]},
        "Pages": pages(state),
    })
}

fn node(state: &State, row: &Node) -> Value {
    let presence = state.presence(row.id).map(|presence| (**presence).clone()).unwrap_or_default();
    let addresses = [format!("{}/32", row.ipv4.unwrap()), format!("{}/128", row.ipv6.unwrap())];
    let enabled: Vec<_> = row.hostinfo.routable_ips.intersection(&row.approved_routes).copied().collect();
    let primary: Vec<_> = enabled.iter().filter(|route| state.primaries().get(*route) == Some(&row.id)).collect();
    let exits = enabled.iter().filter(|route| route.prefix_len() == 0);
    let mut allowed: Vec<ipnet::IpNet> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    allowed.extend(primary.iter().copied().chain(exits));
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
        "MachineAuthorized": true,
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

fn pages(state: &State) -> Value {
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
        "DERPMap": {"Regions": regions, "omitDefaultRegions": true},
    })
}
