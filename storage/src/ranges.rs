//! Sets of sequences as disjoint ranges.

use std::collections::BTreeMap;

/// Disjoint ranges of sequences, both ends included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(crate) fn contains(&self, sequence: u64) -> bool {
        self.0
            .range(..=sequence)
            .next_back()
            .is_some_and(|(_, last)| *last >= sequence)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(first, last)| (*first, *last))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many sequences are in the ranges.
    pub(crate) fn count(&self) -> u64 {
        self.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// The parts of `first..=last` that are not in the ranges.
    pub(crate) fn gaps(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = first;
        let before = self.0.range(..=first).next_back();
        let after = self.0.range(first.saturating_add(1)..);
        for (from, to) in before.into_iter().chain(after) {
            if *from > last || at > last {
                break;
            }
            if *from > at {
                gaps.push((at, *from - 1));
            }
            at = at.max(to.saturating_add(1));
        }
        if at <= last {
            gaps.push((at, last));
        }
        gaps
    }

    /// Adds `first..=last`, joined with what it touches.
    pub(crate) fn add(&mut self, mut first: u64, mut last: u64) {
        if let Some((from, to)) = self.0.range(..=first).next_back()
            && to.saturating_add(1) >= first
        {
            (first, last) = (*from, last.max(*to));
        }
        while let Some((from, to)) = self
            .0
            .range(first..)
            .next()
            .map(|(from, to)| (*from, *to))
            .filter(|(from, _)| *from <= last.saturating_add(1))
        {
            self.0.remove(&from);
            last = last.max(to);
        }
        self.0.insert(first, last);
    }

    /// Removes a first range that begins at or below `floor`, and returns the new floor.
    pub(crate) fn raise(&mut self, mut floor: u64) -> u64 {
        while let Some(entry) = self.0.first_entry().filter(|entry| *entry.key() <= floor) {
            floor = floor.max(entry.remove().saturating_add(1));
        }
        floor
    }
}
