//! What one piece of work owes to others when it ends: writers to wake, dead letters to route, queues to remove, timers
//! to set. Relies on `outbox`, `queue` and `vhost`.
//!
//! A turn is one read of a connection, one firing of the clock, one call from outside. Nothing that it collects is acted
//! on while a lock is held, so a queue never locks another queue.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::confirms::Confirms;
use crate::outbox::Outbox;
use crate::queue::Queue;
use crate::queue::dead_letter::Reason;
use crate::queue::line::Wanted;
use crate::queue::message::Message;

/// A message that left a queue without being consumed, from a queue that says where such messages go.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) queue: Arc<Queue>,
    pub(crate) message: Message,
    pub(crate) reason: Reason,
    /// Level and position to settle in the store once the letter has its new place.
    pub(crate) stored: Option<(u8, u64)>,
}

/// What one turn may do before others go: about a millisecond.
const BUDGET: u32 = 8192;

/// Debts of the work in hand. Must be ended by the realm.
#[derive(Debug)]
pub(crate) struct Turn {
    /// One reading of the clock for the whole turn.
    pub(crate) now_ms: u64,
    wakes: Vec<Arc<Outbox>>,
    pub(crate) dead: VecDeque<DeadLetter>,
    /// Auto-delete queues whose last consumer left.
    pub(crate) unused: Vec<Arc<Queue>>,
    /// Queues that want to be looked at by the clock.
    pub(crate) timers: Vec<(u64, Weak<Queue>)>,
    /// Queues whose next messages must be read from the store.
    pub(crate) loads: Vec<(Arc<Queue>, Wanted)>,
    /// A queue that its consumers do not keep empty: who fills it should give them a moment.
    pub(crate) crowded: Option<Arc<Queue>>,
    /// Channels whose confirms may be due.
    pub(crate) confirms: Vec<Arc<Confirms>>,
    /// Work done so far, in units of one cheap step.
    spent: u32,
    /// `basic.cancel` for the deleting client's own consumers: behind its `delete-ok`, as RabbitMQ has it.
    pub(crate) farewells: Vec<u8>,
}

impl Turn {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            now_ms,
            wakes: Vec::new(),
            dead: VecDeque::new(),
            unused: Vec::new(),
            timers: Vec::new(),
            loads: Vec::new(),
            crowded: None,
            confirms: Vec::new(),
            spent: 0,
            farewells: Vec::new(),
        }
    }

    /// Counts work, in units of one cheap step such as one delivery.
    pub(crate) fn spend(&mut self, units: u32) {
        self.spent += units;
    }

    /// True when others should go first before the rest of the work is done.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent >= BUDGET
    }

    /// True when some work was done.
    pub(crate) fn has_spent(&self) -> bool {
        self.spent > 0
    }

    pub(crate) fn crowd(&mut self, queue: &Arc<Queue>) {
        if self.crowded.is_none() {
            self.crowded = Some(Arc::clone(queue));
        }
    }

    /// True when what was done so far has effects elsewhere that are still to come.
    pub(crate) fn has_letters(&self) -> bool {
        !self.dead.is_empty() || !self.unused.is_empty()
    }

    pub(crate) fn owe_wake(&mut self, outbox: &Arc<Outbox>) {
        self.wakes.push(Arc::clone(outbox));
    }

    /// Wakes every writer that got bytes.
    pub(crate) fn wake_writers(&mut self) {
        for outbox in self.wakes.drain(..) {
            outbox.wake();
        }
    }
}
