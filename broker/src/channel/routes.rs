//! A channel's cache of routes: a repeated publish to the same exchange and key looks nothing up in
//! the vhost's tables. The route of a fanout has a target for each of its queues, so cached routes
//! are charged to the memory account, and while half of the memory limit is held, a new route
//! replaces all others. Relies on `vhost` and `memory`.
//!
//! # Cost
//! A publish to the same exchange and key as the one before compares two short strings and a
//! number.

use std::collections::HashMap;
use std::sync::Arc;

use crate::delivery::effects::Effects;
use crate::memory::{self, Charge, MemoryLevel};
use crate::queue::Queue;
use crate::stats::ExchangeCounters;

/// The maximum number of cached routes; beyond it the cache is emptied.
const KEPT: usize = 1024;

/// The queues of one exchange and key.
pub(super) type TargetQueues = Arc<[Arc<Queue>]>;

/// A cached route.
#[derive(Debug, Clone)]
struct RouteTarget {
    targets: TargetQueues,
    /// The counters of the exchange.
    counters: Arc<ExchangeCounters>,
}

/// The cached routes of one generation of the vhost.
#[derive(Debug, Default)]
pub(super) struct RouteCache {
    generation: u64,
    last: Option<(Arc<[u8]>, RouteTarget)>,
    places: HashMap<Arc<[u8]>, RouteTarget>,
    charge: Charge,
}

/// The bytes of a cached route without its name and its targets.
const PLACE_BYTES: usize = 128;

fn footprint(place: &[u8], targets: &TargetQueues) -> usize {
    PLACE_BYTES + place.len() + size_of_val(&**targets)
}

impl RouteCache {
    /// Returns the targets for a key, which consists of both lengths, the exchange's name and the
    /// routing key, as they lie in a draft.
    pub(super) fn find(&mut self, place: &[u8], generation: u64) -> Option<TargetQueues> {
        if self.forget_older(generation) {
            return None;
        }
        if let Some((last, way)) = &self.last
            && **last == *place
        {
            return Some(Arc::clone(&way.targets));
        }
        let (place, way) = self.places.get_key_value(place)?;
        self.last = Some((Arc::clone(place), way.clone()));
        Some(Arc::clone(&way.targets))
    }

    /// Forgets everything that was remembered in another generation; true if this is one.
    pub(super) fn forget_older(&mut self, generation: u64) -> bool {
        let is_older = self.generation != generation;
        if is_older {
            self.forget();
            self.generation = generation;
        }
        is_older
    }

    /// Counts a message for the route that [`Self::find`] has just returned.
    pub(super) fn count(&self, effects: &mut Effects) {
        if let Some((_, way)) = &self.last {
            effects.count(&way.counters, way.targets.len());
        }
    }

    /// The generation of the last [`Self::find`].
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    fn forget(&mut self) {
        self.last = None;
        self.places.clear();
        self.charge.set(0);
    }

    pub(super) fn remember(
        &mut self,
        place: &[u8],
        targets: &TargetQueues,
        counters: &Arc<ExchangeCounters>,
    ) {
        self.remember_at(memory::level(), place, targets, counters);
    }

    fn remember_at(
        &mut self,
        level: MemoryLevel,
        place: &[u8],
        targets: &TargetQueues,
        counters: &Arc<ExchangeCounters>,
    ) {
        if self.places.len() >= KEPT || level > MemoryLevel::Calm {
            self.forget();
        }
        let bytes = footprint(place, targets);
        let place: Arc<[u8]> = place.into();
        let way = RouteTarget {
            targets: Arc::clone(targets),
            counters: Arc::clone(counters),
        };
        if self
            .places
            .insert(Arc::clone(&place), way.clone())
            .is_none()
        {
            self.charge.set(self.charge.bytes() + bytes);
        }
        self.last = Some((place, way));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remember(routes: &mut RouteCache, level: MemoryLevel, count: usize) {
        let targets: TargetQueues = Arc::new([]);
        for number in 0..count {
            let place = number.to_be_bytes();
            routes.remember_at(level, &place, &targets, &Arc::default());
        }
    }

    #[test]
    fn what_is_remembered_is_on_the_account_and_is_the_last_place_alone_when_memory_is_tight() {
        let mut routes = RouteCache::default();
        let one = footprint(&0_usize.to_be_bytes(), &(Arc::new([]) as TargetQueues));
        remember(&mut routes, MemoryLevel::Calm, 100);
        assert_eq!(
            (routes.places.len(), routes.charge.bytes()),
            (100, 100 * one)
        );
        remember(&mut routes, MemoryLevel::Calm, KEPT);
        assert!(routes.places.len() <= KEPT && routes.charge.bytes() <= KEPT * one);
        for level in [MemoryLevel::Tight, MemoryLevel::Short] {
            remember(&mut routes, level, 100);
            assert_eq!((routes.places.len(), routes.charge.bytes()), (1, one));
        }
        assert!(routes.find(b"elsewhere", 1).is_none(), "another generation");
        assert_eq!((routes.places.len(), routes.charge.bytes()), (0, 0));
    }
}
