//! A person's keys, kept back for the milliseconds of one injection.
//!
//! Relies on nothing.

use std::time::{Duration, Instant};

/// A person must not wait longer than this for the echo of a key.
const PATIENCE: Duration = Duration::from_millis(1500);
/// More than a person types or pastes in that time; what does not fit is passed on.
const ROOM: usize = 1 << 20;

/// Keys in the order in which they were pressed, and what the terminal itself said between them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// When a person pressed the first of them.
    since: Option<Instant>,
}

impl Kept {
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A person's key is among them.
    pub(super) fn is_waited_for(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    pub(super) fn has_keys(&self) -> bool {
        self.since.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.bytes.len() < ROOM
    }

    /// When they have been kept for too long.
    pub(super) fn limit(&self) -> Option<Instant> {
        self.since.map(|since| since + PATIENCE)
    }

    /// All of them; `None` when there are none.
    pub(super) fn release(&mut self) -> Option<Vec<u8>> {
        self.since = None;
        (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes))
    }
}
