//! Room for the messages of the session's own user, whatever others have sent.
//!
//! A broker hands out so many messages in one round; once all of them are here a new round begins,
//! unless the own user's alone are as many, so those of others never keep them from being handed
//! out. Messages of others wait for the agent while fewer than [`WAIT_MOST`] of them, with less
//! than [`WAIT_BYTES`], do; the rest are parked, in order, each long body in a file. Of more
//! messages of others than a queue holds, the oldest parked one of the user who has the most
//! parked becomes a dead letter. While [`ON_THE_WAY`] bodies and dead letters are on their way to
//! the disk no round begins: a slow disk slows the broker down and not the terminal.
//!
//! Relies on the disk thread and on the table of messages.

use std::collections::{HashMap, VecDeque};

use super::burial::DeadMessage;
use super::{MessageKey, Session};
use crate::peer::{MAX_LENGTH, ReceivedMessage, SESSION_HOLDS, SESSION_PREFETCH};
use crate::wrap::body_file::BodyPlace;
use crate::wrap::dead_letter::{DeadBody, claimed_id};
use crate::wrap::delivery::{Unsettled, publisher};
use crate::wrap::disk::Job;
use crate::wrap::seen::Publisher;

/// So many messages of others wait for the agent at most.
const WAIT_MOST: usize = 128;
/// So many bytes of memory those take, and one message more.
const WAIT_BYTES: usize = 16 << 20;
/// A longer body is in a file while its message is parked.
const LONG: usize = 8 << 10;
/// No round begins while so many bodies and dead letters are on their way to the disk.
const ON_THE_WAY: usize = 32;
/// So many messages of others a session has before some become dead letters.
const MOST: usize = MAX_LENGTH as usize;
// `send` reckons with this.
const _: () = assert!(WAIT_MOST + 2 * SESSION_PREFETCH as usize == SESSION_HOLDS as usize);
const TOO_MANY: &str = "too many messages of other users wait";

impl Session {
    /// A message that the broker handed out. One of another user is parked where others are.
    pub(super) fn receive(&mut self, mut delivery: ReceivedMessage) {
        let key = self.deliveries.table.next_key();
        self.post.round = self.post.round.max(delivery.round());
        let body = delivery.take_body();
        let is_too_long = body.len() > self.post.parts.body_limit_bytes;
        let may_wait = self.post.parked.waiting.is_empty() && self.has_room();
        if delivery.is_of_own_user() || is_too_long || may_wait {
            return self.take_in(key, delivery, body);
        }
        let parked = ParkedMessage {
            key,
            publisher: publisher(&delivery),
            id: claimed_id(&body),
            body: ParkedBody::InMemory(body),
        };
        self.deliveries.table.set_aside(key, delivery);
        if let Some((place, body)) = self.post.parked.push(parked) {
            self.post.parts.disk.ask(Job::Keep(place, body));
        }
    }

    /// Does what this file is about, after something happened to the post.
    pub(super) fn make_room(&mut self) {
        while self.of_others().0 + self.post.parked.waiting.len() > MOST
            && let Some(message) = self.post.parked.remove_one_too_many()
        {
            self.bury_parked(message);
        }
        while self.has_room() {
            match self.post.parked.take_first() {
                FirstParked::Message(key, body) => self.unpark(key, body),
                FirstParked::Fetch(key, place) => self.post.parts.disk.ask(Job::Fetch(key, place)),
                FirstParked::Nothing => break,
            }
        }
        if self.post.parked.is_file_unused() {
            self.post.parts.disk.ask(Job::Clear);
        }
        if let Some(inbox) = &self.post.parts.inbox {
            let unsettled = self.deliveries.table.unsettled(self.post.round);
            let on_the_way = self.post.buried.len() + self.post.parked.on_the_way;
            if is_round_over(unsettled, inbox.prefetch()) && on_the_way < ON_THE_WAY {
                inbox.ask_for_more();
                self.post.round += 1;
            }
        }
    }

    /// The body of the first parked message is here.
    pub(super) fn fetched(&mut self, key: MessageKey, body: Vec<u8>) {
        // It may have been removed meanwhile.
        if self.post.parked.remove(key).is_some() {
            self.unpark(key, body);
        }
    }

    /// A message that was parked waits for the agent.
    fn unpark(&mut self, key: MessageKey, body: Vec<u8>) {
        if let Some(delivery) = self.deliveries.table.take_aside(key) {
            self.take_in(key, delivery, body);
        }
    }

    fn bury_parked(&mut self, message: ParkedMessage) {
        let ParkedMessage { key, id, body, .. } = message;
        let Some(delivery) = self.deliveries.table.take_aside(key) else {
            return;
        };
        let (body, place) = match body {
            ParkedBody::InMemory(body) => (DeadBody::cut(body), None),
            ParkedBody::InFile(place) | ParkedBody::Requested(place) => {
                (DeadBody::default(), Some(place))
            }
        };
        let error = TOO_MANY.to_owned();
        self.bury_from(key, delivery, DeadMessage { id, body, error }, place);
    }

    /// Whether another message of others may wait for the agent.
    fn has_room(&self) -> bool {
        let (count, bytes) = self.of_others();
        count < WAIT_MOST && bytes < WAIT_BYTES
    }

    /// How many messages of others wait for the agent, and their bytes.
    fn of_others(&self) -> (usize, usize) {
        let messages = self.deliveries.table.iter();
        let others = messages.filter(|(_, message)| message.publisher != Publisher::Own);
        others.fold((0, 0), |(count, bytes), (_, message)| {
            (count + 1, bytes + message.bytes())
        })
    }
}

/// Whether the broker hands out no more in this round, and not because the own user has that many.
fn is_round_over(unsettled: Unsettled, prefetch: usize) -> bool {
    unsettled.of_round >= prefetch && unsettled.own < prefetch
}

/// Messages of others for which there is no room yet, in the order in which they came. Their
/// deliveries are in the table, set aside.
#[derive(Debug, Default)]
pub(super) struct ParkedMessages {
    waiting: VecDeque<ParkedMessage>,
    /// Slots of the file that were used, and those of them that are free.
    slots: u32,
    free: Vec<u32>,
    /// Bodies that the disk thread was asked to write and has not written.
    on_the_way: usize,
}

/// A parked message.
#[derive(Debug)]
pub(super) struct ParkedMessage {
    pub(super) key: MessageKey,
    pub(super) publisher: Publisher,
    /// The id that it claims; empty where it claims none.
    pub(super) id: String,
    body: ParkedBody,
}

/// Where the body is.
#[derive(Debug)]
enum ParkedBody {
    InMemory(Vec<u8>),
    InFile(BodyPlace),
    /// In the file, and the disk thread was asked for it.
    Requested(BodyPlace),
}

/// What becomes of the first parked message when there is room for it.
#[derive(Debug, PartialEq, Eq)]
enum FirstParked {
    /// It waits for the agent.
    Message(MessageKey, Vec<u8>),
    /// Its body is requested.
    Fetch(MessageKey, BodyPlace),
    /// Nothing, or there is none.
    Nothing,
}

impl ParkedMessages {
    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds one at the end. Returns the body that has to be written to the file, if it is long.
    fn push(&mut self, mut message: ParkedMessage) -> Option<(BodyPlace, Vec<u8>)> {
        let mut to_write = None;
        if let ParkedBody::InMemory(body) = &mut message.body
            && body.len() > LONG
        {
            let bytes = body.len();
            let slot = self.free.pop().unwrap_or_else(|| {
                self.slots += 1;
                self.slots - 1
            });
            let place = BodyPlace { slot, bytes };
            to_write = Some((place, std::mem::take(body)));
            message.body = ParkedBody::InFile(place);
            self.on_the_way += 1;
        }
        self.waiting.push_back(message);
        to_write
    }

    /// A body was written.
    pub(super) fn written(&mut self) {
        self.on_the_way -= 1;
    }

    /// Takes the first one out if its body is in memory.
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
                first.body = ParkedBody::Requested(place);
                FirstParked::Fetch(key, place)
            }
            ParkedBody::Requested(_) => FirstParked::Nothing,
        }
    }

    /// Takes one out. Its slot is free: the disk thread does what is asked of it in order, and so
    /// reads the slot before it writes it again.
    fn remove(&mut self, key: MessageKey) -> Option<ParkedMessage> {
        let at = self
            .waiting
            .binary_search_by_key(&key, |message| message.key);
        let message = self.waiting.remove(at.ok()?)?;
        if let ParkedBody::InFile(place) | ParkedBody::Requested(place) = message.body {
            self.free.push(place.slot);
        }
        Some(message)
    }

    /// Takes out the oldest of the user who has the most here.
    fn remove_one_too_many(&mut self) -> Option<ParkedMessage> {
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

    /// Takes all out.
    pub(super) fn take_all(&mut self) -> Vec<ParkedMessage> {
        let keys: Vec<MessageKey> = self.waiting.iter().map(|message| message.key).collect();
        keys.into_iter()
            .filter_map(|key| self.remove(key))
            .collect()
    }

    /// Whether the file has bodies, and nobody needs one. It is begun anew then.
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
    fn what_others_sent_never_keeps_the_own_users_messages_from_being_handed_out() {
        let is_over = |of_round, own| is_round_over(Unsettled { of_round, own }, 32);
        // Others alone, or with some of the own user's, have taken all of the round.
        assert!(is_over(32, 0) && is_over(32, 31) && is_over(40, 8));
        // More of the own user's may come in this round.
        assert!(!is_over(31, 0) && !is_over(0, 31));
        // As many of the own user's as in a session without others are here.
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
    fn a_flood_of_one_user_pushes_out_nothing_of_another() {
        let mut parked = ParkedMessages::default();
        for key in 0..3 {
            parked.push(message(key, Publisher::Nobody, 1));
        }
        for key in 3..20 {
            parked.push(message(key, Publisher::other("mallory"), 1));
        }
        let gone = (0..14).map(|_| parked.remove_one_too_many().unwrap().key.0);
        assert_eq!(gone.collect::<Vec<_>>(), (3..17).collect::<Vec<_>>());
    }

    #[test]
    fn long_bodies_are_in_the_file_alone_and_come_back_in_order() {
        let mut parked = ParkedMessages::default();
        assert!(parked.push(message(1, Publisher::Nobody, LONG)).is_none());
        let (place, body) = parked
            .push(message(2, Publisher::Nobody, LONG + 1))
            .unwrap();
        assert_eq!((place.bytes, body.len()), (LONG + 1, LONG + 1));
        assert!(parked.push(message(3, Publisher::Nobody, 1)).is_none());
        let first = parked.take_first();
        assert_eq!(first, FirstParked::Message(MessageKey(1), vec![b'x'; LONG]));
        assert_eq!(
            parked.take_first(),
            FirstParked::Fetch(MessageKey(2), place)
        );
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
    fn the_file_has_no_more_slots_than_messages_were_parked_at_once() {
        let mut parked = ParkedMessages::default();
        for key in 0..10_000 {
            parked.push(message(key, Publisher::Nobody, LONG + 1));
            parked.written();
            if parked.len() > 5 {
                parked.remove_one_too_many();
            }
        }
        assert_eq!((parked.slots, parked.on_the_way), (6, 0));
        assert_eq!(parked.take_all().len(), 5);
        assert!(parked.is_file_unused());
    }
}
