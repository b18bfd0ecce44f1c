//! How often one address may fail to prove itself.
//!
//! A bucket per IPv4 address or IPv6 /64: thirty failures at once, then one every half a second. Success costs nothing,
//! so consoles that poll are never slowed down.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Mutex,
    time::Duration,
};

use tokio::time::Instant;

const BURST: f64 = 30.0;
const PER_SECOND: f64 = 2.0;
/// Addresses remembered at most; beyond, the ones that are full again are forgotten first.
const ADDRESSES_MAX: usize = 10_000;

/// Failures of everybody.
#[derive(Default)]
pub struct Throttle(Mutex<BTreeMap<IpAddr, Bucket>>);

struct Bucket {
    left: f64,
    at: Instant,
}

impl Throttle {
    /// How long this address has to wait before it may try again; `None`: it may.
    pub fn wait(&self, from: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let buckets = self.0.lock().expect("nothing panics under this lock");
        let left = buckets.get(&block(from)).map_or(BURST, |bucket| bucket.level(now));
        (left < 1.0).then(|| Duration::from_secs_f64((1.0 - left) / PER_SECOND))
    }

    /// Remembers a failure.
    pub fn failed(&self, from: Option<IpAddr>, now: Instant) {
        let mut buckets = self.0.lock().expect("nothing panics under this lock");
        if buckets.len() >= ADDRESSES_MAX {
            buckets.retain(|_, bucket| bucket.level(now) < BURST);
        }
        if buckets.len() >= ADDRESSES_MAX {
            // Everybody is failing: start anew rather than grow.
            buckets.clear();
        }
        let bucket = buckets.entry(block(from)).or_insert(Bucket { left: BURST, at: now });
        *bucket = Bucket { left: (bucket.level(now) - 1.0).max(0.0), at: now };
    }
}

impl Bucket {
    fn level(&self, now: Instant) -> f64 {
        (self.left + now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND).min(BURST)
    }
}

/// Who is counted as one: an IPv4 address, an IPv6 /64. Callers without an address share one bucket.
fn block(from: Option<IpAddr>) -> IpAddr {
    match from.map(|address| address.to_canonical()) {
        Some(IpAddr::V6(address)) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & 0xffff_ffff_ffff_ffff_0000_0000_0000_0000))
        }
        Some(v4) => v4,
        None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_run_out_and_come_back() {
        let throttle = Throttle::default();
        let from = |text: &str| Some(text.parse().unwrap());
        for _ in 0..30 {
            assert_eq!(throttle.wait(from("192.0.2.1"), Instant::now()), None);
            throttle.failed(from("192.0.2.1"), Instant::now());
        }
        assert_eq!(throttle.wait(from("192.0.2.1"), Instant::now()), Some(Duration::from_millis(500)));
        assert_eq!(throttle.wait(from("::ffff:192.0.2.1"), Instant::now()), Some(Duration::from_millis(500)));
        assert_eq!(throttle.wait(from("192.0.2.2"), Instant::now()), None);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(throttle.wait(from("192.0.2.1"), Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_ipv6_network_is_one_caller() {
        let throttle = Throttle::default();
        for host in 0..30u128 {
            throttle.failed(Some(IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | host))), Instant::now());
        }
        assert!(throttle.wait(Some("2001:db8::ffff".parse().unwrap()), Instant::now()).is_some());
        assert!(throttle.wait(Some("2001:db8:0:1::1".parse().unwrap()), Instant::now()).is_none());
    }
}
