//! Direct reply-to: consumers without a queue, found by the token in their reply address. Depends
//! on `outbox` and `ledger`.

use std::sync::Arc;

use super::Vhost;
use crate::delivery::effects::Effects;
use crate::delivery::ledger::{Ledger, OpenDeliveries};
use crate::delivery::outbox::Outbox;
use crate::lock::lock;
use crate::queue::message::Message;
use crate::wire::content::ChannelFraming;

/// The queue name that a client consumes from and puts into `reply-to`.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// The prefix of the address that the server puts in its place; a token follows.
pub(crate) const REPLY_TO_PREFIX: &str = "amq.rabbitmq.reply-to.";

/// A channel's consumer for direct replies.
#[derive(Debug, Clone)]
pub(crate) struct ReplyConsumer {
    pub(crate) tag: Arc<str>,
    pub(crate) framing: ChannelFraming,
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

    /// Whether a consumer is registered for this address.
    pub(crate) fn has_reply_consumer(&self, address: &str) -> bool {
        address
            .strip_prefix(REPLY_TO_PREFIX)
            .is_some_and(|token| lock(&self.replies).contains_key(token))
    }

    /// Sends a reply to the consumer whose address is the routing key. Returns false if there is
    /// none, or if its outbox is so full that it accepts nothing from other connections.
    pub(crate) fn reply(&self, address: &str, message: &Message, effects: &mut Effects) -> bool {
        let Some(token) = address.strip_prefix(REPLY_TO_PREFIX) else {
            return false;
        };
        let Some(consumer) = lock(&self.replies).get(token).cloned() else {
            return false;
        };
        if !consumer.outbox.admits_others() {
            return false;
        }
        consumer
            .ledger
            .with_deliveries(|deliveries: &mut OpenDeliveries| {
                let tags = (consumer.tag.as_bytes(), deliveries.next_tag());
                consumer.outbox.add(effects, |frames| {
                    frames.deliver(consumer.framing, tags, false, message);
                });
            });
        true
    }
}
