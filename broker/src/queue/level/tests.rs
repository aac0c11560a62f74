//! A level under random publishes, settles, loads and unloads, beside what the store has: every
//! message is handed out once, in order, and none is handed out that a client has or that is a dead
//! letter on its way.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::memory::EntryCharge;
use crate::queue::dead_letter::Spread;
use crate::queue::message::MessageFacts;
use crate::queue::ready::ReadyMessages;
use crate::wire::content::MessageContent;

/// As large as the least that a level keeps, so that few messages make a long line.
static BODY: [u8; LEAST_BYTES] = [7; LEAST_BYTES];

fn queued(position: u64, ttl_ms: Option<u64>, persistence: Persistence) -> QueuedMessage {
    let content = MessageContent {
        exchange: b"",
        routing_key: b"q",
        properties: b"\0\0",
        body: &BODY,
    };
    let facts = MessageFacts {
        persistent: persistence == Persistence::Appended,
        priority: 0,
        published_ms: 1000,
        ttl_ms,
        spread: Spread::NONE,
    };
    QueuedMessage {
        position,
        message: Message::assemble(content, facts),
        level: 0,
        redelivered: false,
        persistence,
        confirm: None,
        _charge: EntryCharge::new(),
    }
}

/// A read that brought these.
fn loaded(messages: Vec<QueuedMessage>) -> LoadedSlice {
    LoadedSlice {
        through: messages.last().map(|entry| entry.position),
        undecodable: 0,
        messages,
    }
}

/// A budget that is spent makes memory short.
fn budget(is_spent: bool) -> Arc<WindowBudget> {
    let budget = Arc::<WindowBudget>::default();
    if is_spent {
        budget.report(&mut 0, memory::windows_bytes());
    }
    budget
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Publish {
        is_stored: bool,
        is_awaited: bool,
    },
    Take,
    Ack {
        nth: usize,
    },
    GiveBack {
        nth: usize,
    },
    /// A client rejects it. It waits as a dead letter, and the store keeps it until it has left.
    Reject {
        nth: usize,
    },
    /// The oldest dead letter leaves.
    Leave,
    Unload(UnloadRest),
    Ask,
    Bring,
}

fn act() -> impl Strategy<Value = Act> {
    let rest = prop_oneof![Just(UnloadRest::Head), Just(UnloadRest::Nothing)];
    prop_oneof![
        6 => (prop::bool::weighted(0.9), any::<bool>())
            .prop_map(|(is_stored, is_awaited)| Act::Publish { is_stored, is_awaited }),
        4 => Just(Act::Take),
        2 => (0usize..8).prop_map(|nth| Act::Ack { nth }),
        2 => (0usize..8).prop_map(|nth| Act::GiveBack { nth }),
        2 => (0usize..8).prop_map(|nth| Act::Reject { nth }),
        1 => Just(Act::Leave),
        3 => rest.prop_map(Act::Unload),
        3 => Just(Act::Ask),
        3 => Just(Act::Bring),
    ]
}

struct World {
    level: PriorityLevel,
    budget: Arc<WindowBudget>,
    next: u64,
    /// What the store has: also what clients hold and have not settled, and dead letters.
    stored: BTreeSet<u64>,
    waiting: BTreeSet<u64>,
    held: BTreeMap<u64, QueuedMessage>,
    leaving: VecDeque<u64>,
    asked: Option<LoadRequest>,
}

impl World {
    fn new(is_scarce: bool) -> Self {
        Self {
            level: PriorityLevel::default(),
            budget: budget(is_scarce),
            next: 1,
            stored: BTreeSet::new(),
            waiting: BTreeSet::new(),
            held: BTreeMap::new(),
            leaving: VecDeque::new(),
            asked: None,
        }
    }

    fn nth_held(&mut self, nth: usize) -> Option<QueuedMessage> {
        let position = *self.held.keys().nth(nth)?;
        self.held.remove(&position)
    }

    fn apply(&mut self, act: Act) {
        match act {
            Act::Publish {
                is_stored,
                is_awaited,
            } => {
                let persistence = if is_stored {
                    self.stored.insert(self.next);
                    Persistence::Appended
                } else {
                    Persistence::Transient
                };
                let entry = queued(self.next, None, persistence);
                self.level.push(entry, is_awaited, &self.budget);
                self.waiting.insert(self.next);
                self.next += 1;
            }
            Act::Take => self.take(),
            Act::Ack { nth } => {
                if let Some(entry) = self.nth_held(nth) {
                    self.stored.remove(&entry.position);
                }
            }
            Act::GiveBack { nth } => {
                if let Some(entry) = self.nth_held(nth) {
                    self.waiting.insert(entry.position);
                    self.level.put_back(entry);
                }
            }
            Act::Reject { nth } => {
                let rejected = self.nth_held(nth).map(|entry| entry.position);
                self.leaving.extend(rejected);
            }
            Act::Leave => {
                if let Some(position) = self.leaving.pop_front() {
                    self.stored.remove(&position);
                }
            }
            Act::Unload(rest) => {
                let has_unready_stored = !self.held.is_empty() || !self.leaving.is_empty();
                self.level
                    .unload(rest, has_unready_stored, &mut Effects::new(0));
            }
            Act::Ask => {
                let wanted = self.level.next_load(0, LoadNeed::Soon, &self.budget);
                self.asked = wanted.or(self.asked);
            }
            Act::Bring => self.bring(),
        }
        assert_eq!(self.level.count(), self.waiting.len() as u64);
    }

    fn take(&mut self) {
        match self.level.pop() {
            Some(entry) => {
                let first = self.waiting.pop_first();
                assert_eq!(Some(entry.position), first, "out of order, or twice");
                self.held.insert(entry.position, entry);
            }
            None => assert_eq!(
                matches!(self.level.front(), QueueHead::Empty),
                self.waiting.is_empty()
            ),
        }
    }

    /// Gives a level what it asked for, two messages at a time.
    fn bring(&mut self) {
        if let Some(wanted) = self.asked.take() {
            let slice = self.stored.range(wanted.from..).take(2);
            let slice = slice.map(|position| queued(*position, None, Persistence::Appended));
            let missing = self.level.fill(wanted, loaded(slice.collect()));
            let missing = missing.unwrap_or_default();
            assert_eq!(missing, MissingMessages::default(), "not in the store");
        }
    }

    /// Takes everything that waits.
    fn drain(&mut self) {
        while !self.waiting.is_empty() {
            self.take();
            self.apply(Act::Ask);
            self.bring();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_handed_out_once_and_in_order(
        is_scarce in any::<bool>(),
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let mut world = World::new(is_scarce);
        for act in acts {
            world.apply(act);
        }
        world.drain();
    }
}

#[test]
fn of_what_is_left_to_the_store_the_deadline_is_known() {
    let mut level = PriorityLevel::new(Some(500));
    let short = budget(true);
    level.push(queued(1, Some(100), Persistence::Appended), false, &short);
    level.push(queued(2, None, Persistence::Appended), false, &short);
    assert!(matches!(level.front(), QueueHead::InStore));
    assert_eq!(level.deadline_in_store_ms(), Some(1100));
    assert!(!level.is_due_in_store(1099));
    assert!(level.is_due_in_store(1100));
    // Once the first has been read, the second's is not known any more.
    let wanted = level.next_load(0, LoadNeed::Soon, &short).unwrap();
    let first = vec![queued(1, Some(100), Persistence::Appended)];
    assert_eq!(
        level.fill(wanted, loaded(first)),
        Some(MissingMessages::default())
    );
    assert_eq!(level.pop().unwrap().position, 1);
    assert_eq!(level.deadline_in_store_ms(), None);
    assert!(level.is_due_in_store(0), "it must be read to know");
    let wanted = level.next_load(0, LoadNeed::Soon, &short).unwrap();
    level.fill(wanted, loaded(vec![queued(2, None, Persistence::Appended)]));
    level.unload(UnloadRest::Nothing, false, &mut Effects::new(0));
    assert_eq!(level.deadline_in_store_ms(), Some(1500));
}

#[test]
fn a_message_that_cannot_expire_is_not_read_for_its_deadline() {
    let (mut level, short) = (PriorityLevel::default(), budget(true));
    level.push(queued(1, None, Persistence::Appended), false, &short);
    assert!(matches!(level.front(), QueueHead::InStore));
    assert!(!level.is_due_in_store(u64::MAX));
}

#[test]
fn an_unloaded_level_keeps_what_a_client_may_have_had() {
    let (mut level, plenty) = (PriorityLevel::default(), budget(false));
    for position in 1..=6 {
        level.push(queued(position, None, Persistence::Appended), true, &plenty);
    }
    let (first, second) = (level.pop().unwrap(), level.pop().unwrap());
    level.put_back(first);
    level.unload(UnloadRest::Nothing, true, &mut Effects::new(0));
    assert_eq!(level.in_store(0).unwrap().first, 3);
    assert_eq!(level.pop().unwrap().position, 1);
    assert!(matches!(level.front(), QueueHead::InStore));
    level.put_back(second);
    level.unload(UnloadRest::Nothing, false, &mut Effects::new(0));
    assert_eq!(level.in_store(0).unwrap().first, 2);
}

/// Else a client that gives very many messages back one by one would make the queue look at all of
/// them each time.
#[test]
fn what_must_stay_in_memory_is_not_looked_at() {
    let (mut level, plenty) = (PriorityLevel::default(), budget(false));
    let count = 4 * u64::from(LOOKS_A_STEP);
    let mut held = Vec::new();
    for position in 1..=count {
        level.push(queued(position, None, Persistence::Appended), true, &plenty);
        held.push(level.pop().unwrap());
    }
    for entry in held.drain(1..) {
        level.put_back(entry);
    }
    let mut effects = Effects::new(0);
    assert_eq!(level.unload(UnloadRest::Nothing, true, &mut effects), None);
    assert_eq!(effects.spent(), 0);
}

#[test]
fn unloading_is_work_of_the_unit_of_work() {
    let (mut level, plenty) = (PriorityLevel::default(), budget(false));
    for position in 1..=8 {
        level.push(queued(position, None, Persistence::Appended), true, &plenty);
    }
    let mut effects = Effects::new(0);
    level.unload(UnloadRest::Nothing, false, &mut effects);
    assert_eq!(effects.spent(), 8);
}

/// Everything behind a slice without a message that can be decoded was counted as missing.
#[test]
fn what_lies_behind_messages_that_cannot_be_decoded_is_read_next() {
    let mut level = PriorityLevel::default();
    level.recovered(1, 3, 30);
    let wanted = level.next_load(0, LoadNeed::Now, &budget(false)).unwrap();
    let undecodable = LoadedSlice {
        through: Some(2),
        undecodable: 2,
        messages: Vec::new(),
    };
    let missing = level.fill(wanted, undecodable);
    assert_eq!(missing, Some(MissingMessages::default()));
    assert_eq!(level.count(), 1);
    let wanted = level.next_load(0, LoadNeed::Now, &budget(false)).unwrap();
    assert_eq!(wanted.from, 3);
}

/// The bytes stayed, and a limit of bytes dropped what came later.
#[test]
fn messages_that_the_store_has_lost_count_neither_as_messages_nor_as_bytes() {
    let mut ready = ReadyMessages::new(0, None, budget(false));
    let body = BODY.len() as u64;
    ready.recovered(0, 1, 3, 3 * body);
    let wanted = ready.next_load(LoadNeed::Now).unwrap();
    ready.fill(wanted, loaded(vec![queued(1, None, Persistence::Appended)]));
    assert_eq!((ready.ready(), ready.bytes()), (3, 3 * body));
    let wanted = ready.next_load(LoadNeed::Now).unwrap();
    let missing = ready.fill(wanted, LoadedSlice::default());
    let expected = MissingMessages {
        count: 2,
        bytes: 2 * body,
    };
    assert_eq!(missing, Some(expected));
    assert_eq!((ready.ready(), ready.bytes()), (1, body));
}
