//! DERP maps from the network (`derp.urls`): the leader fetches them and puts the regions into the log.
//!
//! All members must hand out the same map, so only what went through the log counts. A map that cannot be fetched, or
//! that is refused, changes nothing: the last good one stays in the state, over restarts and changes of leadership too.

use std::{collections::BTreeMap, time::Duration};

use raft::Cluster;
use state_machine::{Command, DerpRegion};
use tokio::time::Instant;
use world::World;

use crate::{
    config, fetch,
    options::{DerpMaps, Regions},
};

/// The public map of Tailscale has 60 kB.
const MAP_BYTES_MAX: usize = 1 << 20;
/// After a map that did not come.
const AGAIN: Duration = Duration::from_secs(60);

/// Looks at once when this member comes to lead, and then every [`DerpMaps::every`].
pub async fn run(cluster: Cluster, maps: DerpMaps, world: World, by: String) {
    let mut status = cluster.watch_status();
    let mut due = Instant::now();
    let mut led = false;
    loop {
        let leads = cluster.is_leader();
        if leads && !led {
            due = Instant::now();
        }
        led = leads;
        if leads && Instant::now() >= due {
            due = Instant::now()
                + match take_over(&cluster, &maps, &world, &by).await {
                    true => maps.every,
                    false => AGAIN,
                };
        }
        tokio::select! { biased;
            changed = status.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due), if leads => {}
        }
    }
}

/// Whether all is as the maps say now.
async fn take_over(cluster: &Cluster, maps: &DerpMaps, world: &World, by: &str) -> bool {
    let mut fetched = Vec::new();
    for url in &maps.urls {
        // One map missing would take its regions away; then nothing is changed.
        match fetch_map(url, maps, world).await {
            Ok(regions) => fetched.push(regions),
            Err(why) => {
                tracing::warn!(%url, why, "a DERP map was not taken over; the last good one stays");
                return false;
            }
        }
    }
    let regions = merged(&fetched, &maps.fixed);
    let state = cluster.latest();
    let known: Vec<&DerpRegion> = state.derp_regions().values().map(|region| &**region).collect();
    if known == regions.iter().collect::<Vec<_>>() {
        return true;
    }
    match cluster.propose(by, Command::SetDerpRegions { regions: regions.clone() }).await {
        Ok(applied) => match applied.answer {
            Ok(_) => {
                tracing::info!(regions = regions.len(), "the DERP map was taken over from derp.urls");
                true
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "the DERP map of derp.urls was refused; the last good one stays");
                false
            }
        },
        Err(error) => {
            tracing::debug!(%error, "the DERP map was not proposed");
            false
        }
    }
}

async fn fetch_map(url: &url::Url, maps: &DerpMaps, world: &World) -> Result<Regions, String> {
    let bytes = fetch::get(url, MAP_BYTES_MAX, maps.authorities.as_deref(), world).await;
    let bytes = bytes.map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "the file is not UTF-8".to_owned())?;
    let regions = config::derp_map(text)?;
    match regions.is_empty() {
        true => Err("the file holds no regions; a DERP map is {\"Regions\": {…}}".to_owned()),
        false => Ok(regions),
    }
}

/// Later maps win, files win over URLs, and `null` takes a region away. Ordered by id, so that every leader proposes
/// the same list.
fn merged(fetched: &[Regions], fixed: &Regions) -> Vec<DerpRegion> {
    let mut all: BTreeMap<u32, &DerpRegion> = BTreeMap::new();
    for (id, region) in fetched.iter().chain([fixed]).flatten() {
        match region {
            Some(region) => all.insert(*id, region),
            None => all.remove(id),
        };
    }
    all.into_values().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_maps_win_and_null_takes_away() {
        let region = |id: u32, name: &str| DerpRegion { id, name: name.to_owned(), ..DerpRegion::default() };
        let first = Regions::from([(1, Some(region(1, "a"))), (2, Some(region(2, "b"))), (3, Some(region(3, "c")))]);
        let second = Regions::from([(2, Some(region(2, "B")))]);
        let fixed = Regions::from([(1, None), (9, Some(region(9, "ours")))]);
        let names: Vec<String> = merged(&[first, second], &fixed).into_iter().map(|region| region.name).collect();
        assert_eq!(names, ["B", "c", "ours"]);
    }

    /// What a server answers with these bytes makes of a fetched map.
    async fn complaint(answer: String) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let world = world::real::world();
        let mut listener = world.net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}/map?x=1", listener.local_addr().unwrap()).parse().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /map?x=1 HTTP/1.1\r\n"));
            // The client hangs up when it has seen enough.
            let _ = stream.write_all(answer.as_bytes()).await;
        };
        let maps = DerpMaps::default();
        let (fetched, ()) = tokio::join!(fetch_map(&url, &maps, &world), server);
        fetched.expect_err("not a map")
    }

    #[tokio::test]
    async fn what_cannot_be_used_says_why() {
        let ok = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let cases = [
            (ok("{\"Regions\": {}}"), "the file holds no regions"),
            (ok("{\"Regions\": {\"70000\": {}}}"), "region id 70000 must lie between 1 and 65535"),
            (ok("{\"Regions\": 7}"), "invalid type"),
            (ok(&" ".repeat(2 << 20)), "the file is longer than 1048576 bytes"),
            (
                "HTTP/1.1 302 Found\r\nLocation: http://b/c\r\n\r\n".to_owned(),
                "redirects to http://b/c; write that URL",
            ),
            ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned(), "the server answers 500"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort".to_owned(), "broke off"),
            ("nonsense\r\n\r\n".to_owned(), "HTTP failed"),
        ];
        for (answer, expected) in cases {
            let head: String = answer.chars().take(40).collect();
            let told = complaint(answer).await;
            assert!(told.contains(expected), "{head}: {told}");
        }
    }
}
