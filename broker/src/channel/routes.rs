//! Routes that a channel remembers, so that publishing again to the same place asks no table. Relies on `vhost`.
//!
//! # Cost
//! A publish to the place of the one before compares two short strings and a number.

use std::collections::HashMap;
use std::sync::Arc;

use crate::queue::Queue;

/// Places that are remembered; beyond it all are forgotten.
const KEPT: usize = 1024;

/// Queues for one exchange and key.
pub(super) type Targets = Arc<[Arc<Queue>]>;

/// What is remembered, as of one generation of the vhost.
#[derive(Debug, Default)]
pub(super) struct Routes {
    generation: u64,
    last: Option<(Arc<[u8]>, Targets)>,
    places: HashMap<Arc<[u8]>, Targets>,
}

impl Routes {
    /// The targets for a place, which is both lengths, the exchange's name and the routing key as they lie in a draft.
    pub(super) fn find(&mut self, place: &[u8], generation: u64) -> Option<Targets> {
        if self.generation != generation {
            self.last = None;
            self.places.clear();
            self.generation = generation;
            return None;
        }
        if let Some((last, targets)) = &self.last
            && **last == *place
        {
            return Some(Arc::clone(targets));
        }
        let (place, targets) = self.places.get_key_value(place)?;
        self.last = Some((Arc::clone(place), Arc::clone(targets)));
        Some(Arc::clone(targets))
    }

    /// The generation that the last [`Self::find`] was asked for.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn remember(&mut self, place: &[u8], targets: &Targets) {
        if self.places.len() >= KEPT {
            self.places.clear();
        }
        let place: Arc<[u8]> = place.into();
        self.places.insert(Arc::clone(&place), Arc::clone(targets));
        self.last = Some((place, Arc::clone(targets)));
    }
}
