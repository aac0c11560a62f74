//! What an open transaction counts as held.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::delivery::confirms::Confirms;
use crate::delivery::ledger::{DeliveryTags, Ledger};
use crate::queue::{ConfirmMode, GetMode, Queue};

/// Enough to be reported at once.
static BODY: [u8; 100_000] = [7; 100_000];

fn message() -> Message {
    Message::transient((b"", b"q"), &BODY)
}

/// Each ack made room for the next delivery, and the transaction kept every body.
#[test]
fn an_acked_delivery_counts_as_unsettled_until_the_commit_or_the_rollback() {
    let holdings = Arc::<ConnectionHoldings>::default();
    let (queue, ledger) = (Queue::plain(), Ledger::new(&holdings));
    let mut effects = Effects::new(0);
    for _ in 0..2 {
        queue
            .publish(&message(), ConfirmMode::Nothing, &mut effects)
            .unwrap();
        queue
            .get(&ledger, GetMode::Unsettled, &mut effects)
            .unwrap();
    }
    let unsettled = || holdings.bytes(HoldingKind::Unsettled);
    let held = unsettled();
    assert!(held >= 2 * BODY.len());
    let mut transaction = Transaction::new(&holdings);
    let mut taken = Vec::new();
    for tag in 1..=2 {
        ledger
            .take(DeliveryTags::One(tag), Credit::Later, 1, &mut taken)
            .unwrap();
        transaction.settle(taken.drain(..), Disposition::Ack);
        assert_eq!(unsettled(), held, "after ack {tag}");
    }
    let other = holdings.bytes(HoldingKind::Transaction);
    assert!(other < BODY.len(), "it is not counted twice");
    ledger.put_back(transaction.take_settled(), &mut effects);
    assert_eq!(unsettled(), held, "rolled back");
    ledger
        .take(DeliveryTags::UpTo(0), Credit::Later, 2, &mut taken)
        .unwrap();
    transaction.settle(taken.drain(..), Disposition::Ack);
    drop(transaction);
    assert_eq!(unsettled(), 0);
}

/// It moved every delivery of the channel, for one step and where there was nothing to put back.
#[test]
fn a_rollback_costs_what_it_moves() {
    const DELIVERIES: u32 = 1_000;
    let (queue, ledger) = (Queue::plain(), Ledger::default());
    let mut effects = Effects::new(0);
    for _ in 0..DELIVERIES {
        let small = Message::transient((b"", b"q"), b"x");
        queue
            .publish(&small, ConfirmMode::Nothing, &mut effects)
            .unwrap();
        queue
            .get(&ledger, GetMode::Unsettled, &mut effects)
            .unwrap();
    }
    let mut taken = Vec::new();
    ledger
        .take(DeliveryTags::One(1), Credit::Later, 1, &mut taken)
        .unwrap();
    let mut effects = Effects::new(0);
    ledger.put_back(Vec::new(), &mut effects);
    assert!(!effects.has_spent());
    ledger.put_back(taken, &mut effects);
    assert!(effects.spent() >= DELIVERIES / 32);
    assert_eq!(ledger.len(), DELIVERIES as usize);
}

/// A message that was settled before its batch was committed is confirmed at once. In a transaction
/// that was too early: a crash lost the message and the transaction, and it had been confirmed.
#[test]
fn a_settle_in_a_transaction_confirms_no_publisher() {
    let holdings = Arc::<ConnectionHoldings>::default();
    let (queue, ledger) = (Queue::plain(), Ledger::new(&holdings));
    let mut effects = Effects::new(0);
    let confirms = Arc::new(Confirms::new(Arc::default(), 1, Arc::default()));
    queue
        .publish(&message(), ConfirmMode::Nothing, &mut effects)
        .unwrap();
    queue
        .get(&ledger, GetMode::Unsettled, &mut effects)
        .unwrap();
    let mut taken = Vec::new();
    ledger
        .take(DeliveryTags::One(1), Credit::Later, 1, &mut taken)
        .unwrap();
    taken[0].entry.confirm = Some((confirms, 1));
    let mut transaction = Transaction::new(&holdings);
    transaction.settle(taken.drain(..), Disposition::Ack);
    let (delivery, _) = &transaction.settles[0];
    assert!(delivery.entry.confirm.is_none());
}

/// A message with very many queues counted as one, and its commit made an entry in each of them.
#[test]
fn a_publish_counts_what_its_commit_will_add() {
    let holdings = Arc::<ConnectionHoldings>::default();
    let mut transaction = Transaction::new(&holdings);
    let queues: Vec<_> = std::iter::repeat_n(Queue::plain(), 10_000).collect();
    let (targets, message): (TargetQueues, _) = (queues.into(), message());
    for count in 1..=3 {
        transaction
            .publish((message.clone(), 1), Arc::clone(&targets), false)
            .unwrap();
        let counted = transaction.holding.bytes() - transaction.holding.charged();
        let entries = targets.len() * memory::ENTRY_CHARGE_BYTES;
        assert_eq!(counted, count * (message.footprint() + entries));
    }
}

/// Only a route that a channel remembers was on the account.
#[test]
fn the_queues_of_a_publish_are_on_the_account_once() {
    let holdings = Arc::<ConnectionHoldings>::default();
    let mut transaction = Transaction::new(&holdings);
    let queues: Vec<_> = std::iter::repeat_n(Queue::plain(), 10_000).collect();
    let list = size_of_val(&*queues);
    let first: TargetQueues = queues.clone().into();
    let second: TargetQueues = queues.into();
    for (targets, lists) in [
        (&first, 1),
        (&first, 1),
        (&second, 2),
        (&first, 2),
        (&second, 2),
    ] {
        transaction
            .publish((message(), 1), Arc::clone(targets), false)
            .unwrap();
        let charged = transaction.holding.charged();
        let expected = lists * list..(lists + 1) * list;
        assert!(expected.contains(&charged), "{charged} of {expected:?}");
    }
}
