//! Whether a machine can hold a timing profile: how fast its disk syncs, how far the others are.
//!
//! A heartbeat and an append must fit into the shortest election timeout several times over; else leaders change for
//! nothing. The disk is measured with real syncs, the network with real connections.

use std::{io, path::Path, time::Duration};

use tokio::time::{Instant, timeout};
use world::{Disk, Net};

use crate::{options::Timing, store::pace::percentile};

/// The shortest election timeout is at least this many times the append that 99 of 100 do not exceed.
pub const APPENDS_IN_ELECTION: u32 = 10;
/// And this many times the round trip to the farthest member.
pub const ROUND_TRIPS_IN_ELECTION: u32 = 5;

/// The profiles by name, the fastest first.
pub const PROFILES: [(&str, Timing); 3] =
    [("lan", Timing::lan()), ("cautious", Timing::cautious()), ("wan", Timing::wan())];

/// Sorted spans in three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Spans {
    /// `None` of nothing.
    pub fn of(mut spans: Vec<Duration>) -> Option<Spans> {
        spans.sort_unstable();
        let max = *spans.last()?;
        let p50 = percentile(&spans, 50)?;
        let p99 = percentile(&spans, 99)?;
        Some(Spans { count: spans.len(), p50, p99, max })
    }
}

/// Syncs a small append below `folder` again and again, at most `count` times and for `within` altogether. `None` where
/// no real disk is. Holds up the thread.
pub fn time_appends(disk: &dyn Disk, folder: &Path, count: usize, within: Duration) -> io::Result<Option<Spans>> {
    Ok(Spans::of(disk.time_syncs(folder, count, within)?))
}

/// Opens connections to `host:port`, `count` of them, each within `within`; how long that takes is one round trip.
pub async fn time_round_trips(net: &dyn Net, to: &str, count: usize, within: Duration) -> io::Result<Spans> {
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let begun = Instant::now();
        timeout(within, net.connect(to)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        spans.push(begun.elapsed());
    }
    Ok(Spans::of(spans).expect("there is at least one"))
}

impl Timing {
    /// Its name, or `custom`.
    pub fn name(&self) -> &'static str {
        PROFILES.iter().find(|(_, timing)| timing == self).map_or("custom", |(name, _)| name)
    }

    /// The slowest append at the hundredth that it holds.
    pub fn append_max(&self) -> Duration {
        Duration::from_millis(self.election_min_ms) / APPENDS_IN_ELECTION
    }

    /// The longest round trip that it holds.
    pub fn round_trip_max(&self) -> Duration {
        Duration::from_millis(self.election_min_ms) / ROUND_TRIPS_IN_ELECTION
    }

    /// Whether it holds on such a disk and network.
    pub fn holds(&self, append_p99: Option<Duration>, round_trip: Option<Duration>) -> bool {
        append_p99.is_none_or(|p99| p99 <= self.append_max())
            && round_trip.is_none_or(|trip| trip <= self.round_trip_max())
    }
}

/// The fastest profile that holds; `None`: none does.
pub fn best_profile(append_p99: Option<Duration>, round_trip: Option<Duration>) -> Option<&'static str> {
    PROFILES.iter().find(|(_, timing)| timing.holds(append_p99, round_trip)).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_follows_from_disk_and_network() {
        let profile = |append_us: u64, trip_ms: u64| {
            best_profile(Some(Duration::from_micros(append_us)), Some(Duration::from_millis(trip_ms)))
        };
        assert_eq!(profile(15_000, 30), Some("lan"), "150 ms are ten appends and five round trips");
        assert_eq!(profile(15_001, 30), Some("cautious"));
        assert_eq!(profile(2_000, 31), Some("cautious"));
        assert_eq!(profile(30_001, 1), Some("wan"));
        assert_eq!(profile(100_000, 200), Some("wan"));
        assert_eq!(profile(100_001, 1), None);
        assert_eq!(best_profile(None, None), Some("lan"), "what was not measured is not held against it");
        assert_eq!((Timing::wan().name(), Timing::test().name()), ("wan", "custom"));
    }

    #[tokio::test]
    async fn real_disks_and_sockets_are_measured() {
        let world = world::real::world();
        let folder = tempfile::tempdir().unwrap();
        let spans = time_appends(&*world.disk, folder.path(), 8, Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!(spans.count, 8);
        assert!(spans.p50 > Duration::ZERO && spans.p50 <= spans.p99 && spans.p99 <= spans.max, "{spans:?}");
        assert_eq!(world.disk.list(folder.path()).unwrap(), Vec::<String>::new(), "nothing is left behind");
        assert!(time_appends(&*world.disk, &folder.path().join("missing"), 8, Duration::from_secs(60)).is_err());

        let mut listener = world.net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let accept = async { while listener.accept().await.is_ok() {} };
        let trips = tokio::select! {
            trips = time_round_trips(&*world.net, &to, 5, Duration::from_secs(60)) => trips.unwrap(),
            () = accept => unreachable!("it accepts for ever"),
        };
        assert_eq!(trips.count, 5);
    }
}
