//! Dead letters that are being routed: the queues that a letter still goes to, the letters that
//! follow from it, and those that wait for a later unit of work. Depends on `effects`, `queue` and
//! `persist`.
//!
//! A letter that enters a full queue makes the next letter, and so on: a cascade. It is routed
//! depth first, so what waits of it is at most one route for each move, however many letters come
//! of it in all. The memory account has a charge for each.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::delivery::effects::{DeadLetter, Effects};
use crate::lock::lock;
use crate::memory::{self, Charge};
use crate::persist::{CommitPause, DefinitionStore};
use crate::queue::message::Message;
use crate::queue::{ConfirmMode, Queue};

/// A route may be divided between units of work after this many queues.
const PIECE: usize = 256;
/// What the first queue of a route costs, in steps.
const FIRST_QUEUE: u32 = 1;
/// What each further queue costs, in steps.
const FURTHER_QUEUE: u32 = 4;

/// A dead letter and the queues that it goes to.
#[derive(Debug)]
pub(crate) struct LetterRoute {
    letter: DeadLetter,
    message: Message,
    queues: Vec<Arc<Queue>>,
    /// The first queue that has not been offered the letter.
    next: usize,
    /// Whether a queue that got the letter keeps it in memory alone.
    stays: bool,
    /// For a letter that is in the store: delays commits, so that the letter enters its queues and
    /// leaves its own in one. Yields if its copies are too many for one commit.
    whole: Option<CommitPause>,
    /// For `queues`.
    _charge: Charge,
}

impl LetterRoute {
    /// The route of `letter`, as `message`, to `queues`. What it adds to `store` from now on is in
    /// one commit with the removal of the letter.
    pub(crate) fn new(
        letter: DeadLetter,
        (message, queues): (Message, Vec<Arc<Queue>>),
        store: &DefinitionStore,
    ) -> Self {
        let mut charge = Charge::default();
        charge.set(queues.capacity() * size_of::<Arc<Queue>>());
        Self {
            whole: letter.is_stored().then(|| store.pause_commits()),
            letter,
            message,
            queues,
            next: 0,
            stays: false,
            _charge: charge,
        }
    }

    /// Whether it may need more than one unit of work.
    pub(crate) fn is_long(&self) -> bool {
        self.queues.len() > PIECE
    }

    /// Turns the route back into a letter that no queue has been offered. It was found to be long
    /// in this generation of the vhost.
    pub(crate) fn into_letter(mut self, generation: u64) -> DeadLetter {
        self.letter.set_long_in(generation);
        self.letter
    }

    fn holds_commits_back(&self) -> bool {
        self.whole.as_ref().is_some_and(CommitPause::is_awaited)
    }

    /// Whether the copies for the store may be more than it takes into one commit.
    fn is_large(&self) -> bool {
        let copies = self.queues.len().saturating_mul(self.message.footprint());
        self.message.is_persistent() && copies > memory::store_pending_bytes()
    }

    /// Offers the letter to its next queues, until the unit of work has spent `until` steps, or the
    /// store is behind with the copies of a large one. True when the letter has left its own queue.
    pub(crate) fn offer(
        &mut self,
        until: u32,
        is_store_behind: impl Fn() -> bool,
        effects: &mut Effects,
    ) -> bool {
        let is_large = self.is_large();
        if self.queues.is_empty() {
            let DeadLetter {
                queue,
                message,
                reason,
                ..
            } = &self.letter;
            effects.note_discarded(queue, message, *reason);
        }
        while let Some(queue) = self.queues.get(self.next) {
            let is_piece_done = self.next > 0 && self.next.is_multiple_of(PIECE);
            if is_piece_done && effects.spent() >= until {
                return false;
            }
            if is_large && self.next > 0 && is_store_behind() {
                // The commits that it waits for may not wait for it.
                if let Some(pause) = &mut self.whole {
                    pause.yield_to_commits();
                }
                return false;
            }
            effects.spend(if self.next == 0 {
                FIRST_QUEUE
            } else {
                FURTHER_QUEUE
            });
            self.next += 1;
            // It may not vanish unwritten from a batch in which its original is settled.
            let publish =
                |effects: &mut Effects| queue.publish(&self.message, ConfirmMode::Ticket, effects);
            let (published, stays) = effects.noting_stay(publish);
            self.stays |= stays;
            if let Err(error) = published {
                tracing::debug!(
                    queue = %self.letter.queue.name(), %error,
                    "a message could not be dead-lettered and stays in its queue"
                );
                return true;
            }
        }
        self.letter.queue.note_letter(self.stays);
        self.letter.settle();
        true
    }
}

/// A letter of a cascade, before or after its route is known.
#[derive(Debug)]
pub(crate) enum CascadeStep {
    Letter(DeadLetter),
    Route(LetterRoute),
}

/// A dead letter and those that follow from it.
#[derive(Debug)]
pub(crate) struct Cascade {
    /// The queue of the first letter.
    source: Arc<Queue>,
    /// The remaining steps, the next one last.
    steps: Vec<CascadeStep>,
}

impl Cascade {
    pub(crate) fn new(letter: DeadLetter) -> Self {
        Self {
            source: Arc::clone(&letter.queue),
            steps: vec![CascadeStep::Letter(letter)],
        }
    }

    /// Takes the next step.
    pub(crate) fn next(&mut self) -> Option<CascadeStep> {
        self.steps.pop()
    }

    /// Puts a step back that is next again.
    pub(crate) fn put_back(&mut self, step: CascadeStep) {
        self.steps.push(step);
    }

    /// Adds the letters that a step has made, in their order. They come before what was left.
    pub(crate) fn follow(&mut self, letters: impl DoubleEndedIterator<Item = DeadLetter>) {
        self.steps.extend(letters.rev().map(CascadeStep::Letter));
    }

    fn holds_commits_back(&self) -> bool {
        match self.steps.last() {
            Some(CascadeStep::Route(route)) => route.holds_commits_back(),
            Some(CascadeStep::Letter(_)) | None => false,
        }
    }

    /// Whether its next step is a route, some of whose queues have the letter.
    fn is_under_way(&self) -> bool {
        matches!(self.steps.last(), Some(CascadeStep::Route(_)))
    }
}

/// Cascades that units of work had no budget for. The letters of one queue keep their order; the
/// queues are served round-robin.
#[derive(Debug, Default)]
pub(crate) struct LetterBacklog {
    waiting: Mutex<WaitingCascades>,
    /// Queues whose letters wait, to be looked at without the lock.
    sources: AtomicUsize,
    /// Routes under way that wait, likewise.
    routes: AtomicUsize,
}

#[derive(Debug, Default)]
struct WaitingCascades {
    /// By the address of the queue they come from, which they keep allocated.
    by_source: HashMap<usize, VecDeque<Cascade>>,
    /// The keys of `by_source` in the order in which they are served, without the one that is
    /// served now.
    order: VecDeque<usize>,
    is_worked_on: bool,
    /// Whether only routes under way go on.
    is_closing: bool,
}

fn address(queue: &Arc<Queue>) -> usize {
    Arc::as_ptr(queue) as usize
}

impl LetterBacklog {
    /// Whether letters of this queue wait, so that newer ones must wait behind them.
    pub(crate) fn has(&self, queue: &Arc<Queue>) -> bool {
        self.sources.load(Relaxed) > 0
            && lock(&self.waiting).by_source.contains_key(&address(queue))
    }

    /// Whether a route that is under way waits, so that no other long one should begin: each holds
    /// its list of queues, and commits of the store.
    pub(crate) fn has_route(&self) -> bool {
        self.routes.load(Relaxed) > 0
    }

    /// Whether commits of the store wait for the next cascade, so that it must not wait for them.
    pub(crate) fn holds_commits_back(&self) -> bool {
        let waiting = lock(&self.waiting);
        let source = waiting.order.front();
        let cascades = source.and_then(|source| waiting.by_source.get(source));
        let cascade = cascades.and_then(VecDeque::front);
        cascade.is_some_and(Cascade::holds_commits_back)
    }

    /// Adds a cascade behind those of its queue. True when the caller must see to it that the
    /// backlog is worked on.
    pub(crate) fn add(&self, cascade: Cascade) -> bool {
        let source = address(&cascade.source);
        let mut waiting = lock(&self.waiting);
        let waiting = &mut *waiting;
        let is_under_way = self.count_route(&cascade);
        if let Some(others) = waiting.by_source.get_mut(&source) {
            let at = if is_under_way { 0 } else { others.len() };
            others.insert(at, cascade);
            return false;
        }
        waiting.by_source.insert(source, VecDeque::from([cascade]));
        waiting.enqueue(source, is_under_way);
        self.sources.store(waiting.by_source.len(), Relaxed);
        !std::mem::replace(&mut waiting.is_worked_on, true)
    }

    /// From now on only routes under way go on. The other letters stay in their queues.
    pub(crate) fn close(&self) {
        lock(&self.waiting).is_closing = true;
    }

    /// Whether a cascade waits or is worked on.
    pub(crate) fn is_worked_on(&self) -> bool {
        lock(&self.waiting).is_worked_on
    }

    /// Takes the next cascade; [`LetterBacklog::give_back`] must follow. `None` if nothing waits;
    /// the backlog then has no worker.
    pub(crate) fn take_next(&self) -> Option<Cascade> {
        let mut waiting = lock(&self.waiting);
        let waiting = &mut *waiting;
        let may_begin = !waiting.is_closing || self.has_route();
        let source = may_begin.then(|| waiting.order.pop_front()).flatten();
        let cascades = source.and_then(|source| waiting.by_source.get_mut(&source));
        let cascade = cascades.and_then(VecDeque::pop_front);
        waiting.is_worked_on = cascade.is_some();
        if cascade.as_ref().is_some_and(Cascade::is_under_way) {
            self.routes.fetch_sub(1, Relaxed);
        }
        cascade
    }

    /// Puts back a cascade after a unit of work. Its remaining steps are next for its queue.
    pub(crate) fn give_back(&self, cascade: Cascade) {
        let source = address(&cascade.source);
        let mut waiting = lock(&self.waiting);
        let waiting = &mut *waiting;
        let Some(others) = waiting.by_source.get_mut(&source) else {
            return;
        };
        let is_under_way = self.count_route(&cascade);
        if !cascade.steps.is_empty() {
            // Placed behind a route that was added meanwhile. In front of it, this letter would
            // wait for that route, which could not continue.
            let routes = others.iter().take_while(|other| other.is_under_way());
            let at = if is_under_way { 0 } else { routes.count() };
            others.insert(at, cascade);
        }
        if others.is_empty() {
            waiting.by_source.remove(&source);
            self.sources.store(waiting.by_source.len(), Relaxed);
        } else {
            waiting.enqueue(source, is_under_way);
        }
    }

    /// Counts the route of a cascade that waits from now on. True if it has one under way.
    fn count_route(&self, cascade: &Cascade) -> bool {
        let is_under_way = cascade.is_under_way();
        self.routes.fetch_add(is_under_way.into(), Relaxed);
        is_under_way
    }
}

impl WaitingCascades {
    /// Adds a queue to the order: as the first, where commits of the store may wait for its route.
    fn enqueue(&mut self, source: usize, is_under_way: bool) {
        if is_under_way {
            self.order.push_front(source);
        } else {
            self.order.push_back(source);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::used_underscore_binding,
        reason = "what is kept to be dropped is looked at here alone"
    )]
    use super::*;
    use crate::queue::dead_letter::Reason;
    use crate::tests::opened;

    fn message() -> Message {
        Message::transient((b"", b"q"), b"x")
    }

    fn letter(queue: &Arc<Queue>, stored: Option<(u8, u64)>) -> DeadLetter {
        DeadLetter::new(queue, message(), Reason::Rejected, stored)
    }

    /// A cascade of this queue, one of whose routes waits.
    fn under_way(queue: &Arc<Queue>, store: &DefinitionStore) -> Cascade {
        let way = (message(), vec![Queue::plain()]);
        let route = LetterRoute::new(letter(queue, None), way, store);
        Cascade {
            source: Arc::clone(queue),
            steps: vec![CascadeStep::Route(route)],
        }
    }

    #[tokio::test]
    async fn a_route_holds_commits_back_only_where_the_store_has_its_letter() {
        let (broker, _kept) = opened().await;
        for stored in [None, Some((0, 1))] {
            let letter = letter(&Queue::plain(), stored);
            let queues: Vec<_> = (0..100).map(|_| Queue::plain()).collect();
            let route = LetterRoute::new(letter, (message(), queues), &broker.definitions);
            assert_eq!(route.whole.is_some(), stored.is_some());
            assert!(route._charge.bytes() >= 100 * size_of::<Arc<Queue>>());
        }
    }

    #[tokio::test]
    async fn a_closed_backlog_goes_on_with_the_route_under_way_alone() {
        let (broker, _kept) = opened().await;
        let (queue, other) = (Queue::plain(), Queue::plain());
        let under_way = under_way(&queue, &broker.definitions);
        let backlog = LetterBacklog::default();
        backlog.add(Cascade::new(letter(&other, None)));
        backlog.add(under_way);
        backlog.close();
        let mut next = backlog.take_next().expect("the route under way");
        assert!(next.is_under_way() && backlog.is_worked_on());
        next.steps.clear();
        backlog.give_back(next);
        assert!(backlog.take_next().is_none() && !backlog.is_worked_on());
        assert!(backlog.has(&other), "it stays in its queue");
    }

    /// Two threads may route letters of one queue at the same time.
    #[tokio::test]
    async fn a_route_under_way_comes_before_letters_of_its_queue() {
        let (broker, _kept) = opened().await;
        let queue = Queue::plain();
        let under_way = under_way(&queue, &broker.definitions);
        let backlog = LetterBacklog::default();
        backlog.add(Cascade::new(letter(&queue, None)));
        let first = backlog.take_next();
        backlog.add(under_way);
        assert!(backlog.has_route());
        if let Some(first) = first {
            backlog.give_back(first);
        }
        for is_route in [true, false] {
            let next = backlog.take_next();
            assert_eq!(next.is_some_and(|next| next.is_under_way()), is_route);
            assert!(!backlog.has_route());
            backlog.give_back(Cascade {
                source: Arc::clone(&queue),
                steps: Vec::new(),
            });
        }
    }
}
