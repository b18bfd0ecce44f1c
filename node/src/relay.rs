//! The embedded DERP's doorman: sockets, certificate, and who may come in.

use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc, time::Duration};

use raft::Cluster;
use state_machine::RelayFacts;
use tailcfg::NodeKey;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use world::{Datagrams, Listener, World};

use crate::{keys, listen, options};

/// Between two looks at who is still admitted.
const RECHECK_GAP: Duration = Duration::from_millis(100);

/// A relay whose ports are known, but which serves nobody yet: the cluster is told of it before it starts.
pub struct Prepared {
    options: options::Relay,
    private_key: derp::PrivateKey,
    certificate: Option<derp::Certificate>,
    listener: Option<Box<dyn Listener>>,
    stun: Option<Box<dyn Datagrams>>,
    facts: RelayFacts,
    runtime: Option<Handle>,
}

/// Opens the ports and reads key and certificate. `fetched`: the cluster fetches one for clients, and this stands for it
/// until it is there.
pub async fn prepare(
    options: &options::Relay,
    name: &str,
    client_port: u16,
    fetched: Option<&derp::SelfSigned>,
    runtime: Option<Handle>,
    world: &World,
) -> io::Result<Prepared> {
    let private_key = keys::private_key_file(&options.key_path, &*world.disk, &world.entropy)?;
    let certificate = certificate(options, fetched, world)?;
    let (listen, stun_listen, net) = (options.listen, options.stun_listen, world.net.clone());
    // Sockets belong to the runtime they are opened on, and these to the relay's.
    let open = async move {
        let listener = match listen {
            Some(addr) => Some(net.listen(addr).await.map_err(|error| at("relay", addr, error))?),
            None => None,
        };
        let stun = match stun_listen {
            Some(addr) => Some(net.udp(addr).await.map_err(|error| at("STUN", addr, error))?),
            None => None,
        };
        io::Result::Ok((listener, stun))
    };
    let (listener, stun) = match &runtime {
        Some(runtime) => runtime.spawn(open).await.map_err(io::Error::other)??,
        None => open.await?,
    };
    let derp_port = match (options.port, &listener) {
        (Some(port), _) => port,
        (None, Some(listener)) => listener.local_addr()?.port(),
        (None, None) => client_port,
    };
    let stun_port = match (options.stun_port, &stun) {
        (Some(port), _) => port,
        (None, Some(stun)) => i32::from(stun.local_addr()?.port()),
        (None, None) => -1,
    };
    let or_name = |text: &str| if text.is_empty() { name.to_owned() } else { text.to_owned() };
    let facts = RelayFacts {
        region_code: or_name(&options.region_code),
        region_name: or_name(&options.region_name),
        host_name: options.host_name.clone(),
        ipv4: options.ipv4.clone(),
        ipv6: options.ipv6.clone(),
        derp_port,
        stun_port,
        can_port_80: false,
        insecure_for_tests: options.insecure_for_tests,
    };
    let private_key = derp::PrivateKey::from_bytes(*private_key);
    Ok(Prepared { options: options.clone(), private_key, certificate, listener, stun, facts, runtime })
}

fn at(what: &str, addr: std::net::SocketAddr, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {addr} for the {what}: {error}"))
}

fn certificate(
    options: &options::Relay,
    fetched: Option<&derp::SelfSigned>,
    world: &World,
) -> io::Result<Option<derp::Certificate>> {
    let invalid = |error: derp::CertificateError| io::Error::new(io::ErrorKind::InvalidData, error);
    match &options.tls {
        Some(files) => {
            let (chain, key) = listen::tls::files(files, &*world.disk)?;
            derp::Certificate::from_pem(&chain, &key).map(Some).map_err(invalid)
        }
        None if fetched.is_some() => fetched.map(derp::SelfSigned::certificate).transpose().map_err(invalid),
        None if options.listen.is_some() => {
            let made = derp::SelfSigned::new(std::slice::from_ref(&options.host_name), &*world.clock);
            made.and_then(|made| made.certificate()).map(Some).map_err(invalid)
        }
        None => Ok(None),
    }
}

impl Prepared {
    /// What other members put into the DERP map; `None` when it shall not be there.
    pub fn facts(&self) -> Option<RelayFacts> {
        self.options.advertise.then(|| self.facts.clone())
    }

    /// Where it listens by itself.
    pub fn local_addr(&self) -> Option<std::net::SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until `stop`; connections are drained by the handle.
    pub fn start(self, cluster: Cluster, world: &World, tasks: &TaskTracker, stop: &CancellationToken) -> derp::Relay {
        let runtime = self.runtime.clone().unwrap_or_else(Handle::current);
        let mut options = derp::RelayOptions::new(self.private_key);
        options.certificate = self.certificate;
        options.bootstrap_dns = bootstrap_dns(&self.facts);
        options.runtime = self.runtime;
        let verify = self.options.verify_clients;
        let admission = {
            let cluster = cluster.clone();
            move |key: &NodeKey| !verify || cluster.latest().node_by_key(key).is_some()
        };
        let relay = derp::Relay::start(options, Arc::new(admission), world);
        if let Some(listener) = self.listener {
            let (relay, served) = (relay.clone(), tasks.clone());
            let accepted = listen::accept(listener, "the relay", stop.clone(), move |stream, from| {
                let relay = relay.clone();
                served.spawn(async move { relay.serve_tls(stream, from).await });
            });
            tasks.spawn_on(accepted, &runtime);
        }
        if let Some(stun) = self.stun {
            let (relay, stop) = (relay.clone(), stop.clone());
            let answers = async move {
                stop.run_until_cancelled(relay.serve_stun(stun)).await;
            };
            tasks.spawn_on(answers, &runtime);
        }
        if verify {
            let (relay, stop) = (relay.clone(), stop.clone());
            tasks.spawn(async move {
                stop.run_until_cancelled(recheck(cluster, relay)).await;
            });
        }
        relay
    }
}

/// What clients without DNS may ask: the relay's own name, where its addresses were given.
fn bootstrap_dns(facts: &RelayFacts) -> BTreeMap<String, Vec<IpAddr>> {
    let addresses: Vec<IpAddr> = [&facts.ipv4, &facts.ipv6].iter().filter_map(|text| text.parse().ok()).collect();
    match addresses.is_empty() || facts.host_name.parse::<IpAddr>().is_ok() {
        true => BTreeMap::new(),
        false => BTreeMap::from([(facts.host_name.clone(), addresses)]),
    }
}

/// Lets the relay ask again whenever nodes have come or gone.
async fn recheck(cluster: Cluster, relay: derp::Relay) {
    let mut states = cluster.watch();
    let mut known = states.borrow_and_update().clone();
    while states.changed().await.is_ok() {
        let latest = states.borrow_and_update().clone();
        if !latest.nodes().ptr_eq(known.nodes()) {
            relay.recheck();
            tokio::time::sleep(RECHECK_GAP).await;
        }
        known = latest;
    }
}
