//! What the read buffers of all connections hold beyond their least size: a part of the limit.
//!
//! A frame is acted on when it is whole, so a buffer must hold all of it. Connections that begin
//! large frames and do not finish them would fill the memory, each with a frame of the agreed size.
//! So a buffer takes the room for a whole frame before it grows, and nobody waits with half of it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{MIB, part};

static TAKEN: AtomicUsize = AtomicUsize::new(0);
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// What all buffers together may take: an eighth of the limit.
fn share() -> usize {
    part(8, 4 * MIB, usize::MAX)
}

/// What one buffer has taken, in bytes; given back when this is dropped. The bytes themselves are
/// charged where they are allocated.
#[derive(Debug, Default)]
pub(crate) struct ReadRoom(usize);

impl ReadRoom {
    /// Takes room for `bytes` in all. False where the buffers hold what they may, and nothing
    /// changes.
    pub(crate) fn widen(&mut self, bytes: usize) -> bool {
        self.widen_within(bytes, share())
    }

    /// Like [`Self::widen`], for room that is useful and not necessary: half of the share is left
    /// to whole frames.
    pub(crate) fn widen_freely(&mut self, bytes: usize) -> bool {
        self.widen_within(bytes, share() / 2)
    }

    fn widen_within(&mut self, bytes: usize, most: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.0).filter(|more| *more > 0) else {
            return true;
        };
        let before = TAKEN.fetch_add(more, Relaxed);
        if before.saturating_add(more) > most {
            TAKEN.fetch_sub(more, Relaxed);
            return false;
        }
        self.0 = bytes;
        true
    }

    /// Changes what is taken to `bytes`, whatever the others hold.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes > self.0 {
            TAKEN.fetch_add(bytes - self.0, Relaxed);
        } else {
            TAKEN.fetch_sub(self.0 - bytes, Relaxed);
        }
        self.0 = bytes;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0
    }
}

impl Drop for ReadRoom {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A connection that waits for room, until this is dropped.
#[derive(Debug)]
pub(crate) struct RoomWanted(());

impl RoomWanted {
    pub(crate) fn new() -> Self {
        WAITING.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for RoomWanted {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Relaxed);
    }
}

/// Whether a connection waits for room, so that others should give back what they can.
pub(crate) fn is_room_wanted() -> bool {
    WAITING.load(Relaxed) > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_whole_or_not_at_all_and_given_back_on_drop() {
        const MANY: usize = 1 << 40;
        let (mut first, mut second) = (ReadRoom::default(), ReadRoom::default());
        assert!(first.widen_within(MANY, 3 * MANY) && second.widen_within(MANY, 3 * MANY));
        assert!(!second.widen_within(3 * MANY, 3 * MANY));
        assert_eq!(second.bytes(), MANY);
        drop(first);
        assert!(second.widen_within(2 * MANY, 3 * MANY));
        second.set(1);
        assert!(ReadRoom::default().widen_within(2 * MANY, 3 * MANY));
    }
}
