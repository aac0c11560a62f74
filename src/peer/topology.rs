//! Exchanges and queues of sessions: the same on every broker, and those of the TypeScript tool.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};

use super::{DeclareArguments, PeerError};
use crate::name::{GroupName, SessionName};

/// The direct exchange that every session's queue is bound to.
pub const EXCHANGE: &str = "claudeBroker";

/// The fanout exchange for presence: announcements and requests.
pub const PRESENCE_EXCHANGE: &str = "claudeBroker.presence";

/// The direct exchange that holds who belongs to which group: a member's queue is bound to it with
/// the group's name. Nothing is published to it, since each member gets a message of its own.
pub const GROUPS_EXCHANGE: &str = "claudeBroker.groups";

/// The exchanges for which the `user-id` of a message counts: receipts and answers come by the
/// default exchange, messages and requests by the other two. RabbitMQ's tag `impersonator` lets a
/// user publish under any name, and the embedded broker allows that on all other exchanges. So the
/// `user-id` of a message from another exchange, through a binding, proves nothing.
pub const BELIEVED_EXCHANGES: [&str; 3] = ["", EXCHANGE, PRESENCE_EXCHANGE];

/// The most messages that a queue holds. Beyond that, the oldest are dropped.
pub const MAX_LENGTH: u32 = 1000;

/// How many messages a session takes at once, unless its `--batch` is larger: enough for some
/// batches, and for an inbox worth reading, and few enough that the longest messages of anybody
/// take some 64 MiB of a session at most: of each, the text and two lines that hold or name it are
/// kept, and no values that are not used.
pub const SESSION_PREFETCH: u16 = 32;

/// How many messages a session may hold, unless others flood it: those of its own user in two
/// rounds of [`SESSION_PREFETCH`], and 128 of others that wait for the agent.
pub const SESSION_HOLDS: u32 = 192;

/// What a broker reports about a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueCounts {
    /// Messages that are ready, without those that a consumer has not settled.
    pub messages: u32,
    /// Sessions that are attached.
    pub consumers: u32,
}

impl QueueCounts {
    /// Whether one more message could make the broker drop the oldest.
    pub fn is_full(&self) -> bool {
        self.free_places(MAX_LENGTH) == 0
    }

    /// How many more messages fit until the broker could drop the oldest of a queue with this
    /// limit. This counts what attached sessions hold: it returns to the queue when they end, and
    /// the broker drops what is above the limit.
    pub fn free_places(&self, limit: u32) -> u32 {
        let held = self.consumers.saturating_mul(SESSION_HOLDS);
        let taken = self.messages.saturating_add(held.min(limit / 2));
        limit.saturating_sub(taken)
    }
}

pub(super) async fn queue_counts(
    channel: &Channel,
    queue: &SessionName,
) -> Result<QueueCounts, PeerError> {
    let options = QueueDeclareOptions::durable().passive();
    let queue = channel
        .queue_declare(queue.as_str().into(), options, FieldTable::default())
        .await?;
    Ok(QueueCounts {
        messages: queue.message_count(),
        consumers: queue.consumer_count(),
    })
}

/// Declares the exchange and the queue and binds them. Fails with [`PeerError::OtherArguments`] if
/// the queue exists with other arguments.
pub(super) async fn declare(
    channel: &Channel,
    queue: &SessionName,
    arguments: &DeclareArguments,
) -> Result<QueueCounts, PeerError> {
    declare_exchange(channel, EXCHANGE, ExchangeKind::Direct).await?;
    let state = declare_alone(channel, queue, arguments).await?;
    bind_existing(channel, queue).await?;
    Ok(state)
}

/// Declares the queue without its exchange and binding, which does not change an existing queue.
pub(super) async fn declare_alone(
    channel: &Channel,
    queue: &SessionName,
    arguments: &DeclareArguments,
) -> Result<QueueCounts, PeerError> {
    let options = QueueDeclareOptions::durable();
    let declared = channel
        .queue_declare(queue.as_str().into(), options, arguments.0.clone())
        .await?;
    Ok(QueueCounts {
        messages: declared.message_count(),
        consumers: declared.consumer_count(),
    })
}

/// Binds a queue that exists; its exchange may still be missing.
pub(super) async fn bind(channel: &Channel, queue: &SessionName) -> Result<(), PeerError> {
    declare_exchange(channel, EXCHANGE, ExchangeKind::Direct).await?;
    bind_existing(channel, queue).await
}

pub(super) async fn declare_presence(channel: &Channel) -> Result<(), PeerError> {
    declare_exchange(channel, PRESENCE_EXCHANGE, ExchangeKind::Fanout).await
}

/// Makes a queue that exists a member of a group, for as long as it lives.
pub(super) async fn join(
    channel: &Channel,
    queue: &SessionName,
    group: &GroupName,
) -> Result<(), PeerError> {
    declare_exchange(channel, GROUPS_EXCHANGE, ExchangeKind::Direct).await?;
    bind_by(channel, queue, GROUPS_EXCHANGE, group.as_str()).await
}

/// Undoes [`join`]; does nothing for a queue that is not a member.
pub(super) async fn leave(
    channel: &Channel,
    queue: &SessionName,
    group: &GroupName,
) -> Result<(), PeerError> {
    declare_exchange(channel, GROUPS_EXCHANGE, ExchangeKind::Direct).await?;
    let (name, exchange) = (queue.as_str().into(), GROUPS_EXCHANGE.into());
    let key = group.as_str().into();
    Ok(channel
        .queue_unbind(name, exchange, key, FieldTable::default())
        .await?)
}

async fn bind_existing(channel: &Channel, queue: &SessionName) -> Result<(), PeerError> {
    bind_by(channel, queue, EXCHANGE, queue.as_str()).await
}

async fn bind_by(
    channel: &Channel,
    queue: &SessionName,
    exchange: &str,
    key: &str,
) -> Result<(), PeerError> {
    let (name, exchange) = (queue.as_str().into(), exchange.into());
    let (key, options) = (key.into(), QueueBindOptions::default());
    Ok(channel
        .queue_bind(name, exchange, key, options, FieldTable::default())
        .await?)
}

async fn declare_exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
) -> Result<(), PeerError> {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    Ok(channel
        .exchange_declare(name.into(), kind, options, FieldTable::default())
        .await?)
}

/// The live TTL from the text of a 406, in the words of RabbitMQ and of our own broker.
pub(super) fn live_ttl_ms(text: &str) -> Option<u64> {
    let (_, after) = text.split_once("x-message-ttl")?;
    let (_, current) = after.split_once("but current is")?;
    let digits: String = current
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// The argument that differs, from the text of a 406.
pub(super) fn differing_argument(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("inequivalent arg '")?;
    let (argument, _) = after.split_once('\'')?;
    Some(argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_full_before_what_its_sessions_hold_could_push_anything_out() {
        let is_full = |messages, consumers| {
            let queue = QueueCounts {
                messages,
                consumers,
            };
            queue.is_full()
        };
        assert!(!is_full(MAX_LENGTH - 1, 0) && is_full(MAX_LENGTH, 0));
        let room = MAX_LENGTH - SESSION_HOLDS;
        assert!(!is_full(room - 1, 1) && is_full(room, 1));
        // Consumers that are not sessions do not hold messages that way.
        assert!(!is_full(MAX_LENGTH / 2 - 1, 100));
    }

    #[test]
    fn the_differing_argument_is_read_from_the_brokers_words() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' \
                    in vhost '/': received none but current is the value 'x' of type 'longstr'";
        assert_eq!(differing_argument(text), Some("x-dead-letter-exchange"));
        assert_eq!(differing_argument("PRECONDITION_FAILED"), None);
    }

    #[test]
    fn the_live_ttl_is_read_from_the_brokers_words() {
        let same = "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost \
                    '/': \
                    received '86400000' but current is '60000'";
        assert_eq!(live_ttl_ms(same), Some(60_000));
        let typed = "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q7' in \
                     vhost '/': received the value '1' of type 'long' but current is the value \
                     '60000' of type 'signedint'";
        assert_eq!(live_ttl_ms(typed), Some(60_000));
        let none = "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost \
                    '/': \
                    received the value '1' of type 'long' but current is none";
        assert_eq!(live_ttl_ms(none), None);
        assert_eq!(
            live_ttl_ms("inequivalent arg 'x-max-length': received '1' but current is '2'"),
            None
        );
    }
}
