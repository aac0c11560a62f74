//! Messages of other users for which there is no room yet.
//!
//! They stay in queue order, with long bodies in a file. Each user's messages are admitted in that
//! order; the next one is of the user with the fewest messages that wait for the agent. If other
//! users have more messages in the session than a queue holds, the oldest parked message of the
//! user with the most messages becomes a dead letter. If more than [`MAX_PARKED_BYTES`] are parked,
//! it is the oldest message of the user with the most parked bytes.

use std::collections::VecDeque;

use super::MessageKey;
use super::counts::{Counts, Share};
use crate::peer::MAX_LENGTH;
use crate::wrap::body_file::{BLOCK_BYTES, BodyPlace};
use crate::wrap::seen::Publisher;

/// Bodies that are longer than this are in a file.
const LONG_BODY: usize = 8 << 10;
/// Maximum number of messages of other users; beyond it some become dead letters.
const MAX_OF_OTHERS: usize = MAX_LENGTH as usize;
/// Maximum bytes of parked bodies, which are mostly on disk; beyond it some messages become dead
/// letters. Without this limit, texts of other users could fill the disk, and then messages of the
/// session's own user could not be delivered.
const MAX_PARKED_BYTES: usize = 128 << 20;

/// All parked messages of a session. The table of messages keeps their deliveries, without the
/// messages.
#[derive(Debug, Default)]
pub(super) struct ParkedMessages {
    waiting: VecDeque<ParkedMessage>,
    /// The message whose body is being read from the file.
    being_read: Option<MessageKey>,
    /// Number of blocks of the file that have been used.
    blocks: u32,
    /// The blocks among them that are free.
    free: Vec<u32>,
    /// Number of bodies that the disk thread has not written yet.
    pending_writes: usize,
}

/// A parked message.
#[derive(Debug)]
pub(super) struct ParkedMessage {
    pub(super) key: MessageKey,
    pub(super) publisher: Publisher,
    /// The id that its body claims; empty if it claims none.
    pub(super) id: String,
    pub(super) body: ParkedBody,
}

/// Where the body of a parked message is.
#[derive(Debug)]
pub(super) enum ParkedBody {
    InMemory(Vec<u8>),
    InFile(BodyPlace),
}

impl ParkedBody {
    fn bytes(&self) -> usize {
        match self {
            Self::InMemory(body) => body.len(),
            Self::InFile(place) => place.bytes,
        }
    }
}

/// The result of [`ParkedMessages::take_next`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextParked {
    /// The message was taken out.
    Message(MessageKey, Vec<u8>),
    /// The message's body is to be read from the file.
    Read(MessageKey, BodyPlace),
    /// There is room for no parked message, or a body is being read.
    Nothing,
}

impl ParkedMessages {
    /// The number of parked messages.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Number of bodies that the disk thread has not written yet.
    pub(super) fn pending_writes(&self) -> usize {
        self.pending_writes
    }

    /// Whether messages of this user are parked.
    pub(super) fn has_some_of(&self, publisher: &Publisher) -> bool {
        let mut publishers = self.waiting.iter().map(|message| &message.publisher);
        publishers.any(|parked| parked == publisher)
    }

    /// Adds a message at the end. Returns its body if it is long and is to be written to the file.
    pub(super) fn push(&mut self, mut message: ParkedMessage) -> Option<(BodyPlace, Vec<u8>)> {
        let mut to_write = None;
        if let ParkedBody::InMemory(body) = &mut message.body
            && body.len() > LONG_BODY
        {
            let body = std::mem::take(body);
            let place = self.place_for(body.len());
            message.body = ParkedBody::InFile(place.clone());
            to_write = Some((place, body));
            self.pending_writes += 1;
        }
        self.waiting.push_back(message);
        to_write
    }

    /// Takes blocks for a body, free ones first.
    fn place_for(&mut self, bytes: usize) -> BodyPlace {
        let mut next = || {
            self.free.pop().unwrap_or_else(|| {
                self.blocks += 1;
                self.blocks - 1
            })
        };
        let blocks = (0..bytes.div_ceil(BLOCK_BYTES)).map(|_| next()).collect();
        BodyPlace { blocks, bytes }
    }

    /// The disk thread has written a body.
    pub(super) fn body_written(&mut self) {
        self.pending_writes -= 1;
    }

    /// Takes the next message that may wait for the agent, beside those in `waiting`. If its body
    /// is in the file, returns [`NextParked::Read`] instead.
    pub(super) fn take_next(&mut self, waiting: &Counts<'_>) -> NextParked {
        if self.being_read.is_some() {
            return NextParked::Nothing;
        }
        let messages = self.waiting.iter().enumerate();
        let next = messages
            .filter(|(_, message)| waiting.have_room_for(&message.publisher))
            .min_by_key(|(_, message)| waiting.of(&message.publisher).messages);
        let Some((at, ParkedMessage { key, body, .. })) = next else {
            return NextParked::Nothing;
        };
        let key = *key;
        if let ParkedBody::InFile(place) = body {
            self.being_read = Some(key);
            return NextParked::Read(key, place.clone());
        }
        match self.waiting.remove(at).map(|message| message.body) {
            Some(ParkedBody::InMemory(body)) => NextParked::Message(key, body),
            _ => NextParked::Nothing,
        }
    }

    /// Removes a message and frees its blocks. The disk thread runs jobs in order, so it reads the
    /// blocks before it writes them again.
    pub(super) fn remove(&mut self, key: MessageKey) -> Option<ParkedMessage> {
        let at = self
            .waiting
            .binary_search_by_key(&key, |message| message.key);
        let message = self.waiting.remove(at.ok()?)?;
        if self.being_read == Some(key) {
            self.being_read = None;
        }
        if let ParkedBody::InFile(place) = &message.body {
            self.free.extend(&place.blocks);
        }
        Some(message)
    }

    /// If there are too many messages, with the `waiting` ones that wait for the agent, or too many
    /// parked bytes, removes the oldest message of the user with the most messages or bytes.
    pub(super) fn remove_surplus(&mut self, waiting: usize) -> Option<ParkedMessage> {
        let mut counts = Counts::default();
        for message in &self.waiting {
            counts.add(&message.publisher, message.body.bytes());
        }
        let measure: fn(Share) -> usize = if counts.all.bytes > MAX_PARKED_BYTES {
            |share| share.bytes
        } else if waiting + counts.all.messages > MAX_OF_OTHERS {
            |share| share.messages
        } else {
            return None;
        };
        let most = counts.most(measure);
        let is_of_most =
            |message: &&ParkedMessage| Some(measure(counts.of(&message.publisher))) == most;
        let oldest = self.waiting.iter().find(is_of_most)?.key;
        self.remove(oldest)
    }

    /// Removes all messages.
    pub(super) fn take_all(&mut self) -> Vec<ParkedMessage> {
        let keys: Vec<MessageKey> = self.waiting.iter().map(|message| message.key).collect();
        keys.into_iter()
            .filter_map(|key| self.remove(key))
            .collect()
    }

    /// Whether the file has bodies, none of which is needed. Resets the blocks in that case.
    pub(super) fn is_file_unused(&mut self) -> bool {
        let is_unused = self.blocks > 0 && self.free.len() == self.blocks as usize;
        if is_unused {
            self.blocks = 0;
            self.free.clear();
        }
        is_unused
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn message(key: u64, publisher: Publisher, bytes: usize) -> ParkedMessage {
        ParkedMessage {
            key: MessageKey(key),
            publisher,
            id: String::new(),
            body: ParkedBody::InMemory(vec![b'x'; bytes]),
        }
    }

    fn surplus(parked: &mut ParkedMessages, waiting: usize) -> Vec<u64> {
        let surplus = std::iter::from_fn(|| parked.remove_surplus(waiting));
        surplus.map(|message| message.key.0).collect()
    }

    #[test]
    fn a_flood_of_one_user_displaces_no_message_of_another() {
        let mut parked = ParkedMessages::default();
        for key in 0..3 {
            parked.push(message(key, Publisher::Unnamed, 1));
        }
        for key in 3..20 {
            parked.push(message(key, Publisher::other("mallory"), 1));
        }
        let gone = surplus(&mut parked, MAX_OF_OTHERS - 6);
        assert_eq!(gone, (3..17).collect::<Vec<_>>());
    }

    #[test]
    fn long_texts_of_one_user_displace_no_message_of_another_who_has_more() {
        let mut parked = ParkedMessages::default();
        for key in 0..500 {
            parked.push(message(key, Publisher::Unnamed, 1));
        }
        for key in 500..630 {
            parked.push(message(key, Publisher::other("mallory"), 1 << 20));
        }
        assert_eq!(surplus(&mut parked, 0), [500, 501, 502]);
    }

    #[test]
    fn parked_messages_are_limited_by_their_number_and_by_their_bytes() {
        let mut parked = ParkedMessages::default();
        for key in 0..128 {
            parked.push(message(key, Publisher::Unnamed, 1 << 20));
        }
        assert!(surplus(&mut parked, MAX_OF_OTHERS - 128).is_empty());
        assert_eq!(surplus(&mut parked, MAX_OF_OTHERS - 127), [0], "by number");
        parked.push(message(128, Publisher::Unnamed, 1 << 20));
        assert!(surplus(&mut parked, 0).is_empty());
        parked.push(message(129, Publisher::Unnamed, 1));
        assert_eq!(surplus(&mut parked, 0), [1], "by bytes");
    }

    #[test]
    fn the_next_message_is_of_the_user_with_the_fewest_that_wait() {
        let (alice, bob) = (Publisher::other("alice"), Publisher::other("bob"));
        let mut parked = ParkedMessages::default();
        for (key, publisher) in [(1, &alice), (2, &alice), (3, &bob), (4, &bob)] {
            parked.push(message(key, publisher.clone(), 0));
        }
        let mut waiting = Counts::default();
        let mut taken = Vec::new();
        while let NextParked::Message(key, _) = parked.take_next(&waiting) {
            waiting.add(if key.0 < 3 { &alice } else { &bob }, 0);
            taken.push(key.0);
        }
        assert_eq!(taken, [1, 3, 2, 4]);
    }

    #[test]
    fn messages_of_a_user_without_room_hold_up_nobody_else() {
        let (alice, bob) = (Publisher::other("alice"), Publisher::other("bob"));
        let mut waiting = Counts::default();
        while waiting.have_room_for(&alice) {
            waiting.add(&alice, 0);
        }
        let mut parked = ParkedMessages::default();
        parked.push(message(1, alice.clone(), 0));
        assert_eq!(parked.take_next(&waiting), NextParked::Nothing);
        assert!(parked.has_some_of(&alice) && !parked.has_some_of(&bob));
        parked.push(message(2, bob, 0));
        let next = parked.take_next(&waiting);
        assert_eq!(next, NextParked::Message(MessageKey(2), Vec::new()));
    }

    #[test]
    fn long_bodies_are_only_in_the_file_and_return_in_order() {
        let mut parked = ParkedMessages::default();
        let waiting = Counts::default();
        assert!(
            parked
                .push(message(1, Publisher::Unnamed, LONG_BODY))
                .is_none()
        );
        let (place, body) = parked
            .push(message(2, Publisher::Unnamed, LONG_BODY + 1))
            .unwrap();
        assert_eq!((place.bytes, body.len()), (LONG_BODY + 1, LONG_BODY + 1));
        assert!(parked.push(message(3, Publisher::Unnamed, 1)).is_none());
        let first = parked.take_next(&waiting);
        assert_eq!(
            first,
            NextParked::Message(MessageKey(1), vec![b'x'; LONG_BODY])
        );
        let second = parked.take_next(&waiting);
        assert_eq!(second, NextParked::Read(MessageKey(2), place.clone()));
        assert_eq!(
            parked.take_next(&waiting),
            NextParked::Nothing,
            "the others wait for it"
        );
        assert!(!parked.is_file_unused());
        assert!(parked.remove(MessageKey(2)).is_some() && parked.remove(MessageKey(2)).is_none());
        assert!(parked.is_file_unused() && !parked.is_file_unused());
        let last = parked.take_next(&waiting);
        assert_eq!(last, NextParked::Message(MessageKey(3), vec![b'x']));
        assert_eq!(parked.take_next(&waiting), NextParked::Nothing);
    }

    #[test]
    fn the_file_has_at_most_as_many_blocks_as_were_used_at_once() {
        let mut parked = ParkedMessages::default();
        for key in 0..10_000 {
            parked.push(message(key, Publisher::Unnamed, LONG_BODY + 1));
            parked.body_written();
            parked.remove_surplus(MAX_OF_OTHERS - 5);
        }
        assert_eq!((parked.blocks, parked.pending_writes), (6, 0));
        assert_eq!(parked.take_all().len(), 5);
        assert!(parked.is_file_unused());
    }

    /// Short texts took the places of long ones, which kept all of their space on disk.
    #[test]
    fn short_texts_in_place_of_long_ones_leave_no_space_unused() {
        let mut parked = ParkedMessages::default();
        for key in 0..2000 {
            let bytes = if key % 2 == 0 { 1 << 20 } else { LONG_BODY + 1 };
            parked.push(message(key, Publisher::Unnamed, bytes));
            while parked.remove_surplus(64).is_some() {}
        }
        let bytes = parked.blocks as usize * BLOCK_BYTES;
        let whole_blocks = MAX_OF_OTHERS * BLOCK_BYTES;
        assert!(bytes <= MAX_PARKED_BYTES + whole_blocks, "{bytes}");
    }
}
