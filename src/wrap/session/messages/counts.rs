//! Counts the messages of other users, and limits how many of each user wait for the agent: one
//! user's messages leave room for those of another.
//!
//! Relies on the table of messages.

use std::collections::HashMap;

use crate::peer::{SESSION_HOLDS, SESSION_PREFETCH};
use crate::wrap::delivery::MessageTable;
use crate::wrap::seen::Publisher;

/// The limit for messages of all other users that wait for the agent. The last message may exceed
/// the limit of bytes, here and below.
const OF_OTHERS: Share = Share {
    messages: 128,
    bytes: 16 << 20,
};
/// The limit for messages of one other user.
const OF_ONE: Share = Share {
    messages: OF_OTHERS.messages / 2,
    bytes: OF_OTHERS.bytes / 2,
};
/// The limit for messages of one other user once [`OF_OTHERS`] is used up.
const RESERVED: Share = Share {
    messages: 8,
    bytes: 1 << 20,
};
// `send` relies on this.
const _: () = assert!(OF_OTHERS.messages + 2 * SESSION_PREFETCH as usize == SESSION_HOLDS as usize);

/// A number of messages, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Share {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    /// Whether one more message fits.
    fn is_below(self, limit: Self) -> bool {
        self.messages < limit.messages && self.bytes < limit.bytes
    }
}

/// Messages of other users, counted for all and for each of them.
#[derive(Debug, Default)]
pub(super) struct Counts<'a> {
    pub(super) all: Share,
    /// By the publisher's mark.
    of_each: HashMap<Option<&'a str>, Share>,
}

impl<'a> Counts<'a> {
    pub(super) fn add(&mut self, publisher: &'a Publisher, bytes: usize) {
        self.all.add(bytes);
        self.of_each.entry(publisher.mark()).or_default().add(bytes);
    }

    /// The messages of this user.
    pub(super) fn of(&self, publisher: &Publisher) -> Share {
        let found = self.of_each.get(&publisher.mark());
        found.copied().unwrap_or_default()
    }

    /// The highest value of this measure among the users.
    pub(super) fn most(&self, measure: impl Fn(Share) -> usize) -> Option<usize> {
        self.of_each.values().copied().map(measure).max()
    }

    /// Counts the messages of other users in the table, which wait for the agent.
    pub(super) fn of_table(table: &'a MessageTable) -> Self {
        let mut counts = Self::default();
        let others = table
            .iter()
            .filter(|(_, message)| message.publisher != Publisher::Own);
        for (_, message) in others {
            counts.add(&message.publisher, message.bytes());
        }
        counts
    }

    /// Whether one more message of this user may wait for the agent beside these.
    pub(super) fn have_room_for(&self, publisher: &Publisher) -> bool {
        let of_one = self.of(publisher);
        let is_within = of_one.is_below(OF_ONE) && self.all.is_below(OF_OTHERS);
        is_within || of_one.is_below(RESERVED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many messages of `bytes` as this user may have, beside those that wait already.
    fn fill<'a>(waiting: &mut Counts<'a>, publisher: &'a Publisher, bytes: usize) -> usize {
        let before = waiting.of(publisher).messages;
        while waiting.have_room_for(publisher) {
            waiting.add(publisher, bytes);
        }
        waiting.of(publisher).messages - before
    }

    #[test]
    fn one_user_or_two_leave_room_for_a_third() {
        let users = ["alice", "bob", "carol", "dave"].map(Publisher::other);
        let mut waiting = Counts::default();
        assert_eq!(fill(&mut waiting, &users[0], 1), 64, "half of it");
        assert_eq!(fill(&mut waiting, &users[1], 1), 64, "the other half");
        for late in [&users[2], &users[3], &Publisher::Unnamed] {
            assert_eq!(fill(&mut waiting, late, 1), 8, "what is reserved for each");
        }
    }

    #[test]
    fn long_texts_of_one_user_leave_room_for_another() {
        let (alice, bob) = (Publisher::other("alice"), Publisher::other("bob"));
        let mut waiting = Counts::default();
        assert_eq!(fill(&mut waiting, &alice, 1 << 20), 8);
        assert_eq!(fill(&mut waiting, &bob, 1 << 20), 8);
        assert_eq!(fill(&mut waiting, &Publisher::Unnamed, 1 << 20), 1);
    }
}
