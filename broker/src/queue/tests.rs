//! One queue under random publishes, settles, cancels and the passing of time: every message is in
//! one place.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::arguments::QueueArguments;
use super::browse::BrowseLimit;
use super::closing::CloseCondition;
use super::consumer::{Consumer, Subscription};
use super::dead_letter::Spread;
use super::message::{Message, MessageFacts};
use super::{
    ConfirmMode, Disposition, GetMode, GetResult, PublishResult, Queue, QueueIdentity,
    SubscribeResult,
};
use crate::delivery::effects::Effects;
use crate::delivery::ledger::{Credit, DeliveryTags, Ledger, UnknownTag};
use crate::delivery::outbox::{Frames, Outbox};
use crate::persist::ReadFailed;
use crate::wire::content::{ChannelFraming, MessageContent};
use crate::wire::frame::{self, ParsedFrame};
use crate::wire::table::{Table, Value};

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessagePlace {
    Ready,
    Unsettled { tag: u64 },
    Dead,
    Gone,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Publish {
        ttl_ms: Option<u64>,
        priority: u8,
    },
    Settle {
        nth: usize,
        disposition: Disposition,
    },
    SettleUpTo {
        nth: usize,
        disposition: Disposition,
    },
    SettleAll(Disposition),
    /// A transaction that settles every other delivery is rolled back.
    RollBack,
    Get,
    Consume {
        no_ack: bool,
        prefetch: u32,
    },
    Cancel {
        nth: usize,
    },
    Purge,
    Pass {
        ms: u64,
    },
}

fn disposition() -> impl Strategy<Value = Disposition> {
    prop_oneof![
        Just(Disposition::Ack),
        Just(Disposition::Reject),
        Just(Disposition::Requeue)
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (proptest::option::of(0u64..40), 0u8..4)
            .prop_map(|(ttl_ms, priority)| Act::Publish { ttl_ms, priority }),
        4 => (0usize..8, disposition())
            .prop_map(|(nth, disposition)| Act::Settle { nth, disposition }),
        1 => (0usize..8, disposition())
            .prop_map(|(nth, disposition)| Act::SettleUpTo { nth, disposition }),
        1 => disposition().prop_map(Act::SettleAll),
        1 => Just(Act::RollBack),
        2 => Just(Act::Get),
        2 => (any::<bool>(), 0u32..3)
            .prop_map(|(no_ack, prefetch)| Act::Consume { no_ack, prefetch }),
        1 => (0usize..4).prop_map(|nth| Act::Cancel { nth }),
        1 => Just(Act::Purge),
        3 => (0u64..20).prop_map(|ms| Act::Pass { ms }),
    ]
}

/// The queue, what a client sees of it, and where the model says that each message is.
struct World {
    queue: Arc<Queue>,
    ledger: Arc<Ledger>,
    outbox: Arc<Outbox>,
    consumers: Vec<Arc<Consumer>>,
    places: BTreeMap<u64, MessagePlace>,
    now_ms: u64,
}

impl World {
    fn new(arguments: &Table) -> Self {
        let identity = QueueIdentity {
            name: "q".into(),
            vhost: "/".into(),
            durable: false,
            auto_delete: false,
            owner: None,
            arguments: QueueArguments::parse(arguments).unwrap(),
            table: arguments.clone(),
        };
        Self {
            queue: Arc::new(Queue::new(identity, None, 0)),
            ledger: Arc::default(),
            outbox: Arc::default(),
            consumers: Vec::new(),
            places: BTreeMap::new(),
            now_ms: 1000,
        }
    }

    fn apply(&mut self, act: &Act) {
        let mut effects = Effects::new(self.now_ms);
        match *act {
            Act::Publish { ttl_ms, priority } => self.publish(ttl_ms, priority, &mut effects),
            Act::Settle { nth, disposition } => {
                let tags = self.tags();
                if let Some(&tag) = tags.get(nth % tags.len().max(1)) {
                    self.settle(DeliveryTags::One(tag), disposition, &mut effects);
                }
            }
            Act::SettleUpTo { nth, disposition } => {
                let tags = self.tags();
                if let Some(&tag) = tags.get(nth % tags.len().max(1)) {
                    self.settle(DeliveryTags::UpTo(tag), disposition, &mut effects);
                }
            }
            Act::RollBack => self.roll_back(),
            Act::SettleAll(disposition) => {
                self.settle(DeliveryTags::UpTo(0), disposition, &mut effects);
            }
            Act::Get => self.get(&mut effects),
            Act::Consume { no_ack, prefetch } => self.consume((no_ack, prefetch), &mut effects),
            Act::Cancel { nth } => {
                if nth < self.consumers.len() {
                    let consumer = self.consumers.remove(nth);
                    self.queue.unsubscribe(&consumer, &mut effects).unwrap();
                }
            }
            Act::Purge => {
                let mut removed = self.queue.purge(&mut effects).unwrap();
                while removed.end_some(&mut Effects::new(self.now_ms)).unwrap() {}
                self.move_all(MessagePlace::Ready, MessagePlace::Gone);
            }
            Act::Pass { ms } => {
                self.now_ms += ms;
                effects.now_ms = self.now_ms;
                self.queue.on_time(&mut effects).unwrap();
            }
        }
        self.look(&effects);
    }

    fn publish(&mut self, ttl_ms: Option<u64>, priority: u8, effects: &mut Effects) {
        let id = self.places.len() as u64;
        let content = MessageContent {
            exchange: b"",
            routing_key: b"q",
            properties: &[0, 0],
            body: &id.to_be_bytes(),
        };
        let facts = MessageFacts {
            persistent: false,
            priority,
            published_ms: effects.now_ms,
            ttl_ms,
            spread: Spread::NONE,
        };
        let message = Message::assemble(content, facts);
        self.places.insert(id, MessagePlace::Ready);
        let outcome = self
            .queue
            .publish(&message, ConfirmMode::Nothing, effects)
            .unwrap();
        if outcome == PublishResult::Refused {
            self.places.insert(id, MessagePlace::Gone);
        }
    }

    fn tags(&self) -> Vec<u64> {
        let tag = |place: &MessagePlace| match place {
            MessagePlace::Unsettled { tag } => Some(*tag),
            _ => None,
        };
        self.places.values().filter_map(tag).collect()
    }

    fn settle(&mut self, tags: DeliveryTags, disposition: Disposition, effects: &mut Effects) {
        let (mut taken, mut rest) = (Vec::new(), Some(tags));
        while let Some(tags) = rest {
            // More than two at once take several steps.
            rest = self.ledger.take(tags, Credit::Now, 2, &mut taken).unwrap();
        }
        for delivery in &taken {
            let id = id_of(&delivery.entry.message);
            let tag = delivery.tag;
            assert_eq!(
                self.places[&id],
                MessagePlace::Unsettled { tag },
                "only what is open can be settled"
            );
            let next = match disposition {
                Disposition::Ack => MessagePlace::Gone,
                Disposition::Reject => MessagePlace::Unsettled { tag: 0 },
                Disposition::Requeue => MessagePlace::Ready,
            };
            self.places.insert(id, next);
        }
        self.queue
            .settle(taken.into_iter(), disposition, effects)
            .unwrap();
    }

    /// Takes every other delivery, newest first, and gives them back.
    fn roll_back(&self) {
        let mut tags = self.tags();
        tags.sort_unstable();
        let mut taken = Vec::new();
        for tag in tags.into_iter().rev().skip(1).step_by(2) {
            let one = DeliveryTags::One(tag);
            self.ledger.take(one, Credit::Later, 1, &mut taken).unwrap();
            let again = self.ledger.take(one, Credit::Later, 1, &mut Vec::new());
            assert_eq!(again, Err(UnknownTag(tag)), "it was taken");
        }
        self.ledger.put_back(taken, &mut Effects::new(self.now_ms));
    }

    fn get(&mut self, effects: &mut Effects) {
        // What get expires on its way is dead before the message that it gives is looked at.
        let got = self
            .queue
            .get(&self.ledger, GetMode::Unsettled, effects)
            .unwrap();
        if let GetResult::Delivery { tag, message, .. } = got {
            let place = self.places.get_mut(&id_of(&message)).unwrap();
            assert_eq!(*place, MessagePlace::Ready, "only what is ready can be got");
            *place = MessagePlace::Unsettled { tag };
        }
    }

    /// A consumer on the connection of `outbox`.
    fn consumer(&self, no_ack: bool, prefetch: u32) -> Arc<Consumer> {
        Arc::new(Consumer::new(self.subscription(no_ack, prefetch)))
    }

    fn subscription(&self, no_ack: bool, prefetch: u32) -> Subscription {
        Subscription {
            tag: if no_ack { "none".into() } else { "some".into() },
            framing: ChannelFraming {
                channel: 1,
                frame_max: 0,
            },
            outbox: Arc::clone(&self.outbox),
            ledger: Arc::clone(&self.ledger),
            no_ack,
            exclusive: false,
            priority: 0,
            prefetch,
            arguments: Table::new(),
            wants_cancel: false,
            connection: 1,
        }
    }

    fn consume(&mut self, (no_ack, prefetch): (bool, u32), effects: &mut Effects) {
        let consumer = self.consumer(no_ack, prefetch);
        self.consumers.push(Arc::clone(&consumer));
        let subscribed = self.queue.subscribe(&consumer, |_| {}, effects);
        assert_eq!(subscribed.unwrap(), SubscribeResult::Added);
    }

    fn move_all(&mut self, from: MessagePlace, to: MessagePlace) {
        for place in self.places.values_mut().filter(|place| **place == from) {
            *place = to;
        }
    }

    /// Reads what the client was sent and what died, and compares the queue with the model.
    fn look(&mut self, effects: &Effects) {
        for (tag, no_ack, id) in sent(&self.outbox) {
            let place = self.places.get_mut(&id).unwrap();
            assert_eq!(
                *place,
                MessagePlace::Ready,
                "only what is ready can be delivered"
            );
            *place = if no_ack {
                MessagePlace::Gone
            } else {
                MessagePlace::Unsettled { tag }
            };
        }
        for letter in &effects.dead_letters {
            let place = self.places.get_mut(&id_of(&letter.message)).unwrap();
            assert!(
                matches!(
                    *place,
                    MessagePlace::Ready | MessagePlace::Unsettled { tag: 0 }
                ),
                "{place:?} cannot die"
            );
            *place = MessagePlace::Dead;
        }
        let everything = BrowseLimit {
            messages: usize::MAX,
            bytes: usize::MAX,
        };
        let waiting = self
            .queue
            .browse(None, everything, |_| Ok::<_, ReadFailed>(()))
            .unwrap();
        let ready: Vec<u64> = waiting.iter().map(|one| id_of(&one.message)).collect();
        let mut sorted = ready.clone();
        sorted.sort_unstable();
        let model: Vec<u64> = self
            .places
            .iter()
            .filter(|(_, place)| **place == MessagePlace::Ready)
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(sorted, model, "ready messages");
        let snapshot = self.queue.snapshot();
        assert_eq!(snapshot.ready, ready.len() as u64);
        assert_eq!(snapshot.unsettled, self.tags().len() as u64);
        assert_eq!(self.ledger.len(), self.tags().len());
    }
}

fn id_of(message: &Message) -> u64 {
    u64::from_be_bytes(message.content().body.try_into().unwrap())
}

/// Deliveries in the outbox: tag, whether it needs no ack, id.
fn sent(outbox: &Arc<Outbox>) -> Vec<(u64, bool, u64)> {
    let mut frames = Frames::default();
    outbox.swap_unsent(&mut frames);
    outbox.sent(frames.len());
    let bytes = frames.bytes();
    let (mut at, mut found, mut tag) = (0, Vec::new(), (0, false));
    while let Ok(ParsedFrame::Whole(whole)) = frame::parse(&bytes[at..], 0) {
        match whole.kind {
            frame::METHOD => {
                let name = &whole.payload[5..9];
                tag = (
                    u64::from_be_bytes(whole.payload[9..17].try_into().unwrap()),
                    name == b"none",
                );
            }
            frame::BODY => {
                let id = u64::from_be_bytes(whole.payload.try_into().unwrap());
                found.push((tag.0, tag.1, id));
            }
            _ => {}
        }
        at += whole.total();
    }
    found
}

fn arguments() -> impl Strategy<Value = Table> {
    let limit = proptest::option::of(0i64..6);
    let ttl = proptest::option::of(0i64..60);
    let overflow = proptest::option::of(prop_oneof![Just("drop-head"), Just("reject-publish")]);
    (limit, ttl, overflow, any::<bool>()).prop_map(|(limit, ttl, overflow, has_priorities)| {
        let mut table = Table::new();
        table.set("x-dead-letter-exchange", Value::text("dead"));
        if let Some(limit) = limit {
            table.set("x-max-length", Value::Long(limit));
        }
        if let Some(ttl) = ttl {
            table.set("x-message-ttl", Value::Long(ttl));
        }
        if let Some(overflow) = overflow {
            table.set("x-overflow", Value::text(overflow));
        }
        if has_priorities {
            table.set("x-max-priority", Value::Long(3));
        }
        table
    })
}

proptest! {
    #[test]
    fn every_message_is_ready_unsettled_dead_or_gone_and_never_two_of_them(
        arguments in arguments(),
        acts in proptest::collection::vec(act(), 1..120),
    ) {
        let mut world = World::new(&arguments);
        for act in acts {
            world.apply(&act);
        }
    }
}

#[test]
fn a_queue_that_cannot_be_read_says_so_and_is_asked_again_later() {
    let world = World::new(&Table::new());
    world.queue.with(|state| state.ready.recovered(0, 1, 1, 10));
    let get = |now_ms| {
        let mut effects = Effects::new(now_ms);
        let got = world.queue.get(&world.ledger, GetMode::Acked, &mut effects);
        got.unwrap()
    };
    assert!(matches!(get(1000), GetResult::Loading));
    let mut effects = Effects::new(1000);
    world
        .queue
        .with(|state| state.set_unreadable(&world.queue, &mut effects));
    assert_eq!(effects.timers.len(), 1, "the clock asks again");
    assert!(matches!(get(1500), GetResult::Unreadable));
    assert!(matches!(get(3000), GetResult::Loading));
}

#[test]
fn a_queue_with_very_many_consumers_delivers_in_several_units_of_work() {
    const MESSAGES: u64 = 100_000;
    let mut world = World::new(&Table::new());
    let mut filling = Effects::new(1000);
    for _ in 0..MESSAGES {
        world.publish(None, 0, &mut filling);
    }
    let mut effects = Effects::new(1000);
    while world.consumers.len() < 100 {
        // Each on a connection of its own, with room for thousands.
        world.outbox = Arc::default();
        let consumer = world.consumer(false, 0);
        let subscribed = world.queue.subscribe(&consumer, |_| {}, &mut effects);
        assert_eq!(subscribed.unwrap(), SubscribeResult::Added);
        world.consumers.push(consumer);
    }
    let mut left = world.queue.counts().0;
    assert!(left > 0, "all of it was one unit of work");
    while left > 0 {
        assert!(!effects.unpumped.is_empty(), "nobody goes on");
        effects = Effects::new(1000);
        world.queue.pump(&mut effects).unwrap();
        let now = world.queue.counts().0;
        assert!(now < left, "nothing was handed out");
        assert!(
            left - now < MESSAGES / 2,
            "{} in one unit of work",
            left - now
        );
        left = now;
    }
}

/// The consumer was added after the queue had removed its consumers, and never got a `consume-ok`.
#[test]
fn a_consumer_is_not_added_to_a_queue_that_is_deleted_just_then() {
    let world = World::new(&Table::new());
    let consumer = world.consumer(false, 0);
    let mut effects = Effects::new(1000);
    let closed = world.queue.close_if(CloseCondition::default(), 1000);
    assert!(closed.is_ok());
    assert!(!world.queue.touch(&mut effects), "a declare");
    let greet = |_: &mut Effects| panic!("there is nothing to consume from");
    let subscribed = world.queue.subscribe(&consumer, greet, &mut effects);
    assert_eq!(subscribed.unwrap(), SubscribeResult::Gone);
    assert_eq!(world.queue.counts().1, 0);
}

/// Two that asked at the same time both got it.
#[test]
fn a_queue_has_one_exclusive_consumer_and_no_other_beside_it() {
    let world = World::new(&Table::new());
    let (queue, mut effects) = (&world.queue, Effects::new(1000));
    let mut subscribe = |exclusive| {
        let subscription = Subscription {
            exclusive,
            ..world.subscription(false, 0)
        };
        let consumer = Arc::new(Consumer::new(subscription));
        queue.subscribe(&consumer, |_| {}, &mut effects).unwrap()
    };
    assert_eq!(subscribe(true), SubscribeResult::Added);
    assert_eq!(subscribe(true), SubscribeResult::InExclusiveUse);
    assert_eq!(subscribe(false), SubscribeResult::InExclusiveUse);
    queue.with(|state| state.consumers.take_all());
    assert_eq!(subscribe(false), SubscribeResult::Added);
    assert_eq!(subscribe(true), SubscribeResult::InExclusiveUse);
    assert_eq!(queue.counts().1, 1);
}
