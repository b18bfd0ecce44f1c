//! What Go and Rust clients write is read alike; what no client writes is refused and never a panic.

use serde_json::{Value, json};
use tailcfg::{
    DecodeError, DerpAdmitClientRequest, DiscoKey, MapRequest, MapRequestKind, NlKey, NodeKey, RegisterRequest,
    SetDeviceAttributesRequest, from_client_json,
};

const MAP_GO: &[u8] = include_bytes!("golden/map_request_go.json");
const MAP_RS: &[u8] = include_bytes!("golden/map_request_rs.json");
const REGISTER_GO: &[u8] = include_bytes!("golden/register_go.json");
const REGISTER_RS: &[u8] = include_bytes!("golden/register_rs.json");

#[test]
fn a_go_stream_request() {
    let request: MapRequest = from_client_json(MAP_GO).unwrap();
    assert_eq!(request.version, 131);
    assert!(request.wants_zstd() && request.keep_alive);
    assert_eq!(request.kind(), MapRequestKind::Stream);
    assert_eq!(request.node_key, NodeKey([0x11; 32]));
    assert_eq!(request.disco_key, DiscoKey([0x22; 32]));
    assert_eq!(request.debug_flags, ["warn-ip-forwarding-off"]);
    let endpoints: Vec<_> = request.reported_endpoints().iter().map(|e| (e.addr.to_string(), e.kind)).collect();
    let expected = [("203.0.113.7:41641", 2), ("192.168.1.20:41641", 1), ("[2001:db8::7]:41641", 2)];
    assert_eq!(endpoints, expected.map(|(addr, kind)| (addr.to_owned(), kind)));

    let info = request.hostinfo.unwrap();
    assert_eq!((info.os.as_str(), info.ipn_version.as_str()), ("linux", "1.92.3-tabc"));
    assert_eq!(info.hostname, "builder \"one\"");
    assert_eq!(info.preferred_derp, Some(901));
    assert!(info.ssh_server);
    let routes: Vec<_> = info.routable_ips.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["0.0.0.0/0", "10.1.0.0/16", "::/0"]);
    assert!(info.request_tags.contains("tag:ci"));

    let raw: Value = serde_json::from_str(&info.raw).unwrap();
    assert_eq!(raw.get("NetInfo"), None);
    assert_eq!(raw.get("Desktop"), None, "null is absence");
    assert_eq!(raw["SomethingNewer"], json!({"Deep": [1, {"B": 2}]}), "newer fields reach peers that know them");
    assert_eq!(raw["Services"][2], json!({"Proto": "tcp", "Port": 22, "Description": "sshd"}));
    assert_eq!(raw["RoutableIPs"], json!(["10.1.0.0/16", "0.0.0.0/0", "::/0"]));
    assert_eq!(raw["sshHostKeys"], json!(["ssh-ed25519 AAAA"]));
}

#[test]
fn a_rust_update_comes_out_in_go_spelling() {
    let request: MapRequest = from_client_json(MAP_RS).unwrap();
    assert_eq!(request.kind(), MapRequestKind::Update);
    assert!(!request.wants_zstd());
    assert_eq!(request.reported_endpoints().len(), 1, "link-local addresses are of no use to peers");
    let info = request.hostinfo.unwrap();
    assert_eq!(info.preferred_derp, Some(902));
    assert_eq!((info.os.as_str(), info.ipn_version.as_str(), info.ssh_server), ("linux", "0.6.1", false));
    let raw: Value = serde_json::from_str(&info.raw).unwrap();
    let keys: Vec<_> = raw.as_object().unwrap().keys().map(String::as_str).collect();
    for key in ["IPNVersion", "OS", "OSVersion", "App", "RoutableIPs", "WoLMACs", "sshHostKeys", "ExitNodeID"] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    for key in ["IpnVersion", "Os", "RoutableIps", "WolMacs", "SshHostKeys", "NetInfo"] {
        assert!(!keys.contains(&key), "{key} in {keys:?}");
    }
}

#[test]
fn registrations() {
    let go: RegisterRequest = from_client_json(REGISTER_GO).unwrap();
    assert_eq!(go.auth_key(), Some("hskey-auth-abcdefghijkl-secret"));
    assert!(go.old_node_key.is_zero());
    assert_eq!(go.nl_key, NlKey([0x33; 32]));
    assert_eq!(go.expiry, None, "Go's zero time is none");
    assert_eq!(go.followup, "");
    assert!(!go.ephemeral);
    assert!(!format!("{go:?}").contains("secret"), "secrets stay out of logs");

    let rs: RegisterRequest = from_client_json(REGISTER_RS).unwrap();
    assert!(rs.ephemeral);
    assert_eq!(rs.node_key, go.node_key);
    assert_eq!(rs.hostinfo.unwrap().ipn_version, "0.6.1");

    let logout = br#"{"Version":131,"NodeKey":"nodekey:1111111111111111111111111111111111111111111111111111111111111111","Expiry":"1970-01-01T00:02:03Z"}"#;
    let logout: RegisterRequest = from_client_json(logout).unwrap();
    assert_eq!(logout.expiry.unwrap().as_millis(), 123_000);
}

#[test]
fn small_messages() {
    let key = format!("nodekey:{}", "ab".repeat(32));
    let verify = json!({"nodepublic": key, "Source": "203.0.113.7"}).to_string();
    let verify: DerpAdmitClientRequest = from_client_json(verify.as_bytes()).unwrap();
    assert_eq!(verify.node_public, NodeKey([0xab; 32]));

    let update = json!({"Version": 131, "NodeKey": key, "Update": {"custom:a": 1, "custom:b": null}}).to_string();
    let update: SetDeviceAttributesRequest = from_client_json(update.as_bytes()).unwrap();
    assert_eq!(update.update["custom:b"], Value::Null);

    let empty: MapRequest = from_client_json(b"{}").unwrap();
    assert!(empty.node_key.is_zero() && empty.hostinfo.is_none() && empty.reported_endpoints().is_empty());
}

#[test]
fn the_right_spelling_wins() {
    for text in [r#"{"os":"a","OS":"b"}"#, r#"{"OS":"b","os":"a"}"#, r#"{"OS":"b","Os":"a","oS":"c"}"#] {
        let request: MapRequest = from_client_json(format!(r#"{{"hostinfo":{text}}}"#).as_bytes()).unwrap();
        assert_eq!(request.hostinfo.unwrap().os, "b");
    }
}

#[test]
fn what_no_client_writes_is_refused() {
    let deep = |n: usize| format!(r#"{{"Hostinfo":{{"X":{}1{}}}}}"#, "[".repeat(n), "]".repeat(n));
    assert!(from_client_json::<MapRequest>(deep(8).as_bytes()).is_ok());
    assert!(matches!(from_client_json::<MapRequest>(deep(40).as_bytes()), Err(DecodeError::TooDeep)));
    assert!(matches!(from_client_json::<MapRequest>(deep(100_000).as_bytes()), Err(DecodeError::Syntax(_))));
    let long = vec![b' '; (1 << 20) + 1];
    assert!(matches!(from_client_json::<MapRequest>(&long), Err(DecodeError::TooLong { .. })));
    let many = format!(r#"{{"Hostinfo":{{"X":"{}"}}}}"#, "x".repeat(70_000));
    assert!(matches!(from_client_json::<MapRequest>(many.as_bytes()), Err(DecodeError::Content(_))));

    for text in [
        "",
        "null",
        "[]",
        "7",
        "\"x\"",
        "{",
        "{}{}",
        "\u{0}",
        r#"{"Version":}"#,
        r#"{"Version":"131"}"#,
        r#"{"Version":-1}"#,
        r#"{"Version":65536}"#,
        r#"{"Version":1e999}"#,
        r#"{"Version":1.5}"#,
        r#"{"Version":123456789012345678901234567890}"#,
        r#"{"NodeKey":7}"#,
        r#"{"NodeKey":""}"#,
        r#"{"NodeKey":"nodekey:zz"}"#,
        r#"{"Stream":"yes"}"#,
        r#"{"Endpoints":"1.2.3.4:5"}"#,
        r#"{"Endpoints":[5]}"#,
        r#"{"Endpoints":["host:5"]}"#,
        r#"{"EndpointTypes":["stun"]}"#,
        r#"{"Hostinfo":"x"}"#,
        r#"{"Hostinfo":{"OS":5}}"#,
        r#"{"Hostinfo":{"RoutableIPs":["10.0.0.0/99"]}}"#,
        r#"{"Hostinfo":{"RoutableIPs":[null]}}"#,
        r#"{"Hostinfo":{"Services":[{"Port":70000}]}}"#,
        r#"{"Hostinfo":{"Services":{}}}"#,
        r#"{"Hostinfo":{"NetInfo":{"PreferredDERP":-5}}}"#,
        r#"{"Hostinfo":{"NetInfo":[]}}"#,
        r#"{"Hostinfo":{"Userspace":"true"}}"#,
        r#"{"Hostinfo":{"Location":{"Latitude":"north"}}}"#,
    ] {
        assert!(from_client_json::<MapRequest>(text.as_bytes()).is_err(), "{text}");
    }
    for text in [r#"{"Expiry":"soon"}"#, r#"{"Expiry":5}"#, r#"{"Auth":"key"}"#, r#"{"Auth":{"AuthKey":5}}"#] {
        assert!(from_client_json::<RegisterRequest>(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn broken_bytes_never_panic() {
    for golden in [MAP_GO, MAP_RS] {
        for end in 0..golden.len() {
            let _ = from_client_json::<MapRequest>(&golden[..end]);
        }
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..20_000 {
            let mut bytes = golden.to_vec();
            for _ in 0..3 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let place = (state as usize) % bytes.len();
                bytes[place] = (state >> 32) as u8;
            }
            if let Ok(request) = from_client_json::<MapRequest>(&bytes) {
                let _ = request.reported_endpoints();
            }
            let _ = from_client_json::<RegisterRequest>(&bytes);
        }
    }
}
