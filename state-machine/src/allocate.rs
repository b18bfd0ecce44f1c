//! Which tailnet address comes next.
//!
//! In order: the lowest that was never given since the search last started over, so that an address is not reused
//! while somebody may still remember its last owner. Or random, by the seed a registration carries: apply rolls no
//! dice. Both look into the free ranges of the prefix, which costs O(log n).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

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

impl State {
    /// One address of each family the tailnet has. Changes nothing.
    pub(crate) fn choose_addresses(&self, seed: u64) -> Result<Chosen, Refusal> {
        Ok(Chosen { ipv4: self.choose_ipv4(seed)?, ipv6: self.choose_ipv6(seed)? })
    }

    /// Remembers where the search in order goes on. Call it when the node that has them is put.
    pub(crate) fn addresses_given(&mut self, chosen: Chosen) {
        if self.settings().allocation != Allocation::Sequential {
            return;
        }
        let facts = self.cluster_mut();
        facts.last_ipv4 = chosen.ipv4.or(facts.last_ipv4);
        facts.last_ipv6 = chosen.ipv6.or(facts.last_ipv6);
    }

    pub(crate) fn choose_ipv4(&self, seed: u64) -> Result<Option<Ipv4Addr>, Refusal> {
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
        let found = probe(free, start, |address| address & 0xff != 0);
        let found = found.ok_or_else(|| Refusal::AddressesExhausted { prefix: prefix.to_string() })?;
        Ok(Some(Ipv4Addr::from_bits(found as u32)))
    }

    pub(crate) fn choose_ipv6(&self, seed: u64) -> Result<Option<Ipv6Addr>, Refusal> {
        let Some(prefix) = self.settings().prefix_v6 else { return Ok(None) };
        let free = &self.indexes.free_ipv6;
        let last = self.tables.cluster.last_ipv6.map(Ipv6Addr::to_bits);
        let start = self.start_of_search(free, last, seed);
        let found = probe(free, start, |_| true);
        let found = found.ok_or_else(|| Refusal::AddressesExhausted { prefix: prefix.to_string() })?;
        Ok(Some(Ipv6Addr::from_bits(found)))
    }

    fn start_of_search(&self, free: &FreeRanges, last: Option<u128>, seed: u64) -> u128 {
        let Some((low, high)) = free.span() else { return 0 };
        match self.settings().allocation {
            Allocation::Sequential => last.map_or(low, |last| last.saturating_add(1)),
            Allocation::Random => low + spread(seed) % (high - low + 1),
        }
    }
}

/// The first free and fitting address from `start` upwards, then from the bottom.
fn probe(free: &FreeRanges, start: u128, fits: impl Fn(u128) -> bool) -> Option<u128> {
    let upwards = |from: u128, to: u128| {
        let mut from = from;
        loop {
            let found = free.at_or_after(from).filter(|found| *found <= to)?;
            if fits(found) {
                return Some(found);
            }
            from = found.checked_add(1)?;
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
