//! The frames that one connection has yet to send, shared by all threads that write to it. Depends
//! on `queue` (weakly) for the queues that wait for room, and on tokio's `Notify` to wake the
//! writer.
//!
//! Whole frames are appended under the lock, and the writer takes all of them in one swap. Above
//! the high-water mark, the connection's consumers accept no deliveries. When the writer has
//! brought the outbox below the low-water mark, it pumps the queues that were turned away. Above
//! [`UNREAD_BYTES`], the client is not read from until half of that has been sent.
//!
//! # Cost
//! One uncontended lock and a copy of the frames. No allocation once the buffer has grown. Large
//! bodies are not copied.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use crate::delivery::effects::Effects;
use crate::lock::lock;
use crate::memory;
use crate::queue::Queue;

mod frames;

pub(crate) use frames::Frames;

/// Unsent bytes above which the client is not read from, because it does not read what it is sent.
/// Consumers are turned away earlier, so a client that only consumes and publishes does not reach
/// this limit.
pub(crate) const UNREAD_BYTES: usize = 1024 * 1024;
/// A buffer larger than this is freed when the connection is idle.
pub(crate) const KEEP_BYTES: usize = 64 * 1024;

/// The outgoing side of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    unsent: Mutex<Unsent>,
    /// Bytes of the frames in `unsent` and in the writer's buffer.
    pending: AtomicUsize,
    /// The connection ends: its consumers and those of direct replies are given nothing more.
    refuses_deliveries: AtomicBool,
    wake: Notify,
    /// Notified when the client may be read from again.
    readable: Notify,
    /// Notified when other connections have filled the outbox beyond its share.
    overfull: Notify,
}

#[derive(Debug, Default)]
struct Unsent {
    frames: Frames,
    /// A unit of work has the outbox in its list of writers to wake.
    wake_owed: bool,
    /// What the writer does after the last frame.
    ending: OutboxEnding,
    waiting: WaitingQueues,
}

/// Queues with a message for a consumer of this connection, each once, the first to come first.
#[derive(Debug, Default)]
struct WaitingQueues {
    order: VecDeque<Weak<Queue>>,
    /// The addresses of those in `order`, which they keep allocated.
    listed: HashSet<usize>,
    /// How many the last [`Self::remove_deleted_queues`] left.
    tidied: usize,
}

/// Queues that are kept in the order however many of them are deleted.
const FEW_WAITING: usize = 64;

impl WaitingQueues {
    fn push(&mut self, queue: &Arc<Queue>) {
        if self.listed.insert(Arc::as_ptr(queue) as usize) {
            self.order.push_back(Arc::downgrade(queue));
            if self.order.len() > 2 * self.tidied + FEW_WAITING {
                self.remove_deleted_queues();
            }
        }
    }

    /// Removes deleted queues. A client that reads nothing could gather any number of them.
    fn remove_deleted_queues(&mut self) {
        self.order.retain(|queue| queue.strong_count() > 0);
        let left = self.order.iter().map(|queue| queue.as_ptr() as usize);
        self.listed = left.collect();
        self.tidied = self.order.len();
        memory::give_back_room(&mut self.order);
    }

    fn pop(&mut self) -> Option<Weak<Queue>> {
        let queue = self.order.pop_front()?;
        self.listed.remove(&(queue.as_ptr() as usize));
        Some(queue)
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum OutboxEnding {
    #[default]
    Open,
    /// Send the remaining frames, then close the socket.
    AfterFrames,
    /// Nothing more can be sent.
    Broken,
}

/// The result of [`Outbox::swap_unsent`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OutboxTake {
    Frames,
    Nothing,
    /// No frames, and none will come.
    Ended,
}

impl Outbox {
    /// Appends frames. The unit of work wakes the writer when it ends.
    pub(crate) fn write<R>(
        self: &Arc<Self>,
        effects: &mut Effects,
        append: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> R {
        self.add(effects, |frames| append(frames.bytes()))
    }

    /// Like [`Outbox::write`], for frames that can refer to message bodies.
    pub(crate) fn add<R>(
        self: &Arc<Self>,
        effects: &mut Effects,
        append: impl FnOnce(&mut Frames) -> R,
    ) -> R {
        let mut unsent = lock(&self.unsent);
        if unsent.ending == OutboxEnding::Broken {
            return append(&mut Frames::default());
        }
        let before = unsent.frames.len();
        let result = append(&mut unsent.frames);
        unsent.frames.recharge();
        let added = unsent.frames.len() - before;
        self.pending
            .store(self.pending.load(Relaxed) + added, Relaxed);
        if !unsent.wake_owed && added > 0 {
            unsent.wake_owed = true;
            effects.wake_later(self);
        }
        result
    }

    /// Whether consumers of this connection should get more deliveries.
    pub(crate) fn has_room(&self) -> bool {
        self.pending_bytes() < memory::outbox_room() && !self.refuses_deliveries()
    }

    /// Gives the consumers of this connection nothing more, because it ends. What they have not
    /// been given stays in its queues; other frames are still sent.
    pub(crate) fn refuse_deliveries(&self) {
        let mut unsent = lock(&self.unsent);
        self.refuses_deliveries.store(true, Relaxed);
        unsent.waiting = WaitingQueues::default();
    }

    /// Whether the connection ends, so that a delivery would be lost.
    pub(crate) fn refuses_deliveries(&self) -> bool {
        self.refuses_deliveries.load(Relaxed)
    }

    /// Returns the number of unsent bytes.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.load(Relaxed)
    }

    /// Whether the client may be read from.
    pub(crate) fn is_readable(&self) -> bool {
        self.pending_bytes() < UNREAD_BYTES
    }

    /// Waits until the client may be read from, or until nothing can be sent any more.
    pub(crate) async fn readable(&self) {
        loop {
            let readable = self.readable.notified();
            tokio::pin!(readable);
            // Registered before the check, so that a notification in between is not missed.
            readable.as_mut().enable();
            if self.pending_bytes() < UNREAD_BYTES / 2
                || lock(&self.unsent).ending == OutboxEnding::Broken
            {
                return;
            }
            readable.await;
        }
    }

    /// Whether other connections may add to this outbox. If not, its connection ends, because its
    /// client does not read, or is ending already.
    pub(crate) fn admits_others(&self) -> bool {
        if self.refuses_deliveries() {
            return false;
        }
        let admits = self.pending_bytes() < memory::outbox_share();
        if !admits {
            self.overfull.notify_one();
        }
        admits
    }

    /// Waits until [`Outbox::admits_others`] finds that the client does not read.
    pub(crate) async fn overfull(&self) {
        self.overfull.notified().await;
    }

    /// Records that `queue` has a message for a consumer here. Returns false if there is room after
    /// all; the caller should try again.
    pub(crate) fn note_waiting_for_room(&self, queue: &Arc<Queue>) -> bool {
        let mut unsent = lock(&self.unsent);
        if self.has_room() {
            return false;
        }
        self.add_waiting(&mut unsent, queue);
        true
    }

    /// Records that `queue` has a message for a consumer here that must settle first.
    pub(crate) fn note_waiting_for_settle(&self, queue: &Arc<Queue>) {
        self.add_waiting(&mut lock(&self.unsent), queue);
    }

    /// A queue waits for nothing where nothing is delivered any more: it is pumped again when the
    /// consumer leaves it.
    fn add_waiting(&self, unsent: &mut Unsent, queue: &Arc<Queue>) {
        if !self.refuses_deliveries() {
            unsent.waiting.push(queue);
        }
    }

    /// Returns the number of queues that wait for this connection.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.unsent).waiting.order.len()
    }

    /// Pumps the first `count` queues that wait for this connection, as long as there is room and
    /// the budget is not spent. Those that must wait again do so behind the others. Returns how
    /// many of `count` a later unit of work should pump.
    pub(crate) fn pump_waiting(&self, count: usize, effects: &mut Effects) -> usize {
        for done in 0..count {
            if !self.has_room() {
                break;
            }
            if effects.is_spent() {
                return count - done;
            }
            effects.spend(1);
            // Bound first, so that the outbox is not locked while the queue is.
            let waiting = lock(&self.unsent).waiting.pop();
            let Some(waiting) = waiting else { break };
            if let Some(queue) = waiting.upgrade()
                && let Err(error) = queue.pump(effects)
            {
                tracing::debug!(queue = %queue.name(), %error, "not delivered");
            }
        }
        0
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for [`Outbox::wake`].
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Swaps all unsent frames into `into`, which must be empty.
    pub(crate) fn swap_unsent(&self, into: &mut Frames) -> OutboxTake {
        let mut unsent = lock(&self.unsent);
        unsent.wake_owed = false;
        if unsent.frames.is_empty() {
            return match unsent.ending {
                OutboxEnding::Open => OutboxTake::Nothing,
                OutboxEnding::AfterFrames | OutboxEnding::Broken => OutboxTake::Ended,
            };
        }
        std::mem::swap(&mut unsent.frames, into);
        OutboxTake::Frames
    }

    /// Records that the writer sent `count` bytes. Returns true when queues wait that can be pumped
    /// again.
    pub(crate) fn sent(&self, count: usize) -> bool {
        let unsent = lock(&self.unsent);
        let pending = self.pending.load(Relaxed).saturating_sub(count);
        self.pending.store(pending, Relaxed);
        if pending < UNREAD_BYTES / 2 {
            self.readable.notify_waiters();
        }
        pending < memory::outbox_room() / 4 && !unsent.waiting.order.is_empty()
    }

    /// Whether the buffer is larger than an idle connection may keep.
    pub(crate) fn is_large(&self) -> bool {
        lock(&self.unsent).frames.capacity() > KEEP_BYTES
    }

    /// Frees the buffer if it is empty.
    pub(crate) fn free_buffer(&self) {
        let mut unsent = lock(&self.unsent);
        if unsent.frames.is_empty() {
            unsent.frames = Frames::default();
        }
    }

    /// Lets the writer send the remaining frames and then close the socket.
    pub(crate) fn finish(&self) {
        let mut unsent = lock(&self.unsent);
        if unsent.ending == OutboxEnding::Open {
            unsent.ending = OutboxEnding::AfterFrames;
        }
        drop(unsent);
        self.wake();
    }

    /// Drops all frames and refuses more.
    pub(crate) fn break_off(&self) {
        let mut unsent = lock(&self.unsent);
        unsent.ending = OutboxEnding::Broken;
        self.refuses_deliveries.store(true, Relaxed);
        unsent.frames = Frames::default();
        unsent.waiting = WaitingQueues::default();
        // Nothing remains to be sent, so the reader must not wait for it.
        self.pending.store(0, Relaxed);
        drop(unsent);
        self.readable.notify_waiters();
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_queues_do_not_wait_for_a_client() {
        let mut waiting = WaitingQueues::default();
        let alive: Vec<_> = (0..1_000).map(|_| Queue::plain()).collect();
        for queue in &alive {
            waiting.push(queue);
        }
        for _ in 0..50_000 {
            waiting.push(&Queue::plain());
        }
        assert!(waiting.order.len() < 3_000, "{}", waiting.order.len());
        assert_eq!(waiting.listed.len(), waiting.order.len());
        for queue in &alive {
            waiting.push(queue);
        }
        let left = std::iter::from_fn(|| waiting.pop()).filter_map(|queue| queue.upgrade());
        let addresses: Vec<_> = left.map(|queue| Arc::as_ptr(&queue)).collect();
        assert!(addresses.into_iter().eq(alive.iter().map(Arc::as_ptr)));
        assert!(waiting.listed.is_empty());
    }

    #[tokio::test]
    async fn what_a_lost_client_did_not_take_holds_its_reader_no_more() {
        // This test guards against a busy loop: the reader checked, waited, and found that the wait
        // had ended, for ever, and blocked the whole broker.
        let outbox = Arc::new(Outbox::default());
        let mut effects = Effects::new(0);
        outbox.write(&mut effects, |out| out.resize(2 * UNREAD_BYTES, 0));
        assert!(!outbox.is_readable());
        outbox.break_off();
        outbox.readable().await;
        assert!(outbox.is_readable());
        outbox.write(&mut effects, |out| out.resize(2 * UNREAD_BYTES, 0));
        assert!(outbox.is_readable(), "nothing is kept for a lost client");
    }

    #[test]
    fn an_outbox_that_ends_takes_no_deliveries_and_no_queue_waits_for_it() {
        for end in [Outbox::break_off, Outbox::refuse_deliveries] {
            let outbox = Arc::new(Outbox::default());
            assert!(outbox.has_room() && outbox.admits_others());
            outbox.note_waiting_for_settle(&Queue::plain());
            end(&outbox);
            assert!(!outbox.has_room() && !outbox.admits_others());
            let queue = Queue::plain();
            assert!(outbox.note_waiting_for_room(&queue));
            outbox.note_waiting_for_settle(&queue);
            assert_eq!(outbox.waiting(), 0);
            assert!(outbox.is_readable());
        }
    }

    #[test]
    fn the_server_still_says_why_it_ends_a_connection() {
        let outbox = Arc::new(Outbox::default());
        outbox.refuse_deliveries();
        outbox.write(&mut Effects::new(0), |out| out.push(1));
        let mut frames = Frames::default();
        assert_eq!(outbox.swap_unsent(&mut frames), OutboxTake::Frames);
        assert_eq!(frames.len(), 1);
    }
}
