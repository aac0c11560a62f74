//! Dead letters that wait for a later unit of work: they are neither ready nor unsettled, and the
//! store still has them in their queue.

#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use super::*;
use crate::delivery::budget::FULL_STEPS;
use crate::delivery::ledger::{Credit, DeliveryTags, Ledger};
use crate::persist::{self, OpenedStore};
use crate::queue::arguments::DeadLetters;
use crate::queue::dead_letter::Spread;
use crate::queue::message::MessageFacts;
use crate::queue::{GetMode, GetResult, QueueIdentity};
use crate::wire::content::MessageContent;
use crate::wire::table::Table;

const MESSAGES: u8 = 5;

fn message(body: u8) -> Message {
    let content = MessageContent {
        exchange: b"",
        routing_key: b"q",
        properties: b"\0\0",
        body: &[body],
    };
    let facts = MessageFacts {
        persistent: true,
        priority: 0,
        published_ms: 0,
        ttl_ms: None,
        spread: Spread::NONE,
    };
    Message::assemble(content, facts)
}

/// A durable queue with a dead-letter exchange and [`MESSAGES`] stored messages, and what must live
/// as long.
fn filled() -> (Arc<Queue>, (OpenedStore, tempfile::TempDir)) {
    let folder = tempfile::tempdir().unwrap();
    let opened = persist::open(folder.path(), |_| {}).unwrap();
    let identity = QueueIdentity {
        name: "q".into(),
        vhost: "/".into(),
        durable: true,
        auto_delete: false,
        owner: None,
        arguments: QueueArguments {
            dead_letters: Some(DeadLetters {
                exchange: "dead".into(),
                routing_key: None,
            }),
            ..QueueArguments::default()
        },
        table: Table::new(),
    };
    let store = opened.definitions.queue_store(1).unwrap();
    let queue = Arc::new(Queue::new(identity, Some(store), 0));
    let mut effects = Effects::new(0);
    for body in 1..=MESSAGES {
        let published = queue.publish(&message(body), ConfirmMode::Nothing, &mut effects);
        published.unwrap();
    }
    (queue, (opened, folder))
}

/// Gets a message, reading the store where that is needed. Returns its body.
fn get(queue: &Arc<Queue>, ledger: &Ledger) -> Option<u8> {
    loop {
        let mut effects = Effects::new(0);
        match queue.get(ledger, GetMode::Unsettled, &mut effects).unwrap() {
            GetResult::Empty => return None,
            GetResult::Delivery { message, .. } => return Some(message.content().body[0]),
            GetResult::Loading => {
                for (queue, wanted) in std::mem::take(&mut effects.loads) {
                    queue.load(wanted, &mut effects);
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

fn settle(queue: &Arc<Queue>, ledger: &Ledger, tag: u64, disposition: Disposition) -> Effects {
    let (mut taken, mut effects) = (Vec::new(), Effects::new(0));
    let tags = DeliveryTags::One(tag);
    ledger.take(tags, Credit::Now, 1, &mut taken).unwrap();
    queue
        .settle(taken.into_iter(), disposition, &mut effects)
        .unwrap();
    effects
}

/// Rejects all but the first message and requeues that one. Returns the dead letters.
fn reject_all_but_the_first(queue: &Arc<Queue>) -> Vec<DeadLetter> {
    let ledger = Ledger::default();
    assert!((1..=MESSAGES).all(|body| get(queue, &ledger) == Some(body)));
    let mut letters = Vec::new();
    for tag in 2..=MESSAGES.into() {
        letters.extend(settle(queue, &ledger, tag, Disposition::Reject).dead_letters);
    }
    settle(queue, &ledger, 1, Disposition::Requeue);
    assert_eq!(letters.len(), usize::from(MESSAGES) - 1);
    letters
}

fn stored(queue: &Arc<Queue>) -> Vec<u64> {
    let slice = queue.store().unwrap().read(0, 0, usize::MAX).unwrap();
    slice.into_iter().map(|(position, _)| position).collect()
}

/// They were read back and handed out, and as many later messages were not.
#[test]
fn dead_letters_that_wait_are_not_read_from_the_store_again() {
    let (queue, (opened, _folder)) = filled();
    let letters = reject_all_but_the_first(&queue);
    let unload = || queue.with(|state| state.unload(&queue, &mut Effects::new(0)));
    let ledger = Ledger::default();
    unload();
    assert_eq!(get(&queue, &ledger), Some(1));
    assert_eq!(get(&queue, &ledger), None);
    settle(&queue, &ledger, 1, Disposition::Requeue);
    // Once they have left, the rest may be left to the store.
    for letter in letters {
        letter.settle();
    }
    unload();
    assert!(queue.with(|state| state.ready.has_gap()));
    assert_eq!(get(&queue, &ledger), Some(1));
    assert_eq!(get(&queue, &ledger), None);
    opened.store.clone().close().unwrap();
}

/// A crash before the copies were stored lost them.
#[test]
fn a_purge_spares_dead_letters_that_wait() {
    let (queue, (opened, _folder)) = filled();
    let letters = reject_all_but_the_first(&queue);
    // Others wait in the store alone.
    let last = u64::from(MESSAGES) + 1;
    queue.with(|state| {
        let mut entry = state.entry(&queue, &message(0), ConfirmMode::Nothing);
        QueueState::append(&queue, &mut entry).unwrap();
        state.ready.recovered(0, last, 1, 1);
    });
    let mut effects = Effects::new(0);
    let mut removed = queue.purge(&mut effects).unwrap();
    assert_eq!(removed.count(), 2);
    assert!(!removed.end_some(&mut effects).unwrap());
    assert_eq!(stored(&queue), (2..last).collect::<Vec<_>>());
    drop(letters);
    opened.store.clone().close().unwrap();
}

/// All of them were ended in one step, under the queue's lock.
#[test]
fn very_many_messages_of_a_purged_queue_end_in_pieces_and_a_newer_one_stays() {
    const MESSAGES: u64 = 50_000;
    let queue = Queue::plain();
    let publish = |count: u64| {
        for _ in 0..count {
            let transient = Message::transient((b"", b"q"), b"x");
            let mut effects = Effects::new(0);
            let published = queue.publish(&transient, ConfirmMode::Nothing, &mut effects);
            published.unwrap();
        }
    };
    publish(MESSAGES);
    let mut effects = Effects::new(0);
    let mut removed = queue.purge(&mut effects).unwrap();
    assert_eq!((removed.count(), effects.spent()), (MESSAGES, 0));
    assert_eq!(queue.counts().0, 0);
    publish(1);
    let mut units = 1;
    while removed.end_some(&mut effects).unwrap() {
        assert!(effects.spent() <= FULL_STEPS, "{}", effects.spent());
        (effects, units) = (Effects::new(0), units + 1);
    }
    assert!(units > MESSAGES / u64::from(FULL_STEPS), "{units}");
    assert_eq!(queue.counts().0, 1);
}
