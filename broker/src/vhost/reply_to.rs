//! Direct reply-to: consumers that have no queue, found by the token in their reply address. Relies on `outbox` and
//! `ledger`.

use std::sync::Arc;

use super::Vhost;
use crate::ledger::{Ledger, Open};
use crate::lock::lock;
use crate::outbox::Outbox;
use crate::queue::message::Message;
use crate::turn::Turn;
use crate::wire::content::Lane;

/// The name that a client consumes from and puts into `reply-to`.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// What the server makes of it; a token follows.
pub(crate) const REPLY_TO_PREFIX: &str = "amq.rabbitmq.reply-to.";

/// A channel's consumer for direct replies.
#[derive(Debug, Clone)]
pub(crate) struct ReplyConsumer {
    pub(crate) tag: Arc<str>,
    pub(crate) lane: Lane,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Vhost {
    pub(crate) fn add_reply_consumer(&self, token: &str, consumer: ReplyConsumer) {
        lock(&self.replies).insert(token.into(), consumer);
    }

    pub(crate) fn remove_reply_consumer(&self, token: &str) {
        lock(&self.replies).remove(token);
    }

    /// True when somebody waits at this address.
    pub(crate) fn has_reply_consumer(&self, address: &str) -> bool {
        address
            .strip_prefix(REPLY_TO_PREFIX)
            .is_some_and(|token| lock(&self.replies).contains_key(token))
    }

    /// Hands a reply to the consumer whose address is the routing key; false when there is none, or when it has taken so
    /// little of what it was sent that its connection is cut.
    pub(crate) fn reply(&self, address: &str, message: &Message, turn: &mut Turn) -> bool {
        let Some(token) = address.strip_prefix(REPLY_TO_PREFIX) else {
            return false;
        };
        let Some(consumer) = lock(&self.replies).get(token).cloned() else {
            return false;
        };
        if !consumer.outbox.admits_others() {
            return false;
        }
        consumer.ledger.opening(|open: &mut Open| {
            let tags = (consumer.tag.as_bytes(), open.skip());
            consumer.outbox.add(turn, |frames| {
                frames.deliver(consumer.lane, tags, false, message);
            });
        });
        true
    }
}
