//! One device of the tailnet: comes in through any member, listens, and tells where it is.
//!
//! Odd ones behave as `tailscaled` does, even ones as the crate `tailscale`; their timers are the true ones.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use anyhow::{Context, Result, bail};
use netmap::mirror::Mirror;
use state_machine::NodeId;
use tokio::time::{Instant, sleep, timeout};
use world::World;

use super::Shared;
use crate::{
    client::{Connection, Identity, Registered, back_off, dial, fetch_key_over},
    sim::trace,
};

/// What Go gives dial and handshake together (`control/ts2021`).
const DIAL_AND_HANDSHAKE: Duration = Duration::from_secs(10);
/// The crate's supervisor starts it again at once, but only so often in so long; then it is gone for good.
const RESTARTS: usize = 5;
const RESTARTS_WITHIN: Duration = Duration::from_secs(5);
/// The program around the crate makes a new device after that.
const NEW_DEVICE: Duration = Duration::from_secs(10);
/// A system repeats what nobody has acknowledged at least so often in the first seconds (RFC 6298, section 5).
const REPEATED: Duration = Duration::from_secs(1);

/// What a device has in memory; it outlives its connections.
#[derive(Default)]
pub struct Device {
    /// Known once it came in.
    pub node: Option<NodeId>,
    pub mirror: Mirror,
    /// Streams it has opened so far.
    pub streams: u64,
    /// The machine it has a stream to, from the first frame to the end of the stream.
    pub connected: Option<u64>,
    /// What its disk holds once it was switched on.
    pub identity: Option<Identity>,
    /// It has no power.
    pub off: bool,
    /// How often it lost it.
    pub power_losses: u64,
}

impl Device {
    /// Its memory of the map goes with the power; what it is known as stays on its disk.
    pub fn switch_off(&mut self) {
        self.off = true;
        self.power_losses += 1;
        self.connected = None;
        self.mirror = Mirror::default();
    }
}

/// One device at work.
pub struct Daemon {
    pub number: u64,
    pub name: RefCell<dial::Name>,
    pub identity: Identity,
    pub world: World,
    pub shared: Rc<Shared>,
    /// Tells where it is every second or two; otherwise once a stream.
    pub chatty: bool,
}

impl Daemon {
    fn is_go(&self) -> bool {
        self.number % 2 == 1
    }

    /// Connects, listens, and connects again, until the simulation ends.
    pub async fn run(self) -> Result<()> {
        while !self.shared.open.get() {
            super::pause(&self.world.entropy, 50, 100).await;
        }
        match self.is_go() {
            true => self.as_go().await,
            false => self.as_rust().await,
        }
    }

    /// `tailscaled`: the key is fetched once, failures wait n² · 10 ms, a map sets n back.
    async fn as_go(&self) -> Result<()> {
        let (mut failures, mut key) = (0, None);
        loop {
            let before = self.streams();
            let addresses = self.name.borrow_mut().cached(&self.world.entropy);
            let session = async {
                let control_key = match key {
                    Some(key) => key,
                    None => {
                        let (server, stream) = dial::race(&self.world, &addresses).await?;
                        let fetched = timeout(DIAL_AND_HANDSHAKE, fetch_key_over(stream, &server)).await??;
                        *key.insert(fetched)
                    }
                };
                let connect = async {
                    let (server, stream) = dial::race(&self.world, &addresses).await?;
                    let connection = Connection::over(stream, &server, &control_key, &self.identity).await?;
                    Ok::<_, anyhow::Error>((server, connection))
                };
                let (server, connection) =
                    timeout(DIAL_AND_HANDSHAKE, connect).await.context("no server in time")??;
                self.session(&server, connection).await
            };
            let ended = session.await;
            self.over(ended);
            failures = if self.streams() > before { 1 } else { failures + 1 };
            sleep(back_off(failures, &self.world.entropy)).await;
        }
    }

    /// The crate: the key is fetched for every connection, addresses are tried one by one, and nothing ever waits.
    async fn as_rust(&self) -> Result<()> {
        let mut restarts: Vec<Instant> = Vec::new();
        loop {
            let addresses = self.name.borrow().ask(&self.world.entropy);
            let session = async {
                let (server, stream) = dial::one_by_one(&self.world, &addresses).await?;
                let key = self.unless_reset(&server, fetch_key_over(stream, &server)).await?;
                let (server, stream) = dial::one_by_one(&self.world, &addresses).await?;
                let opened = Connection::over(stream, &server, &key, &self.identity);
                let connection = self.unless_reset(&server, opened).await?;
                self.session(&server, connection).await
            };
            let ended = session.await;
            self.over(ended);
            restarts.retain(|restart| restart.elapsed() < RESTARTS_WITHIN);
            restarts.push(Instant::now());
            if restarts.len() > RESTARTS {
                sleep(NEW_DEVICE).await;
                restarts.clear();
            }
        }
    }

    /// A request that a machine took with it when it lost power is repeated by the system, and the machine, started again,
    /// knows nothing of the connection. Whoever only listens is told by nobody; that is what its watchdog is for.
    async fn unless_reset<T>(&self, server: &str, asked: impl Future<Output = Result<T>>) -> Result<T> {
        let restarts = || machine(server).and_then(|number| self.shared.restarts.borrow().get(&number).copied());
        let before = restarts();
        let reset = async {
            while restarts() == before {
                sleep(REPEATED).await;
            }
        };
        tokio::select! { biased;
            answer = asked => answer,
            () = reset => bail!("{server} was started again and knows nothing of the connection"),
        }
    }

    fn over(&self, ended: Result<()>) {
        self.shared.devices.borrow_mut().get_mut(&self.number).expect("entered before it runs").connected = None;
        trace::event("session ended", self.number, &[]);
        tracing::debug!(device = self.number, ?ended, "session ended");
    }

    async fn session(&self, server: &str, connection: Connection) -> Result<()> {
        if self.shared.devices.borrow()[&self.number].node.is_none() {
            let Some(key) = self.shared.board.borrow().key_for(self.number) else { bail!("no key on the board yet") };
            match connection.register(&self.identity, Some(&key.text())).await? {
                Registered::In => {}
                other => bail!("not let in: {other:?}"),
            }
        }
        let mut stream = connection.stream(&self.identity, self.is_go()).await?;
        let server = machine(server);
        let mut first = true;
        let period = Duration::from_millis(700 + self.world.entropy.below(2500));
        let mut next_news = Instant::now();
        let mut telling = None;
        loop {
            tokio::select! { biased;
                frame = stream.next() => {
                    self.remember(&frame?, first, server)?;
                    first = false;
                }
                told = async { telling.as_mut().expect("looked at only while there is one").await }, if telling.is_some() => {
                    telling = None;
                    next_news = Instant::now() + period;
                    // An update that failed is said again; the stream has its own watchdog.
                    if let Err(error) = told {
                        let error: anyhow::Error = error;
                        tracing::debug!(device = self.number, %error, "an update failed");
                    }
                }
                () = tokio::time::sleep_until(next_news), if telling.is_none() && self.may_tell(first) => {
                    telling = Some(Box::pin(self.tell(&connection)));
                }
            }
        }
    }

    fn may_tell(&self, first: bool) -> bool {
        !first && self.chatty && !self.shared.quiet.get()
    }

    fn remember(&self, frame: &[u8], first: bool, server: Option<u64>) -> Result<()> {
        trace::event("frame", self.number, &(frame.len() as u64).to_le_bytes());
        let mut devices = self.shared.devices.borrow_mut();
        let device = devices.get_mut(&self.number).expect("every device is entered before it runs");
        let mut history = self.shared.history.borrow_mut();
        if first {
            device.mirror = Mirror::default();
            device.streams += 1;
            device.connected = server;
        }
        if let Err(violation) = device.mirror.apply(frame) {
            history.gap(self.number, &violation.to_string());
            bail!("a frame makes no sense: {violation}");
        }
        history.counts.frames += 1;
        if let Some(node) = device.mirror.node().and_then(|node| node["ID"].as_u64()).map(NodeId)
            && device.node != Some(node)
        {
            device.node = Some(node);
            history.register(self.identity.node_key, node, None);
        }
        Ok(())
    }

    async fn tell(&self, connection: &Connection) -> Result<()> {
        let dice = self.world.entropy.u64();
        let endpoint = SocketAddr::from(([192, 0, 2, dice as u8], 1024 + (dice >> 8) as u16 % 50_000));
        connection.update(&self.identity, &[endpoint], 901 + (dice >> 32) as u32 % 3).await
    }

    fn streams(&self) -> u64 {
        self.shared.devices.borrow()[&self.number].streams
    }
}

/// The number of the machine behind `hsN:PORT`.
fn machine(server: &str) -> Option<u64> {
    server.split(':').next()?.strip_prefix("hs")?.parse().ok()
}
