//! Where members live: on the loopback address, or each in a network namespace of its own, joined by a bridge.
//!
//! On the bridge a member can vanish without a word (its cable is pulled), and pairs of members can be cut from each
//! other, in both directions or one, while clients still reach both. Cuts are blackhole routes and a veth that is down;
//! both work on a bare Debian. Delay and loss would need the kernel's `netem`, which few kernels have: they are made by
//! relays instead (`weather.rs`).

use std::{
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use world::World;

use crate::fleet;

/// Ports a member takes.
const PORTS: u16 = 6;

/// Where one member listens.
#[derive(Clone, Debug)]
pub struct Place {
    pub host: String,
    pub client: u16,
    pub peer: u16,
    pub metrics: u16,
    pub derp: u16,
    pub stun: u16,
    /// Where a relay stands for its `peer`, if there is one ([`super::weather`]).
    pub detour: u16,
    /// Its network namespace; none: this process's.
    pub namespace: Option<String>,
    /// The bridge's end of its cable.
    pub cable: Option<String>,
}

impl Place {
    fn at(host: String, base: u16) -> Place {
        let (namespace, cable) = (None, None);
        Place {
            host,
            client: base,
            peer: base + 1,
            metrics: base + 2,
            derp: base + 3,
            stun: base + 4,
            detour: base + 5,
            namespace,
            cable,
        }
    }
}

/// Where a crew lives.
#[derive(Clone, Debug)]
pub enum Ground {
    Loopback,
    /// A bridge with this number; members are `10.77.<number>.11` and on, clients come from `10.77.<number>.1`.
    Bridge(u8),
}

/// The next bridge's number.
static NEXT: AtomicU8 = AtomicU8::new(0);

impl Ground {
    /// A bridge nobody uses yet.
    pub fn bridge() -> Ground {
        Ground::Bridge(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Places for so many members; namespaces and cables are made here.
    pub async fn places(&self, world: &World, members: usize) -> Result<Vec<Place>> {
        match self {
            Ground::Loopback => {
                let base = fleet::free_ports(world, PORTS * members as u16).await?;
                Ok((0..members as u16).map(|member| Place::at("127.0.0.1".into(), base + PORTS * member)).collect())
            }
            Ground::Bridge(number) => {
                let bridge = format!("hsr{number}");
                ip(&["link", "add", &bridge, "type", "bridge"]).await?;
                ip(&["addr", "add", &format!("10.77.{number}.1/24"), "dev", &bridge]).await?;
                ip(&["link", "set", &bridge, "up"]).await?;
                let mut places = Vec::new();
                for member in 0..members {
                    places.push(cable(*number, &bridge, member).await?);
                }
                // A neighbour that vanished shall be silence, as behind a router, and not "no route to host".
                for one in &places {
                    let hardware = hardware(one).await?;
                    neighbour(None, &one.host, &hardware, &bridge).await?;
                    for other in places.iter().filter(|other| other.host != one.host) {
                        neighbour(other.namespace.as_deref(), &one.host, &hardware, "eth0").await?;
                    }
                }
                Ok(places)
            }
        }
    }

    /// A command that runs where the member lives.
    pub fn command(&self, place: &Place, program: &Path) -> Command {
        match &place.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        }
    }
}

async fn cable(number: u8, bridge: &str, member: usize) -> Result<Place> {
    let (namespace, near) = (format!("hsr{number}m{member}"), format!("hsr{number}c{member}"));
    let host = format!("10.77.{number}.{}", 11 + member);
    ip(&["netns", "add", &namespace]).await?;
    ip(&["link", "add", &near, "type", "veth", "peer", "name", "eth0", "netns", &namespace]).await?;
    ip(&["link", "set", &near, "master", bridge, "up"]).await?;
    ip(&["-n", &namespace, "link", "set", "lo", "up"]).await?;
    ip(&["-n", &namespace, "addr", "add", &format!("{host}/24"), "dev", "eth0"]).await?;
    ip(&["-n", &namespace, "link", "set", "eth0", "up"]).await?;
    Ok(Place { namespace: Some(namespace), cable: Some(near), ..Place::at(host, 8080) })
}

async fn hardware(place: &Place) -> Result<String> {
    let namespace = place.namespace.as_deref().context("on a bridge")?;
    let said = ip(&["-n", namespace, "-br", "link", "show", "eth0"]).await?;
    Ok(said.split_whitespace().nth(2).context("a veth has a hardware address")?.to_owned())
}

async fn neighbour(namespace: Option<&str>, host: &str, hardware: &str, device: &str) -> Result<()> {
    let mut words = namespace.map_or(Vec::new(), |namespace| vec!["-n", namespace]);
    words.extend(["neigh", "replace", host, "lladdr", hardware, "dev", device, "nud", "permanent"]);
    ip(&words).await.map(drop)
}

/// Runs `ip`; what it printed.
async fn ip(words: &[&str]) -> Result<String> {
    run("ip", words).await
}

async fn run(program: &str, words: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(words).output().await.with_context(|| format!("{program} cannot be run"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", words.join(" "), complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Why there can be no bridge here; nothing when there can.
pub async fn why_no_bridge() -> Option<String> {
    if std::env::var_os(INSIDE).is_none() {
        return Some("this process has no network of its own (unshare needs root)".into());
    }
    let name = "hsr-probe";
    let probe = async {
        ip(&["netns", "add", name]).await?;
        ip(&["netns", "del", name]).await?;
        ip(&["link", "add", name, "type", "bridge"]).await?;
        ip(&["link", "del", name]).await?;
        ip(&["link", "set", "lo", "up"]).await
    };
    probe.await.err().map(|error| format!("{error:#}"))
}

/// Set in a process that runs in a network, a mount and a process namespace of its own.
pub const INSIDE: &str = "HSRAFT_TORTURE_INSIDE";

/// Pulls a member's cable, or puts it back.
pub async fn pull(place: &Place, out: bool) -> Result<()> {
    let cable = place.cable.as_deref().context("the member has a cable")?;
    ip(&["link", "set", cable, if out { "down" } else { "up" }]).await.map(drop)
}

/// What `from` sends to `to` is lost from now on, or no longer.
pub async fn cut(from: &Place, to: &Place, cut: bool) -> Result<()> {
    let namespace = from.namespace.as_deref().context("the member has a network of its own")?;
    let route = format!("{}/32", to.host);
    let what = if cut { "add" } else { "del" };
    ip(&["-n", namespace, "route", what, "blackhole", &route]).await.map(drop)
}
