//! A member with its relay: nodes find it in their maps, and only nodes come in.

mod common;

use common::{Machine, Member, within};
use node::options::Relay;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_is_in_the_map_and_answers() {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let member = Member::start_with(|options| {
        options.relay = Some(Relay {
            listen: Some(anywhere),
            stun_listen: Some(anywhere),
            tls: None,
            key_path: options.data_dir.join("derp.key"),
            verify_clients: true,
            advertise: true,
            region_code: String::new(),
            region_name: String::new(),
            host_name: "127.0.0.1".to_owned(),
            ipv4: "127.0.0.1".to_owned(),
            ipv6: "none".to_owned(),
            port: None,
            stun_port: None,
            insecure_for_tests: true,
        });
    })
    .await;
    let key = member.auth_key().await;
    let ann = Machine::new(1, "laptop");
    let mut connection = ann.dial(&member).await;
    ann.enter(&mut connection, &key).await;
    let mut stream = connection.stream(&ann, "").await;
    let map = stream.next().await.unwrap();
    let regions = map["DERPMap"]["Regions"].as_object().unwrap();
    assert_eq!(regions.len(), 1, "{map}");
    let node = &regions.values().next().unwrap()["Nodes"][0];
    let relay_addr = member.server.relay_addr().unwrap();
    assert_eq!((&node["DERPPort"], &node["InsecureForTests"]), (&json!(relay_addr.port()), &json!(true)), "{node}");
    assert_eq!(node["HostName"], "127.0.0.1");

    // Both doors lead to the relay: its own, and the path on the client port.
    let upgrade = "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";
    let mut plain = member.world.net.connect(&member.server.client_addr().to_string()).await.unwrap();
    plain.write_all(upgrade.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(plain.read_u8()).await.unwrap());
    }
    assert!(String::from_utf8(head).unwrap().starts_with("HTTP/1.1 101 "));
    // A proxy keeps its connections: here the relay is asked for second.
    let mut kept = member.world.net.connect(&member.server.client_addr().to_string()).await.unwrap();
    kept.write_all(format!("GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n{upgrade}").as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.windows(8).any(|window| window == "DERP🔑".as_bytes()) {
        assert_ne!(within(kept.read_buf(&mut heard)).await.unwrap(), 0, "{}", String::from_utf8_lossy(&heard));
    }
    let heard = String::from_utf8_lossy(&heard).to_lowercase();
    assert!(
        heard.contains("disallow: /") && heard.contains("http/1.1 101 ") && heard.contains("upgrade: derp"),
        "{heard}"
    );
    assert!(member.get("/derp/latency-check").await.starts_with("HTTP/1.1 200 "));
    assert!(member.get("/key?v=130").await.starts_with("HTTP/1.1 200 "), "other paths are not the relay's");

    let stun = node["STUNPort"].as_i64().unwrap();
    let socket = member.world.net.udp(anywhere).await.unwrap();
    let request = derp::stun::request(&Default::default());
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], u16::try_from(stun).unwrap()));
    let mut answer = [0; 256];
    within(async {
        // UDP may lose a question.
        loop {
            socket.send_to(&request, to).await.unwrap();
            let heard =
                tokio::time::timeout(std::time::Duration::from_millis(500), socket.recv_from(&mut answer)).await;
            if heard.is_ok() {
                break;
            }
        }
    })
    .await;
    assert_eq!(answer[..2], [0x01, 0x01], "a binding success response");
    within(member.server.drain()).await;
}
