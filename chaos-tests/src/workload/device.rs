//! One device of the tailnet: comes in through any member, listens, and tells where it is.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use anyhow::{Result, bail};
use netmap::mirror::Mirror;
use state_machine::NodeId;
use world::World;

use super::Shared;
use crate::{
    client::{Connection, Identity, Registered, back_off},
    sim::trace,
};

/// What a device has in memory; it outlives its connections.
#[derive(Default)]
pub struct Device {
    /// Known once it came in.
    pub node: Option<NodeId>,
    pub mirror: Mirror,
    /// Streams it has opened so far.
    pub streams: u64,
}

/// One device at work.
pub struct Daemon {
    pub number: u64,
    /// `host:port` of every member.
    pub servers: Vec<String>,
    pub identity: Identity,
    pub world: World,
    pub shared: Rc<Shared>,
}

impl Daemon {
    /// Connects, listens, and connects again, as `tailscaled` does, until the simulation ends.
    pub async fn run(self) -> Result<()> {
        while !self.shared.open.get() {
            super::pause(&self.world.entropy, 50, 100).await;
        }
        let mut failures = 0;
        loop {
            let server = &self.servers[self.world.entropy.below(self.servers.len() as u64) as usize];
            let before = self.streams();
            let ended = self.session(server).await;
            trace::event("session ended", self.number, &[]);
            tracing::debug!(device = self.number, server, ?ended, "session ended");
            failures = if self.streams() > before { 1 } else { failures + 1 };
            tokio::time::sleep(back_off(failures, &self.world.entropy)).await;
        }
    }

    async fn session(&self, server: &str) -> Result<()> {
        let mut connection = Connection::open(&self.world, server, &self.identity).await?;
        if self.shared.devices.borrow()[&self.number].node.is_none() {
            let Some(key) = self.shared.board.borrow().reusable.clone() else { bail!("no key on the board yet") };
            match connection.register(&self.identity, Some(&key.text())).await? {
                Registered::In => {}
                other => bail!("not let in: {other:?}"),
            }
        }
        // Odd devices are Go's, even ones Rust's.
        let mut stream = connection.stream(&self.identity, self.number % 2 == 1).await?;
        let mut first = true;
        let mut news = tokio::time::interval(Duration::from_millis(700 + self.world.entropy.below(2500)));
        loop {
            tokio::select! { biased;
                frame = stream.next() => {
                    self.remember(&frame?, first)?;
                    first = false;
                }
                _ = news.tick(), if !self.shared.quiet.get() => self.tell(&mut connection).await?,
            }
        }
    }

    fn remember(&self, frame: &[u8], first: bool) -> Result<()> {
        trace::event("frame", self.number, &(frame.len() as u64).to_le_bytes());
        let mut devices = self.shared.devices.borrow_mut();
        let device = devices.get_mut(&self.number).expect("every device is entered before it runs");
        if first {
            device.mirror = Mirror::default();
            device.streams += 1;
        }
        device.mirror.apply(frame).map_err(|error| anyhow::anyhow!("a frame makes no sense: {error}"))?;
        let mut history = self.shared.history.borrow_mut();
        history.counts.frames += 1;
        if let Some(node) = device.mirror.node().and_then(|node| node["ID"].as_u64()).map(NodeId)
            && device.node != Some(node)
        {
            device.node = Some(node);
            history.register(self.identity.node_key, node, None);
        }
        Ok(())
    }

    async fn tell(&self, connection: &mut Connection) -> Result<()> {
        let dice = self.world.entropy.u64();
        let endpoint = SocketAddr::from(([192, 0, 2, dice as u8], 1024 + (dice >> 8) as u16 % 50_000));
        connection.update(&self.identity, &[endpoint], 901 + (dice >> 32) as u32 % 3).await
    }

    fn streams(&self) -> u64 {
        self.shared.devices.borrow()[&self.number].streams
    }
}
