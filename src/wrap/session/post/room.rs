//! Room for the messages of the session's own user, whatever others have sent.
//!
//! What is held stays unacked, and a broker hands out only so many unacked messages. Those of other
//! users must not use that up: once they are half of it, the session asks for as many again. They
//! are bounded in number and bytes, and beyond that the oldest become dead letters.
//!
//! Relies on the table of messages.

use super::{MessageKey, Session};
use crate::peer::SESSION_PREFETCH;

/// So many held messages of others a session has at most.
const HELD_OF_OTHERS: usize = 256;
/// So many bytes they have at most.
const HELD_BYTES: usize = 16 << 20;
/// As many of those that the broker handed out since it was last asked for more are the reason to
/// ask again.
const IN_THE_WAY: usize = SESSION_PREFETCH as usize / 2;
const TOO_MANY: &str = "too many messages of other users are held";

impl Session {
    /// Keeps what is held of others from stopping the own user's messages.
    pub(in crate::wrap::session) fn make_room(&mut self) {
        let messages = self.deliveries.table.iter();
        let held = messages.filter(|(_, message)| message.is_held_of_others());
        let before = self.post.handed_out_before;
        let mut in_the_way = 0;
        let held: Vec<_> = held
            .map(|(key, message)| {
                if key > before {
                    in_the_way += message.deliveries();
                }
                (key, message.bytes())
            })
            .collect();
        if in_the_way >= IN_THE_WAY
            && let Some(inbox) = &self.post.parts.inbox
        {
            inbox.ask_for_more();
            self.post.handed_out_before = self.deliveries.table.last_key();
        }
        for key in beyond_the_limits(&held) {
            if let Some(message) = self.deliveries.displace(key) {
                self.dead_letter_in_flight(key, message, TOO_MANY);
            }
        }
    }
}

/// The oldest of these messages, as many as are too much.
fn beyond_the_limits(held: &[(MessageKey, usize)]) -> impl Iterator<Item = MessageKey> {
    let mut bytes = 0;
    let kept = held
        .iter()
        .rev()
        .take(HELD_OF_OTHERS)
        .take_while(|(_, more)| {
            bytes += more;
            bytes <= HELD_BYTES
        });
    let too_many = held.len() - kept.count();
    held[..too_many].iter().map(|(key, _)| *key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(held: &[usize]) -> Vec<u64> {
        let keys = (1..).map(MessageKey);
        let held: Vec<_> = keys.zip(held.iter().copied()).collect();
        beyond_the_limits(&held).map(|key| key.0).collect()
    }

    #[test]
    fn the_oldest_go_where_they_are_too_many() {
        assert_eq!(go(&[]), Vec::<u64>::new());
        assert_eq!(go(&[100; 256]), Vec::<u64>::new());
        assert_eq!(go(&[100; 258]), [1, 2]);
    }

    #[test]
    fn the_oldest_go_where_they_are_too_long() {
        assert_eq!(go(&[1, 8 << 20, 8 << 20]), [1]);
        assert_eq!(go(&[1, 8 << 20, 7 << 20]), Vec::<u64>::new());
        assert_eq!(go(&[HELD_BYTES, 1]), [1]);
    }
}
