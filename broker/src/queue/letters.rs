//! Whether messages of a queue may leave it as dead letters now. Relies on `memory`
//! and `state`.
//!
//! A letter grows if it takes more memory than its message gave back: the message was in the store
//! and the letter stays in memory, or several queues keep it. (What the record of its death adds is
//! charged with the message.) While memory is tight, a queue whose letters grow is held back:
//!
//! - Messages that the store has go on as the queue that keeps the letters is emptied. Else one
//!   goes every [`PACE_MS`] while some of the limit is left for letters; once a letter grew without
//!   that, the others wait. They hold no memory meanwhile.
//! - Of messages in memory alone, one goes every [`PACE_MS`], else every [`SLOW_PACE_MS`]: the next
//!   one may free some.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::dead_letter::Reason;
use super::level::QueueHead;
use super::message::Message;
use super::queued::QueuedMessage;
use super::state::QueueState;
use super::{GetResult, PublishResult, Queue, limits};
use crate::lock::lock;
use crate::memory::{self, ENTRY_CHARGE_BYTES, MemoryLevel, ReadyBytes};

/// The pause after a message while some memory is left for letters, or their queue is empty.
const PACE_MS: u64 = 20;
/// The pause after a message else, or before the next look.
const SLOW_PACE_MS: u64 = 200;
/// While memory is not plenty, so many leave before it is known where the first one goes: each may
/// become very many.
const FIRST_LETTERS: u32 = 256;
/// What the record of a death adds to the headers of a message beside names, in bytes.
const RECORD_BYTES: usize = 336;

/// How messages leave a queue that may become dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LetterExit {
    /// They expire or are pushed out.
    Discard,
    /// They are delivered, and the client may reject them.
    Delivery,
}

/// Where messages are that may become dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LetterOrigin {
    /// The store has them, even if they are in memory too.
    Store,
    /// Memory alone, which they give back.
    Memory,
}

impl LetterExit {
    fn of(reason: Reason) -> Self {
        match reason {
            Reason::Rejected => Self::Delivery,
            Reason::Expired | Reason::MaxLength => Self::Discard,
        }
    }
}

impl LetterOrigin {
    pub(super) fn of(entry: &QueuedMessage) -> Self {
        if entry.is_transient() {
            Self::Memory
        } else {
            Self::Store
        }
    }

    /// That of a message that gave back so many bytes of memory.
    fn that_gave_back(bytes: usize) -> Self {
        match bytes {
            0 => Self::Store,
            _ => Self::Memory,
        }
    }
}

/// Whether messages may leave their queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// As many as there are.
    All,
    /// One, and the next one later.
    One,
    /// None before this time.
    NotBefore(u64),
}

impl Leave {
    pub(super) fn is_allowed(self) -> bool {
        !matches!(self, Self::NotBefore(_))
    }

    /// How many bytes of the store are read for it where `bytes` are otherwise. One message is read
    /// in any case.
    pub(super) fn most(self, bytes: usize) -> usize {
        match self {
            Self::All => bytes,
            Self::One | Self::NotBefore(_) => 1,
        }
    }

    /// The time before which none may leave.
    pub(super) fn not_before(self) -> Option<u64> {
        match self {
            Self::NotBefore(time_ms) => Some(time_ms),
            Self::All | Self::One => None,
        }
    }
}

/// What is known of the letters that come of one origin and exit.
#[derive(Debug)]
struct GrownLetters {
    /// What a queue has in memory that keeps the last one that grew.
    kept: Option<ReadyBytes>,
    /// One grew while nothing was left for letters.
    is_too_much: bool,
    /// When the next message may leave.
    next_ms: u64,
    /// How many have left, until it is known where one of them goes.
    unknown: Option<u32>,
}

impl Default for GrownLetters {
    fn default() -> Self {
        Self {
            kept: None,
            is_too_much: false,
            next_ms: 0,
            unknown: Some(0),
        }
    }
}

impl GrownLetters {
    fn may_leave(&mut self, origin: LetterOrigin, now_ms: u64) -> Leave {
        let is_much_unknown = self.unknown.is_some_and(|count| count >= FIRST_LETTERS);
        if is_much_unknown && memory::level() > MemoryLevel::Calm {
            return Leave::NotBefore(now_ms + PACE_MS);
        }
        let Some(kept) = self
            .kept
            .as_ref()
            .filter(|_| memory::is_tight_for_letters())
        else {
            return Leave::All;
        };
        if origin == LetterOrigin::Store {
            self.is_too_much &= !kept.is_none() && !memory::is_some_left_for_letters();
            if kept.is_none() {
                return Leave::All;
            }
            if self.is_too_much {
                return Leave::NotBefore(now_ms + SLOW_PACE_MS);
            }
        }
        if now_ms < self.next_ms {
            return Leave::NotBefore(self.next_ms);
        }
        Leave::One
    }

    /// Notes that a message leaves.
    fn note_left(&mut self, exit: LetterExit, now_ms: u64) {
        // Most that are delivered become no letter.
        if let Some(count) = self
            .unknown
            .as_mut()
            .filter(|_| exit == LetterExit::Discard)
        {
            *count += 1;
        }
        let is_fast = memory::is_some_left_for_letters()
            || self.kept.as_ref().is_none_or(ReadyBytes::is_none);
        self.next_ms = now_ms + if is_fast { PACE_MS } else { SLOW_PACE_MS };
    }
}

/// Holds back the messages of a queue with a dead-letter exchange.
#[derive(Debug, Default)]
pub(super) struct LetterGates {
    grown: Mutex<[GrownLetters; 4]>,
    /// What the last letter took more than its message gave back, in bytes.
    growth: AtomicUsize,
}

impl LetterGates {
    /// Nothing is locked meanwhile.
    fn with<R>(
        &self,
        (exit, origin): (LetterExit, LetterOrigin),
        with: impl FnOnce(&mut GrownLetters) -> R,
    ) -> R {
        let [stored_discard, discard, stored_delivery, delivery] = &mut *lock(&self.grown);
        with(match (exit, origin) {
            (LetterExit::Discard, LetterOrigin::Store) => stored_discard,
            (LetterExit::Discard, LetterOrigin::Memory) => discard,
            (LetterExit::Delivery, LetterOrigin::Store) => stored_delivery,
            (LetterExit::Delivery, LetterOrigin::Memory) => delivery,
        })
    }
}

impl Queue {
    /// Whether a message may leave that expires or is pushed out.
    pub(super) fn may_discard(&self, entry: &QueuedMessage, now_ms: u64) -> Leave {
        self.may_leave(LetterExit::Discard, LetterOrigin::of(entry), now_ms)
    }

    /// Whether messages may leave that may become dead letters. Where they expire or are pushed
    /// out, letters on their way must have room for them. The queue must be locked, so that one
    /// that may leave is not overtaken.
    fn may_leave(&self, exit: LetterExit, origin: LetterOrigin, now_ms: u64) -> Leave {
        let Some(gates) = &self.gates else {
            return Leave::All;
        };
        if exit == LetterExit::Discard && memory::are_letters_full() {
            return Leave::NotBefore(now_ms + PACE_MS);
        }
        if exit == LetterExit::Delivery && !memory::is_tight_for_letters() {
            return Leave::All;
        }
        gates.with((exit, origin), |grown| grown.may_leave(origin, now_ms))
    }

    /// Notes that a message leaves.
    pub(super) fn note_left(&self, exit: LetterExit, origin: LetterOrigin, now_ms: u64) {
        if let Some(gates) = &self.gates
            && (exit == LetterExit::Discard || memory::is_tight_for_letters())
        {
            gates.with((exit, origin), |grown| grown.note_left(exit, now_ms));
        }
    }

    /// What the last dead letter of this queue took more than its message gave back, in bytes.
    pub(crate) fn last_letter_growth(&self) -> usize {
        let gates = self.gates.as_ref();
        gates.map_or(0, |gates| gates.growth.load(Relaxed))
    }

    /// What the record of its death may add to a message of this queue, in bytes, where it does not
    /// have one of this queue yet.
    pub(crate) fn death_record_bytes(&self, message: &Message) -> usize {
        let Some(target) = &self.identity.arguments.dead_letters else {
            return 0;
        };
        let content = message.content();
        let key = target.routing_key.as_ref().map_or(0, String::len);
        RECORD_BYTES
            + 3 * self.name().len()
            + 3 * content.exchange.len()
            + content.routing_key.len()
            + target.exchange.len()
            + key
    }

    /// Notes where a dead letter of this queue went, whose message left for this reason and gave
    /// back so many bytes of memory.
    pub(crate) fn note_letter(
        &self,
        (reason, given_back): (Reason, usize),
        letter: &Message,
        copies: &mut KeptCopies,
    ) {
        let Some(gates) = &self.gates else {
            return;
        };
        let (exit, origin) = (
            LetterExit::of(reason),
            LetterOrigin::that_gave_back(given_back),
        );
        let takes = copies.bytes + letter.footprint();
        let grows = match (copies.count, exit, origin) {
            // What the client settles frees memory, and is not delayed for a longer record.
            (0, ..) | (1, LetterExit::Delivery, LetterOrigin::Memory) => false,
            _ => takes > given_back,
        };
        let growth = if grows { takes - given_back } else { 0 };
        gates.growth.store(growth, Relaxed);
        let is_tight = memory::is_tight_for_letters();
        gates.with((exit, origin), |grown| {
            grown.unknown = None;
            if grows {
                grown.kept = copies.one.take();
                grown.is_too_much = is_tight && !memory::is_some_left_for_letters();
            } else if !is_tight {
                grown.kept = None;
            }
        });
    }
}

/// The copies of a letter that stay in memory.
#[derive(Debug, Default)]
pub(crate) struct KeptCopies {
    count: usize,
    /// What their entries hold.
    bytes: usize,
    /// What one of their queues has in memory; not an empty one, if there is another.
    one: Option<ReadyBytes>,
}

impl KeptCopies {
    /// Adds what this queue did with the letter.
    pub(crate) fn add(&mut self, queue: &Queue, letter: &Message, result: PublishResult) {
        let is_kept = match result {
            PublishResult::Done | PublishResult::Kept(_) => true,
            PublishResult::Refused | PublishResult::Gone => false,
        };
        if !is_kept || (letter.is_persistent() && queue.store.is_some()) {
            return;
        }
        self.count += 1;
        self.bytes += ENTRY_CHARGE_BYTES + queue.death_record_bytes(letter);
        if self.one.as_ref().is_none_or(ReadyBytes::is_none) {
            self.one = Some(queue.ready_bytes.clone());
        }
    }
}

/// Whether messages may be read from the store that are to leave in this way.
pub(super) fn may_read(queue: &Queue, exit: LetterExit, now_ms: u64) -> Leave {
    queue.may_leave(exit, LetterOrigin::Store, now_ms)
}

/// The same where the store is about to be read.
pub(super) fn may_load(queue: &Queue, state: &QueueState, level: u8, now_ms: u64) -> Leave {
    let is_discard = state.ready.is_due_in_store(level, now_ms)
        || limits::is_surplus(state, &queue.identity.arguments);
    let exit = if is_discard {
        LetterExit::Discard
    } else {
        LetterExit::Delivery
    };
    may_read(queue, exit, now_ms)
}

/// Where the next message is; `None` if there is none.
fn origin_of_head(state: &QueueState) -> Option<LetterOrigin> {
    match state.ready.head() {
        QueueHead::Message(entry) => Some(LetterOrigin::of(entry)),
        QueueHead::InStore => Some(LetterOrigin::Store),
        QueueHead::Empty => None,
    }
}

/// Whether the next message may be given to a client, who could reject it.
pub(super) fn may_deliver(queue: &Queue, state: &QueueState, now_ms: u64) -> Leave {
    let origin = queue.gates.as_ref().and_then(|_| origin_of_head(state));
    origin.map_or(Leave::All, |origin| {
        queue.may_leave(LetterExit::Delivery, origin, now_ms)
    })
}

/// Takes the next message for a client.
pub(super) fn pop_to_deliver(
    queue: &Queue,
    state: &mut QueueState,
    now_ms: u64,
) -> Option<QueuedMessage> {
    let entry = state.ready.pop()?;
    queue.note_left(LetterExit::Delivery, LetterOrigin::of(&entry), now_ms);
    Some(entry)
}

/// Whether the next message may be pushed out.
pub(super) fn may_push_out(queue: &Queue, state: &QueueState, now_ms: u64) -> Leave {
    let origin = queue.gates.as_ref().and_then(|_| origin_of_head(state));
    origin.map_or(Leave::All, |origin| {
        queue.may_leave(LetterExit::Discard, origin, now_ms)
    })
}

/// When to look again whether messages may expire or be pushed out, if they may not now.
pub(super) fn discards_held_until(queue: &Queue, state: &QueueState, now_ms: u64) -> Option<u64> {
    queue.gates.as_ref()?;
    let ttl = queue.identity.arguments.message_ttl_ms;
    let is_due = |deadline_ms: Option<u64>| deadline_ms.is_some_and(|due_ms| due_ms <= now_ms);
    let due_heads = state
        .ready
        .heads()
        .filter(|entry| is_due(entry.message.deadline_ms(ttl)));
    let heads = due_heads.map(|entry| queue.may_discard(entry, now_ms));
    let mut stored = state.ready.deadlines_in_store_ms();
    let is_stored_due = stored.any(|due_ms| is_due(Some(due_ms)));
    let stored = is_stored_due.then(|| may_read(queue, LetterExit::Discard, now_ms));
    let is_surplus = limits::is_surplus(state, &queue.identity.arguments);
    let surplus = is_surplus.then(|| may_push_out(queue, state, now_ms));
    let all = heads.chain(stored).chain(surplus);
    all.filter_map(Leave::not_before).min()
}

/// When to look again whether messages may leave, if they may not now.
pub(super) fn held_until(queue: &Queue, state: &QueueState, now_ms: u64) -> Option<u64> {
    queue.gates.as_ref()?;
    let discards = discards_held_until(queue, state, now_ms);
    // It is not known when they expire.
    let is_unread = state.ready.is_any_due_in_store(now_ms);
    let unread = is_unread.then(|| may_read(queue, LetterExit::Discard, now_ms).not_before());
    let is_wanted = !state.consumers.is_empty() && !state.ready.is_empty();
    let deliveries = is_wanted.then(|| may_deliver(queue, state, now_ms).not_before());
    let all = [discards, unread.flatten(), deliveries.flatten()];
    all.into_iter().flatten().min()
}

/// What `basic.get` finds where the next message may not leave, or is behind one that may not.
pub(super) fn held_get(queue: &Queue, state: &QueueState, now_ms: u64) -> Option<GetResult> {
    queue.gates.as_ref()?;
    let is_expiring = state.may_expire;
    let behind = is_expiring.then(|| discards_held_until(queue, state, now_ms));
    let own = may_deliver(queue, state, now_ms).not_before();
    let until_ms = behind.flatten().max(own)?;
    Some(
        if until_ms > now_ms + PACE_MS || memory::are_letters_full() {
            GetResult::Held
        } else {
            GetResult::Loading
        },
    )
}
