//! A queue: its ready messages in order, and its consumers.
//!
//! A consumer is given messages in one place only, [`QueueState::pump`]; a message also leaves by
//! `basic.get`, by the limits, by a purge and with its queue. Publishing, settling, requeueing and
//! a writer that has room again all change the state and then pump; direct hand-off is the case
//! where no message was ready. Relies on `persist` for what must survive, on `ledger` and
//! `outbox` through its consumers, and on `effects` for what is left to do without the lock.
//!
//! # Cost
//! One lock a publish and one a run of settles; nothing is formatted, logged or awaited under it.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::delivery::confirms::Confirms;
use crate::delivery::effects::Effects;
use crate::delivery::ledger::{Ledger, UnsettledDelivery};
use crate::fault::Fault;
use crate::lock::lock;
use crate::memory::{self, KindCharge, TOPOLOGY};
use crate::persist::{QueueStore, Stopped, Ticket, Urgency};
use crate::wire::table::Table;

pub mod arguments;
pub(crate) mod browse;
pub(crate) mod closing;
pub(crate) mod consumer;
mod counters;
pub mod dead_letter;
mod letter_memory;
pub(crate) mod level;
pub(crate) mod limits;
pub(crate) mod loading;
pub mod message;
mod message_totals;
pub(crate) mod queued;
pub(crate) mod ready;
pub(crate) mod removed;
mod state;
mod subscribing;
#[cfg(test)]
mod tests;

use arguments::QueueArguments;
use letter_memory::LetterMemory;

pub use counters::{Counters, QueueSnapshot};
use level::LoadNeed;
use message::Message;
use ready::ReadyMessages;
use removed::RemovedMessages;
pub(crate) use state::QueueState;

/// What a queue is, as it was declared.
#[derive(Debug, Clone)]
pub(crate) struct QueueIdentity {
    pub(crate) name: Arc<str>,
    pub(crate) vhost: Arc<str>,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    /// The connection that alone may use it.
    pub(crate) owner: Option<u64>,
    pub(crate) arguments: QueueArguments,
    /// The arguments as they were sent.
    pub(crate) table: Table,
}

/// A queue of one vhost.
#[derive(Debug)]
pub struct Queue {
    pub(crate) identity: QueueIdentity,
    store: Option<QueueStore>,
    state: Mutex<QueueState>,
    /// Messages that have left the queue and are still in the store: dead letters on their way, and
    /// purges.
    stored_originals: AtomicU64,
    letters: LetterMemory,
    /// Notified when consumers have nearly emptied the queue.
    drained: Notify,
    _charge: KindCharge,
}

/// What a queue uses beside itself, its name and its arguments: its places in the tables, its
/// counters over time, and what the store knows of it.
const QUEUE_BYTES: usize = 1024;

/// Ready messages and bytes above which a publisher in a hurry gives the consumers a moment, and
/// below which it goes on.
const GROWING: (u64, u64) = (512, 512 * 1024);
const DRAINED: (u64, u64) = (128, 128 * 1024);

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishResult {
    /// It needs no store, or was consumed already.
    Done,
    /// It is safe once the store is durable past this point.
    Kept(Ticket),
    /// The queue is full and refuses.
    Refused,
    /// The queue was deleted since the message was routed, so it has not taken the message.
    Gone,
}

/// What a publisher waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ConfirmMode<'a> {
    Nothing,
    /// It waits for the ticket.
    Ticket,
    /// It waits for the ticket, or is confirmed earlier when the message is settled while its batch
    /// gathers.
    Confirm(&'a Arc<Confirms>, u64),
}

/// What a settle does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    Ack,
    /// Rejected without requeue: a dead letter where the queue has a place for them.
    Reject,
    Requeue,
}

/// What `basic.get` found.
#[derive(Debug)]
pub(crate) enum GetResult {
    Empty,
    /// The next message is being read from the store; ask again when the load is done.
    Loading,
    /// The store failed to give the next message a moment ago.
    Unreadable,
    /// Memory is short, and clients hold much of this queue unsettled.
    Held,
    /// Memory is short, and dead letters of this queue stay in it.
    HeldBack,
    Delivery {
        tag: u64,
        message: Message,
        redelivered: bool,
        left: u64,
    },
}

/// What became of a consumer that a queue was to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubscribeResult {
    Added,
    /// It or a consumer that is there wants the queue for itself.
    InExclusiveUse,
    /// The queue was deleted since it was looked up.
    Gone,
}

/// How `basic.get` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GetMode {
    Acked,
    /// Into the ledger, to be settled.
    Unsettled,
}

impl Queue {
    pub(crate) fn new(identity: QueueIdentity, store: Option<QueueStore>, now_ms: u64) -> Self {
        let budget = store
            .as_ref()
            .map_or_else(Arc::default, |store| Arc::clone(store.budget()));
        let state = QueueState::new(&identity.arguments, budget, now_ms);
        Self {
            _charge: TOPOLOGY.charge(Self::footprint(&identity)),
            identity,
            store,
            state: Mutex::new(state),
            stored_originals: AtomicU64::new(0),
            letters: LetterMemory::default(),
            drained: Notify::new(),
        }
    }

    /// About how much memory a queue uses without its messages, in bytes.
    pub(crate) fn footprint(identity: &QueueIdentity) -> usize {
        let texts = 4 * identity.name.len() + 2 * identity.table.footprint();
        size_of::<Self>()
            + QUEUE_BYTES
            + texts
            + ReadyMessages::footprint(identity.arguments.max_priority.unwrap_or(0))
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.identity.name
    }

    /// The name of the vhost that it lives in.
    pub fn vhost(&self) -> &Arc<str> {
        &self.identity.vhost
    }

    pub(crate) fn store(&self) -> Option<&QueueStore> {
        self.store.as_ref()
    }

    /// Runs `with` under the lock.
    pub(crate) fn with<R>(&self, with: impl FnOnce(&mut QueueState) -> R) -> R {
        with(&mut lock(&self.state))
    }

    /// Counts a message that has left the queue and is still in the store: a dead letter on its
    /// way, or the messages of a purge. The queue must be locked.
    pub(crate) fn add_stored_original(&self) {
        self.stored_originals.fetch_add(1, Relaxed);
    }

    /// Ends what [`Queue::add_stored_original`] began: the store has settled the message, or keeps
    /// it for the next start.
    pub(crate) fn remove_stored_original(&self) {
        self.stored_originals.fetch_sub(1, Release);
    }

    /// Whether its messages may become dead letters.
    pub(crate) fn makes_letters(&self) -> bool {
        self.identity.arguments.dead_letters.is_some()
    }

    /// Whether the store still has messages that have left the queue. The queue must be locked.
    fn has_stored_originals(&self) -> bool {
        self.stored_originals.load(Acquire) > 0
    }

    /// Refuses a connection that is not the owner of an exclusive queue.
    pub(crate) fn check_access(&self, connection: u64) -> Result<(), Fault> {
        match self.identity.owner {
            Some(owner) if owner != connection => Err(Fault::locked(self.name(), self.vhost())),
            _ => Ok(()),
        }
    }

    /// Appends a message, and delivers what consumers have credit for.
    pub(crate) fn publish(
        self: &Arc<Self>,
        message: &Message,
        confirm_mode: ConfirmMode<'_>,
        effects: &mut Effects,
    ) -> Result<PublishResult, Stopped> {
        let mut state = lock(&self.state);
        if state.is_deleted {
            return Ok(PublishResult::Gone);
        }
        state.counters.published += 1;
        if limits::refuses(&state, &self.identity.arguments, message) {
            limits::refuse(self, &mut state, message, effects);
            return Ok(PublishResult::Refused);
        }
        let entry = state.entry(self, message, confirm_mode);
        let (level, is_transient) = (entry.level, entry.is_transient());
        let ticket = if !state.ready.is_empty() || state.consumers.is_empty() {
            // It cannot leave at once, so the store has it first: a long queue keeps no body of it.
            let mut entry = entry;
            let ticket = QueueState::append(self, &mut entry)?;
            let keep_in_memory = !state.consumers.is_empty();
            state.ready.push(entry, keep_in_memory);
            state.pump(self, effects)?;
            ticket
        } else {
            state.ready.push(entry, true);
            match state.pump(self, effects)? {
                None => state.append_last(self, level)?,
                ticket => ticket,
            }
        };
        let is_left = is_transient && !state.ready.is_empty();
        let letters_before = effects.dead_letters.len();
        limits::enforce(self, &mut state, effects);
        // What it pushed out takes its place in memory.
        let has_letters = effects.dead_letters.len() > letters_before;
        effects.note_published(is_left || (has_letters && self.letters.do_stay()));
        if state.is_above(GROWING) && !state.consumers.is_empty() {
            effects.note_growing_queue(self);
        }
        Ok(ticket.map_or(PublishResult::Done, PublishResult::Kept))
    }

    /// Settles deliveries of this queue and hands out what the credit allows.
    pub(crate) fn settle(
        self: &Arc<Self>,
        deliveries: impl Iterator<Item = UnsettledDelivery>,
        disposition: Disposition,
        effects: &mut Effects,
    ) -> Result<(), Stopped> {
        let mut state = lock(&self.state);
        for delivery in deliveries {
            state.settle(self, delivery.entry, disposition, effects)?;
        }
        if disposition == Disposition::Requeue {
            limits::enforce(self, &mut state, effects);
            state.pump(self, effects)?;
            if memory::is_short() {
                state.unload(self, effects);
                limits::arm(self, &mut state, effects);
            }
            return Ok(());
        }
        state.pump(self, effects).map(drop)
    }

    /// Delivers what can be delivered: a writer has room again, a credit grew.
    pub(crate) fn pump(self: &Arc<Self>, effects: &mut Effects) -> Result<(), Stopped> {
        lock(&self.state).pump(self, effects).map(drop)
    }

    /// `basic.get`.
    pub(crate) fn get(
        self: &Arc<Self>,
        ledger: &Ledger,
        mode: GetMode,
        effects: &mut Effects,
    ) -> Result<GetResult, Stopped> {
        let mut state = lock(&self.state);
        if state.is_deleted {
            return Ok(GetResult::Empty);
        }
        limits::enforce(self, &mut state, effects);
        state.used_ms = effects.now_ms;
        if effects.is_overspent() {
            // Very many messages have expired, and there may be more.
            return Ok(GetResult::Loading);
        }
        if mode == GetMode::Unsettled && ledger.is_held() && !state.ready.is_empty() {
            return Ok(GetResult::Held);
        }
        let Some(entry) = state.ready.pop() else {
            state.request_load(self, LoadNeed::Now, effects);
            return Ok(match state.ready.is_empty() {
                true => GetResult::Empty,
                false if state.is_unreadable(effects) => GetResult::Unreadable,
                false if self.letters.is_read_held_back() => GetResult::HeldBack,
                false => GetResult::Loading,
            });
        };
        let (message, redelivered) = (entry.message.clone(), entry.redelivered);
        state.counters.got += 1;
        state.note_delivered(self, &entry);
        let tag = match mode {
            GetMode::Acked => {
                QueueState::settle_in_store_and_confirm(self, &entry, effects)?;
                ledger.with_deliveries(crate::delivery::ledger::OpenDeliveries::next_tag)
            }
            GetMode::Unsettled => {
                state.count_unsettled(&entry);
                ledger.with_deliveries(|deliveries| deliveries.add(self, entry, None))
            }
        };
        state.request_load(self, LoadNeed::Soon, effects);
        Ok(GetResult::Delivery {
            tag,
            message,
            redelivered,
            left: state.ready.ready(),
        })
    }

    /// Removes every ready message. They are gone for good after [`RemovedMessages::end_some`].
    pub(crate) fn purge(
        self: &Arc<Self>,
        effects: &mut Effects,
    ) -> Result<RemovedMessages, Stopped> {
        lock(&self.state).purge(self, effects)
    }

    /// The clock has reached the time that this queue asked for. True when the queue has expired.
    pub(crate) fn on_time(self: &Arc<Self>, effects: &mut Effects) -> Result<bool, Stopped> {
        let mut state = lock(&self.state);
        state.armed_ms = u64::MAX;
        if state.is_deleted {
            return Ok(false);
        }
        limits::enforce(self, &mut state, effects);
        state.pump(self, effects)?;
        Ok(limits::has_expired(
            &state,
            &self.identity.arguments,
            effects.now_ms,
        ))
    }

    /// Starts the lease of `x-expires` anew. False if the queue was deleted since it was looked up.
    pub(crate) fn touch(self: &Arc<Self>, effects: &mut Effects) -> bool {
        let mut state = lock(&self.state);
        if state.is_deleted {
            return false;
        }
        state.used_ms = effects.now_ms;
        limits::enforce(self, &mut state, effects);
        limits::arm(self, &mut state, effects);
        true
    }

    /// Waits until the consumers have nearly emptied the queue.
    pub(crate) async fn drained(&self) {
        let drained = self.drained.notified();
        let is_long = self.with(|state| {
            state.has_waiting_publisher = state.is_above(DRAINED);
            state.has_waiting_publisher
        });
        if is_long {
            drained.await;
        }
    }

    /// Ready messages and consumers.
    pub(crate) fn counts(&self) -> (u64, usize) {
        let state = lock(&self.state);
        (state.ready.ready(), state.consumers.len())
    }

    /// Everything the outside may want to know.
    pub fn snapshot(&self) -> QueueSnapshot {
        lock(&self.state).snapshot()
    }
}

impl ConfirmMode<'_> {
    fn urgency(self) -> Urgency {
        match self {
            Self::Nothing => Urgency::Eventually,
            Self::Ticket | Self::Confirm(..) => Urgency::Confirmed,
        }
    }
}

#[cfg(test)]
impl Queue {
    /// A transient queue without arguments and without messages.
    pub(crate) fn plain() -> Arc<Self> {
        let identity = QueueIdentity {
            name: "q".into(),
            vhost: "/".into(),
            durable: false,
            auto_delete: false,
            owner: None,
            arguments: QueueArguments::default(),
            table: Table::new(),
        };
        Arc::new(Self::new(identity, None, 0))
    }
}
