//! Routes that a channel remembers, so that publishing again to the same place asks no table.
//! Relies on `vhost`.
//!
//! # Cost
//! A publish to the place of the one before compares two short strings and a number.

use std::collections::HashMap;
use std::sync::Arc;

use crate::delivery::effects::Effects;
use crate::queue::Queue;
use crate::stats::Flow;

/// Places that are remembered; beyond it all are forgotten.
const KEPT: usize = 1024;

/// Queues for one exchange and key.
pub(super) type TargetQueues = Arc<[Arc<Queue>]>;

/// Where a place leads.
#[derive(Debug, Clone)]
struct RouteTarget {
    targets: TargetQueues,
    /// Of the exchange.
    flow: Arc<Flow>,
}

/// What is remembered, as of one generation of the vhost.
#[derive(Debug, Default)]
pub(super) struct RouteCache {
    generation: u64,
    last: Option<(Arc<[u8]>, RouteTarget)>,
    places: HashMap<Arc<[u8]>, RouteTarget>,
}

impl RouteCache {
    /// The targets for a place, which is both lengths, the exchange's name and the routing key as
    /// they lie in a draft.
    pub(super) fn find(&mut self, place: &[u8], generation: u64) -> Option<TargetQueues> {
        if self.generation != generation {
            self.last = None;
            self.places.clear();
            self.generation = generation;
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

    /// Counts a message to the place that [`Self::find`] has just found.
    pub(super) fn count(&self, effects: &mut Effects) {
        if let Some((_, way)) = &self.last {
            effects.count(&way.flow, way.targets.len());
        }
    }

    /// The generation that the last [`Self::find`] was asked for.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn remember(&mut self, place: &[u8], targets: &TargetQueues, flow: &Arc<Flow>) {
        if self.places.len() >= KEPT {
            self.places.clear();
        }
        let place: Arc<[u8]> = place.into();
        let way = RouteTarget {
            targets: Arc::clone(targets),
            flow: Arc::clone(flow),
        };
        self.places.insert(Arc::clone(&place), way.clone());
        self.last = Some((place, way));
    }
}
