//! The last publishes and settles, for whoever listens. Relies on nothing.
//!
//! # Cost
//! One relaxed load a publish while nobody listens.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast;

use crate::lock::lock;
use crate::memory;

/// Entries that are kept.
pub const KEPT: usize = 10_000;
/// Bytes of a body that an entry shows.
pub const EXCERPT_BYTES: usize = 4096;
const BUFFERED: usize = 1024;
/// Listeners at once.
const LISTENERS: usize = 32;
/// Queues that a line names.
pub const QUEUES: usize = 16;

/// What happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It was published.
    Published,
    /// A consumer acked it.
    Acked,
    /// A consumer rejected it or gave it back.
    Returned,
}

/// One line of the tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What happened.
    pub what: What,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The vhost.
    pub vhost: Box<str>,
    /// The exchange it was published to.
    pub exchange: Box<[u8]>,
    /// The routing key.
    pub routing_key: Box<[u8]>,
    /// The queue that it was settled in.
    pub queue: Option<Box<str>>,
    /// The queues that a published message went to, the first [`QUEUES`] of them.
    pub routed: Box<[Arc<str>]>,
    /// Raw properties: flags and values.
    pub properties: Box<[u8]>,
    /// The first [`EXCERPT_BYTES`] of the body.
    pub excerpt: Box<[u8]>,
    /// Octets of the whole body.
    pub body_bytes: u64,
}

/// A window on the traffic.
#[derive(Debug)]
pub struct Tap {
    listeners: AtomicUsize,
    kept: Mutex<Kept>,
    live: broadcast::Sender<Arc<Seen>>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Arc<Seen>>,
    excerpt_bytes: usize,
}

/// As many listen as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tap has as many listeners as it takes")]
pub struct TapBusy;

impl Default for Tap {
    fn default() -> Self {
        Self {
            listeners: AtomicUsize::new(0),
            kept: Mutex::default(),
            live: broadcast::Sender::new(BUFFERED),
        }
    }
}

/// Somebody who listens; the tap runs while one exists.
#[derive(Debug)]
pub struct Listener {
    tap: Arc<Tap>,
    /// What comes from here on; a slow listener misses the oldest.
    pub live: broadcast::Receiver<Arc<Seen>>,
}

impl Tap {
    /// True while somebody listens.
    pub fn is_open(&self) -> bool {
        self.listeners.load(Relaxed) > 0
    }

    /// Begins to listen, and gives what was seen before.
    pub fn listen(self: &Arc<Self>) -> Result<(Listener, Vec<Arc<Seen>>), TapBusy> {
        if self.listeners.fetch_add(1, Relaxed) >= LISTENERS {
            self.listeners.fetch_sub(1, Relaxed);
            return Err(TapBusy);
        }
        let live = self.live.subscribe();
        let before = lock(&self.kept).lines.iter().cloned().collect();
        let tap = Arc::clone(self);
        Ok((Listener { tap, live }, before))
    }

    pub(crate) fn note(&self, seen: Seen) {
        let seen = Arc::new(seen);
        let mut kept = lock(&self.kept);
        kept.excerpt_bytes += seen.excerpt.len();
        kept.lines.push_back(Arc::clone(&seen));
        while kept.lines.len() > KEPT || kept.excerpt_bytes > memory::tap_bytes() {
            let oldest = kept.lines.pop_front();
            kept.excerpt_bytes -= oldest.map_or(0, |seen| seen.excerpt.len());
        }
        drop(kept);
        // Nobody being there any more is no failure.
        let _ = self.live.send(seen);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tap.listeners.fetch_sub(1, Relaxed);
    }
}
