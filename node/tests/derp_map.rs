//! `derp.urls`: the leader fetches a map and puts it into the log; what cannot be used changes nothing.

mod common;

use common::{Member, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A server of one page; where it listens.
async fn page(text: String) -> String {
    let mut listener = world::real::world().net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    format!("http://{address}/derpmap/default")
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_fetches_a_map() {
    let map = r#"{"Regions": {"5": {"RegionID": 5, "RegionCode": "far", "RegionName": "Far", "Nodes":
        [{"Name": "5a", "RegionID": 5, "HostName": "derp5.example.com", "CanPort80": true}]}, "6": {"RegionID": 6}}}"#;
    let url = page(ok(map)).await;
    let member = Member::start_with(|options| {
        options.derp.urls = vec![url.parse().unwrap()];
        // A file takes one of them away.
        options.derp.fixed.insert(6, None);
    })
    .await;
    let mut states = member.server.cluster().watch();
    let state = within(states.wait_for(|state| !state.derp_regions().is_empty())).await.unwrap().clone();
    let ids: Vec<u32> = state.derp_regions().keys().copied().collect();
    assert_eq!(ids, [5]);
    assert_eq!(state.derp_regions()[&5].nodes[0].host_name, "derp5.example.com");
    member.server.drain().await;
}
