//! A load balancer of fifty lines: always accepts, and forwards to the first member that answers.
//!
//! The Rust client gives up for ever when a dial is refused: its control actor is restarted at most five times in five
//! seconds, without a pause. Behind a balancer it never sees a refusal, which is what operators do for such clients.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use tokio::task::JoinHandle;
use world::{BoxStream, World};

/// How long an accepted connection waits for a member that answers.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one member may take to accept.
const DIAL: Duration = Duration::from_secs(1);

/// A running forwarder; ends when dropped.
pub struct Forwarder {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// Forwards to the first of `targets` that answers; the order is the preference.
    pub async fn start(world: &World, targets: Vec<String>) -> Result<Forwarder> {
        let mut listener = world.net.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let address = listener.local_addr()?;
        let (world, targets) = (world.clone(), Arc::new(targets));
        let task = tokio::spawn(async move {
            let mut carried = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                while carried.try_join_next().is_some() {}
                carried.spawn(carry(near, world.clone(), targets.clone()));
            }
        });
        Ok(Forwarder { address, task })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut near: BoxStream, world: World, targets: Arc<Vec<String>>) {
    let Ok(Some(mut far)) = tokio::time::timeout(PATIENCE, find(&world, &targets)).await else { return };
    // A member that dies ends the copy, and dropping both streams tells the client.
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

async fn find(world: &World, targets: &[String]) -> Option<BoxStream> {
    loop {
        for target in targets {
            if let Ok(Ok(stream)) = tokio::time::timeout(DIAL, world.net.connect(target)).await {
                return Some(stream);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
