//! Limits how many messages of other users a session holds, so that its own user's messages always
//! get in.
//!
//! Held messages stay unacked, and the prefetch limits the number of unacked messages. Once held
//! messages of other users fill half of the prefetch, the session asks for more. Their number and
//! bytes are limited; beyond the limits the oldest become dead letters.
//!
//! Relies on the table of messages.

use super::{MessageKey, Session};
use crate::peer::SESSION_PREFETCH;

/// Maximum number of held messages of other users.
const MAX_HELD: usize = 256;
/// Maximum bytes of held messages of other users.
const MAX_HELD_BYTES: usize = 16 << 20;
/// Number of such messages since the last request for more that triggers the next request.
const REQUEST_MORE_AT: usize = SESSION_PREFETCH as usize / 2;
const TOO_MANY: &str = "too many messages of other users are held";

impl Session {
    /// Enforces the limits on held messages of other users.
    pub(in crate::wrap::session) fn enforce_held_limits(&mut self) {
        let messages = self.deliveries.table.iter();
        let held = messages.filter(|(_, message)| message.is_held_of_others());
        let before = self.messages.handed_out_before;
        let mut since_request = 0;
        let held: Vec<_> = held
            .map(|(key, message)| {
                if key > before {
                    since_request += message.deliveries();
                }
                (key, message.bytes())
            })
            .collect();
        if since_request >= REQUEST_MORE_AT
            && let Some(inbox) = &self.messages.parts.inbox
        {
            inbox.ask_for_more();
            self.messages.handed_out_before = self.deliveries.table.last_key();
        }
        for key in exceeding_the_limits(&held) {
            if let Some(message) = self.deliveries.displace(key) {
                self.dead_letter_in_flight(key, message, TOO_MANY);
            }
        }
    }
}

/// The oldest of these messages, as many as exceed the limits.
fn exceeding_the_limits(held: &[(MessageKey, usize)]) -> impl Iterator<Item = MessageKey> {
    let mut bytes = 0;
    let kept = held.iter().rev().take(MAX_HELD).take_while(|(_, more)| {
        bytes += more;
        bytes <= MAX_HELD_BYTES
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
        exceeding_the_limits(&held).map(|key| key.0).collect()
    }

    #[test]
    fn the_oldest_exceed_a_limit_of_messages() {
        assert_eq!(go(&[]), Vec::<u64>::new());
        assert_eq!(go(&[100; 256]), Vec::<u64>::new());
        assert_eq!(go(&[100; 258]), [1, 2]);
    }

    #[test]
    fn the_oldest_exceed_a_limit_of_bytes() {
        assert_eq!(go(&[1, 8 << 20, 8 << 20]), [1]);
        assert_eq!(go(&[1, 8 << 20, 7 << 20]), Vec::<u64>::new());
        assert_eq!(go(&[MAX_HELD_BYTES, 1]), [1]);
    }
}
