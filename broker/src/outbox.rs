//! Frames that one connection still has to send, shared by everybody who writes to it. Relies on `queue` for those that
//! wait for room (weakly) and on tokio's `Notify` for the writer's sleep.
//!
//! Whole frames are appended under the lock and the writer takes all of them in one swap. Above the high-water mark the
//! connection's consumers are unwilling; when the writer has brought it below the low one it pumps the queues that were
//! turned away. Above [`UNREAD_BYTES`] the client is not read from until half of that is sent.
//!
//! # Cost
//! One uncontended lock and the copy of the frames; no allocation once the buffer has grown. Large bodies are not copied.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use crate::lock::lock;
use crate::memory;
use crate::queue::Queue;
use crate::turn::Turn;

mod frames;

pub(crate) use frames::Frames;

/// Unsent bytes above which the client is not read from: it does not take what it is sent. Its consumers are turned away
/// earlier, so a client that only consumes and publishes does not come here.
pub(crate) const UNREAD_BYTES: usize = 1024 * 1024;
/// A buffer that grew beyond this is given back when the connection is quiet.
pub(crate) const KEEP_BYTES: usize = 64 * 1024;

/// The outgoing side of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    unsent: Mutex<Unsent>,
    /// Bytes of the frames here and in the writer's hands.
    pending: AtomicUsize,
    wake: Notify,
    /// The client may be read from again.
    readable: Notify,
    /// Others have filled this beyond its share.
    overfull: Notify,
}

#[derive(Debug, Default)]
struct Unsent {
    frames: Frames,
    /// Somebody has promised to wake the writer.
    wake_owed: bool,
    /// What the writer does once the bytes are gone.
    ending: Ending,
    turned_away: Vec<Weak<Queue>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Ending {
    #[default]
    Open,
    /// Send what is here, then close the socket.
    AfterFrames,
    /// Nothing more can be sent.
    Broken,
}

/// What the writer found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Frames,
    Nothing,
    /// Nothing, and nothing will come.
    Ended,
}

impl Outbox {
    /// Appends frames; the turn wakes the writer when it ends.
    pub(crate) fn write<R>(
        self: &Arc<Self>,
        turn: &mut Turn,
        append: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> R {
        self.add(turn, |frames| append(frames.bytes()))
    }

    /// The same for frames that may lend bodies.
    pub(crate) fn add<R>(
        self: &Arc<Self>,
        turn: &mut Turn,
        append: impl FnOnce(&mut Frames) -> R,
    ) -> R {
        let mut unsent = lock(&self.unsent);
        if unsent.ending == Ending::Broken {
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
            turn.owe_wake(self);
        }
        result
    }

    /// True while consumers of this connection should be given more.
    pub(crate) fn has_room(&self) -> bool {
        self.pending_bytes() < memory::outbox_room()
    }

    /// Octets that are not sent yet.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.load(Relaxed)
    }

    /// True while the client may be read from.
    pub(crate) fn is_readable(&self) -> bool {
        self.pending_bytes() < UNREAD_BYTES
    }

    /// Waits until the client may be read from, or nothing can be sent any more.
    pub(crate) async fn readable(&self) {
        loop {
            let readable = self.readable.notified();
            tokio::pin!(readable);
            // Registered before the look, so that nothing between the two is missed.
            readable.as_mut().enable();
            if self.pending_bytes() < UNREAD_BYTES / 2
                || lock(&self.unsent).ending == Ending::Broken
            {
                return;
            }
            readable.await;
        }
    }

    /// True when others may add to it. Where they may not, the connection ends: its client takes nothing.
    pub(crate) fn admits_others(&self) -> bool {
        let admits = self.pending_bytes() < memory::outbox_share();
        if !admits {
            self.overfull.notify_one();
        }
        admits
    }

    /// Waits until others were refused.
    pub(crate) async fn overfull(&self) {
        self.overfull.notified().await;
    }

    /// Notes that `queue` had something for a consumer here. False when there is room after all, so try again.
    pub(crate) fn turn_away(&self, queue: &Arc<Queue>) -> bool {
        let mut unsent = lock(&self.unsent);
        if self.has_room() {
            return false;
        }
        let queue = Arc::downgrade(queue);
        if !unsent
            .turned_away
            .iter()
            .any(|other| Weak::ptr_eq(other, &queue))
        {
            unsent.turned_away.push(queue);
        }
        true
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// The writer's sleep.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Swaps everything unsent into `into`, which must be empty.
    pub(crate) fn take(&self, into: &mut Frames) -> Taken {
        let mut unsent = lock(&self.unsent);
        unsent.wake_owed = false;
        if unsent.frames.is_empty() {
            return match unsent.ending {
                Ending::Open => Taken::Nothing,
                Ending::AfterFrames | Ending::Broken => Taken::Ended,
            };
        }
        std::mem::swap(&mut unsent.frames, into);
        Taken::Frames
    }

    /// The writer has sent `count` bytes; gives the queues that may be pumped again.
    pub(crate) fn sent(&self, count: usize) -> Vec<Weak<Queue>> {
        let mut unsent = lock(&self.unsent);
        let pending = self.pending.load(Relaxed).saturating_sub(count);
        self.pending.store(pending, Relaxed);
        if pending < UNREAD_BYTES / 2 {
            self.readable.notify_waiters();
        }
        if pending < memory::outbox_room() / 4 {
            std::mem::take(&mut unsent.turned_away)
        } else {
            Vec::new()
        }
    }

    /// The buffer that is filled next has grown beyond what an idle connection may keep.
    pub(crate) fn is_large(&self) -> bool {
        lock(&self.unsent).frames.capacity() > KEEP_BYTES
    }

    /// Gives that buffer back if nothing is in it.
    pub(crate) fn rest(&self) {
        let mut unsent = lock(&self.unsent);
        if unsent.frames.is_empty() {
            unsent.frames = Frames::default();
        }
    }

    /// Sends what is here, then closes the socket.
    pub(crate) fn finish(&self) {
        let mut unsent = lock(&self.unsent);
        if unsent.ending == Ending::Open {
            unsent.ending = Ending::AfterFrames;
        }
        drop(unsent);
        self.wake();
    }

    /// Nothing can be sent any more; drops what is here.
    pub(crate) fn break_off(&self) {
        let mut unsent = lock(&self.unsent);
        unsent.ending = Ending::Broken;
        unsent.frames = Frames::default();
        unsent.turned_away = Vec::new();
        // What is dropped waits for nobody: the reader must not wait for it either.
        self.pending.store(0, Relaxed);
        drop(unsent);
        self.readable.notify_waiters();
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_lost_client_did_not_take_holds_its_reader_no_more() {
        // The reader looked, waited, and found at once that the wait was over: for ever, with the
        // whole broker standing still.
        let outbox = Arc::new(Outbox::default());
        let mut turn = Turn::new(0);
        outbox.write(&mut turn, |out| out.resize(2 * UNREAD_BYTES, 0));
        assert!(!outbox.is_readable());
        outbox.break_off();
        outbox.readable().await;
        assert!(outbox.is_readable());
        outbox.write(&mut turn, |out| out.resize(2 * UNREAD_BYTES, 0));
        assert!(outbox.is_readable(), "nothing is kept for a lost client");
    }
}
