//! Emulated devices with the timers of the real client: they race all addresses of the name, hold a map stream, and
//! come back by themselves when it ends.
//!
//! From the client's sources: the next address is dialled 300 ms after the one before (`net/dnscache`, fallbackDelay);
//! a stream in which nothing came for 120 s is given up (`control/controlclient/direct.go`, watchdogTimeout); between
//! attempts it waits n² · 10 ms, give or take half, 30 s at most (`util/backoff`); its sockets probe a silent host after
//! 30 s, every 15 s, nine times (`net/netknob`, and Go's defaults), so the watchdog is first.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use world::{World, real::SilentPeer};

use super::crew::{Crew, PATIENCE};
use crate::client::{Connection, Identity, Registered, back_off};

/// After so long the next address is tried as well.
const NEXT_ADDRESS: Duration = Duration::from_millis(300);
/// A dial, as the client gives it (`controlhttp`).
const DIAL: Duration = Duration::from_secs(10);
/// Devices that come in at the same time; more would only queue.
const AT_ONCE: usize = 16;

/// The address that answers first when all are tried in a random order, as a name with several records has it.
pub async fn race(world: &World, addresses: &[String]) -> Result<String> {
    let mut order: Vec<String> = addresses.to_vec();
    for last in (1..order.len()).rev() {
        order.swap(last, world.entropy.below(last as u64 + 1) as usize);
    }
    let mut dials = JoinSet::new();
    for (place, address) in (0..).zip(order) {
        let world = world.clone();
        dials.spawn(async move {
            sleep(NEXT_ADDRESS * place).await;
            timeout(DIAL, world.net.connect(&address)).await.is_ok_and(|dialled| dialled.is_ok()).then_some(address)
        });
    }
    while let Some(dialled) = dials.join_next().await {
        if let Some(address) = dialled? {
            return Ok(address);
        }
    }
    anyhow::bail!("no address answers")
}

/// A dial for the key, a dial for the connection, as the client makes them; and which address it was.
pub async fn connect(world: &World, addresses: &[String], identity: &Identity) -> Result<(Connection, String)> {
    race(world, addresses).await?;
    let address = race(world, addresses).await?;
    Ok((Connection::open(world, &address, identity).await?, address))
}

/// What a guest tells.
#[derive(Clone, Debug)]
pub enum News {
    /// It has a first map from this address.
    Polled { guest: usize, address: String, at: Instant },
    /// Its stream ended.
    Broken { guest: usize, at: Instant },
    /// A map came in which these relay regions are listed.
    Regions { guest: usize, regions: BTreeSet<u32>, at: Instant },
}

/// Some devices that hold streams.
pub struct Guests {
    pub identities: Vec<Identity>,
    news: mpsc::UnboundedReceiver<News>,
    /// Where each one's stream is.
    pub homes: Vec<Option<String>>,
    _tasks: JoinSet<()>,
}

impl Guests {
    /// Registers so many devices through all members, and lets each open its stream; returns when all have a map.
    pub async fn invite(crew: &Crew, many: usize) -> Result<Guests> {
        Guests::invite_over(crew, many, Duration::ZERO).await
    }

    /// The same, and their streams are opened one by one over `span`, so that each has keep-alives at moments of its own.
    /// The first stream goes to the members in turn, so that those of one member are spread evenly.
    pub async fn invite_over(crew: &Crew, many: usize, span: Duration) -> Result<Guests> {
        let addresses: Vec<String> = crew.seats[..crew.plan.members].iter().map(|seat| seat.address()).collect();
        let identities: Vec<Identity> =
            (0..many).map(|guest| Identity::new(&crew.world.entropy, &format!("guest-{guest}"))).collect();
        let mut entering = JoinSet::new();
        for (guest, identity) in identities.iter().enumerate() {
            let (world, identity, key) = (crew.world.clone(), identity.clone(), crew.auth_key.clone());
            let address = addresses[guest % addresses.len()].clone();
            entering.spawn(async move {
                let connection = Connection::open(&world, &address, &identity).await?;
                let registered = connection.register(&identity, Some(&key)).await?;
                ensure!(registered == Registered::In, "not let in: {registered:?}");
                Ok(())
            });
            if entering.len() >= AT_ONCE {
                entering.join_next().await.context("somebody enters")???;
            }
        }
        while let Some(entered) = entering.join_next().await {
            entered??;
        }
        // Nor does a device of ours notice a silent host earlier than a real one.
        let world = World { net: world::real::net(SilentPeer::TAILSCALED), ..crew.world.clone() };
        let (tell, news) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for (guest, identity) in identities.iter().cloned().enumerate() {
            let (world, addresses, tell) = (world.clone(), addresses.clone(), tell.clone());
            let after = span.mul_f64(guest as f64 / many as f64);
            let first = (!span.is_zero()).then(|| addresses[guest % addresses.len()].clone());
            tasks.spawn(async move {
                sleep(after).await;
                stay(world, addresses, first, identity, guest, tell).await;
            });
        }
        let mut guests = Guests { identities, news, homes: vec![None; many], _tasks: tasks };
        let deadline = Instant::now() + span + PATIENCE;
        while guests.homes.iter().any(Option::is_none) {
            guests.hear(deadline).await.context("not every guest got a map")?;
        }
        Ok(guests)
    }

    /// The next news before the deadline, already noted.
    pub async fn hear(&mut self, until: Instant) -> Option<News> {
        let news = tokio::time::timeout_at(until, self.news.recv()).await.ok()??;
        self.note(&news);
        Some(news)
    }

    fn note(&mut self, news: &News) {
        match news {
            News::Polled { guest, address, .. } => self.homes[*guest] = Some(address.clone()),
            News::Broken { guest, .. } => self.homes[*guest] = None,
            News::Regions { .. } => {}
        }
    }

    /// Notes everything that was told so far.
    pub fn catch_up(&mut self) {
        // Not `hear` with a deadline of now: a task that received many gets none for a turn, which looks like the end.
        while let Ok(news) = self.news.try_recv() {
            self.note(&news);
        }
    }

    /// Who has its stream at this address.
    pub fn at(&self, address: &str) -> Vec<usize> {
        (0..self.homes.len()).filter(|guest| self.homes[*guest].as_deref() == Some(address)).collect()
    }

    /// Waits until all of these have a map from another address; how long after `since` each had it.
    pub async fn moved(
        &mut self,
        whom: &[usize],
        from: &str,
        since: Instant,
        within: Duration,
    ) -> Result<Vec<Duration>, usize> {
        let mut times: Vec<Option<Duration>> = vec![None; self.homes.len()];
        let missing = |times: &[Option<Duration>]| whom.iter().filter(|guest| times[**guest].is_none()).count();
        while missing(&times) > 0 {
            match self.hear(since + within).await {
                Some(News::Polled { guest, address, at }) if address != from && at > since => {
                    times[guest].get_or_insert(at - since);
                }
                Some(_) => {}
                None => return Err(missing(&times)),
            }
        }
        Ok(whom.iter().filter_map(|guest| times[*guest]).collect())
    }
}

async fn stay(
    world: World,
    addresses: Vec<String>,
    mut first: Option<String>,
    identity: Identity,
    guest: usize,
    tell: mpsc::UnboundedSender<News>,
) {
    let mut failures = 0;
    loop {
        let whom = first.take().map_or_else(|| addresses.clone(), |first| vec![first]);
        let _ = hold(&world, &whom, &identity, guest, &tell, &mut failures).await;
        if tell.send(News::Broken { guest, at: Instant::now() }).is_err() {
            return;
        }
        failures += 1;
        sleep(back_off(failures, &world.entropy)).await;
    }
}

async fn hold(
    world: &World,
    addresses: &[String],
    identity: &Identity,
    guest: usize,
    tell: &mpsc::UnboundedSender<News>,
    failures: &mut u32,
) -> Result<()> {
    let (connection, address) = connect(world, addresses, identity).await?;
    let mut stream = connection.stream(identity, true).await?;
    let mut first = true;
    loop {
        let frame = stream.next().await?;
        let at = Instant::now();
        if first {
            *failures = 0;
            tell.send(News::Polled { guest, address: address.clone(), at })?;
            first = false;
        }
        // Only a frame that has them is worth reading.
        if memchr(&frame, b"\"DERPMap\"") {
            let map: Value = serde_json::from_slice(&frame)?;
            if let Some(regions) = map["DERPMap"]["Regions"].as_object() {
                let regions = regions.keys().filter_map(|id| id.parse().ok()).collect();
                tell.send(News::Regions { guest, regions, at })?;
            }
        }
    }
}

fn memchr(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}
