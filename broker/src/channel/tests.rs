//! What the frames of a channel cost: one that cost nothing would let a client keep a thread for as
//! long as its read buffer lasts.

use std::sync::Arc;

use super::{Channel, ConnectionContext, FrameResult};
use crate::broker_state::BrokerState;
use crate::delivery::budget::FULL_STEPS;
use crate::delivery::effects::Effects;
use crate::delivery::outbox::Frames;
use crate::lock::write;
use crate::queue::consumer::{Consumer, Subscription};
use crate::queue::message::Message;
use crate::queue::{ConfirmMode, Queue, SubscribeResult};
use crate::registry::{ConnectionHandle, SocketEnd};
use crate::tests::{declare, opened};
use crate::users::Permissions;
use crate::vhost::{Declare, DeleteCondition, Published};
use crate::wire::content::ChannelFraming;
use crate::wire::frame::{self, Frame};
use crate::wire::table::Table;

/// What the channels of a connection share that has no socket. Its user may do everything.
pub(crate) fn context(broker: &Arc<BrokerState>) -> ConnectionContext {
    let mut users = write(&broker.users);
    users.put("guest", None, Vec::new());
    let permitted = users.permit("guest", "/", Permissions::all());
    permitted.expect("the user was made");
    drop(users);
    let end = || SocketEnd {
        host: "127.0.0.1".to_owned(),
        port: 1,
    };
    ConnectionContext {
        broker: Arc::clone(broker),
        vhost: broker.vhost("/").expect("every broker has one"),
        connection: Arc::new(ConnectionHandle::new(1, (end(), end()), false, 0)),
        user: "guest".into(),
        frame_max: 4096,
        wants_cancel: false,
        wants_blocked: false,
    }
}

pub(super) fn channel(broker: &Arc<BrokerState>) -> Channel {
    Channel::new(context(broker), 1)
}

/// Gives the channel a frame. Returns what is next, and the steps that it took.
pub(super) fn receive(channel: &mut Channel, kind: u8, payload: &[u8]) -> (FrameResult, u32) {
    let mut effects = Effects::new(0);
    let frame = Frame {
        kind,
        channel: 1,
        payload,
    };
    let taken = channel.receive(frame, &mut effects);
    let next = taken.unwrap_or_else(|fault| panic!("{payload:?} is refused: {fault}"));
    (next, effects.spent())
}

/// The steps that a method takes.
fn cost(channel: &mut Channel, payload: &[u8]) -> u32 {
    receive(channel, frame::METHOD, payload).1
}

const CONSUMERS: u32 = 4_000;

/// `basic.qos` with a prefetch count for the whole channel.
const QOS_GLOBAL: &[u8] = &[0, 60, 0, 10, 0, 0, 0, 0, 0, 9, 1];

/// `tx.select`.
const TX_SELECT: &[u8] = &[0, 90, 0, 10];

#[tokio::test]
async fn every_method_counts() {
    let (broker, _kept) = opened().await;
    let mut channel = channel(&broker);
    let methods: [&[u8]; 6] = [
        // `basic.qos`, `channel.flow`, `basic.recover`, `basic.cancel` of an unknown consumer,
        // `basic.ack` of everything, where there is nothing, and `confirm.select`.
        &[0, 60, 0, 10, 0, 0, 0, 0, 0, 9, 0],
        &[0, 20, 0, 20, 1],
        &[0, 60, 0, 110, 1],
        &[0, 60, 0, 30, 1, b'c', 0],
        &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        &[0, 85, 0, 10, 0],
    ];
    for payload in methods {
        assert!(cost(&mut channel, payload) > 0, "{payload:?}");
    }
    broker.store.clone().close().expect("the store is whole");
}

/// Very many consumers of one queue.
fn consume_very_often(channel: &mut Channel, queue: &Arc<Queue>) {
    for number in 0..CONSUMERS {
        let tag: Arc<str> = number.to_string().into();
        let subscription = Subscription {
            tag: Arc::clone(&tag),
            framing: ChannelFraming {
                channel: 1,
                frame_max: 4096,
            },
            outbox: Arc::clone(&channel.outbox),
            ledger: Arc::clone(&channel.ledger),
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch: 0,
            arguments: Table::new(),
            wants_cancel: false,
            connection: 1,
        };
        let consumer = Arc::new(Consumer::new(subscription));
        let added = queue.subscribe(&consumer, |_| {}, &mut Effects::new(0));
        assert_eq!(added.ok(), Some(SubscribeResult::Added));
        channel.consumers.insert(tag, (Arc::clone(queue), consumer));
    }
}

#[tokio::test]
async fn credit_that_very_many_consumers_share_costs_more() {
    let (broker, _kept) = opened().await;
    let mut channel = channel(&broker);
    consume_very_often(&mut channel, &Queue::plain());
    assert!(cost(&mut channel, QOS_GLOBAL) >= CONSUMERS / 8);
    broker.store.clone().close().expect("the store is whole");
}

#[tokio::test]
async fn a_publish_past_very_many_consumers_that_take_nothing_costs_more() {
    let (broker, _kept) = opened().await;
    let mut channel = channel(&broker);
    consume_very_often(&mut channel, &declare(&broker, "q"));
    // All share a credit of one, which the first message takes.
    channel.ledger.set_limit(1);
    let publish = || {
        let content = Published {
            exchange: "",
            routing_key: "q",
            properties: b"\0\0",
            body: b"x",
        };
        let mut effects = broker.begin_unit();
        let vhost = broker.vhost("/").expect("every broker has one");
        let published = vhost.publish(content, &mut effects);
        assert!(published.is_ok_and(|is_routed| is_routed));
        let spent = effects.spent();
        broker.end_unit(effects);
        spent
    };
    assert!(publish() < 16);
    assert!(publish() >= CONSUMERS / 32);
    broker.store.clone().close().expect("the store is whole");
}

#[tokio::test]
async fn the_end_of_a_channel_counts() {
    let (broker, _kept) = opened().await;
    let mut channel = channel(&broker);
    let mut effects = Effects::new(0);
    assert!(channel.close(&mut effects));
    assert!(effects.has_spent());
    broker.store.clone().close().expect("the store is whole");
}

/// `basic.publish` to the queue `q`, of an empty body without properties.
fn publish(channel: &mut Channel) -> u32 {
    let method = [0, 60, 0, 40, 0, 0, 0, 1, b'q', 0];
    let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let begun = receive(channel, frame::METHOD, &method).1;
    begun + receive(channel, frame::HEADER, &header).1
}

/// A read full of small ones was one unit of work, also while memory was short.
#[tokio::test]
async fn a_publish_in_a_transaction_counts() {
    let (broker, _kept) = opened().await;
    declare(&broker, "q");
    let mut channel = channel(&broker);
    publish(&mut channel);
    receive(&mut channel, frame::METHOD, TX_SELECT);
    assert!(publish(&mut channel) > 0, "where its route is known");
    broker.store.clone().close().expect("the store is whole");
}

/// Each kept its queue in memory, and the room that consumers and queues may take was used up.
#[tokio::test]
async fn consumers_of_deleted_queues_are_forgotten() {
    let (broker, _kept) = opened().await;
    let vhost = broker.vhost("/").expect("every broker has one");
    let mut channel = channel(&broker);
    for number in 0..200_u8 {
        declare(&broker, "q");
        // `basic.consume` with a tag of its own.
        let consume = [0, 60, 0, 20, 0, 0, 1, b'q', 1, number % 100, 0, 0, 0, 0, 0];
        receive(&mut channel, frame::METHOD, &consume);
        let mut effects = broker.begin_unit();
        let deleted = vhost.delete_queue("q", DeleteCondition::default(), &mut effects);
        assert!(deleted.is_ok());
        broker.end_unit(effects);
        assert!(channel.consumers.len() < 50, "{number}");
    }
    broker.store.clone().close().expect("the store is whole");
}

#[tokio::test]
async fn a_commit_of_very_many_publishes_takes_many_units_of_work() {
    const PUBLISHES: u32 = 30_000;
    let (broker, _kept) = opened().await;
    let queue = declare(&broker, "q");
    let mut channel = channel(&broker);
    receive(&mut channel, frame::METHOD, TX_SELECT);
    for _ in 0..PUBLISHES {
        publish(&mut channel);
    }
    assert_eq!(queue.counts().0, 0);
    // `tx.commit`.
    let (mut next, mut spent) = receive(&mut channel, frame::METHOD, &[0, 90, 0, 20]);
    let mut units = 1;
    loop {
        assert!(
            spent <= FULL_STEPS + 64,
            "{spent} steps in one unit of work"
        );
        if next != FrameResult::Unfinished {
            break;
        }
        assert!(channel.is_committing());
        let mut effects = Effects::new(0);
        next = channel
            .continue_work(&mut effects)
            .expect("it is committed");
        (spent, units) = (effects.spent(), units + 1);
    }
    assert!(units > PUBLISHES / FULL_STEPS, "{units} units of work");
    assert_eq!(queue.counts().0, u64::from(PUBLISHES));
    broker.store.clone().close().expect("the store is whole");
}

/// A queue that no store keeps, with so many messages.
fn fill_transient(broker: &Arc<BrokerState>, messages: u64) -> Arc<Queue> {
    let vhost = broker.vhost("/").expect("every broker has one");
    let mut effects = broker.begin_unit();
    let declared = vhost.declare_queue(Declare::transient("long"), &mut effects);
    let queue = declared.ok().flatten().expect("it is new").queue;
    let message = Message::transient((b"", b"long"), b"x");
    for _ in 0..messages {
        let published = queue.publish(&message, ConfirmMode::Nothing, &mut Effects::new(0));
        assert!(published.is_ok());
    }
    broker.end_unit(effects);
    queue
}

#[tokio::test]
async fn a_purge_of_very_many_messages_is_answered_when_all_are_gone() {
    const MESSAGES: u32 = 30_000;
    let (broker, _kept) = opened().await;
    let queue = fill_transient(&broker, MESSAGES.into());
    let mut channel = channel(&broker);
    // `queue.purge`.
    let (mut next, _) = receive(&mut channel, frame::METHOD, b"\0\x32\0\x1e\0\0\x04long\0");
    let mut units = 1;
    while next == FrameResult::Unfinished {
        let mut effects = Effects::new(0);
        next = channel
            .continue_work(&mut effects)
            .expect("the store is open");
        units += 1;
    }
    assert!(units > MESSAGES / FULL_STEPS, "{units}");
    assert_eq!((next, queue.counts().0), (FrameResult::Done, 0));
    let mut frames = Frames::default();
    channel.outbox.swap_unsent(&mut frames);
    let told = [&b"\0\x32\0\x1f"[..], &MESSAGES.to_be_bytes()].concat();
    assert!(frames.bytes().windows(told.len()).any(|part| part == told));
    broker.store.clone().close().expect("the store is whole");
}

#[tokio::test]
async fn very_many_messages_of_a_deleted_queue_are_freed_in_pieces() {
    let (broker, _kept) = opened().await;
    let queue = Arc::downgrade(&fill_transient(&broker, 30_000));
    let vhost = broker.vhost("/").expect("every broker has one");
    let mut effects = broker.begin_unit();
    let deleted = vhost.delete_queue("long", DeleteCondition::default(), &mut effects);
    assert_eq!(deleted.map(|(count, _)| count).ok(), Some(30_000));
    assert!(effects.spent() <= FULL_STEPS, "{}", effects.spent());
    broker.end_unit(effects);
    let mut units = 0;
    // What is not freed yet keeps it.
    while queue.upgrade().is_some() {
        tokio::task::yield_now().await;
        units += 1;
    }
    assert!(units > 1, "it was one unit of work");
    broker.store.clone().close().expect("the store is whole");
}
