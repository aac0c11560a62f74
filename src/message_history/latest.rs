//! The latest messages of the history. Those of the user's own are counted apart from those of
//! others: however much others publish, it takes no place of the user's messages.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use super::{Conversation, ConversationMessage, HistoryEntry, MessageText};

/// The latest messages as the history is read.
#[derive(Debug)]
pub(super) struct LatestMessages {
    own: MessageWindow,
    others: MessageWindow,
    hasher: RandomState,
    text_bytes: usize,
    most: usize,
}

/// The latest messages of one kind of publisher, in the order of their first events.
#[derive(Debug, Default)]
struct MessageWindow {
    messages: VecDeque<ConversationMessage>,
    /// How many went before them.
    older: usize,
    /// The places of messages, counted from the first of all. A hash takes less than an id and a
    /// session, and nobody can choose it.
    places: HashMap<u64, usize>,
    /// The bytes of `messages`.
    bytes: usize,
}

impl LatestMessages {
    /// Keeps the latest `most` messages of the user's own and as many of others, and `text_bytes`
    /// of each text.
    pub(super) fn new(text_bytes: usize, most: usize) -> Self {
        Self {
            own: MessageWindow::default(),
            others: MessageWindow::default(),
            hasher: RandomState::new(),
            text_bytes,
            most,
        }
    }

    pub(super) fn add(&mut self, entry: HistoryEntry) {
        let id_and_session = (&entry.id, &entry.session);
        let any = self.hasher.hash_one(id_and_session);
        if entry.publisher.is_none() {
            // The user's own command may report on a message that another user published.
            let is_news = entry.message.is_none() && !self.own.knows(any);
            let window = if is_news {
                &mut self.others
            } else {
                &mut self.own
            };
            window.add(entry, &[any], (self.text_bytes, self.most));
        } else {
            let key = self.hasher.hash_one((id_and_session, &entry.publisher));
            let limits = (self.text_bytes, self.most);
            self.others.add(entry, &[key, any], limits);
        }
    }

    /// What is held.
    pub(super) fn bytes(&self) -> usize {
        self.own.bytes() + self.others.bytes()
    }

    pub(super) fn into_conversation(self) -> Conversation {
        let older = self.own.older + self.others.older;
        let (mut own, mut others) = (self.own.messages, self.others.messages);
        let mut messages = Vec::with_capacity(own.len() + others.len());
        loop {
            let is_own_next = match (own.front(), others.front()) {
                (Some(one), Some(other)) => one.ts < other.ts,
                (one, _) => one.is_some(),
            };
            let kind = if is_own_next { &mut own } else { &mut others };
            match kind.pop_front() {
                Some(next) => messages.push(next),
                None => return Conversation { messages, older },
            }
        }
    }
}

impl MessageWindow {
    fn knows(&self, key: u64) -> bool {
        self.places.contains_key(&key)
    }

    /// Adds a message under these keys, or what became of the one that the first key stands for.
    fn add(&mut self, entry: HistoryEntry, keys: &[u64], limits: (usize, usize)) {
        let known = keys.first().and_then(|key| self.places.get(key));
        match (known, entry.message.is_some()) {
            (Some(place), _) => {
                if let Some(index) = place.checked_sub(self.older) {
                    self.messages[index].follow(entry);
                }
            }
            (None, true) => self.push(entry, keys, limits),
            (None, false) => {}
        }
    }

    fn push(&mut self, entry: HistoryEntry, keys: &[u64], (text_bytes, most): (usize, usize)) {
        let Some(mut message) = entry.message else {
            return;
        };
        message.cut_to(text_bytes);
        let place = self.older + self.messages.len();
        self.places.extend(keys.iter().map(|key| (*key, place)));
        let message = ConversationMessage {
            ts: entry.ts,
            id: entry.id,
            to: entry.session,
            publisher: entry.publisher,
            message,
            state: entry.event,
            detail: entry.detail,
        };
        self.bytes += bytes_of(&message);
        self.messages.push_back(message);
        if self.messages.len() > most
            && let Some(oldest) = self.messages.pop_front()
        {
            self.older += 1;
            self.bytes -= bytes_of(&oldest);
        }
    }

    fn bytes(&self) -> usize {
        self.bytes + self.places.capacity() * (size_of::<(u64, usize)>() + 1)
    }
}

/// What a message takes in memory, about; a change of its state does not count.
fn bytes_of(message: &ConversationMessage) -> usize {
    size_of::<ConversationMessage>() + message.id.len() + message.to.len() + message.message.bytes()
}

impl MessageText {
    fn bytes(&self) -> usize {
        let correlation_id = self.correlation_id.as_ref().map_or(0, String::len);
        self.from.len() + self.text.len() + correlation_id
    }

    /// Cuts the text to `bytes`.
    fn cut_to(&mut self, bytes: usize) {
        let end = self.text.floor_char_boundary(bytes);
        if end < self.text.len() {
            self.cut_from.get_or_insert(self.text.len());
            self.text.truncate(end);
            self.text.shrink_to_fit();
        }
    }
}
