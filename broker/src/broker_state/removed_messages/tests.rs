//! The ends of messages whose queue is purged or deleted, and of dead letters, as an observer sees
//! them.

#![allow(clippy::unwrap_used)]
use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::config::BrokerConfig;
use crate::delivery::ends::EndedMessages;
use crate::delivery::ledger::{Credit, DeliveryTags, Ledger};
use crate::observer::{BrokerEnd, EndObserver, EndedMessage};
use crate::queue::{Disposition, GetMode, GetResult};
use crate::vhost::{BindRequest, Declare, DeleteCondition, Destination, Published};
use crate::wakeup;
use crate::wire::table::{Table, Value};

/// Notes the ends of messages of one exchange, and the first eight octets of their bodies as a
/// number.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<(BrokerEnd, u64)>>);

impl EndObserver for Notes {
    fn exchange(&self) -> &'static str {
        "amq.fanout"
    }

    fn largest_body(&self) -> usize {
        1 << 20
    }

    fn ended(&self, messages: &[EndedMessage<'_>]) {
        let number = |body: &[u8]| u64::from_be_bytes(*body.first_chunk().unwrap());
        let ends = messages.iter().map(|one| (one.end, number(one.body)));
        self.0.lock().unwrap().extend(ends);
    }
}

impl Notes {
    /// Waits for so many ends, a moment longer for others, and returns them all by number.
    async fn wait_for(&self, count: usize) -> Vec<(BrokerEnd, u64)> {
        for _ in 0..1_000 {
            if self.0.lock().unwrap().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut ends = std::mem::take(&mut *self.0.lock().unwrap());
        ends.sort_by_key(|(_, number)| *number);
        ends
    }
}

async fn open(folder: &Path, notes: &Arc<Notes>) -> (Arc<BrokerState>, wakeup::Wakeup) {
    let config = BrokerConfig {
        data_dir: folder.join("data"),
        observer: Some(Arc::clone(notes) as Arc<dyn EndObserver>),
        ..BrokerConfig::default()
    };
    let (waker, wakeup) = wakeup::channel().unwrap();
    (crate::open(&config, waker).await.unwrap(), wakeup)
}

/// Declares a durable queue that is bound to the observed exchange.
fn declare(broker: &Arc<BrokerState>, arguments: Table) -> Arc<Queue> {
    let vhost = broker.vhost("/").unwrap();
    let declare = Declare {
        durable: true,
        arguments,
        ..Declare::transient("q")
    };
    let mut effects = broker.begin_unit();
    let declared = vhost.declare_queue(declare, &mut effects).unwrap().unwrap();
    let bind = BindRequest::plain("amq.fanout", Destination::Queue("q".into()));
    vhost.bind(bind).unwrap();
    broker.end_unit(effects);
    declared.queue
}

/// Publishes persistent messages with these numbers, so many bytes each.
fn publish(broker: &Arc<BrokerState>, numbers: std::ops::Range<u64>, bytes: usize) {
    let vhost = broker.vhost("/").unwrap();
    for number in numbers {
        let mut body = vec![7; bytes];
        body[..8].copy_from_slice(&number.to_be_bytes());
        let content = Published {
            exchange: "amq.fanout",
            routing_key: "q",
            properties: b"\x10\0\x02",
            body: &body,
        };
        let mut effects = broker.begin_unit();
        assert!(vhost.publish(content, &mut effects).unwrap());
        broker.end_unit(effects);
    }
}

fn all(end: BrokerEnd, numbers: std::ops::Range<u64>) -> Vec<(BrokerEnd, u64)> {
    numbers.map(|number| (end, number)).collect()
}

/// Purges or deletes a queue of which most messages are in the store alone.
async fn end_stored(end: BrokerEnd, is_restarted: bool) {
    const MESSAGES: u64 = 200;
    let (folder, notes) = (tempfile::tempdir().unwrap(), Arc::<Notes>::default());
    let (mut broker, mut _wakeup) = open(folder.path(), &notes).await;
    declare(&broker, Table::new());
    publish(&broker, 0..MESSAGES, 40_000);
    if is_restarted {
        broker.store.clone().close().unwrap();
        (broker, _wakeup) = open(folder.path(), &notes).await;
    }
    let vhost = broker.vhost("/").unwrap();
    let queue = vhost.queue("q").unwrap();
    let mut effects = broker.begin_unit();
    if end == BrokerEnd::Purged {
        let mut removed = queue.purge(&mut effects).unwrap();
        assert_eq!(removed.count(), MESSAGES);
        assert!(!removed.end_some(&mut effects).unwrap());
    } else {
        let condition = DeleteCondition::default();
        vhost.delete_queue("q", condition, &mut effects).unwrap();
    }
    broker.end_unit(effects);
    assert_eq!(
        notes.wait_for(200).await,
        all(end, 0..MESSAGES),
        "{is_restarted}"
    );
    broker.store.clone().close().unwrap();
}

/// Of a long queue, only those in memory were recorded.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_recorded_of_messages_that_only_the_store_has() {
    for end in [BrokerEnd::Purged, BrokerEnd::Deleted] {
        for is_restarted in [false, true] {
            end_stored(end, is_restarted).await;
        }
    }
}

/// Nothing was recorded: they vanished when the client gave them back.
#[tokio::test(flavor = "multi_thread")]
async fn unsettled_messages_of_a_deleted_queue_end_when_they_are_given_back() {
    let (folder, notes) = (tempfile::tempdir().unwrap(), Arc::<Notes>::default());
    let (broker, _wakeup) = open(folder.path(), &notes).await;
    let queue = declare(&broker, Table::new());
    publish(&broker, 0..3, 100);
    let ledger = Ledger::default();
    let mut effects = broker.begin_unit();
    for _ in 0..3 {
        let got = queue.get(&ledger, GetMode::Unsettled, &mut effects);
        assert!(matches!(got.unwrap(), GetResult::Delivery { .. }));
    }
    let condition = DeleteCondition::default();
    let vhost = broker.vhost("/").unwrap();
    vhost.delete_queue("q", condition, &mut effects).unwrap();
    broker.end_unit(effects);
    assert_eq!(notes.wait_for(0).await, [], "the client still has them");
    let mut effects = broker.begin_unit();
    for (tag, disposition) in [
        (2, Disposition::Ack),
        (3, Disposition::Requeue),
        (1, Disposition::Requeue),
    ] {
        let mut taken = Vec::new();
        let one = DeliveryTags::One(tag);
        ledger.take(one, Credit::Now, 1, &mut taken).unwrap();
        let settled = queue.settle(taken.into_iter(), disposition, &mut effects);
        settled.unwrap();
    }
    broker.end_unit(effects);
    let ends = [(BrokerEnd::Deleted, 0), (BrokerEnd::Deleted, 2)];
    assert_eq!(notes.wait_for(2).await, ends);
    broker.store.clone().close().unwrap();
}

/// It was neither in a queue nor recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_goes_nowhere_ends_as_what_it_died_of() {
    let (folder, notes) = (tempfile::tempdir().unwrap(), Arc::<Notes>::default());
    let (broker, _wakeup) = open(folder.path(), &notes).await;
    let mut arguments = Table::new();
    arguments.set("x-dead-letter-exchange", Value::text("not there"));
    arguments.set("x-max-length", Value::Int(1));
    let queue = declare(&broker, arguments);
    publish(&broker, 0..3, 100);
    assert_eq!(queue.counts().0, 1);
    assert_eq!(notes.wait_for(2).await, all(BrokerEnd::Dropped, 0..2));
    broker.store.clone().close().unwrap();
}

/// Each is longer than a body may be: it is not read.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_long_to_be_observed_are_not_read() {
    let (folder, notes) = (tempfile::tempdir().unwrap(), Arc::<Notes>::default());
    let (broker, _wakeup) = open(folder.path(), &notes).await;
    let queue = declare(&broker, Table::new());
    publish(&broker, 0..3, 4_500_000);
    publish(&broker, 3..6, 100);
    let mut effects = broker.begin_unit();
    assert_eq!(queue.purge(&mut effects).unwrap().count(), 6);
    let planned = effects.ended.iter().map(|ended| match &ended.messages {
        EndedMessages::InMemory(message) => message.footprint(),
        EndedMessages::InStore(plan, _) => plan.bytes(),
    });
    assert!(planned.sum::<usize>() < 10_000, "{:?}", effects.ended);
    broker.end_unit(effects);
    assert_eq!(notes.wait_for(3).await, all(BrokerEnd::Purged, 3..6));
    broker.store.clone().close().unwrap();
}
