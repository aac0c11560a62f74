//! A queue's consumers and their round-robin order. A consumer holds its channel's outbox and
//! ledger, so that a queue need not know channels.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::Queue;
use super::queued::QueuedMessage;
use crate::delivery::effects::Effects;
use crate::delivery::ledger::Ledger;
use crate::delivery::outbox::Outbox;
use crate::memory::{self, KindCharge};
use crate::wire::content::ChannelFraming;
use crate::wire::table::Table;

/// One `basic.consume` and its state.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) subscription: Subscription,
    unsettled: AtomicU32,
    is_cancelled: AtomicBool,
    _charge: KindCharge,
}

/// The bytes of a consumer's entries in the tables of its queue and its channel.
const CONSUMER_BYTES: usize = 512;

/// The number of unwilling consumers that are examined for one step.
const LOOKS_A_STEP: usize = 16;

/// The options of a consumer, and its outbox and ledger.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) tag: Arc<str>,
    pub(crate) framing: ChannelFraming,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) priority: i32,
    /// Unsettled deliveries that it may have, 0 for any number.
    pub(crate) prefetch: u32,
    pub(crate) arguments: Table,
    /// The client wants `basic.cancel` when the queue is deleted.
    pub(crate) wants_cancel: bool,
    pub(crate) connection: u64,
}

/// Why a consumer can or cannot be given a message now.
enum Readiness {
    Willing,
    /// Its connection has too many unsent bytes.
    NoRoom,
    NoCredit,
    /// Memory is short, and its connection holds as many unsettled messages as it may.
    Held,
}

impl Consumer {
    pub(crate) fn new(subscription: Subscription) -> Self {
        let bytes = Self::footprint(&subscription);
        Self {
            subscription,
            unsettled: AtomicU32::new(0),
            is_cancelled: AtomicBool::new(false),
            _charge: memory::CONSUMERS.charge(bytes),
        }
    }

    /// About how much memory a consumer uses, in bytes.
    pub(crate) fn footprint(subscription: &Subscription) -> usize {
        let texts = 2 * subscription.tag.len() + subscription.arguments.footprint();
        size_of::<Self>() + CONSUMER_BYTES + texts
    }

    fn readiness(&self) -> Readiness {
        if !self.subscription.outbox.has_room() {
            return Readiness::NoRoom;
        }
        // The channel's limit applies also to consumers without acknowledgement, as in RabbitMQ.
        let has_own = self.subscription.no_ack
            || self.subscription.prefetch == 0
            || self.unsettled.load(Relaxed) < self.subscription.prefetch;
        if !has_own || !self.subscription.ledger.has_credit() {
            Readiness::NoCredit
        } else if !self.subscription.no_ack && self.subscription.ledger.is_held() {
            Readiness::Held
        } else {
            Readiness::Willing
        }
    }

    /// Delivers one message: takes a tag in the ledger, then appends the frames to the outbox, both
    /// under the ledger's lock so that tags are sent in order.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        entry: QueuedMessage,
        effects: &mut Effects,
    ) {
        let message = entry.message.clone();
        let redelivered = entry.redelivered;
        self.subscription.ledger.with_deliveries(|deliveries| {
            let tag = if self.subscription.no_ack {
                deliveries.next_tag()
            } else {
                self.unsettled.fetch_add(1, Relaxed);
                deliveries.add(queue, entry, Some(self))
            };
            self.subscription.outbox.add(effects, |frames| {
                let tags = (self.subscription.tag.as_bytes(), tag);
                frames.deliver(self.subscription.framing, tags, redelivered, &message);
            });
        });
    }

    /// Returns one credit, because a delivery was settled.
    pub(crate) fn credit(&self) {
        self.unsettled.fetch_sub(1, Relaxed);
    }

    /// The server cancelled it.
    pub(crate) fn mark_cancelled(&self) {
        self.is_cancelled.store(true, Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Relaxed)
    }
}

/// Consumers of one queue: by priority, and round-robin among equals.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    /// Highest priority first; no ring is empty.
    groups: Vec<(i32, VecDeque<Arc<Consumer>>)>,
    choice: ConsumerChoice,
    /// How many of them are exclusive.
    exclusive: usize,
}

#[derive(Debug, Default)]
enum ConsumerChoice {
    #[default]
    Everyone,
    /// The single active consumer, until it is removed.
    Single(Option<Arc<Consumer>>),
}

impl Consumers {
    pub(crate) fn single_active() -> Self {
        Self {
            choice: ConsumerChoice::Single(None),
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.iter().map(|(_, ring)| ring.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Consumer>> {
        self.groups.iter().flat_map(|(_, ring)| ring)
    }

    /// The only consumer that is given messages, if there may be only one.
    pub(crate) fn single(&self) -> Option<&Arc<Consumer>> {
        match &self.choice {
            ConsumerChoice::Everyone => None,
            ConsumerChoice::Single(active) => active.as_ref(),
        }
    }

    pub(crate) fn has_exclusive(&self) -> bool {
        self.exclusive > 0
    }

    /// True for every consumer unless only one may be active.
    pub(crate) fn is_active(&self, consumer: &Arc<Consumer>) -> bool {
        match &self.choice {
            ConsumerChoice::Everyone => true,
            ConsumerChoice::Single(active) => active
                .as_ref()
                .is_some_and(|active| Arc::ptr_eq(active, consumer)),
        }
    }

    pub(crate) fn add(&mut self, consumer: Arc<Consumer>) {
        let at = self
            .groups
            .partition_point(|(priority, _)| *priority > consumer.subscription.priority);
        if self
            .groups
            .get(at)
            .is_none_or(|(priority, _)| *priority != consumer.subscription.priority)
        {
            self.groups
                .insert(at, (consumer.subscription.priority, VecDeque::new()));
        }
        self.exclusive += usize::from(consumer.subscription.exclusive);
        self.groups[at].1.push_back(consumer);
        self.choose();
    }

    /// Removes a consumer. Returns false if it was not here.
    pub(crate) fn remove(&mut self, consumer: &Arc<Consumer>) -> bool {
        let before = self.len();
        for (_, ring) in &mut self.groups {
            ring.retain(|other| !Arc::ptr_eq(other, consumer));
        }
        self.groups.retain(|(_, ring)| !ring.is_empty());
        if let ConsumerChoice::Single(active) = &mut self.choice
            && active
                .as_ref()
                .is_some_and(|active| Arc::ptr_eq(active, consumer))
        {
            *active = None;
        }
        self.choose();
        let is_removed = self.len() < before;
        self.exclusive -= usize::from(is_removed && consumer.subscription.exclusive);
        is_removed
    }

    /// Removes all consumers that `is_meant` says.
    pub(crate) fn remove_all(
        &mut self,
        is_meant: impl Fn(&Consumer) -> bool,
    ) -> Vec<Arc<Consumer>> {
        let mut removed = Vec::new();
        for (_, ring) in &mut self.groups {
            let all = std::mem::take(ring);
            let (meant, others): (VecDeque<_>, _) = all.into_iter().partition(|it| is_meant(it));
            *ring = others;
            removed.extend(meant);
        }
        self.groups.retain(|(_, ring)| !ring.is_empty());
        if let ConsumerChoice::Single(active) = &mut self.choice {
            active.take_if(|active| is_meant(active));
        }
        self.choose();
        let is_exclusive = |it: &&Arc<Consumer>| it.subscription.exclusive;
        self.exclusive -= removed.iter().filter(is_exclusive).count();
        removed
    }

    fn choose(&mut self) {
        if let ConsumerChoice::Single(active @ None) = &mut self.choice {
            *active = self
                .groups
                .first()
                .and_then(|(_, ring)| ring.front())
                .cloned();
        }
    }

    /// The next consumer. Those without room are noted at their outbox, which pumps
    /// `queue` again. Looking at very many counts as work.
    pub(crate) fn next_willing(
        &mut self,
        queue: &Arc<Queue>,
        effects: &mut Effects,
    ) -> Option<&Arc<Consumer>> {
        if let ConsumerChoice::Single(active) = &self.choice {
            let active = active.as_ref();
            return active.filter(|active| is_willing(active, queue));
        }
        let (found, unwilling) = self.find_willing(queue);
        if unwilling >= LOOKS_A_STEP {
            effects.spend(u32::try_from(unwilling / LOOKS_A_STEP).unwrap_or(u32::MAX));
        }
        let (group, at) = found?;
        let ring = &mut self.groups[group].1;
        ring.rotate_left(at + 1);
        ring.back()
    }

    /// Whether some consumer may be given a message now. Notes the others as
    /// [`Consumers::next_willing`] does.
    pub(crate) fn has_willing(&self, queue: &Arc<Queue>) -> bool {
        match &self.choice {
            ConsumerChoice::Single(active) => active
                .as_ref()
                .is_some_and(|active| is_willing(active, queue)),
            ConsumerChoice::Everyone => self.find_willing(queue).0.is_some(),
        }
    }

    /// The group and place of the next consumer, and how many had to be passed over.
    fn find_willing(&self, queue: &Arc<Queue>) -> (Option<(usize, usize)>, usize) {
        let mut unwilling = 0;
        for (group, (_, ring)) in self.groups.iter().enumerate() {
            for (at, consumer) in ring.iter().enumerate() {
                if is_willing(consumer, queue) {
                    return (Some((group, at)), unwilling + at);
                }
            }
            unwilling += ring.len();
        }
        (None, unwilling)
    }

    /// Removes all consumers, because the queue is deleted.
    pub(crate) fn take_all(&mut self) -> Vec<Arc<Consumer>> {
        if let ConsumerChoice::Single(active) = &mut self.choice {
            *active = None;
        }
        self.exclusive = 0;
        std::mem::take(&mut self.groups)
            .into_iter()
            .flat_map(|(_, ring)| ring)
            .collect()
    }
}

fn is_willing(consumer: &Consumer, queue: &Arc<Queue>) -> bool {
    match consumer.readiness() {
        Readiness::Willing => true,
        Readiness::NoCredit => false,
        Readiness::NoRoom => !consumer.subscription.outbox.note_waiting_for_room(queue),
        Readiness::Held => {
            consumer.subscription.outbox.note_waiting_for_settle(queue);
            memory::note_waiting();
            false
        }
    }
}
