//! Every register reads as if its reads and writes had happened one after the other, each between question and answer.
//!
//! Wing and Gong's search with Lowe's memory of positions seen: of the operations that may come next, one is taken, and
//! taken back when that leads nowhere. A write that was never answered stays open: it may have happened at any time
//! after its question, or never.

use std::collections::{BTreeMap, BTreeSet};

use super::{Law, Sight};
use crate::history::{Kind, Operation};

/// Searches once, at the end.
pub struct Linearizable;

impl Law for Linearizable {
    fn name(&self) -> &'static str {
        "reads and writes are linearizable"
    }

    fn end(&mut self, sight: &Sight<'_>) -> Result<(), String> {
        let mut registers: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
        for operation in &sight.history.operations {
            registers.entry(operation.register).or_default().push(*operation);
        }
        for (register, operations) in registers {
            check(operations).map_err(|stuck| format!("register {register}: {stuck}"))?;
        }
        Ok(())
    }
}

/// `Err` tells how far an order could be found.
fn check(mut operations: Vec<Operation>) -> Result<(), String> {
    let read: BTreeSet<u64> = operations
        .iter()
        .filter_map(|operation| match operation.kind {
            Kind::Read(value) if operation.end.is_some() => Some(value),
            _ => None,
        })
        .collect();
    // Reads without an answer tell nothing, nor do writes without an answer whose value nobody saw (values are written
    // once): any order with such a write is as good without it.
    operations.retain(|operation| match operation.kind {
        Kind::Write(value) => operation.end.is_some() || read.contains(&value),
        Kind::Read(_) => operation.end.is_some(),
    });
    operations.sort_by_key(|operation| operation.begin);
    let mut search = Search { done: vec![false; operations.len()], value: 0, first: 0, operations };
    let mut seen: BTreeSet<(u64, Vec<bool>)> = BTreeSet::new();
    // What was taken, with what was there before and the candidates that were not tried yet.
    let mut path: Vec<(usize, u64, Vec<usize>)> = Vec::new();
    let mut furthest = 0;
    loop {
        let mut candidates = search.candidates();
        if candidates.is_empty() && search.is_complete() {
            return Ok(());
        }
        furthest = furthest.max(path.len());
        if !seen.insert((search.value, search.done[search.first..].to_vec())) {
            candidates.clear();
        }
        loop {
            if let Some(next) = candidates.pop() {
                let before = search.value;
                search.take(next);
                path.push((next, before, candidates));
                break;
            }
            let Some((taken, before, rest)) = path.pop() else {
                let all = search.operations.len();
                return Err(format!(
                    "no order of its {all} operations explains what was read (at most {furthest} of them)"
                ));
            };
            search.take_back(taken, before);
            candidates = rest;
        }
    }
}

struct Search {
    operations: Vec<Operation>,
    done: Vec<bool>,
    value: u64,
    /// Everything before it is done.
    first: usize,
}

impl Search {
    /// Operations that were asked before any of those that are left was answered, and that fit the value.
    fn candidates(&self) -> Vec<usize> {
        let mut earliest_end = u64::MAX;
        let mut open = Vec::new();
        for index in self.first..self.operations.len() {
            let operation = &self.operations[index];
            if self.done[index] {
                continue;
            }
            if operation.begin > earliest_end {
                break;
            }
            earliest_end = earliest_end.min(operation.end.unwrap_or(u64::MAX));
            open.push(index);
        }
        open.retain(|index| self.operations[*index].begin <= earliest_end);
        let reads = |index: &&usize| self.operations[**index].kind == Kind::Read(self.value);
        // A read that fits changes nothing: taking it at once loses no order.
        if let Some(read) = open.iter().find(reads) {
            return vec![*read];
        }
        open.retain(|index| matches!(self.operations[*index].kind, Kind::Write(_)));
        // Writes that were answered come off the stack first.
        open.sort_by_key(|index| self.operations[*index].end.is_some());
        if self.is_complete() { Vec::new() } else { open }
    }

    /// Only writes without an answer are left: they need not have happened.
    fn is_complete(&self) -> bool {
        (self.first..self.operations.len()).all(|index| self.done[index] || self.operations[index].end.is_none())
    }

    fn take(&mut self, index: usize) {
        self.done[index] = true;
        if let Kind::Write(value) = self.operations[index].kind {
            self.value = value;
        }
        while self.done.get(self.first) == Some(&true) {
            self.first += 1;
        }
    }

    fn take_back(&mut self, index: usize, before: u64) {
        self.done[index] = false;
        self.value = before;
        self.first = self.first.min(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::staged::Stage;

    fn write(value: u64, begin: u64, end: impl Into<Option<u64>>) -> Operation {
        Operation { register: 1, kind: Kind::Write(value), begin, end: end.into() }
    }

    fn read(value: u64, begin: u64, end: u64) -> Operation {
        Operation { register: 1, kind: Kind::Read(value), begin, end: Some(end) }
    }

    #[test]
    fn orders_are_found_where_there_are_some() {
        check(vec![]).unwrap();
        check(vec![read(0, 1, 2), write(1, 3, 4), read(1, 5, 6)]).unwrap();
        // Overlapping: either order of the writes will do.
        check(vec![write(1, 1, 10), write(2, 2, 9), read(1, 11, 12)]).unwrap();
        check(vec![write(1, 1, 10), write(2, 2, 9), read(2, 3, 4), read(1, 5, 6)]).unwrap();
        // Never answered: happened late, or never.
        check(vec![write(1, 1, 2), write(2, 3, None), read(1, 4, 5), read(1, 8, 9)]).unwrap();
        check(vec![write(1, 1, 2), write(2, 3, None), read(1, 4, 5), read(2, 8, 9)]).unwrap();
    }

    #[test]
    fn stale_reads_lost_writes_and_ghosts_are_found() {
        assert!(check(vec![write(1, 1, 2), read(0, 3, 4)]).is_err(), "a stale read");
        assert!(check(vec![write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]).is_err(), "a lost write");
        assert!(check(vec![write(1, 1, 2), read(7, 3, 4)]).is_err(), "a value nobody wrote");
        let back = vec![write(1, 1, 2), write(2, 3, None), read(2, 4, 5), read(1, 6, 7)];
        assert!(check(back).is_err(), "an open write that happened cannot unhappen");
        let twice = vec![write(1, 1, 10), write(2, 2, 9), read(2, 11, 12), read(1, 13, 14)];
        assert!(check(twice).is_err(), "two readers saw two orders");
    }

    #[test]
    fn a_long_history_with_many_open_writes_is_decided_quickly() {
        let mut operations = Vec::new();
        for step in 0..600u64 {
            let (value, at) = (step + 1, step * 10);
            operations.push(write(value, at, if step % 40 == 7 { None } else { Some(at + 12) }));
            if step % 40 != 7 {
                operations.push(read(value, at + 13, at + 14));
            }
        }
        // Writes of neighbours overlap by two ticks, and a read sits in the overlap of the next one.
        let _ = check(operations.clone());
        operations.push(read(3, 10_000, 10_001));
        assert!(check(operations).is_err());
    }

    #[test]
    fn registers_are_looked_at_one_by_one() {
        let mut stage = Stage::default();
        stage.history.operations = vec![write(1, 1, 2), read(1, 3, 4)];
        Linearizable.end(&stage.sight()).unwrap();
        stage.history.operations.push(Operation { register: 2, ..read(1, 5, 6) });
        assert!(Linearizable.end(&stage.sight()).unwrap_err().contains("register 2"));
    }
}
