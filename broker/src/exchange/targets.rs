//! Destinations that share a routing key. Each is stored once, with the number of its bindings.

use std::collections::HashMap;
use std::hash::Hash;

/// Above this many destinations, a map finds each one's position, so that removing a fanout of
/// thousands of destinations stays fast.
const FEW: usize = 32;

#[derive(Debug)]
pub(super) struct Targets<D> {
    /// Each destination with the number of bindings to it.
    entries: Vec<(D, usize)>,
    /// The position of each destination in `entries`; empty for up to [`FEW`] destinations.
    places: HashMap<D, usize>,
}

impl<D> Default for Targets<D> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            places: HashMap::new(),
        }
    }
}

impl<D: Clone + Eq + Hash> Targets<D> {
    pub(super) fn add(&mut self, destination: &D) {
        if let Some(place) = self.position(destination) {
            self.entries[place].1 += 1;
            return;
        }
        self.entries.push((destination.clone(), 1));
        let count = self.entries.len();
        if count == FEW + 1 {
            self.places = self
                .entries
                .iter()
                .enumerate()
                .map(|(place, (known, _))| (known.clone(), place))
                .collect();
        } else if count > FEW {
            self.places.insert(destination.clone(), count - 1);
        }
    }

    pub(super) fn remove(&mut self, destination: &D) {
        let Some(place) = self.position(destination) else {
            return;
        };
        self.entries[place].1 -= 1;
        if self.entries[place].1 > 0 {
            return;
        }
        self.entries.swap_remove(place);
        if self.entries.len() <= FEW {
            self.places = HashMap::new();
            return;
        }
        self.places.remove(destination);
        if let Some((moved, _)) = self.entries.get(place) {
            self.places.insert(moved.clone(), place);
        }
    }

    fn position(&self, destination: &D) -> Option<usize> {
        if self.entries.len() > FEW {
            self.places.get(destination).copied()
        } else {
            self.entries
                .iter()
                .position(|(known, _)| known == destination)
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &D> {
        self.entries.iter().map(|(destination, _)| destination)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Destinations by routing key.
#[derive(Debug)]
pub(super) struct KeyedTargets<D>(HashMap<Box<[u8]>, Targets<D>>);

impl<D> Default for KeyedTargets<D> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<D: Clone + Eq + Hash> KeyedTargets<D> {
    pub(super) fn add(&mut self, key: &[u8], destination: &D) {
        self.0.entry(key.into()).or_default().add(destination);
    }

    pub(super) fn remove(&mut self, key: &[u8], destination: &D) {
        let Some(targets) = self.0.get_mut(key) else {
            return;
        };
        targets.remove(destination);
        if targets.is_empty() {
            self.0.remove(key);
        }
    }

    pub(super) fn matching(&self, key: &[u8]) -> impl Iterator<Item = &D> {
        self.0.get(key).into_iter().flat_map(Targets::iter)
    }
}
