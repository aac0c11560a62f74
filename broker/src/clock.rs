//! When queues want to be looked at: a heap of times, and the sleep until the first. Relies on `queue` (weakly).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::lock::lock;
use crate::queue::Queue;
use crate::time::now_ms;

/// Longest sleep: the timer of the runtime does not count while the machine is suspended.
const LONGEST: Duration = Duration::from_mins(1);

/// Times at which queues asked to be called.
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
    /// Asks for a call at `at_ms`.
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

    /// Those whose time has come by `now_ms`.
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

    /// Sleeps until somebody is due.
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
