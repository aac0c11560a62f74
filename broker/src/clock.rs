//! The timers of queues: a heap of deadlines, and a sleep until the first. Depends on `queue`
//! (weakly).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::lock::lock;
use crate::queue::Queue;
use crate::time::now_ms;

/// The longest sleep. The runtime's timer stops while the machine is suspended, so the deadlines
/// are checked again after this time.
const LONGEST: Duration = Duration::from_mins(1);

/// The deadlines that queues have set.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    times: Mutex<Times>,
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Times {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    queues: std::collections::HashMap<u64, Weak<Queue>>,
    next: u64,
}

impl Clock {
    /// Sets a deadline for a queue.
    pub(crate) fn arm(&self, at_ms: u64, queue: Weak<Queue>) {
        let mut times = lock(&self.times);
        let is_first = times
            .heap
            .peek()
            .is_none_or(|Reverse((first, _))| at_ms < *first);
        let id = times.next;
        times.next += 1;
        times.heap.push(Reverse((at_ms, id)));
        times.queues.insert(id, queue);
        drop(times);
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// Removes and returns the queues whose deadline is at or before `now_ms`.
    fn due(&self, now_ms: u64) -> Vec<Weak<Queue>> {
        let mut times = lock(&self.times);
        let mut due = Vec::new();
        while let Some(&Reverse((at, id))) = times.heap.peek() {
            if at > now_ms {
                break;
            }
            times.heap.pop();
            due.extend(times.queues.remove(&id));
        }
        due
    }

    fn until_first(&self, now_ms: u64) -> Duration {
        let first = lock(&self.times).heap.peek().map(|Reverse((at, _))| *at);
        first.map_or(LONGEST, |at| {
            Duration::from_millis(at.saturating_sub(now_ms)).min(LONGEST)
        })
    }

    /// Sleeps until a deadline is reached, and returns its queues.
    pub(crate) async fn next_due(&self) -> Vec<Weak<Queue>> {
        loop {
            let now = now_ms();
            let due = self.due(now);
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
