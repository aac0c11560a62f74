//! Grants let publishers that are blocked because memory is short send a little. Depends on
//! `memory`.
//!
//! Some clients free no memory for a long time, whatever publishers do. An alarm that blocked every
//! publisher until they do would let one client stop all others. So each publisher that has waited
//! for a while gets a grant, the one that waits longest first, as far as there is room up to the
//! limit. Half of that room is for publishers whose messages leave memory at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::lock::lock;
use crate::memory;

/// What a publisher may add to memory with one grant, in bytes.
const GRANT_BYTES: u64 = 64 * 1024;
/// How long a grant lasts at most.
const LONGEST: Duration = Duration::from_secs(1);
/// How often grants are given.
const EVERY: Duration = Duration::from_millis(50);

/// The publishers that wait, and the grants that they were given.
#[derive(Debug, Default)]
pub(crate) struct PublisherGrants {
    waiting: Mutex<VecDeque<WaitingPublisher>>,
    /// Grants that are not over.
    given: AtomicU64,
    arrived: Notify,
}

#[derive(Debug)]
struct WaitingPublisher {
    due: Instant,
    stays: bool,
    sender: oneshot::Sender<PublisherGrant>,
}

/// What a publisher may send although memory is short; over when this is dropped.
#[derive(Debug)]
pub(crate) struct PublisherGrant {
    grants: Arc<PublisherGrants>,
    left: u64,
    until: Instant,
}

impl PublisherGrant {
    /// Counts bytes that the publisher has added to memory.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
    }

    /// Whether it ends with these bytes in memory.
    pub(crate) fn is_over(&self, bytes: usize) -> bool {
        bytes as u64 >= self.left || Instant::now() >= self.until
    }
}

impl Drop for PublisherGrant {
    fn drop(&mut self) {
        self.grants.given.fetch_sub(1, Relaxed);
    }
}

/// How much memory is left for grants.
#[derive(Debug, Clone, Copy)]
struct MemoryRoom {
    /// What clients may hold in all, in bytes.
    limit: u64,
    held: u64,
    /// What ready messages hold that are not for the store.
    transient: u64,
}

impl MemoryRoom {
    /// Whether there is room for one more grant beside those that are not over.
    fn has(self, given: u64, stays: bool) -> bool {
        let more = (given + 1) * GRANT_BYTES;
        let (reserve, is_much_transient) = if stays {
            let most = self.limit / 8 * 5;
            (self.limit / 32, self.transient + more > most)
        } else {
            (0, false)
        };
        !is_much_transient && self.held + more + reserve <= self.limit
    }
}

impl PublisherGrants {
    /// Waits for a grant, for at least `patience`. `stays` says whether the messages of the
    /// publisher stay in memory.
    pub(crate) fn request(
        &self,
        stays: bool,
        patience: Duration,
    ) -> oneshot::Receiver<PublisherGrant> {
        let (sender, receiver) = oneshot::channel();
        let publisher = WaitingPublisher {
            due: Instant::now() + patience,
            stays,
            sender,
        };
        lock(&self.waiting).push_back(publisher);
        self.arrived.notify_one();
        receiver
    }

    /// Gives grants to those who have waited long enough, as far as there is room.
    fn hand_out(self: &Arc<Self>, room: MemoryRoom, now: Instant) {
        let mut waiting = lock(&self.waiting);
        for publisher in std::mem::take(&mut *waiting) {
            if publisher.sender.is_closed() {
                continue;
            }
            let given = self.given.load(Relaxed);
            if now < publisher.due || !room.has(given, publisher.stays) {
                waiting.push_back(publisher);
                continue;
            }
            self.given.fetch_add(1, Relaxed);
            let grant = PublisherGrant {
                grants: Arc::clone(self),
                left: GRANT_BYTES,
                until: now + LONGEST,
            };
            // One that is not wanted any more ends here.
            let _ = publisher.sender.send(grant);
        }
    }

    /// Gives grants for as long as the broker runs, while `may_give` allows it.
    pub(crate) async fn run(self: Arc<Self>, limit: u64, may_give: impl Fn() -> bool) {
        loop {
            self.arrived.notified().await;
            while !lock(&self.waiting).is_empty() {
                tokio::time::sleep(EVERY).await;
                if may_give() {
                    let room = MemoryRoom {
                        limit,
                        held: memory::held(),
                        transient: memory::transient_bytes() as u64,
                    };
                    self.hand_out(room, Instant::now());
                } else {
                    lock(&self.waiting).retain(|publisher| !publisher.sender.is_closed());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);
    const ROOM: MemoryRoom = MemoryRoom {
        limit: 64 << 20,
        held: 60 << 20,
        transient: 0,
    };

    #[test]
    fn turns_go_to_those_who_wait_longest_as_far_as_there_is_room() {
        let grants = Arc::<PublisherGrants>::default();
        let mut waiting: Vec<_> = (0..100).map(|_| grants.request(false, PATIENCE)).collect();
        grants.hand_out(ROOM, Instant::now());
        assert!(waiting[0].try_recv().is_err(), "it has just come");
        let later = Instant::now() + 2 * PATIENCE;
        grants.hand_out(ROOM, later);
        grants.hand_out(ROOM, later);
        let mut given: Vec<_> = waiting
            .iter_mut()
            .map(|grant| grant.try_recv().ok())
            .collect();
        // Four mebibytes of room.
        assert_eq!(given.iter().flatten().count(), 64);
        assert!(given[..64].iter().all(Option::is_some));
        given[3] = None;
        grants.hand_out(ROOM, later);
        let next: Vec<_> = waiting
            .iter_mut()
            .map(|grant| grant.try_recv().ok())
            .collect();
        assert!(next[64].is_some());
        assert_eq!(next.iter().flatten().count(), 1);
        let full = MemoryRoom {
            held: ROOM.limit,
            ..ROOM
        };
        drop((given, next));
        grants.hand_out(full, later);
        assert!(waiting[65].try_recv().is_err());
    }

    #[test]
    fn publishers_whose_messages_stay_leave_half_of_the_room_to_others() {
        let grants = Arc::<PublisherGrants>::default();
        let mut staying: Vec<_> = (0..100).map(|_| grants.request(true, PATIENCE)).collect();
        let mut passing: Vec<_> = (0..100).map(|_| grants.request(false, PATIENCE)).collect();
        grants.hand_out(ROOM, Instant::now() + 2 * PATIENCE);
        let staying: Vec<_> = staying
            .iter_mut()
            .flat_map(oneshot::Receiver::try_recv)
            .collect();
        let passing: Vec<_> = passing
            .iter_mut()
            .flat_map(oneshot::Receiver::try_recv)
            .collect();
        assert_eq!((staying.len(), passing.len()), (32, 32));
        drop((staying, passing));
        let much = MemoryRoom {
            transient: 50 << 20,
            ..ROOM
        };
        let mut staying = grants.request(true, PATIENCE);
        grants.hand_out(much, Instant::now() + 2 * PATIENCE);
        assert!(staying.try_recv().is_err());
    }

    #[test]
    fn a_grant_ends_with_its_bytes_or_its_time() {
        let grants = Arc::<PublisherGrants>::default();
        let mut waiting = grants.request(false, Duration::ZERO);
        grants.hand_out(ROOM, Instant::now());
        let mut grant = waiting.try_recv().unwrap();
        assert!(!grant.is_over(1000));
        grant.spend(64 * 1024 - 1000);
        assert!(!grant.is_over(999) && grant.is_over(1000));
        grant.until = Instant::now();
        assert!(grant.is_over(0));
        drop(grant);
        assert_eq!(grants.given.load(Relaxed), 0);
    }
}
