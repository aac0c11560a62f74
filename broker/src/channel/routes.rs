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

/// What a cached key leads to.
#[derive(Debug, Clone)]
struct CachedRoute {
    targets: TargetQueues,
    /// The counters of the exchange.
    counters: Arc<ExchangeCounters>,
}

/// The cached routes of one generation of the vhost.
#[derive(Debug, Default)]
pub(super) struct RouteCache {
    generation: u64,
    last: Option<(Arc<[u8]>, CachedRoute)>,
    routes: HashMap<Arc<[u8]>, CachedRoute>,
    charge: Charge,
}

/// The bytes of a cached route without its name and its targets.
const ENTRY_BYTES: usize = 128;

fn footprint(key: &[u8], targets: &TargetQueues) -> usize {
    ENTRY_BYTES + key.len() + size_of_val(&**targets)
}

impl RouteCache {
    /// Returns the targets for a key, which consists of both lengths, the exchange's name and the
    /// routing key, as they lie in a draft.
    pub(super) fn find(&mut self, key: &[u8], generation: u64) -> Option<TargetQueues> {
        if self.forget_older(generation) {
            return None;
        }
        if let Some((last, route)) = &self.last
            && **last == *key
        {
            return Some(Arc::clone(&route.targets));
        }
        let (key, route) = self.routes.get_key_value(key)?;
        self.last = Some((Arc::clone(key), route.clone()));
        Some(Arc::clone(&route.targets))
    }

    /// Empties the cache if it belongs to an older generation than this one; true if it did.
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
        if let Some((_, route)) = &self.last {
            effects.count(&route.counters, route.targets.len());
        }
    }

    /// The generation of the last [`Self::find`].
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    fn forget(&mut self) {
        self.last = None;
        self.routes.clear();
        self.charge.set(0);
    }

    pub(super) fn remember(
        &mut self,
        key: &[u8],
        targets: &TargetQueues,
        counters: &Arc<ExchangeCounters>,
    ) {
        self.remember_at(memory::level(), key, targets, counters);
    }

    fn remember_at(
        &mut self,
        level: MemoryLevel,
        key: &[u8],
        targets: &TargetQueues,
        counters: &Arc<ExchangeCounters>,
    ) {
        if self.routes.len() >= KEPT || level > MemoryLevel::Calm {
            self.forget();
        }
        let bytes = footprint(key, targets);
        let key: Arc<[u8]> = key.into();
        let route = CachedRoute {
            targets: Arc::clone(targets),
            counters: Arc::clone(counters),
        };
        if self
            .routes
            .insert(Arc::clone(&key), route.clone())
            .is_none()
        {
            self.charge.set(self.charge.bytes() + bytes);
        }
        self.last = Some((key, route));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remember(cache: &mut RouteCache, level: MemoryLevel, count: usize) {
        let targets: TargetQueues = Arc::new([]);
        for number in 0..count {
            let key = number.to_be_bytes();
            cache.remember_at(level, &key, &targets, &Arc::default());
        }
    }

    #[test]
    fn what_is_remembered_is_on_the_account_and_is_the_last_route_alone_when_memory_is_tight() {
        let mut cache = RouteCache::default();
        let one = footprint(&0_usize.to_be_bytes(), &(Arc::new([]) as TargetQueues));
        remember(&mut cache, MemoryLevel::Calm, 100);
        assert_eq!((cache.routes.len(), cache.charge.bytes()), (100, 100 * one));
        remember(&mut cache, MemoryLevel::Calm, KEPT);
        assert!(cache.routes.len() <= KEPT && cache.charge.bytes() <= KEPT * one);
        for level in [MemoryLevel::Tight, MemoryLevel::Short] {
            remember(&mut cache, level, 100);
            assert_eq!((cache.routes.len(), cache.charge.bytes()), (1, one));
        }
        assert!(cache.find(b"elsewhere", 1).is_none(), "another generation");
        assert_eq!((cache.routes.len(), cache.charge.bytes()), (0, 0));
    }
}
