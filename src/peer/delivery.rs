//! One message as the broker delivered it, and how it is settled: acked, returned or rejected.

use lapin::options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, BasicProperties};

use super::presence::X_DEATH;
use super::publish::{HOPS, RECEIPT_TO, WHEN, When};
use super::receipt::Receipt;
use super::topology::{BELIEVED_EXCHANGES, EXCHANGE};
use super::{answered, presence};

/// The length of the longest header that cbroker sets: the name of a queue.
const LONGEST_HEADER: usize = 64;

/// A delivered message, to be settled once. If it is dropped unsettled, the broker delivers it
/// again after the connection has ended.
#[derive(Debug)]
pub struct ReceivedMessage {
    /// The bytes of the body, unchecked.
    pub body: Vec<u8>,
    properties: BasicProperties,
    acker: Acker,
    /// The message was published to another session or exchange, and came through an additional
    /// binding.
    is_copy: bool,
    /// The broker confirms that the user of this connection published it to this session.
    is_of_own_user: bool,
    /// The broker has delivered it before, to this session or another.
    is_redelivered: bool,
    /// How it is settled if it does not reach the agent.
    dismissal: Dismissal,
    /// The round in which the broker delivered it: see [`Self::round`].
    round: u32,
}

/// How a message that does not reach the agent is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dismissal {
    /// It is rejected.
    Reject,
    /// It is acked, because its `x-death` says that this queue has rejected it before: one that the
    /// queue's dead-letter exchange returns would otherwise return for ever. A publisher can write
    /// this too, and brokers do not prevent it.
    Ack,
}

impl Dismissal {
    fn of(properties: &BasicProperties, queue: &str) -> Self {
        let headers = properties.headers().as_ref().map(FieldTable::inner);
        let deaths = match headers.and_then(|headers| headers.get(X_DEATH)) {
            Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice(),
            _ => &[],
        };
        let says = |death: &FieldTable, field: &str, value: &str| match death.inner().get(field) {
            Some(AMQPValue::LongString(text)) => text.as_bytes() == value.as_bytes(),
            _ => false,
        };
        let was_here = |death: &AMQPValue| match death {
            AMQPValue::FieldTable(death) => {
                says(death, "queue", queue) && says(death, "reason", "rejected")
            }
            _ => false,
        };
        if deaths.iter().any(was_here) {
            Self::Ack
        } else {
            Self::Reject
        }
    }
}

/// Whether the settlement reached the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettleResult {
    /// It was sent to the broker.
    Sent,
    /// The connection of the delivery is closed: the broker will deliver the message again.
    Gone,
}

impl ReceivedMessage {
    fn new(queue: &str, delivery: lapin::message::Delivery) -> Self {
        Self {
            dismissal: Dismissal::of(&delivery.properties, queue),
            body: delivery.data,
            properties: delivery.properties,
            acker: delivery.acker,
            is_copy: false,
            is_of_own_user: false,
            is_redelivered: delivery.redelivered,
            round: 0,
        }
    }

    /// Returns this message as one of another round.
    pub(super) fn in_round(self, round: u32) -> Self {
        Self { round, ..self }
    }

    /// A message to the session of this name and user. A copy that was published to another session
    /// and came through an additional binding has no known publisher.
    pub(super) fn to_session(user: &str, name: &str, delivery: lapin::message::Delivery) -> Self {
        let is_to_us = delivery.routing_key.as_str() == name;
        let is_of_own_user = is_to_us && presence::is_from(&delivery, user, EXCHANGE);
        Self {
            is_copy: !(is_to_us && delivery.exchange.as_str() == EXCHANGE),
            is_of_own_user,
            ..Self::new(name, delivery)
        }
    }

    /// A message to a queue for answers and receipts. One that came through an additional binding,
    /// by another exchange or key than these use, has no known publisher.
    pub(super) fn to_queue(queue: &str, delivery: lapin::message::Delivery) -> Self {
        let is_believed = BELIEVED_EXCHANGES.contains(&delivery.exchange.as_str());
        Self {
            is_copy: !(is_believed && delivery.routing_key.as_str() == queue),
            ..Self::new(queue, delivery)
        }
    }

    /// Takes the body, and drops all properties that are not needed while the message waits, so
    /// that they take no memory.
    pub fn take_body(&mut self) -> Vec<u8> {
        self.properties = needed_properties(&self.properties);
        std::mem::take(&mut self.body)
    }

    /// Acks the message.
    pub async fn ack(&self) -> SettleResult {
        settled(self.acker.ack(BasicAckOptions::default())).await
    }

    /// Rejects the message, which did not reach the agent: observers of the broker see that it was
    /// not delivered.
    pub async fn reject(&self) -> SettleResult {
        match self.dismissal {
            Dismissal::Reject => {
                let forever = BasicRejectOptions { requeue: false };
                settled(self.acker.reject(forever)).await
            }
            Dismissal::Ack => self.ack().await,
        }
    }

    /// Requeues the message at its place, to be delivered again.
    pub async fn requeue(&self) -> SettleResult {
        let back = BasicNackOptions {
            multiple: false,
            requeue: true,
        };
        settled(self.acker.nack(back)).await
    }

    /// The number of session messages that led to this one; `None` if it does not come from a
    /// session of cbroker.
    pub fn hops(&self) -> Option<u32> {
        let number = match self.header(HOPS)? {
            AMQPValue::LongInt(n) => i64::from(*n),
            AMQPValue::LongLongInt(n) => *n,
            AMQPValue::ShortInt(n) => i64::from(*n),
            AMQPValue::ShortShortInt(n) => i64::from(*n),
            AMQPValue::LongUInt(n) => i64::from(*n),
            AMQPValue::ShortUInt(n) => i64::from(*n),
            AMQPValue::ShortShortUInt(n) => i64::from(*n),
            _ => 0,
        };
        Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
    }

    /// The queue that wants receipts. Only a queue of the kind that cbroker makes for them: a
    /// header must not make us publish into another session. Only for a message of our own user: a
    /// receipt names an id and counts because of this user, so another user who knows an id could
    /// otherwise cause a false receipt.
    pub fn receipt_to(&self) -> Option<&str> {
        if !self.is_of_own_user {
            return None;
        }
        let Some(AMQPValue::LongString(queue)) = self.header(RECEIPT_TO) else {
            return None;
        };
        let queue = std::str::from_utf8(queue.as_bytes()).ok()?;
        Receipt::may_go_to(queue).then_some(queue)
    }

    /// When to deliver it, if its sender chose that.
    pub fn when(&self) -> Option<When> {
        match self.header(WHEN)? {
            AMQPValue::LongString(word) => When::parse(word.as_bytes()),
            _ => None,
        }
    }

    /// The round in which an [`Inbox`](super::Inbox) received this. A round ends when the inbox
    /// asks for more; the prefetch applies to each round.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Whether the broker authenticates this session's own user as its publisher, to this session.
    pub fn is_of_own_user(&self) -> bool {
        self.is_of_own_user
    }

    /// Whether the broker has delivered it before.
    pub fn is_redelivered(&self) -> bool {
        self.is_redelivered
    }

    /// The user who published it, as the broker confirms. `None` for a copy that was published to
    /// another session.
    pub fn user(&self) -> Option<&str> {
        presence::vouched_user(&self.properties).filter(|_| !self.is_copy)
    }

    /// The properties for publishing to another broker, where `user` is logged in. A message of the
    /// own user carries `user`; any other carries no user, because the other broker cannot confirm
    /// it.
    pub(super) fn forwardable(&self, user: &str) -> BasicProperties {
        let properties = without_user(&self.properties);
        if self.is_of_own_user {
            properties.with_user_id(user.into())
        } else {
            properties
        }
    }

    fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }
}

async fn settled(asking: impl Future<Output = lapin::Result<bool>>) -> SettleResult {
    match answered(asking).await {
        Ok(true) => SettleResult::Sent,
        Ok(false) | Err(_) => SettleResult::Gone,
    }
}

/// The user, and the headers that this module reads. Of a header that is longer than any of
/// cbroker's, only its existence is kept.
fn needed_properties(from: &BasicProperties) -> BasicProperties {
    let mut headers = FieldTable::default();
    let known = from.headers().as_ref().map(FieldTable::inner);
    for name in [HOPS, RECEIPT_TO, WHEN, X_DEATH] {
        if let Some(value) = known.and_then(|known| known.get(name)) {
            headers.insert(name.into(), brief_value(value));
        }
    }
    let brief = BasicProperties::default().with_headers(headers);
    match from.user_id() {
        Some(user) => brief.with_user_id(user.clone()),
        None => brief,
    }
}

fn brief_value(value: &AMQPValue) -> AMQPValue {
    match value {
        AMQPValue::LongString(text) if text.len() <= LONGEST_HEADER => value.clone(),
        AMQPValue::LongString(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_) => AMQPValue::Void,
        _ => value.clone(),
    }
}

/// lapin's properties can only be set, so a copy takes all but the user.
fn without_user(from: &BasicProperties) -> BasicProperties {
    macro_rules! copied {
        ($($get:ident => $set:ident),+) => {{
            let mut to = BasicProperties::default();
            $(if let Some(value) = from.$get().clone() { to = to.$set(value); })+
            to
        }};
    }
    copied!(content_type => with_content_type, content_encoding => with_content_encoding,
        headers => with_headers, delivery_mode => with_delivery_mode, priority => with_priority,
        correlation_id => with_correlation_id,
        reply_to => with_reply_to, expiration => with_expiration, message_id => with_message_id,
        timestamp => with_timestamp, kind => with_type, app_id => with_app_id,
        cluster_id => with_cluster_id)
}
