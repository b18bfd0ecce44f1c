//! Who has knocked and not said who it is: bounded in all and per source, so that one host cannot fill the hall.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The hall. Clones are handles of the same one.
#[derive(Clone)]
pub(crate) struct Newcomers {
    inside: Arc<Mutex<Inside>>,
    most: usize,
    most_per_source: usize,
}

#[derive(Default)]
struct Inside {
    all: usize,
    by_source: BTreeMap<IpAddr, usize>,
}

/// A place in the hall, given back when dropped.
pub(crate) struct Place {
    hall: Newcomers,
    source: IpAddr,
}

impl Newcomers {
    pub(crate) fn new(most: usize, most_per_source: usize) -> Newcomers {
        Newcomers { inside: Arc::default(), most, most_per_source }
    }

    /// A place for somebody from `ip`, if there is one.
    pub(crate) fn admit(&self, ip: IpAddr) -> Option<Place> {
        let source = source_of(ip);
        let mut inside = self.lock();
        if inside.all >= self.most {
            return None;
        }
        let from_there = inside.by_source.entry(source).or_default();
        if *from_there >= self.most_per_source {
            return None;
        }
        *from_there += 1;
        inside.all += 1;
        Some(Place { hall: self.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.hall.lock();
        inside.all -= 1;
        if let Some(from_there) = inside.by_source.get_mut(&self.source) {
            *from_there -= 1;
            if *from_there == 0 {
                inside.by_source.remove(&self.source);
            }
        }
    }
}

/// One host may use all addresses of an IPv6 /64.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_share_and_all_together_theirs() {
        let hall = Newcomers::new(3, 2);
        let admit = |ip: &str| hall.admit(ip.parse().unwrap());
        let first = admit("2001:db8::1").unwrap();
        let second = admit("2001:db8::ffff:1").unwrap();
        assert!(admit("2001:db8::2").is_none(), "the same /64");
        let third = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.2").is_none(), "all are taken");
        drop(first);
        let again = admit("2001:db8::3").unwrap();
        drop((second, third, again));
        let inside = hall.lock();
        assert!(inside.all == 0 && inside.by_source.is_empty(), "places come back");
    }
}
