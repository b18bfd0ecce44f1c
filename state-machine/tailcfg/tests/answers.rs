//! What we write: every key where clients require it, none where they forbid it, nothing escaped.

use std::collections::BTreeMap;

use serde_json::{json, to_string, to_value, value::RawValue};
use tailcfg::*;

#[test]
fn a_registration_is_answered_with_all_keys() {
    let empty = json!({
        "User": {"ID": 0, "DisplayName": ""},
        "Login": {"ID": 0, "Provider": "", "LoginName": "", "DisplayName": ""},
        "NodeKeyExpired": false, "MachineAuthorized": false, "AuthURL": "", "Error": "",
    });
    assert_eq!(to_value(RegisterResponse::default()).unwrap(), empty);
    let error = RegisterResponse { error: "no key \"x\\y\"\n".into(), ..RegisterResponse::default() };
    assert!(to_string(&error).unwrap().contains(r#""Error":"no key xy""#));
}

#[test]
fn the_noise_key_comes_with_a_zero_legacy_key() {
    let key = OverTlsPublicKeyResponse { public_key: MachineKey([7; 32]), ..OverTlsPublicKeyResponse::default() };
    let expected =
        format!(r#"{{"legacyPublicKey":"mkey:{}","publicKey":"mkey:{}"}}"#, "00".repeat(32), "07".repeat(32));
    assert_eq!(to_string(&key).unwrap(), expected);
}

#[test]
fn a_node_leaves_out_what_it_lacks() {
    let hostinfo = RawValue::from_string(r#"{"OS":"linux"}"#.into()).unwrap();
    let node = Node {
        id: 7,
        stable_id: "7".into(),
        name: "lap\"top.example.net.".into(),
        user: 1,
        key: NodeKey([1; 32]),
        key_expiry: None,
        machine: MachineKey([2; 32]),
        disco_key: DiscoKey::default(),
        addresses: vec!["100.64.0.1/32".parse().unwrap(), "fd7a:115c:a1e0::1/128".parse().unwrap()],
        allowed_ips: vec!["100.64.0.1/32".parse().unwrap()],
        endpoints: vec![],
        home_derp: 0,
        hostinfo: &hostinfo,
        created: Time::from_millis(0),
        cap: 131,
        tags: vec![],
        primary_routes: vec![],
        last_seen: None,
        online: false,
        machine_authorized: true,
        cap_map: BTreeMap::new(),
        expired: false,
    };
    let expected = json!({
        "ID": 7, "StableID": "7", "Name": "laptop.example.net.", "User": 1,
        "Key": format!("nodekey:{}", "01".repeat(32)), "Machine": format!("mkey:{}", "02".repeat(32)),
        "Addresses": ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"], "AllowedIPs": ["100.64.0.1/32"],
        "Endpoints": [], "Hostinfo": {"OS": "linux"}, "Created": "1970-01-01T00:00:00Z", "Cap": 131,
        "Online": false, "MachineAuthorized": true,
    });
    assert_eq!(to_value(&node).unwrap(), expected);
}

#[test]
fn a_patch_says_what_moved() {
    assert_eq!(to_string(&PeerChange { node_id: 3, ..PeerChange::default() }).unwrap(), r#"{"NodeID":3}"#);
    let patch = PeerChange {
        node_id: 3,
        derp_region: 901,
        endpoints: Some(vec![]),
        online: Some(false),
        last_seen: Some(Time::from_millis(1000)),
        ..PeerChange::default()
    };
    let expected =
        json!({"NodeID": 3, "DERPRegion": 901, "Endpoints": [], "Online": false, "LastSeen": "1970-01-01T00:00:01Z"});
    assert_eq!(to_value(&patch).unwrap(), expected);
}

#[test]
fn rules_are_of_one_kind() {
    let rule = FilterRule::Network(NetworkRule {
        src_ips: vec!["*".into()],
        dst_ports: vec![NetPortRange { ip: "*".into(), ports: PortRange::ALL }],
        ip_proto: vec![],
    });
    let expected = r#"{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}"#;
    assert_eq!(to_string(&rule).unwrap(), expected);
    let grant = CapGrant {
        dsts: vec!["100.64.0.1/32".parse().unwrap()],
        cap_map: BTreeMap::from([("example.com/cap/a".to_owned(), vec![])]),
    };
    let rule = FilterRule::Application(ApplicationRule { src_ips: vec!["*".into()], cap_grant: vec![grant] });
    let expected =
        json!({"SrcIPs": ["*"], "CapGrant": [{"Dsts": ["100.64.0.1/32"], "CapMap": {"example.com/cap/a": []}}]});
    assert_eq!(to_value(&rule).unwrap(), expected);
}

#[test]
fn resolvers_that_clients_cannot_read_are_refused() {
    for good in ["1.1.1.1", "2606:4700::1111", "1.1.1.1:5353", "[::1]:53", "https://dns.example.net/x", "tls://1.1.1.1"]
    {
        assert!(DnsResolver::new(good).is_some(), "{good}");
    }
    for bad in ["", "dns.example.net", "1.1.1.1.1", "https://x\"y", "ftp://x"] {
        assert!(DnsResolver::new(bad).is_none(), "{bad}");
    }
    let record = DnsRecord::new("grafana.example.net", "fd7a::1".parse().unwrap());
    assert_eq!(to_value(record).unwrap(), json!({"Name": "grafana.example.net", "Type": "AAAA", "Value": "fd7a::1"}));
}

#[test]
fn signals() {
    let ping = PingRequest { url: "https://unused/c2n/1".into(), payload: b"GET /".to_vec(), ..PingRequest::default() };
    let expected =
        json!({"URL": "https://unused/c2n/1", "URLIsNoise": false, "Types": "", "IP": "", "Payload": "R0VUIC8="});
    assert_eq!(to_value(&ping).unwrap(), expected);
    let candidate = ControlIpCandidate::new("203.0.113.7".parse().unwrap(), 0.0);
    assert!(candidate.dial_timeout_secs > 0.0);
    assert_eq!(to_string(&ControlDialPlan::default()).unwrap(), r#"{"Candidates":[]}"#);
    assert_eq!(to_string(&SshPolicy::default()).unwrap(), r#"{"rules":[]}"#);
    let debug = Debug { disable_log_tail: true, ..Debug::default() };
    assert_eq!(to_string(&debug).unwrap(), r#"{"DisableLogTail":true}"#);
    let region = DerpRegion { region_id: 901, region_code: "a".into(), region_name: "A".into(), nodes: vec![] };
    let map = DerpMap { regions: BTreeMap::from([(901, region)]), omit_default_regions: true };
    let expected = r#"{"Regions":{"901":{"RegionID":901,"RegionCode":"a","RegionName":"A","Nodes":[]}},"omitDefaultRegions":true}"#;
    assert_eq!(to_string(&map).unwrap(), expected);
}
