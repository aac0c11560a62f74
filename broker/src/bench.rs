//! Parts of the hot path, made public for `benches/hot_path.rs`. Compiled only with the feature
//! `bench`, so that they are not part of the crate's API.
//!
//! Each runs the code that a connection runs, without a socket, a clock or a store, on one thread.

use std::sync::Arc;

use crate::delivery::confirms::{Confirms, RouteOutcome};
use crate::delivery::effects::Effects;
use crate::delivery::ledger::{Credit, DeliveryTags, Ledger};
use crate::delivery::outbox::{Frames, Outbox, OutboxTake};
use crate::persist::Ticket;
use crate::queue::arguments::QueueArguments;
use crate::queue::consumer::{Consumer, Subscription};
use crate::queue::dead_letter::Spread;
use crate::queue::message::{MessageBuilder, MessageFacts};
use crate::queue::{ConfirmMode, Disposition, Queue, QueueIdentity};
use crate::wire::content::{self, ChannelFraming};
use crate::wire::frame::{self, ParsedFrame};
use crate::wire::method::{self, Method};
use crate::wire::table::Table;

const FRAME_MAX: u32 = 131_072;
const KEY: &[u8] = b"bench";
/// Delivery mode 2 and no other property.
const PROPERTIES: &[u8] = &[0x10, 0x00, 2];
const FACTS: MessageFacts = MessageFacts {
    persistent: true,
    priority: 0,
    published_ms: 0,
    ttl_ms: None,
    spread: Spread::NONE,
};

/// How the consumer of a [`HandOff`] acknowledges its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerAcks {
    /// Without acknowledgement (`no-ack`).
    Automatic,
    /// With one `basic.ack` with `multiple` for each batch.
    Acked,
}

/// A queue with one consumer without a prefetch limit.
#[derive(Debug)]
pub struct HandOff {
    queue: Arc<Queue>,
    ledger: Arc<Ledger>,
    outbox: Arc<Outbox>,
    ack_mode: ConsumerAcks,
    effects: Effects,
    draft: MessageBuilder,
    sent: Frames,
}

impl HandOff {
    /// Creates a transient queue and its consumer.
    pub fn new(ack_mode: ConsumerAcks) -> Self {
        let identity = QueueIdentity {
            name: "bench".into(),
            vhost: "/".into(),
            durable: false,
            auto_delete: false,
            owner: None,
            arguments: QueueArguments::default(),
            table: Table::new(),
        };
        let queue = Arc::new(Queue::new(identity, None, 0));
        let (ledger, outbox) = (Arc::<Ledger>::default(), Arc::<Outbox>::default());
        let consumer = Consumer::new(Subscription {
            tag: "bench".into(),
            framing: ChannelFraming {
                channel: 1,
                frame_max: FRAME_MAX,
            },
            outbox: Arc::clone(&outbox),
            ledger: Arc::clone(&ledger),
            no_ack: ack_mode == ConsumerAcks::Automatic,
            exclusive: false,
            priority: 0,
            prefetch: 0,
            arguments: Table::new(),
            wants_cancel: false,
            connection: 1,
        });
        let mut effects = Effects::new(0);
        let subscribed = queue.subscribe(&Arc::new(consumer), |_| {}, &mut effects);
        assert!(subscribed.is_ok(), "a queue without a store cannot stop");
        Self {
            queue,
            ledger,
            outbox,
            ack_mode,
            effects,
            draft: MessageBuilder::default(),
            sent: Frames::default(),
        }
    }

    /// Publishes `messages` messages, takes their frames as a writer does, and settles them.
    /// Returns the number of bytes to send.
    pub fn run(&mut self, messages: usize, body: &[u8]) -> usize {
        self.effects = Effects::new(0);
        for _ in 0..messages {
            self.draft.begin(b"", KEY);
            self.draft.properties(PROPERTIES);
            self.draft.body(body);
            let message = self.draft.finish(FACTS);
            let outcome = self
                .queue
                .publish(&message, ConfirmMode::Nothing, &mut self.effects);
            assert!(outcome.is_ok(), "a queue without a store cannot stop");
        }
        self.effects.wake_writers();
        let sent = take(&self.outbox, &mut self.sent);
        if self.ack_mode == ConsumerAcks::Acked {
            let mut taken = Vec::with_capacity(messages);
            let known = self
                .ledger
                .take(DeliveryTags::UpTo(0), Credit::Now, messages, &mut taken);
            let settled = self
                .queue
                .settle(taken.into_iter(), Disposition::Ack, &mut self.effects);
            assert!(known.is_ok() && settled.is_ok(), "all of them are open");
        }
        sent
    }
}

/// Takes the frames as the writer does. Returns the number of bytes.
fn take(outbox: &Outbox, into: &mut Frames) -> usize {
    into.clear();
    if outbox.swap_unsent(into) != OutboxTake::Frames {
        return 0;
    }
    outbox.sent(into.len());
    into.len()
}

/// Encodes the three frames of one publish to the default exchange, as a client sends them.
pub fn published(body: &[u8]) -> Vec<u8> {
    let mut method = vec![0, 60, 0, 40, 0, 0, 0];
    method.push(u8::try_from(KEY.len()).unwrap_or_default());
    method.extend_from_slice(KEY);
    method.push(0);
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(body.len() as u64).to_be_bytes());
    header.extend_from_slice(PROPERTIES);
    let mut out = Vec::new();
    for (kind, payload) in [
        (frame::METHOD, &method[..]),
        (frame::HEADER, &header),
        (frame::BODY, body),
    ] {
        frame::head(&mut out, kind, 1, payload.len());
        out.extend_from_slice(payload);
        out.push(0xCE);
    }
    out
}

/// Parses frames as a connection does. Returns the number of publishes.
pub fn decode(mut bytes: &[u8]) -> usize {
    let mut publishes = 0;
    while let Ok(ParsedFrame::Whole(front)) = frame::parse(bytes, FRAME_MAX) {
        match front.kind {
            frame::METHOD => {
                let method = method::decode(front.payload);
                publishes += usize::from(matches!(method, Ok(Method::BasicPublish(_))));
            }
            frame::HEADER => {
                assert!(
                    content::header(front.payload).is_ok(),
                    "it is our own header"
                );
            }
            _ => {}
        }
        bytes = &bytes[front.total()..];
    }
    publishes
}

/// Opens `count` publisher confirms, makes them wait for the store, and releases them. Returns the
/// number of bytes to send.
pub fn confirms(count: usize) -> usize {
    let outbox = Arc::<Outbox>::default();
    let confirms = Arc::new(Confirms::new(Arc::clone(&outbox), 1, Arc::default()));
    let mut effects = Effects::new(0);
    for _ in 0..count {
        let tag = confirms.open(&mut effects);
        confirms.set(tag, RouteOutcome::Ticket(Ticket::NONE), &mut effects);
    }
    confirms.release(Ticket::NONE, &mut effects);
    take(&outbox, &mut Frames::default())
}

/// The frames that one connection has yet to send.
#[derive(Debug, Default)]
pub struct OutboxBench {
    outbox: Arc<Outbox>,
    sent: Frames,
}

impl OutboxBench {
    /// Appends `pieces` pieces and takes them at once, as a unit of work and its writer do. Returns
    /// the number of bytes.
    pub fn run(&mut self, pieces: usize, piece: &[u8]) -> usize {
        let mut effects = Effects::new(0);
        for _ in 0..pieces {
            self.outbox
                .write(&mut effects, |out| out.extend_from_slice(piece));
        }
        effects.wake_writers();
        take(&self.outbox, &mut self.sent)
    }
}
