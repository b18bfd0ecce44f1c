//! Bad weather between members without the kernel's `netem`: each member is known to the others by the address of a relay
//! in this process, which passes bytes on late.
//!
//! What is true of it: every chunk is late by a delay and a jitter of its own, in each direction, and the order of a
//! connection is kept, as TCP keeps it. A lost packet is a chunk that comes a retransmission later, and everything behind
//! it waits; so it is with TCP where no later packet tells of the loss. What is not: no acknowledgement gets lost, no
//! window shrinks, a connection is taken at once, and there are no datagrams between members that could overtake each other.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use world::{BoxStream, World};

/// About what a segment train holds.
const CHUNK: usize = 16 << 10;
/// Chunks on their way in one direction of a connection; then the sender feels it.
const ON_THE_WAY: usize = 256;
/// The shortest retransmission timeout of Linux, beside the round trip.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// How it is between members, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    pub delay: Duration,
    /// More or less than that, by so much at most.
    pub jitter: Duration,
    /// Chunks in a hundred that are lost once.
    pub loss_percent: u64,
}

impl Weather {
    /// How late a chunk is. `dice` gives a number below its argument.
    fn late(&self, dice: impl Fn(u64) -> u64) -> Duration {
        let jitter = Duration::from_micros(dice(2 * self.jitter.as_micros() as u64 + 1));
        let lost = dice(100) < self.loss_percent;
        let again = if lost { RETRANSMISSION + 2 * self.delay } else { Duration::ZERO };
        (self.delay + jitter).saturating_sub(self.jitter) + again
    }
}

/// The relays of a crew; they end with it.
#[derive(Default)]
pub struct Relays {
    weather: Arc<Mutex<Weather>>,
    tasks: JoinSet<()>,
}

impl Relays {
    /// Whoever calls `at` speaks to `to`.
    pub async fn add(&mut self, world: &World, at: SocketAddr, to: String) -> Result<()> {
        let mut listener = world.net.listen(at).await?;
        let (world, weather) = (world.clone(), self.weather.clone());
        self.tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                tokio::select! { biased;
                    Some(_) = open.join_next(), if !open.is_empty() => {}
                    called = listener.accept() => {
                        let Ok((near, _)) = called else { continue };
                        let (world, weather, to) = (world.clone(), weather.clone(), to.clone());
                        open.spawn(async move {
                            // A member that is down refuses; its caller finds the connection closed.
                            if let Ok(far) = world.net.connect(&to).await {
                                pass(&world, near, far, &weather).await;
                            }
                        });
                    }
                }
            }
        });
        Ok(())
    }

    /// From now on.
    pub fn turn(&self, weather: Weather) {
        *self.weather.lock().expect("nobody panics while looking at the weather") = weather;
    }
}

async fn pass(world: &World, near: BoxStream, far: BoxStream, weather: &Arc<Mutex<Weather>>) {
    let ((near_out, near_in), (far_out, far_in)) = (tokio::io::split(near), tokio::io::split(far));
    // One direction that ended ends the other: members close whole connections.
    tokio::select! { biased;
        () = one_way(world, near_out, far_in, weather) => {}
        () = one_way(world, far_out, near_in, weather) => {}
    }
}

async fn one_way(
    world: &World,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    weather: &Arc<Mutex<Weather>>,
) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let read = async {
        let mut due = Instant::now();
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let now = *weather.lock().expect("nobody panics while looking at the weather");
            // Nothing overtakes what was sent before it.
            due = due.max(Instant::now() + now.late(|bound| world.entropy.below(bound)));
            if sender.send((due, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
        drop(sender);
        std::future::pending().await
    };
    let write = async {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { biased;
        () = read => {}
        () = write => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_by_what_the_dice_say() {
        let millis = Duration::from_millis;
        let weather = Weather { delay: millis(100), jitter: millis(50), loss_percent: 5 };
        assert_eq!(weather.late(|bound| bound - 1), millis(150));
        assert_eq!(weather.late(|bound| if bound == 100 { 5 } else { 0 }), millis(50));
        assert_eq!(weather.late(|_| 0), millis(50 + 200 + 200), "lost, and sent again");
        assert_eq!(Weather::default().late(|_| 0), Duration::ZERO);
    }

    #[tokio::test]
    async fn bytes_arrive_whole_in_order_and_late() {
        let world = world::real::world();
        let (mut here, near) = tokio::io::duplex(1 << 20);
        let (far, mut there) = tokio::io::duplex(1 << 20);
        let millis = Duration::from_millis;
        let weather = Weather { delay: millis(20), jitter: millis(15), loss_percent: 0 };
        let weather = Arc::new(Mutex::new(weather));
        let relay = tokio::spawn(async move { pass(&world, Box::new(near), Box::new(far), &weather).await });
        let (said, begun) = ((0..100_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>(), Instant::now());
        here.write_all(&said).await.unwrap();
        let mut heard = vec![0; said.len()];
        there.read_exact(&mut heard).await.unwrap();
        assert!(heard == said && begun.elapsed() >= millis(5), "{:?}", begun.elapsed());
        drop(here);
        relay.await.unwrap();
    }
}
