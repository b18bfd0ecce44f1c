//! Where clients reach this member, told to the cluster for the dial plan.
//!
//! What the configuration says, or else what DNS says of this member's own URL: that name may be looked up by members
//! now and then, so that clients need not. A name that cannot be resolved changes nothing.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use raft::Cluster;
use state_machine::{Command, State};
use tokio::time::Instant;
use url::{Host, Url};
use world::World;

use super::RETRY;
use crate::options::Options;

/// Addresses move seldom; records live for about as long.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// After a name that could not be resolved.
const AGAIN: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Runs as long as the member does; acts while the dial plan is on.
pub async fn run(cluster: Cluster, options: Options, world: World) {
    let mut states = cluster.watch();
    let mut due = Instant::now();
    let mut known: Option<Vec<IpAddr>> = None;
    loop {
        let state = states.borrow_and_update().clone();
        let on = state.settings().dial_plan;
        if on && Instant::now() >= due {
            let found = addresses(&state, &options, &world).await;
            due = Instant::now() + if found.is_some() { LOOK_EVERY } else { AGAIN };
            known = found.or(known);
        }
        let news = known.as_ref().filter(|known| on && told(&state, &cluster) != Some(known.as_slice()));
        if let Some(addresses) = news.cloned() {
            let command = Command::SetMemberAddresses { id: cluster.me(), addresses: addresses.clone() };
            match cluster.propose(&options.name, command).await.map(|applied| applied.answer) {
                Ok(Ok(_)) => tracing::info!(?addresses, "clients are told where this member is reached"),
                Ok(Err(refusal)) => {
                    tracing::warn!(%refusal, ?addresses, "the dial plan does without this member");
                    known = None;
                }
                Err(error) => {
                    tracing::debug!(%error, "this member's addresses were not told yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
            continue;
        }
        tokio::select! { biased;
            moved = states.changed() => if moved.is_err() { return },
            () = tokio::time::sleep_until(due), if on => {}
        }
    }
}

fn told<'a>(state: &'a State, cluster: &Cluster) -> Option<&'a [IpAddr]> {
    state.member(cluster.me()).map(|member| member.addresses.as_slice())
}

/// `None`: nothing is known now.
async fn addresses(state: &State, options: &Options, world: &World) -> Option<Vec<IpAddr>> {
    if !options.client_addresses.is_empty() {
        return Some(options.client_addresses.clone());
    }
    let host = dialled_host(&options.client_url, &state.settings().server_url)?;
    match tokio::time::timeout(ANSWER_WITHIN, world.net.resolve(&host)).await {
        Ok(Ok(found)) if !found.is_empty() => Some(in_order(found)),
        Ok(Ok(_)) => None,
        Ok(Err(error)) => {
            tracing::warn!(host, %error, "cannot resolve cluster.client_url for the dial plan");
            None
        }
        Err(_) => {
            tracing::warn!(host, "cannot resolve cluster.client_url for the dial plan in time");
            None
        }
    }
}

/// The host of this member's own URL, when clients would dial it by the port they know: a plan changes addresses only.
fn dialled_host(client_url: &str, server_url: &str) -> Option<String> {
    let (own, server) = (Url::parse(client_url).ok()?, Url::parse(server_url).ok()?);
    if (own.scheme(), own.port_or_known_default()) != (server.scheme(), server.port_or_known_default()) {
        return None;
    }
    Some(match own.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    })
}

/// Resolvers rotate what they answer; a rotation is no news.
fn in_order(found: Vec<IpAddr>) -> Vec<IpAddr> {
    found.into_iter().collect::<BTreeSet<IpAddr>>().into_iter().take(4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_url_with_the_port_clients_know_counts() {
        let host = |client: &str, server: &str| dialled_host(client, server);
        assert_eq!(host("https://hs1.example.com", "https://hs.example.com:443").as_deref(), Some("hs1.example.com"));
        assert_eq!(host("http://127.0.0.2:8080", "http://127.0.0.1:8080").as_deref(), Some("127.0.0.2"));
        assert_eq!(host("https://[2001:db8::1]", "https://hs.example.com").as_deref(), Some("2001:db8::1"));
        assert_eq!(host("https://hs1.example.com:8443", "https://hs.example.com"), None);
        assert_eq!(host("http://hs1.example.com", "https://hs.example.com"), None);
        assert_eq!(host("", "https://hs.example.com"), None);
    }

    #[test]
    fn a_rotation_is_no_news() {
        let found = ["192.0.2.3", "192.0.2.1", "192.0.2.3"].map(|text| text.parse().unwrap());
        let expected: Vec<IpAddr> = ["192.0.2.1", "192.0.2.3"].map(|text| text.parse().unwrap()).into();
        assert_eq!(in_order(found.to_vec()), expected);
    }
}
