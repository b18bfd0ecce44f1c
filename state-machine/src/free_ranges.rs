//! The addresses of a prefix that nobody has, as ranges: finding, taking and returning one costs O(log n).

use std::sync::Arc;

use imbl::OrdMap;

/// Disjoint ranges that never touch (first → last, both included), so that equal sets are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FreeRanges {
    ranges: OrdMap<u128, u128>,
    /// What may be free at all: addresses outside are never taken into account.
    bounds: Arc<Vec<(u128, u128)>>,
}

impl FreeRanges {
    /// Everything from `first` to `last` except the reserved ranges, which are ordered and disjoint.
    pub fn new(first: u128, last: u128, reserved: &[(u128, u128)]) -> FreeRanges {
        let mut bounds = Vec::new();
        let mut start = Some(first);
        for &(from, to) in reserved {
            let Some(at) = start else { break };
            if to < at || from > last {
                continue;
            }
            if from > at {
                bounds.push((at, from - 1));
            }
            start = to.checked_add(1);
        }
        if let Some(at) = start
            && at <= last
        {
            bounds.push((at, last));
        }
        FreeRanges { ranges: bounds.iter().copied().collect(), bounds: Arc::new(bounds) }
    }

    /// Whether the address is one there could be, and nobody's.
    pub fn has(&self, address: u128) -> bool {
        self.containing(address).is_some()
    }

    /// The lowest free address that is `from` or higher.
    pub fn at_or_after(&self, from: u128) -> Option<u128> {
        if self.containing(from).is_some() {
            return Some(from);
        }
        self.ranges.get_next(&from).map(|(&first, _)| first)
    }

    /// The lowest free address.
    pub fn lowest(&self) -> Option<u128> {
        self.ranges.get_min().map(|&(first, _)| first)
    }

    /// The lowest and the highest address there could be.
    pub fn span(&self) -> Option<(u128, u128)> {
        Some((self.bounds.first()?.0, self.bounds.last()?.1))
    }

    /// The address is somebody's now. Nothing happens when it was not free.
    pub fn take(&mut self, address: u128) {
        let Some((first, last)) = self.containing(address) else { return };
        self.ranges.remove(&first);
        if first < address {
            self.ranges.insert(first, address - 1);
        }
        if address < last {
            self.ranges.insert(address + 1, last);
        }
    }

    /// The address is nobody's any more. Nothing happens when it is outside or free already.
    pub fn give_back(&mut self, address: u128) {
        let Some(&(low, high)) = self.bounds.iter().find(|&&(low, high)| low <= address && address <= high) else {
            return;
        };
        if self.containing(address).is_some() {
            return;
        }
        let (mut first, mut last) = (address, address);
        if let Some(below) = address.checked_sub(1).filter(|below| *below >= low).and_then(|b| self.containing(b)) {
            self.ranges.remove(&below.0);
            first = below.0;
        }
        if let Some(above) = address.checked_add(1).filter(|above| *above <= high).and_then(|a| self.containing(a)) {
            self.ranges.remove(&above.0);
            last = above.1;
        }
        self.ranges.insert(first, last);
    }

    fn containing(&self, address: u128) -> Option<(u128, u128)> {
        self.ranges.get_prev(&address).map(|(&first, &last)| (first, last)).filter(|&(_, last)| address <= last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_addresses_are_left_out() {
        let mut free = FreeRanges::new(1, 10, &[(0, 1), (4, 5), (9, 20)]);
        let mut seen = Vec::new();
        while let Some(address) = free.lowest() {
            free.take(address);
            seen.push(address);
        }
        assert_eq!(seen, [2, 3, 6, 7, 8]);
        assert_eq!(free.at_or_after(0), None);
    }

    #[test]
    fn given_back_means_as_before() {
        let whole = FreeRanges::new(1, 20, &[(10, 10)]);
        let mut free = whole.clone();
        for address in [5, 3, 4, 11, 9, 20, 1] {
            free.take(address);
        }
        assert_eq!(free.at_or_after(3), Some(6));
        assert_eq!(free.at_or_after(9), Some(12));
        for address in [4, 9, 1, 5, 20, 11, 3, 10, 4, 99] {
            free.give_back(address);
        }
        assert_eq!(free, whole);
    }

    #[test]
    fn the_last_address_of_all_does_not_overflow() {
        let mut free = FreeRanges::new(u128::MAX - 1, u128::MAX, &[]);
        free.take(u128::MAX);
        free.take(u128::MAX - 1);
        assert_eq!(free.lowest(), None);
        free.give_back(u128::MAX);
        assert_eq!(free.at_or_after(0), Some(u128::MAX));
        assert_eq!(FreeRanges::new(0, 5, &[(0, u128::MAX)]).lowest(), None);
    }
}
