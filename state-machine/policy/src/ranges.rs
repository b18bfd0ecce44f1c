//! Sets of addresses as ranges: joined, cut and written again as prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

/// Addresses of both families; ranges are sorted and do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    pub fn of(nets: &[IpNet]) -> Ranges {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(net) => v4.push((net.network().to_bits().into(), net.broadcast().to_bits().into())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Ranges { v4: joined(v4), v6: joined(v6) }
    }

    /// `None` when it ends before it begins, or in another family.
    pub fn between(first: IpAddr, last: IpAddr) -> Option<Ranges> {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
                Some(Ranges { v4: vec![(first.to_bits().into(), last.to_bits().into())], v6: Vec::new() })
            }
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
                Some(Ranges { v4: Vec::new(), v6: vec![(first.to_bits(), last.to_bits())] })
            }
            _ => None,
        }
    }

    pub fn with(&self, other: &Ranges) -> Ranges {
        let both = |a: &[(u128, u128)], b: &[(u128, u128)]| joined([a, b].concat());
        Ranges { v4: both(&self.v4, &other.v4), v6: both(&self.v6, &other.v6) }
    }

    pub fn without(&self, other: &Ranges) -> Ranges {
        Ranges { v4: cut(&self.v4, &other.v4), v6: cut(&self.v6, &other.v6) }
    }

    /// First and last addresses, IPv4 first.
    pub fn ends(&self) -> Vec<(IpAddr, IpAddr)> {
        let v4 = |bits: u128| IpAddr::V4(Ipv4Addr::from_bits(bits as u32));
        let v6 = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(bits));
        let first = self.v4.iter().map(|(first, last)| (v4(*first), v4(*last)));
        first.chain(self.v6.iter().map(|(first, last)| (v6(*first), v6(*last)))).collect()
    }

    /// The fewest prefixes that cover exactly these addresses.
    pub fn prefixes(&self) -> Vec<IpNet> {
        let mut prefixes = Vec::new();
        for (first, last) in self.ends() {
            match (first, last) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    prefixes.extend(Ipv4Subnets::new(first, last, 0).map(|net: Ipv4Net| IpNet::V4(net)));
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    prefixes.extend(Ipv6Subnets::new(first, last, 0).map(|net: Ipv6Net| IpNet::V6(net)));
                }
                _ => {}
            }
        }
        prefixes
    }
}

fn joined(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

fn cut(ranges: &[(u128, u128)], holes: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let mut left = ranges.to_vec();
    for (from, to) in holes {
        left = left
            .into_iter()
            .flat_map(|(first, last)| {
                if *to < first || *from > last {
                    return vec![(first, last)];
                }
                let before = (first < *from).then(|| (first, from - 1));
                let after = (*to < last).then(|| (to + 1, last));
                before.into_iter().chain(after).collect()
            })
            .collect();
    }
    left
}

/// Whether two prefixes share an address.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The public internet as `autogroup:internet` means it: all but private, tailnet and link-local addresses.
pub(crate) fn internet() -> Ranges {
    let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"];
    Ranges::of(&[net("0.0.0.0/0"), net("2000::/3")]).without(&Ranges::of(&private.map(net)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_internet_is_what_captures_say() {
        let shown: Vec<String> = internet().ends().iter().map(|(first, last)| format!("{first}-{last}")).collect();
        assert_eq!(
            shown,
            [
                "0.0.0.0-9.255.255.255",
                "11.0.0.0-100.63.255.255",
                "100.128.0.0-169.253.255.255",
                "169.255.0.0-172.15.255.255",
                "172.32.0.0-192.167.255.255",
                "192.169.0.0-255.255.255.255",
                "2000::-3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ]
        );
    }

    #[test]
    fn sets_are_joined_and_cut() {
        let nets = |words: &[&str]| Ranges::of(&words.iter().map(|word| word.parse().unwrap()).collect::<Vec<_>>());
        assert_eq!(nets(&["10.0.0.0/9", "10.128.0.0/9"]), nets(&["10.0.0.0/8"]));
        let cut = nets(&["10.0.0.0/8", "fd00::/64"]).without(&nets(&["10.64.0.0/10"]));
        assert_eq!(cut, nets(&["10.0.0.0/10", "10.128.0.0/9", "fd00::/64"]));
        assert_eq!(cut.prefixes().len(), 3);
        assert_eq!(nets(&["::/0"]).without(&nets(&["::/1"])), nets(&["8000::/1"]));
    }
}
