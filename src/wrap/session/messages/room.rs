//! Limits the messages of other users, so that the messages of the session's own user always get
//! in.
//!
//! A broker delivers a limited number of messages in one round, the prefetch. Once the session has
//! received that many, it requests the next round, unless the own user's messages alone are that
//! many; so messages of other users never fill the prefetch. Messages of other users wait for the
//! agent while fewer than [`MAX_WAITING`] of them, with less than [`MAX_WAITING_BYTES`], do. The
//! rest are parked in queue order, with long bodies in a file. If other users have more messages
//! here than a queue holds, or more than [`MAX_PARKED_BYTES`] are parked, the oldest parked message
//! of the user with the most parked messages becomes a dead letter. No round is requested while
//! [`MAX_PENDING_WRITES`] bodies and dead letters are being written, so a slow disk slows the
//! broker down and not the terminal.
//!
//! Relies on the disk thread and on the table of messages.

use std::collections::{HashMap, VecDeque};

use super::dead_letters::DeadMessage;
use super::{MessageKey, Session};
use crate::peer::{MAX_LENGTH, ReceivedMessage, SESSION_HOLDS, SESSION_PREFETCH};
use crate::wrap::body_file::BodyPlace;
use crate::wrap::dead_letter::{DeadBody, claimed_id};
use crate::wrap::delivery::{Unsettled, publisher};
use crate::wrap::disk::Job;
use crate::wrap::seen::Publisher;

/// Maximum number of messages of other users that wait for the agent.
const MAX_WAITING: usize = 128;
/// Maximum bytes of memory of those messages; the last one may exceed it.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// Bodies of parked messages that are longer than this are in a file.
const LONG_BODY: usize = 8 << 10;
/// Number of bodies and dead letters being written at which no round is requested.
const MAX_PENDING_WRITES: usize = 32;
/// Maximum number of messages of other users; beyond it some become dead letters.
const MAX_OF_OTHERS: usize = MAX_LENGTH as usize;
/// Maximum bytes of parked bodies, which are mostly on the disk; beyond it some messages become
/// dead letters. Without it, others' texts could fill a disk, on which the own user's then wait.
const MAX_PARKED_BYTES: usize = 128 << 20;
// `send` relies on this.
const _: () = assert!(MAX_WAITING + 2 * SESSION_PREFETCH as usize == SESSION_HOLDS as usize);
const TOO_MANY: &str = "too many messages of other users wait";

impl Session {
    /// Receives a message from the broker. A message of another user is parked if there is no room
    /// for it or others are parked already.
    pub(super) fn receive(&mut self, mut delivery: ReceivedMessage) {
        let key = self.deliveries.table.next_key();
        self.messages.round = self.messages.round.max(delivery.round());
        let body = delivery.take_body();
        let is_too_long = body.len() > self.messages.parts.body_limit_bytes;
        let may_wait = self.messages.parked.waiting.is_empty() && self.has_room();
        if delivery.is_of_own_user() || is_too_long || may_wait {
            return self.accept(key, delivery, body);
        }
        let parked = ParkedMessage {
            key,
            publisher: publisher(&delivery),
            id: claimed_id(&body),
            body: ParkedBody::InMemory(body),
        };
        self.deliveries.table.set_aside(key, delivery);
        if let Some((place, body)) = self.messages.parked.push(parked) {
            self.messages.parts.disk.submit(Job::ParkBody(place, body));
        }
    }

    /// Enforces the limits, admits parked messages, and requests the next round, after an event.
    pub(super) fn make_room(&mut self) {
        while self.messages.parked.are_too_many(self.counts_of_others().0)
            && let Some(message) = self.messages.parked.remove_surplus()
        {
            self.dead_letter_parked(message);
        }
        while self.has_room() {
            match self.messages.parked.take_first() {
                FirstParked::Message(key, body) => self.unpark(key, body),
                FirstParked::Read(key, place) => {
                    self.messages.parts.disk.submit(Job::ReadBody(key, place));
                }
                FirstParked::Nothing => break,
            }
        }
        if self.messages.parked.is_file_unused() {
            self.messages.parts.disk.submit(Job::ClearBodies);
        }
        if let Some(inbox) = &self.messages.parts.inbox {
            let unsettled = self.deliveries.table.unsettled(self.messages.round);
            let pending_writes =
                self.messages.dead_letter_ids.len() + self.messages.parked.pending_writes;
            if is_round_over(unsettled, inbox.prefetch()) && pending_writes < MAX_PENDING_WRITES {
                inbox.ask_for_more();
                self.messages.round += 1;
            }
        }
    }

    /// Handles the body of the first parked message, which was read from the file.
    pub(super) fn handle_parked_body(&mut self, key: MessageKey, body: Vec<u8>) {
        // The message may have been removed meanwhile.
        if self.messages.parked.remove(key).is_some() {
            self.unpark(key, body);
        }
    }

    /// Accepts a message that was parked.
    fn unpark(&mut self, key: MessageKey, body: Vec<u8>) {
        if let Some(delivery) = self.deliveries.table.take_aside(key) {
            self.accept(key, delivery, body);
        }
    }

    fn dead_letter_parked(&mut self, message: ParkedMessage) {
        let ParkedMessage { key, id, body, .. } = message;
        let Some(delivery) = self.deliveries.table.take_aside(key) else {
            return;
        };
        let (body, place) = match body {
            ParkedBody::InMemory(body) => (DeadBody::cut(body), None),
            ParkedBody::InFile(place) | ParkedBody::BeingRead(place) => {
                (DeadBody::default(), Some(place))
            }
        };
        let error = TOO_MANY.to_owned();
        self.dead_letter_from(key, delivery, DeadMessage { id, body, error }, place);
    }

    /// Whether another message of another user may wait for the agent.
    fn has_room(&self) -> bool {
        let (count, bytes) = self.counts_of_others();
        count < MAX_WAITING && bytes < MAX_WAITING_BYTES
    }

    /// The number of messages of other users that wait for the agent, and their bytes.
    fn counts_of_others(&self) -> (usize, usize) {
        let messages = self.deliveries.table.iter();
        let others = messages.filter(|(_, message)| message.publisher != Publisher::Own);
        others.fold((0, 0), |(count, bytes), (_, message)| {
            (count + 1, bytes + message.bytes())
        })
    }
}

/// Whether the round is complete and the own user's messages alone do not fill the prefetch.
fn is_round_over(unsettled: Unsettled, prefetch: usize) -> bool {
    unsettled.of_round >= prefetch && unsettled.own < prefetch
}

/// Messages of other users for which there is no room yet, in queue order. Their deliveries are set
/// aside in the table.
#[derive(Debug, Default)]
pub(super) struct ParkedMessages {
    waiting: VecDeque<ParkedMessage>,
    /// Number of slots of the file that have been used.
    slots: u32,
    /// The slots among them that are free.
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
    body: ParkedBody,
}

/// Where the body of a parked message is.
#[derive(Debug)]
enum ParkedBody {
    InMemory(Vec<u8>),
    InFile(BodyPlace),
    /// In the file, and being read by the disk thread.
    BeingRead(BodyPlace),
}

impl ParkedBody {
    fn bytes(&self) -> usize {
        match self {
            Self::InMemory(body) => body.len(),
            Self::InFile(place) | Self::BeingRead(place) => place.bytes,
        }
    }
}

/// The result of [`ParkedMessages::take_first`].
#[derive(Debug, PartialEq, Eq)]
enum FirstParked {
    /// The first message was taken out.
    Message(MessageKey, Vec<u8>),
    /// The first message's body is to be read from the file.
    Read(MessageKey, BodyPlace),
    /// No message is parked, or the first one's body is being read.
    Nothing,
}

impl ParkedMessages {
    /// The number of parked messages.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether these are too many beside those that wait for the agent, or too long.
    fn are_too_many(&self, waiting: usize) -> bool {
        let bytes: usize = self.waiting.iter().map(|one| one.body.bytes()).sum();
        waiting + self.waiting.len() > MAX_OF_OTHERS || bytes > MAX_PARKED_BYTES
    }

    /// Adds a message at the end. Returns its body if it is long and is to be written to the file.
    fn push(&mut self, mut message: ParkedMessage) -> Option<(BodyPlace, Vec<u8>)> {
        let mut to_write = None;
        if let ParkedBody::InMemory(body) = &mut message.body
            && body.len() > LONG_BODY
        {
            let bytes = body.len();
            let slot = self.free.pop().unwrap_or_else(|| {
                self.slots += 1;
                self.slots - 1
            });
            let place = BodyPlace { slot, bytes };
            to_write = Some((place, std::mem::take(body)));
            message.body = ParkedBody::InFile(place);
            self.pending_writes += 1;
        }
        self.waiting.push_back(message);
        to_write
    }

    /// The disk thread has written a body.
    pub(super) fn body_written(&mut self) {
        self.pending_writes -= 1;
    }

    /// Takes the first message out if its body is in memory, and otherwise requests the body.
    fn take_first(&mut self) -> FirstParked {
        let Some(first) = self.waiting.front_mut() else {
            return FirstParked::Nothing;
        };
        let key = first.key;
        match &mut first.body {
            ParkedBody::InMemory(body) => {
                let body = std::mem::take(body);
                self.waiting.pop_front();
                FirstParked::Message(key, body)
            }
            ParkedBody::InFile(place) => {
                let place = *place;
                first.body = ParkedBody::BeingRead(place);
                FirstParked::Read(key, place)
            }
            ParkedBody::BeingRead(_) => FirstParked::Nothing,
        }
    }

    /// Removes a message and frees its slot. The disk thread runs jobs in order, so it reads the
    /// slot before it writes it again.
    fn remove(&mut self, key: MessageKey) -> Option<ParkedMessage> {
        let at = self
            .waiting
            .binary_search_by_key(&key, |message| message.key);
        let message = self.waiting.remove(at.ok()?)?;
        if let ParkedBody::InFile(place) | ParkedBody::BeingRead(place) = message.body {
            self.free.push(place.slot);
        }
        Some(message)
    }

    /// Removes the oldest message of the user with the most parked messages.
    fn remove_surplus(&mut self) -> Option<ParkedMessage> {
        let oldest = {
            let mut counts: HashMap<Option<&str>, usize> = HashMap::new();
            for message in &self.waiting {
                *counts.entry(message.publisher.mark()).or_default() += 1;
            }
            let most = counts.values().max();
            let is_of_most =
                |message: &&ParkedMessage| counts.get(&message.publisher.mark()) == most;
            self.waiting.iter().find(is_of_most)?.key
        };
        self.remove(oldest)
    }

    /// Removes all messages.
    pub(super) fn take_all(&mut self) -> Vec<ParkedMessage> {
        let keys: Vec<MessageKey> = self.waiting.iter().map(|message| message.key).collect();
        keys.into_iter()
            .filter_map(|key| self.remove(key))
            .collect()
    }

    /// Whether the file has bodies, none of which is needed. Resets the slots in that case.
    fn is_file_unused(&mut self) -> bool {
        let is_unused = self.slots > 0 && self.free.len() == self.slots as usize;
        if is_unused {
            self.slots = 0;
            self.free.clear();
        }
        is_unused
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn messages_of_other_users_never_fill_the_prefetch() {
        let is_over = |of_round, own| is_round_over(Unsettled { of_round, own }, 32);
        // Other users' messages, alone or with some of the own user's, fill the round.
        assert!(is_over(32, 0) && is_over(32, 31) && is_over(40, 8));
        // The broker may deliver more in this round.
        assert!(!is_over(31, 0) && !is_over(0, 31));
        // The own user's messages fill the prefetch.
        assert!(!is_over(32, 32) && !is_over(32, 63));
    }

    fn message(key: u64, publisher: Publisher, bytes: usize) -> ParkedMessage {
        ParkedMessage {
            key: MessageKey(key),
            publisher,
            id: String::new(),
            body: ParkedBody::InMemory(vec![b'x'; bytes]),
        }
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
        let gone = (0..14).map(|_| parked.remove_surplus().unwrap().key.0);
        assert_eq!(gone.collect::<Vec<_>>(), (3..17).collect::<Vec<_>>());
    }

    #[test]
    fn parked_messages_are_limited_by_their_number_and_by_their_bytes() {
        let mut parked = ParkedMessages::default();
        for key in 0..128 {
            parked.push(message(key, Publisher::Unnamed, 1 << 20));
        }
        assert!(!parked.are_too_many(MAX_OF_OTHERS - 128));
        assert!(parked.are_too_many(MAX_OF_OTHERS - 127), "by number");
        parked.push(message(128, Publisher::Unnamed, 1));
        assert!(parked.are_too_many(0), "by bytes");
        parked.remove_surplus().unwrap();
        assert!(!parked.are_too_many(0));
    }

    #[test]
    fn long_bodies_are_only_in_the_file_and_return_in_order() {
        let mut parked = ParkedMessages::default();
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
        let first = parked.take_first();
        assert_eq!(
            first,
            FirstParked::Message(MessageKey(1), vec![b'x'; LONG_BODY])
        );
        assert_eq!(parked.take_first(), FirstParked::Read(MessageKey(2), place));
        assert_eq!(
            parked.take_first(),
            FirstParked::Nothing,
            "the others wait for it"
        );
        assert!(!parked.is_file_unused());
        assert!(parked.remove(MessageKey(2)).is_some() && parked.remove(MessageKey(2)).is_none());
        assert!(parked.is_file_unused() && !parked.is_file_unused());
        let last = parked.take_first();
        assert_eq!(last, FirstParked::Message(MessageKey(3), vec![b'x']));
        assert_eq!(parked.take_first(), FirstParked::Nothing);
    }

    #[test]
    fn the_file_has_at_most_as_many_slots_as_messages_parked_at_once() {
        let mut parked = ParkedMessages::default();
        for key in 0..10_000 {
            parked.push(message(key, Publisher::Unnamed, LONG_BODY + 1));
            parked.body_written();
            if parked.len() > 5 {
                parked.remove_surplus();
            }
        }
        assert_eq!((parked.slots, parked.pending_writes), (6, 0));
        assert_eq!(parked.take_all().len(), 5);
        assert!(parked.is_file_unused());
    }
}
