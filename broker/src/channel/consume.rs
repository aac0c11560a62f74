//! Qos, consume, cancel, get, and direct reply-to. Relies on `queue` and, for replies, on `vhost`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Channel, FrameResult};
use crate::delivery::effects::Effects;
use crate::fault::{Fault, ReplyCode};
use crate::memory::{self, KindCharge};
use crate::persist::Stopped;
use crate::queue::consumer::{Consumer, Subscription};
use crate::queue::{GetMode, GetResult, Queue, SubscribeResult};
use crate::vhost::{REPLY_TO, REPLY_TO_PREFIX, ReplyConsumer};
use crate::wire::method::Consume;
use crate::wire::method_id::MethodId;
use crate::wire::reply;
use crate::wire::table::Table;

/// The number of consumers up to which cancelled ones are not removed.
const FEW_CONSUMERS: usize = 16;

/// A channel's consumer of direct replies.
#[derive(Debug)]
pub(super) struct ReplySubscription {
    /// It is part of the address to which others reply.
    pub(super) token: String,
    tag: Arc<str>,
    _charge: KindCharge,
}

/// What it takes in the tables of its vhost, besides its tag and its token.
const REPLIES_BYTES: usize = 512;

/// Refuses a consumer for which there is no memory. `source` is what it would consume from.
fn check_room(bytes: usize, source: &str) -> Result<(), Fault> {
    if memory::CONSUMERS.has_room(bytes) {
        return Ok(());
    }
    let what = format!("consume from queue '{source}'");
    let limit = memory::CONSUMERS.limit();
    Err(Fault::no_room(&what, "consumers", limit))
}

impl Channel {
    pub(super) fn qos(
        &mut self,
        size: u32,
        count: u16,
        global: bool,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        if size != 0 {
            return Err(Fault::connection(
                ReplyCode::NotImplemented,
                format!("prefetch_size!=0 ({size})"),
            ));
        }
        if global {
            self.ledger.set_limit(u32::from(count));
            self.pump_all(effects)?;
        } else {
            self.prefetch = u32::from(count);
            self.view.prefetch.store(self.prefetch, Relaxed);
        }
        self.send(effects, |out, channel| {
            reply::empty_method(out, channel, MethodId::BASIC_QOS_OK);
        });
        Ok(FrameResult::Done)
    }

    pub(super) fn consume(
        &mut self,
        consume: Consume<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        if consume.queue == REPLY_TO {
            return self.consume_replies(consume, effects);
        }
        let tag = self.consumer_tag(consume.consumer_tag)?;
        let queue = self.readable_queue(consume.queue)?;
        let arguments = decode(consume.arguments)?;
        let priority = priority(&arguments, &queue)?;
        let subscription = Subscription {
            tag: Arc::clone(&tag),
            framing: self.framing,
            outbox: Arc::clone(&self.outbox),
            ledger: Arc::clone(&self.ledger),
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            priority,
            prefetch: self.prefetch,
            arguments,
            wants_cancel: self.context.wants_cancel,
            connection: self.context.connection.id,
        };
        check_room(Consumer::footprint(&subscription), queue.name())?;
        let consumer = Arc::new(Consumer::new(subscription));
        let greet = |effects: &mut Effects| {
            if !consume.no_wait {
                self.send(effects, |out, channel| {
                    reply::consume_ok(out, channel, &tag);
                });
            }
        };
        let subscribed = queue.subscribe(&consumer, greet, effects);
        check_subscribed(&queue, subscribed.as_ref())?;
        self.forget_cancelled();
        // This applies also if the store has stopped, because the queue has the consumer.
        self.consumers
            .insert(tag, (Arc::clone(&queue), Arc::clone(&consumer)));
        self.view.consumers.store(
            u32::try_from(self.consumers.len()).unwrap_or(u32::MAX),
            Relaxed,
        );
        subscribed?;
        // The permission may have been withdrawn before the queue knew the consumer.
        super::access::check_read_queue(&self.context, queue.name())?;
        Ok(FrameResult::Done)
    }

    /// Removes consumers that the server has cancelled, once they may outnumber the others: each
    /// keeps its queue in memory, even a deleted one.
    fn forget_cancelled(&mut self) {
        if self.consumers.len() <= 2 * self.consumers_kept + FEW_CONSUMERS {
            return;
        }
        let is_left = |consumer: &Consumer| !consumer.is_cancelled();
        self.consumers.retain(|_, (_, consumer)| is_left(consumer));
        self.consumers_kept = self.consumers.len();
    }

    /// The tag that the client chose, or an unused one.
    fn consumer_tag(&self, asked: &str) -> Result<Arc<str>, Fault> {
        if asked.is_empty() {
            return Ok(format!("amq.ctag-{}", super::topology::random_name()).into());
        }
        let is_used = self
            .consumers
            .get(asked)
            .is_some_and(|(_, consumer)| !consumer.is_cancelled())
            || self
                .replies
                .as_ref()
                .is_some_and(|replies| *replies.tag == *asked);
        if is_used {
            return Err(Fault::connection(
                ReplyCode::NotAllowed,
                format!("attempt to reuse consumer tag '{asked}'"),
            ));
        }
        Ok(asked.into())
    }

    fn consume_replies(
        &mut self,
        consume: Consume<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let tag = self.consumer_tag(consume.consumer_tag)?;
        if self.replies.is_some() {
            return Err(Fault::precondition("reply consumer already set"));
        }
        if !consume.no_ack {
            return Err(Fault::precondition("reply consumer cannot acknowledge"));
        }
        let token = super::topology::random_name();
        let bytes = REPLIES_BYTES + tag.len() + 2 * token.len();
        check_room(bytes, REPLY_TO)?;
        let consumer = ReplyConsumer {
            tag: Arc::clone(&tag),
            framing: self.framing,
            outbox: Arc::clone(&self.outbox),
            ledger: Arc::clone(&self.ledger),
        };
        self.context.vhost.add_reply_consumer(&token, consumer);
        if !consume.no_wait {
            self.send(effects, |out, channel| {
                reply::consume_ok(out, channel, &tag);
            });
        }
        self.replies = Some(ReplySubscription {
            token,
            tag,
            _charge: memory::CONSUMERS.charge(bytes),
        });
        Ok(FrameResult::Done)
    }

    /// What a `reply-to` of [`REPLY_TO`] becomes; None for every other.
    pub(super) fn reply_address(&self, asked: Option<&[u8]>) -> Result<Option<String>, Fault> {
        if asked != Some(REPLY_TO.as_bytes()) {
            return Ok(None);
        }
        match &self.replies {
            Some(replies) => Ok(Some(format!("{REPLY_TO_PREFIX}{}", replies.token))),
            None => Err(Fault::precondition("fast reply consumer does not exist")),
        }
    }

    pub(super) fn cancel(
        &mut self,
        tag: &str,
        no_wait: bool,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        if let Some((queue, consumer)) = self.consumers.remove(tag) {
            queue.unsubscribe(&consumer, effects)?;
            self.view.consumers.store(
                u32::try_from(self.consumers.len()).unwrap_or(u32::MAX),
                Relaxed,
            );
        } else if let Some(replies) = self.replies.take_if(|replies| *replies.tag == *tag) {
            self.context.vhost.remove_reply_consumer(&replies.token);
        }
        if !no_wait {
            self.send(effects, |out, channel| reply::cancel_ok(out, channel, tag));
        }
        Ok(FrameResult::Done)
    }

    pub(super) fn get(
        &mut self,
        queue: &str,
        no_ack: bool,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        if self.outbox.refuses_deliveries() {
            // The client is gone, and the connection ends. The message stays for others.
            return Ok(FrameResult::Done);
        }
        let queue = self.readable_queue(queue)?;
        let mode = if no_ack {
            GetMode::Acked
        } else {
            GetMode::Unsettled
        };
        match queue.get(&self.ledger, mode, effects)? {
            GetResult::Empty => self.send(effects, reply::get_empty),
            GetResult::Unreadable => {
                let (name, vhost) = (queue.name(), queue.vhost());
                let reason = format!(
                    "the messages of queue '{name}' in vhost '{vhost}' cannot be read \
                     from the store"
                );
                return Err(Fault::channel(ReplyCode::InternalError, reason));
            }
            // Waiting would never end if this client has to settle first.
            GetResult::Held if self.context.connection.has_unsettled() => {
                let (name, vhost) = (queue.name(), queue.vhost());
                let reason = format!(
                    "no memory for more unsettled messages of queue '{name}' in vhost '{vhost}'"
                );
                return Err(Fault::precondition(reason));
            }
            // It may be this client that has to consume the letters.
            GetResult::HeldBack => {
                let (name, vhost) = (queue.name(), queue.vhost());
                let reason = format!(
                    "no memory for more dead letters of queue '{name}' in vhost '{vhost}': its \
                     messages are read when those are consumed"
                );
                return Err(Fault::precondition(reason));
            }
            GetResult::Loading | GetResult::Held => return Ok(FrameResult::Retry),
            GetResult::Delivery {
                tag,
                message,
                redelivered,
                left,
            } => {
                self.view.counters.got.add_alone(1);
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                self.outbox.add(effects, |frames| {
                    frames.get_ok(self.framing, (tag, redelivered), left, &message);
                });
            }
        }
        Ok(FrameResult::Done)
    }
}

/// Refuses a consumer that its queue has not added.
fn check_subscribed(
    queue: &Queue,
    subscribed: Result<&SubscribeResult, &Stopped>,
) -> Result<(), Fault> {
    let (name, vhost) = (queue.name(), queue.vhost());
    match subscribed {
        Ok(SubscribeResult::Gone) => Err(Fault::no_queue(name, vhost)),
        Ok(SubscribeResult::InExclusiveUse) => {
            let reason = format!("queue '{name}' in vhost '{vhost}' in exclusive use");
            Err(Fault::refused(reason))
        }
        Ok(SubscribeResult::Added) | Err(_) => Ok(()),
    }
}

/// A table of arguments, or 502.
pub(super) fn decode(raw: &[u8]) -> Result<Table, Fault> {
    Table::decode(raw).map_err(|error| Fault::connection(ReplyCode::SyntaxError, error.to_string()))
}

fn priority(arguments: &Table, queue: &Queue) -> Result<i32, Fault> {
    match arguments.get("x-priority") {
        None => Ok(0),
        Some(value) => {
            if let Some(priority) = value.as_integer() {
                Ok(i32::try_from(priority).unwrap_or(if priority < 0 {
                    i32::MIN
                } else {
                    i32::MAX
                }))
            } else {
                let place = format!("queue '{}' in vhost '{}'", queue.name(), queue.vhost());
                let reason = format!(
                    "invalid arg 'x-priority' for {place}: \"expected integer, got {}\"",
                    value.type_name()
                );
                Err(Fault::precondition(reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::used_underscore_binding,
        reason = "nothing else says what is charged"
    )]

    use super::*;
    use crate::channel::tests::{channel, receive};
    use crate::tests::opened;
    use crate::wire::frame;

    /// Each channel could keep one with a long tag that was on no account.
    #[tokio::test]
    async fn a_consumer_of_direct_replies_is_charged_as_others_are() {
        let (broker, _kept) = opened().await;
        let mut channel = channel(&broker);
        let consume = |tag: &[u8]| {
            let (from, length) = (REPLY_TO.as_bytes(), u8::try_from(tag.len()).unwrap_or(0));
            let start: [&[u8]; 3] = [&[0, 60, 0, 20, 0, 0, 21], from, &[length]];
            [&start.concat(), tag, &[2, 0, 0, 0, 0]].concat()
        };
        receive(&mut channel, frame::METHOD, &consume(&[b't'; 255]));
        let charged = channel
            .replies
            .as_ref()
            .map(|replies| replies._charge.bytes());
        let takes = 2 * size_of::<(String, ReplyConsumer)>() + 255;
        assert!(charged.is_some_and(|bytes| bytes >= takes), "{charged:?}");
        channel.close(&mut Effects::new(0));
        assert!(channel.replies.is_none());
        broker.store.clone().close().expect("the store is whole");
    }
}
