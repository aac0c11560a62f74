//! Dead letters on their way: the queues that one still goes to, the letters that follow from it,
//! and those that wait for a later unit of work. Depends on `effects`, `queue` and `persist`.
//!
//! A letter that enters a full queue makes the next letter, and so on: a cascade. It is routed
//! depth first, so what waits of it is at most one route for each move, however many letters come
//! of it in all. The memory account has a charge for each.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::delivery::effects::{DeadLetter, Effects};
use crate::lock::lock;
use crate::persist::Together;
use crate::queue::message::Message;
use crate::queue::{ConfirmMode, Queue};

/// A route is divided between units of work after so many queues.
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
    /// The letter enters its queues and leaves its own in one commit.
    _move: Together,
}

impl LetterRoute {
    /// The way of `letter`, as `message`, to `queues`. What is handed to the store since `together`
    /// is one commit.
    pub(crate) fn new(
        letter: DeadLetter,
        (message, queues): (Message, Vec<Arc<Queue>>),
        together: Together,
    ) -> Self {
        Self {
            letter,
            message,
            queues,
            next: 0,
            _move: together,
        }
    }

    /// Offers the letter to its next queues, until the unit of work has spent `until` steps. True
    /// when the letter has left its own queue.
    pub(crate) fn offer(&mut self, until: u32, effects: &mut Effects) -> bool {
        while let Some(queue) = self.queues.get(self.next) {
            let is_piece_done = self.next > 0 && self.next.is_multiple_of(PIECE);
            if is_piece_done && effects.spent() >= until {
                return false;
            }
            effects.spend(if self.next == 0 {
                FIRST_QUEUE
            } else {
                FURTHER_QUEUE
            });
            self.next += 1;
            // It may not vanish unwritten from a batch in which its original is settled.
            if let Err(error) = queue.publish(&self.message, ConfirmMode::Ticket, effects) {
                tracing::debug!(
                    queue = %self.letter.queue.name(), %error,
                    "a message could not be dead-lettered and stays in its queue"
                );
                return true;
            }
        }
        self.letter.settle();
        true
    }
}

/// A letter of a cascade, before or behind the look at its route.
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
    /// What is left to do, the next step last.
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
}

/// Cascades that units of work had no budget for. The letters of one queue keep their order; the
/// queues take turns.
#[derive(Debug, Default)]
pub(crate) struct LetterBacklog {
    waiting: Mutex<WaitingCascades>,
    /// Queues whose letters wait, to be looked at without the lock.
    sources: AtomicUsize,
}

#[derive(Debug, Default)]
struct WaitingCascades {
    /// By the address of the queue they come from, which they keep allocated.
    by_source: HashMap<usize, VecDeque<Cascade>>,
    /// The same queues but for the one that has its turn.
    turns: VecDeque<usize>,
    is_worked_on: bool,
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

    /// Adds a cascade behind those of its queue. True when the caller must see to it that the
    /// backlog is worked on.
    pub(crate) fn add(&self, cascade: Cascade) -> bool {
        let source = address(&cascade.source);
        let mut waiting = lock(&self.waiting);
        let waiting = &mut *waiting;
        if let Some(others) = waiting.by_source.get_mut(&source) {
            others.push_back(cascade);
            return false;
        }
        waiting.by_source.insert(source, VecDeque::from([cascade]));
        waiting.turns.push_back(source);
        self.sources.store(waiting.by_source.len(), Relaxed);
        !std::mem::replace(&mut waiting.is_worked_on, true)
    }

    /// Takes a cascade of the queue whose turn it is; [`LetterBacklog::end_turn`] must follow.
    /// `None` when nothing waits, and nobody works on the backlog any more.
    pub(crate) fn begin_turn(&self) -> Option<Cascade> {
        let mut waiting = lock(&self.waiting);
        let waiting = &mut *waiting;
        let source = waiting.turns.pop_front();
        let cascades = source.and_then(|source| waiting.by_source.get_mut(&source));
        let cascade = cascades.and_then(VecDeque::pop_front);
        waiting.is_worked_on = cascade.is_some();
        cascade
    }

    /// Ends a turn. What is left of its cascade is the next of its queue.
    pub(crate) fn end_turn(&self, cascade: Cascade) {
        let source = address(&cascade.source);
        let mut waiting = lock(&self.waiting);
        let waiting = &mut *waiting;
        let Some(others) = waiting.by_source.get_mut(&source) else {
            return;
        };
        let is_under_way = matches!(cascade.steps.last(), Some(CascadeStep::Route(_)));
        if !cascade.steps.is_empty() {
            others.push_front(cascade);
        }
        if others.is_empty() {
            waiting.by_source.remove(&source);
            self.sources.store(waiting.by_source.len(), Relaxed);
        } else if is_under_way {
            // Commits of the store wait for it.
            waiting.turns.push_front(source);
        } else {
            waiting.turns.push_back(source);
        }
    }
}
