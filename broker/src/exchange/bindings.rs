//! The bindings of one exchange, found by identity or by destination.
//!
//! A binding's identity is its destination, routing key and arguments; the order of the arguments
//! does not matter. Each binding has a slot, a number that stays the same for as long as the
//! binding exists, so that an index can refer to it.

use std::collections::HashMap;
use std::hash::Hash;

use crate::memory::{KindCharge, TOPOLOGY};
use crate::wire::table::Table;

pub(super) type BindingSlot = usize;

/// One binding, as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a, D> {
    /// The queue or exchange that the binding routes to.
    pub destination: &'a D,
    /// The routing key or pattern.
    pub key: &'a [u8],
    /// The arguments in the order in which the client sent them.
    pub arguments: &'a Table,
}

#[derive(Debug)]
pub(super) struct BindingEntry<D> {
    pub(super) destination: D,
    pub(super) key: Box<[u8]>,
    pub(super) arguments: Table,
    /// Where its slot stands among those of its destination.
    place: usize,
    charge: KindCharge,
}

impl<D> BindingEntry<D> {
    /// The memory that it was charged for.
    pub(super) fn bytes(&self) -> usize {
        self.charge.bytes()
    }
}

/// The bindings of an exchange that no longer routes, to be removed one by one.
#[derive(Debug)]
pub(crate) struct RemovedBindings<D>(Vec<Option<BindingEntry<D>>>);

impl<D> Default for RemovedBindings<D> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<D> RemovedBindings<D> {
    /// The number of places. Some may be free.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes the bindings of at most so many places.
    pub(crate) fn take_some(&mut self, most: usize) -> Self {
        Self(self.0.split_off(self.0.len().saturating_sub(most)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Binding<'_, D>> {
        self.0.iter().flatten().map(view)
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct BindingIdentity<D> {
    destination: D,
    key: Box<[u8]>,
    /// The encoded arguments, sorted by name.
    arguments: Box<[u8]>,
}

impl<D: Clone> BindingIdentity<D> {
    fn new(destination: &D, key: &[u8], arguments: &Table) -> Self {
        let mut entries: Vec<_> = arguments.iter().collect();
        entries.sort();
        let sorted: Table = entries
            .into_iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Self {
            destination: destination.clone(),
            key: key.into(),
            arguments: sorted.to_bytes().into(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Bindings<D> {
    entries: Vec<Option<BindingEntry<D>>>,
    free: Vec<BindingSlot>,
    slots: HashMap<BindingIdentity<D>, BindingSlot>,
    by_destination: HashMap<D, Vec<BindingSlot>>,
}

impl<D> Default for Bindings<D> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            slots: HashMap::new(),
            by_destination: HashMap::new(),
        }
    }
}

impl<D: Clone + Eq + Hash> Bindings<D> {
    /// Adds a binding that uses `bytes` of memory and returns its slot, or `None` if an identical
    /// binding exists.
    pub(super) fn insert(
        &mut self,
        destination: &D,
        (key, arguments): (&[u8], Table),
        bytes: usize,
    ) -> Option<BindingSlot> {
        let identity = BindingIdentity::new(destination, key, &arguments);
        if self.slots.contains_key(&identity) {
            return None;
        }
        let of_destination = self.by_destination.entry(destination.clone()).or_default();
        let entry = BindingEntry {
            destination: destination.clone(),
            key: key.into(),
            arguments,
            place: of_destination.len(),
            charge: TOPOLOGY.charge(bytes),
        };
        let slot = self.free.pop().unwrap_or(self.entries.len());
        if slot == self.entries.len() {
            self.entries.push(Some(entry));
        } else {
            self.entries[slot] = Some(entry);
        }
        self.slots.insert(identity, slot);
        of_destination.push(slot);
        Some(slot)
    }

    pub(super) fn find(
        &self,
        destination: &D,
        key: &[u8],
        arguments: &Table,
    ) -> Option<BindingSlot> {
        self.slots
            .get(&BindingIdentity::new(destination, key, arguments))
            .copied()
    }

    pub(super) fn remove(&mut self, slot: BindingSlot) -> Option<BindingEntry<D>> {
        let entry = self.entries.get_mut(slot)?.take()?;
        self.slots.remove(&BindingIdentity::new(
            &entry.destination,
            &entry.key,
            &entry.arguments,
        ));
        if let Some(slots) = self.by_destination.get_mut(&entry.destination) {
            slots.swap_remove(entry.place);
            let moved = slots
                .get(entry.place)
                .and_then(|&slot| self.entries.get_mut(slot));
            if let Some(Some(moved)) = moved {
                moved.place = entry.place;
            }
            if slots.is_empty() {
                self.by_destination.remove(&entry.destination);
            }
        }
        self.free.push(slot);
        Some(entry)
    }

    /// Takes all bindings. The index of this collection is invalid afterwards.
    pub(super) fn take_all(&mut self) -> RemovedBindings<D> {
        RemovedBindings(std::mem::take(&mut self.entries))
    }

    pub(super) fn get(&self, slot: BindingSlot) -> Option<Binding<'_, D>> {
        self.entries.get(slot)?.as_ref().map(view)
    }

    /// The slots of the bindings to a destination, the newest last where none was removed.
    pub(super) fn slots_of(&self, destination: &D) -> &[BindingSlot] {
        let slots = self.by_destination.get(destination);
        slots.map_or(&[], Vec::as_slice)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Binding<'_, D>> {
        self.entries.iter().flatten().map(view)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

fn view<D>(entry: &BindingEntry<D>) -> Binding<'_, D> {
    Binding {
        destination: &entry.destination,
        key: &entry.key,
        arguments: &entry.arguments,
    }
}
