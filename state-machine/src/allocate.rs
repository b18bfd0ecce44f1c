//! Which tailnet address comes next.
//!
//! In order: the lowest that was never given since the search last started over, so that an address is not reused
//! while somebody may still remember its last owner. Or random, by the seed a registration carries: apply rolls no
//! dice. Both look into the free ranges of the prefix, which costs O(log n).
//!
//! A user's ranges, or the pools a policy gives (`ipPool`), say where an address comes from. Others stay out of them
//! as long as there is room elsewhere.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{free_ranges::FreeRanges, model::*, mutants, outcome::Refusal, state::State};

/// Where every prefix of tailnet addresses lies; clients accept no others.
pub(crate) const CGNAT: &str = "100.64.0.0/10";
pub(crate) const ULA: &str = "fd7a:115c:a1e0::/48";

/// 100.100.100.100 answers DNS in every client; 100.115.92.0/23 is ChromeOS's own.
const RESERVED_V4: [(u128, u128); 2] = [
    (Ipv4Addr::new(100, 100, 100, 100).to_bits() as u128, Ipv4Addr::new(100, 100, 100, 100).to_bits() as u128),
    (Ipv4Addr::new(100, 115, 92, 0).to_bits() as u128, Ipv4Addr::new(100, 115, 93, 255).to_bits() as u128),
];

/// The IPv6 face of 100.100.100.100.
const RESERVED_V6: [(u128, u128); 1] = {
    let dns = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53).to_bits();
    [(dns, dns)]
};

/// What a prefix can give: all but the network's and the broadcast address and those reserved by clients.
pub(crate) fn free_in_v4(prefix: Ipv4Net) -> FreeRanges {
    let (network, broadcast) = (u128::from(prefix.network().to_bits()), u128::from(prefix.broadcast().to_bits()));
    match broadcast.saturating_sub(network) {
        0 | 1 => FreeRanges::default(),
        _ => FreeRanges::new(network + 1, broadcast - 1, &RESERVED_V4),
    }
}

/// The same for IPv6.
pub(crate) fn free_in_v6(prefix: Ipv6Net) -> FreeRanges {
    let (network, last) = (prefix.network().to_bits(), prefix.broadcast().to_bits());
    match last.saturating_sub(network) {
        0 | 1 => FreeRanges::default(),
        _ => FreeRanges::new(network + 1, last - 1, &RESERVED_V6),
    }
}

/// Addresses chosen for a node, not given yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chosen {
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

/// Where the addresses of somebody's nodes come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Tried one after the other; none: everywhere.
    own: Vec<IpNet>,
    /// Of others: kept free as long as possible.
    kept: Vec<IpNet>,
}

/// The first and the last address.
type Span = (u128, u128);

impl Reach {
    fn spans(nets: &[IpNet], ipv4: bool) -> Vec<Span> {
        let span = |net: &IpNet| match net {
            IpNet::V4(net) if ipv4 => Some((net.network().to_bits().into(), net.broadcast().to_bits().into())),
            IpNet::V6(net) if !ipv4 => Some((net.network().to_bits(), net.broadcast().to_bits())),
            _ => None,
        };
        nets.iter().filter_map(span).collect()
    }

    fn own_text(&self, ipv4: bool) -> String {
        let family = self.own.iter().filter(|net| matches!(net, IpNet::V4(_)) == ipv4);
        family.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

impl State {
    /// For a node of this owner. Below [`BEYOND`](crate::BEYOND) there are no ranges.
    pub(crate) fn reach_of(&self, user: Option<UserId>, tags: &BTreeSet<String>) -> Reach {
        if self.feature_level() < crate::BEYOND {
            return Reach::default();
        }
        let owner = user.filter(|_| tags.is_empty()).and_then(|user| self.user(user));
        let mut own: Vec<IpNet> = owner.map(|user| user.ranges.iter().copied().collect()).unwrap_or_default();
        let policy = self.policy_in_force();
        if let Some(policy) = policy.filter(|_| own.is_empty()) {
            let tags: Vec<String> = tags.iter().cloned().collect();
            let user = owner.map(|user| self.inventory_user(user));
            own = policy.pools_of(&tags, user.as_ref());
        }
        let others = self.indexes.users_with_ranges.keys().filter_map(|user| self.user(*user));
        let mut kept: Vec<IpNet> = others.flat_map(|user| user.ranges.iter().copied()).collect();
        kept.extend(policy.into_iter().flat_map(|policy| policy.pools()));
        // Disjoint and in order.
        kept = IpNet::aggregate(&kept);
        kept.sort_unstable();
        Reach { own, kept }
    }

    /// One address of each family the tailnet has. Changes nothing.
    pub(crate) fn choose_addresses(&self, reach: &Reach, seed: u64) -> Result<Chosen, Refusal> {
        Ok(Chosen { ipv4: self.choose_ipv4(reach, seed)?, ipv6: self.choose_ipv6(reach, seed)? })
    }

    /// Remembers where the search in order goes on. Call it when the node that has them is put.
    pub(crate) fn addresses_given(&mut self, chosen: Chosen, reach: &Reach) {
        if self.settings().allocation != Allocation::Sequential {
            return;
        }
        let from_all = |ipv4| Reach::spans(&reach.own, ipv4).is_empty();
        let facts = self.cluster_mut();
        facts.last_ipv4 = chosen.ipv4.filter(|_| from_all(true)).or(facts.last_ipv4);
        facts.last_ipv6 = chosen.ipv6.filter(|_| from_all(false)).or(facts.last_ipv6);
    }

    pub(crate) fn choose_ipv4(&self, reach: &Reach, seed: u64) -> Result<Option<Ipv4Addr>, Refusal> {
        let Some(prefix) = self.settings().prefix_v4 else { return Ok(None) };
        let free = &self.indexes.free_ipv4;
        let last = self.tables.cluster.last_ipv4.map(|address| address.to_bits().into());
        let mut start = self.start_of_search(free, last, seed);
        if mutants::is("hash-order") {
            start += mutants::hash_order(4);
        }
        if mutants::is("address-given-twice")
            && seed.is_multiple_of(4)
            && let Some(address) = self.nodes().values().find_map(|node| node.ipv4)
        {
            return Ok(Some(address));
        }
        // Addresses that end in .0 are legal, but old devices take them for a network's.
        let found = self.search(free, start, reach, true, seed, |address| address & 0xff != 0);
        let found = found.ok_or_else(|| exhausted(reach, true, prefix.to_string()))?;
        Ok(Some(Ipv4Addr::from_bits(found as u32)))
    }

    pub(crate) fn choose_ipv6(&self, reach: &Reach, seed: u64) -> Result<Option<Ipv6Addr>, Refusal> {
        let Some(prefix) = self.settings().prefix_v6 else { return Ok(None) };
        let free = &self.indexes.free_ipv6;
        let last = self.tables.cluster.last_ipv6.map(Ipv6Addr::to_bits);
        let start = self.start_of_search(free, last, seed);
        let found = self.search(free, start, reach, false, seed, |_| true);
        let found = found.ok_or_else(|| exhausted(reach, false, prefix.to_string()))?;
        Ok(Some(Ipv6Addr::from_bits(found)))
    }

    /// In somebody's own ranges the lowest free address, or one by the seed; elsewhere from `start` on, outside the
    /// ranges of others first.
    fn search(
        &self,
        free: &FreeRanges,
        start: u128,
        reach: &Reach,
        ipv4: bool,
        seed: u64,
        fits: impl Fn(u128) -> bool + Copy,
    ) -> Option<u128> {
        let own = Reach::spans(&reach.own, ipv4);
        if own.is_empty() {
            let kept = Reach::spans(&reach.kept, ipv4);
            let outside = (!kept.is_empty()).then(|| probe(free, start, &kept, fits)).flatten();
            return outside.or_else(|| probe(free, start, &[], fits));
        }
        own.into_iter().find_map(|(low, high)| {
            let start = match self.settings().allocation {
                Allocation::Sequential => low,
                Allocation::Random => low + spread(seed) % (high - low).saturating_add(1),
            };
            let rest = [(0, low.saturating_sub(1)), (high.saturating_add(1), u128::MAX)];
            // One address alone is what was meant, also when it ends in .0. Routers listen at the first one of an IPv6
            // network (RFC 4291, 2.6.1).
            let usable = |address| low == high || (fits(address) && (ipv4 || address != low));
            probe(free, start, &rest, |address| (low..=high).contains(&address) && usable(address))
        })
    }

    fn start_of_search(&self, free: &FreeRanges, last: Option<u128>, seed: u64) -> u128 {
        let Some((low, high)) = free.span() else { return 0 };
        match self.settings().allocation {
            Allocation::Sequential => last.map_or(low, |last| last.saturating_add(1)),
            Allocation::Random => low + spread(seed) % (high - low + 1),
        }
    }
}

fn exhausted(reach: &Reach, ipv4: bool, prefix: String) -> Refusal {
    let own = reach.own_text(ipv4);
    Refusal::AddressesExhausted { prefix: if own.is_empty() { prefix } else { own } }
}

/// The first free and fitting address from `start` upwards, then from the bottom; none in the spans to leave out,
/// which are in order.
fn probe(free: &FreeRanges, start: u128, leave_out: &[Span], fits: impl Fn(u128) -> bool) -> Option<u128> {
    let upwards = |from: u128, to: u128| {
        let mut from = from;
        loop {
            let found = free.at_or_after(from).filter(|found| *found <= to)?;
            let within = leave_out.partition_point(|(_, high)| *high < found);
            from = match leave_out.get(within) {
                Some((low, high)) if *low <= found => high.checked_add(1)?,
                _ if fits(found) => return Some(found),
                _ => found.checked_add(1)?,
            };
        }
    };
    upwards(start, u128::MAX).or_else(|| upwards(free.lowest()?, start))
}

/// Spreads a seed over 128 bits (two rounds of splitmix64): neighbouring seeds must not give neighbouring addresses.
fn spread(seed: u64) -> u128 {
    let round = |state: u64| {
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let (first, second) = (seed.wrapping_add(STEP), seed.wrapping_add(STEP.wrapping_mul(2)));
    u128::from(round(first)) << 64 | u128::from(round(second))
}
