//! The timers of queues: a heap of deadlines, and a sleep until the first. Depends on `queue`
//! (weakly).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::lock::lock;
use crate::queue::Queue;
use crate::time::now_ms;

/// The longest sleep. The runtime's timer stops while the machine is suspended, so the deadlines
/// are checked again after this time.
const LONGEST: Duration = Duration::from_mins(1);
/// How often deadlines of deleted queues are removed, however few they are.
const TIDY_EVERY_MS: u64 = 60_000;
/// Entries that are kept however few of them are in use.
const KEPT_ENTRIES: usize = 64;

/// The deadlines that queues have set.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    deadlines: Mutex<QueueDeadlines>,
    earlier: Notify,
}

/// The address of a queue. It stays its own while there is a weak reference to it.
type QueueAddress = usize;

#[derive(Debug, Default)]
struct QueueDeadlines {
    /// The deadlines in `queues`, and some that an earlier one has replaced.
    heap: BinaryHeap<Reverse<(u64, QueueAddress)>>,
    /// The deadline of each queue that has one.
    queues: HashMap<QueueAddress, (u64, Weak<Queue>)>,
    /// How many deadlines the last [`Self::remove_obsolete`] left.
    tidied: usize,
    next_tidy_ms: u64,
}

impl QueueDeadlines {
    /// Sets the deadline of a queue unless it has an earlier one.
    fn arm(&mut self, at_ms: u64, queue: Weak<Queue>) {
        let key = queue.as_ptr().addr();
        if self.queues.get(&key).is_some_and(|(set, _)| *set <= at_ms) {
            return;
        }
        self.heap.push(Reverse((at_ms, key)));
        self.queues.insert(key, (at_ms, queue));
        if self.heap.len() > 2 * self.tidied + KEPT_ENTRIES {
            self.remove_obsolete();
        }
    }

    /// Removes the deadlines of queues that are gone and those that were replaced. Otherwise they
    /// would stay until their time, which may be ten years away.
    fn remove_obsolete(&mut self) {
        self.queues.retain(|_, (_, queue)| queue.strong_count() > 0);
        self.queues.shrink_to(KEPT_ENTRIES);
        self.tidied = self.queues.len();
        let deadlines = self.queues.iter();
        self.heap = deadlines
            .map(|(key, (at, _))| Reverse((*at, *key)))
            .collect();
    }

    /// Removes and returns the queues whose deadline is at or before `now_ms`.
    fn due(&mut self, now_ms: u64) -> Vec<Weak<Queue>> {
        if now_ms >= self.next_tidy_ms {
            self.next_tidy_ms = now_ms.saturating_add(TIDY_EVERY_MS);
            self.remove_obsolete();
        }
        let mut due = Vec::new();
        while let Some(&Reverse((at, key))) = self.heap.peek().filter(|first| first.0.0 <= now_ms) {
            self.heap.pop();
            let is_set = self.queues.get(&key).is_some_and(|(set, _)| *set == at);
            if is_set && let Some((_, queue)) = self.queues.remove(&key) {
                due.push(queue);
            }
        }
        due
    }
}

impl Clock {
    /// Sets the deadline of a queue unless it has an earlier one. A queue has one deadline; it sets
    /// the next one when it has been called.
    pub(crate) fn arm(&self, at_ms: u64, queue: Weak<Queue>) {
        let mut deadlines = lock(&self.deadlines);
        let first = deadlines.heap.peek().map(|Reverse((first, _))| *first);
        deadlines.arm(at_ms, queue);
        drop(deadlines);
        if first.is_none_or(|first| at_ms < first) {
            self.earlier.notify_one();
        }
    }

    fn until_first(&self, now_ms: u64) -> Duration {
        let first = lock(&self.deadlines)
            .heap
            .peek()
            .map(|Reverse((at, _))| *at);
        first.map_or(LONGEST, |at| {
            Duration::from_millis(at.saturating_sub(now_ms)).min(LONGEST)
        })
    }

    /// Sleeps until a deadline is reached, and returns its queues.
    pub(crate) async fn next_due(&self) -> Vec<Weak<Queue>> {
        loop {
            let now = now_ms();
            let due = lock(&self.deadlines).due(now);
            if !due.is_empty() {
                return due;
            }
            tokio::select! {
                () = tokio::time::sleep(self.until_first(now)) => {}
                () = self.earlier.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const FAR_MS: u64 = 1 << 50;

    #[test]
    fn deadlines_of_deleted_queues_and_replaced_ones_are_removed() {
        let clock = Clock::default();
        for _ in 0..10_000 {
            clock.arm(FAR_MS, Arc::downgrade(&Queue::plain()));
        }
        let queue = Queue::plain();
        for earlier in 0..10_000 {
            clock.arm(FAR_MS - earlier, Arc::downgrade(&queue));
        }
        let mut deadlines = lock(&clock.deadlines);
        assert!(deadlines.queues.len() < 200, "{}", deadlines.queues.len());
        assert!(deadlines.heap.len() < 200, "{}", deadlines.heap.len());
        assert_eq!(deadlines.due(FAR_MS - 10_000).len(), 0);
        assert_eq!(deadlines.due(FAR_MS - 9_999).len(), 1);
        assert_eq!(deadlines.due(FAR_MS).len(), 0, "it is called once");
    }

    #[test]
    fn a_queue_is_called_at_its_earliest_deadline() {
        let clock = Clock::default();
        let (first, second) = (Queue::plain(), Queue::plain());
        clock.arm(30, Arc::downgrade(&first));
        clock.arm(10, Arc::downgrade(&first));
        clock.arm(20, Arc::downgrade(&second));
        clock.arm(40, Arc::downgrade(&first));
        let mut deadlines = lock(&clock.deadlines);
        let mut called = |now_ms| -> Vec<_> {
            let due = deadlines.due(now_ms);
            due.iter().map(Weak::as_ptr).collect()
        };
        assert_eq!(called(9), []);
        assert_eq!(called(10), [Arc::as_ptr(&first)]);
        assert_eq!(called(100), [Arc::as_ptr(&second)]);
        assert_eq!(called(100), []);
    }
}
