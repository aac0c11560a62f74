//! A message as it was published: one allocation, immutable, shared by every queue that holds it.
//! Relies on `wire`, and on `block` for its memory.
//!
//! The bytes are laid out as they are stored and as they will leave again, so neither a delivery
//! nor the store encodes anything:
//!
//! | at | what |
//! |---|---|
//! | 0 | version of this layout, 1 |
//! | 1 | bit 0: persistent; bits 1 to 7: how far dead-lettering has spread it |
//! | 2 | priority |
//! | 3 | length of the properties, 4 octets |
//! | 7 | time of publishing, milliseconds since 1970, 8 octets |
//! | 15 | the message's own time to live in milliseconds, 8 octets, all ones for none |
//! | 23 | length of the exchange's name |
//! | 24 | length of the routing key |
//! | 25 | exchange, routing key, properties (flags and values), body |
//!
//! # Cost
//! One allocation and one copy a message; a large one is put together where it stays.

use super::dead_letter::Spread;
use crate::block::{Block, BlockBuilder, LARGE_BYTES};
use crate::wire::content::MessageContent;

const VERSION: u8 = 1;
const HEAD: usize = 25;
/// Where the lengths of both names stand, right before the names.
const NAMES: usize = 23;
const PERSISTENT: u8 = 1;
const NO_TTL: u64 = u64::MAX;

/// Stored bytes that are no message of a known layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored message has an unknown or damaged layout")]
pub struct DamagedMessage;

/// What the server itself must know of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageFacts {
    /// Delivery mode 2.
    pub persistent: bool,
    /// 0 where the publisher gave none.
    pub priority: u8,
    /// Milliseconds since 1970.
    pub published_ms: u64,
    /// From the `expiration` property.
    pub ttl_ms: Option<u64>,
    /// Nothing for what was published.
    pub spread: Spread,
}

/// A published message.
#[derive(Clone, PartialEq, Eq)]
pub struct Message(Block);

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("facts", &self.facts())
            .field("bytes", &self.0.len())
            .finish_non_exhaustive()
    }
}

/// A message that is still arriving, in a buffer that is used again for the next one.
#[derive(Debug, Default)]
pub(crate) struct MessageBuilder {
    bytes: Vec<u8>,
    large: Option<LargeMessage>,
}

/// A large message and how much of it will come.
#[derive(Debug)]
struct LargeMessage {
    builder: BlockBuilder,
    expected: usize,
}

/// A draft's buffer that grew beyond this is given back.
pub(crate) const KEEP_BYTES: usize = 64 * 1024;

impl MessageBuilder {
    /// Starts over with the names from `basic.publish`, each at most 255 bytes.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "both came as short strings"
    )]
    pub(crate) fn begin(&mut self, exchange: &[u8], routing_key: &[u8]) {
        self.bytes.clear();
        self.large = None;
        let mut head = [0; HEAD];
        head[0] = VERSION;
        head[NAMES] = exchange.len() as u8;
        head[NAMES + 1] = routing_key.len() as u8;
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(exchange);
        self.bytes.extend_from_slice(routing_key);
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a header frame is bounded by frame-max"
    )]
    pub(crate) fn properties(&mut self, raw: &[u8]) {
        self.bytes[3..7].copy_from_slice(&(raw.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(raw);
    }

    /// A body of `body_size` octets is announced, no more than a body may have. A large one is put
    /// together in a block of its own, which grows as the octets come.
    pub(crate) fn expect(&mut self, body_size: usize) {
        if body_size >= LARGE_BYTES {
            let expected = self.bytes.len() + body_size;
            let mut builder = BlockBuilder::new(expected);
            builder.push(&self.bytes, expected);
            self.large = Some(LargeMessage { builder, expected });
        }
    }

    pub(crate) fn body(&mut self, part: &[u8]) {
        match &mut self.large {
            None => self.bytes.extend_from_slice(part),
            Some(large) => large.builder.push(part, large.expected),
        }
    }

    /// Forgets the message. The buffer is kept unless it has grown large.
    pub(crate) fn clear(&mut self) {
        self.large = None;
        if self.bytes.capacity() > KEEP_BYTES {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
    }

    /// Frees the buffer.
    pub(crate) fn free_buffer(&mut self) {
        self.bytes = Vec::new();
    }

    /// Octets of memory that the draft takes, and how many of them are its buffer's: a large
    /// message's block is on the account itself.
    pub(crate) fn held_bytes(&self) -> (usize, usize) {
        let buffer = self.bytes.capacity();
        let large = self.large.as_ref();
        let large = large.map_or(0, |large| large.builder.capacity());
        (buffer + large, buffer)
    }

    /// Both lengths, exchange and routing key: what a route depends on.
    pub(crate) fn route_key(&self) -> &[u8] {
        let names = usize::from(self.bytes[NAMES]) + usize::from(self.bytes[NAMES + 1]);
        &self.bytes[NAMES..HEAD + names]
    }

    pub(crate) fn view(&self) -> MessageContent<'_> {
        match &self.large {
            None => content(&self.bytes),
            Some(large) => content(large.builder.bytes()),
        }
    }

    /// Makes the message, and forgets it.
    pub(crate) fn finish(&mut self, facts: MessageFacts) -> Message {
        let message = if let Some(LargeMessage { mut builder, .. }) = self.large.take() {
            write_facts(facts, builder.bytes_mut());
            Message(builder.finish())
        } else {
            write_facts(facts, &mut self.bytes);
            Message(Block::copy_of(&self.bytes))
        };
        self.clear();
        message
    }
}

/// Writes the facts where the layout has them.
fn write_facts(facts: MessageFacts, bytes: &mut [u8]) {
    bytes[1] = facts.spread.bits() << 1 | u8::from(facts.persistent);
    bytes[2] = facts.priority;
    bytes[7..15].copy_from_slice(&facts.published_ms.to_be_bytes());
    bytes[15..23].copy_from_slice(&facts.ttl_ms.unwrap_or(NO_TTL).to_be_bytes());
}

fn content(bytes: &[u8]) -> MessageContent<'_> {
    let exchange_end = HEAD + usize::from(bytes[NAMES]);
    let key_end = exchange_end + usize::from(bytes[NAMES + 1]);
    let properties_end =
        key_end + u32::from_be_bytes([bytes[3], bytes[4], bytes[5], bytes[6]]) as usize;
    MessageContent {
        exchange: &bytes[HEAD..exchange_end],
        routing_key: &bytes[exchange_end..key_end],
        properties: &bytes[key_end..properties_end],
        body: &bytes[properties_end..],
    }
}

impl Message {
    /// Puts a message together outside the hot path. Names have at most 255 bytes, or are cut.
    pub(crate) fn assemble(content: MessageContent<'_>, facts: MessageFacts) -> Self {
        let mut draft = MessageBuilder::default();
        draft.begin(
            &content.exchange[..content.exchange.len().min(255)],
            &content.routing_key[..content.routing_key.len().min(255)],
        );
        draft.properties(content.properties);
        draft.body(content.body);
        draft.finish(facts)
    }

    /// Takes a message back from the store.
    pub(crate) fn from_stored(bytes: &[u8]) -> Result<Self, DamagedMessage> {
        let head = bytes.first_chunk::<HEAD>().ok_or(DamagedMessage)?;
        let properties = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        if head[0] != VERSION
            || HEAD + usize::from(head[NAMES]) + usize::from(head[NAMES + 1]) + properties
                > bytes.len()
        {
            return Err(DamagedMessage);
        }
        Ok(Self(Block::copy_of(bytes)))
    }

    /// The bytes that the store keeps.
    pub(crate) fn stored(&self) -> &[u8] {
        &self.0
    }

    /// Octets that this message takes in memory.
    pub(crate) fn footprint(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn content(&self) -> MessageContent<'_> {
        content(&self.0)
    }

    /// Octets of the body.
    pub(crate) fn body_len(&self) -> usize {
        self.content().body.len()
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.0[1] & PERSISTENT != 0
    }

    pub(crate) fn priority(&self) -> u8 {
        self.0[2]
    }

    fn u64_at(&self, at: usize) -> u64 {
        let mut octets = [0; 8];
        octets.copy_from_slice(&self.0[at..at + 8]);
        u64::from_be_bytes(octets)
    }

    pub(crate) fn published_ms(&self) -> u64 {
        self.u64_at(7)
    }

    /// Returns a copy of this message with another time of publishing.
    pub(crate) fn published_at(&self, now_ms: u64) -> Self {
        let mut bytes = self.0.to_vec();
        bytes[7..15].copy_from_slice(&now_ms.to_be_bytes());
        Self(Block::copy_of(&bytes))
    }

    /// When this message dies in a queue that lets nothing live longer than `queue_ttl_ms`.
    pub(crate) fn deadline_ms(&self, queue_ttl_ms: Option<u64>) -> Option<u64> {
        let own = Some(self.u64_at(15)).filter(|&ttl| ttl != NO_TTL);
        let ttl = match (own, queue_ttl_ms) {
            (Some(own), Some(queue)) => own.min(queue),
            (own, queue) => own.or(queue)?,
        };
        Some(self.published_ms().saturating_add(ttl))
    }

    /// True when the publisher limited its life.
    pub(crate) fn has_ttl(&self) -> bool {
        self.u64_at(15) != NO_TTL
    }

    pub(crate) fn facts(&self) -> MessageFacts {
        let ttl = self.u64_at(15);
        MessageFacts {
            persistent: self.is_persistent(),
            priority: self.priority(),
            published_ms: self.published_ms(),
            ttl_ms: (ttl != NO_TTL).then_some(ttl),
            spread: Spread::from_bits(self.0[1] >> 1),
        }
    }
}

#[cfg(test)]
impl Message {
    /// A message without properties that no store keeps.
    pub(crate) fn transient((exchange, routing_key): (&[u8], &[u8]), body: &[u8]) -> Self {
        let content = MessageContent {
            exchange,
            routing_key,
            properties: b"\0\0",
            body,
        };
        let facts = MessageFacts {
            persistent: false,
            priority: 0,
            published_ms: 0,
            ttl_ms: None,
            spread: Spread::NONE,
        };
        Self::assemble(content, facts)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Message {
        let content = MessageContent {
            exchange: b"ex",
            routing_key: b"a.b",
            properties: b"\x10\0\x02",
            body: b"hello",
        };
        Message::assemble(
            content,
            MessageFacts {
                persistent: true,
                priority: 7,
                published_ms: 1000,
                ttl_ms: Some(50),
                spread: Spread::NONE.after_move(60).unwrap(),
            },
        )
    }

    #[test]
    fn a_message_comes_back_from_the_store_as_it_went() {
        let message = sample();
        let back = Message::from_stored(message.stored()).unwrap();
        assert_eq!(back, message);
        assert_eq!(back.content().body, b"hello");
        assert_eq!(back.content().routing_key, b"a.b");
        assert!(back.is_persistent());
        assert_eq!(back.priority(), 7);
        assert_eq!(back.facts(), message.facts());
    }

    #[test]
    fn a_large_message_is_what_a_small_one_is_though_it_grew_as_it_came() {
        let (mut draft, body) = (MessageBuilder::default(), vec![7; 3_141_593]);
        for _ in 0..2 {
            draft.begin(b"ex", b"a.b");
            draft.properties(b"\x10\0\x02");
            draft.expect(body.len());
            body.chunks(1000).for_each(|part| draft.body(part));
            let message = draft.finish(sample().facts());
            assert_eq!(message.facts(), sample().facts());
            assert_eq!(message.content().properties, b"\x10\0\x02");
            assert!(message.content().body == body);
            assert!(Message::from_stored(message.stored()).unwrap() == message);
        }
    }

    #[test]
    fn a_small_message_follows_a_large_one_that_was_broken_off() {
        let mut draft = MessageBuilder::default();
        draft.begin(b"ex", b"a.b");
        draft.properties(b"\0\0");
        draft.expect(1 << 20);
        draft.body(&[1; 1000]);
        draft.begin(b"", b"b");
        draft.properties(b"\0\0");
        draft.expect(3);
        draft.body(b"end");
        let message = draft.finish(sample().facts());
        assert_eq!(message.content().routing_key, b"b");
        assert_eq!(message.content().body, b"end");
    }

    #[test]
    fn the_smaller_time_to_live_decides() {
        let message = sample();
        assert_eq!(message.deadline_ms(None), Some(1050));
        assert_eq!(message.deadline_ms(Some(10)), Some(1010));
        assert_eq!(message.deadline_ms(Some(100)), Some(1050));
    }

    #[test]
    fn damaged_bytes_are_no_message() {
        let message = sample();
        let mut bytes = message.stored().to_vec();
        bytes[6] = 200;
        assert_eq!(Message::from_stored(&bytes), Err(DamagedMessage));
        assert_eq!(Message::from_stored(&bytes[..10]), Err(DamagedMessage));
        bytes[6] = 3;
        bytes[0] = 9;
        assert_eq!(Message::from_stored(&bytes), Err(DamagedMessage));
    }
}
