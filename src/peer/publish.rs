//! Publishes with the broker's confirm. The message's properties repeat fields of the envelope.

use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};

use super::PeerError;
use super::topology::EXCHANGE;
use crate::envelope::Envelope;

/// The number of messages between a session's message and the person's prompt that led to it. Every
/// message from a session has this header, and no other message.
pub(super) const HOPS: &str = "cbroker-hops";

/// The queue that receives the recipient's receipts.
pub const RECEIPT_TO: &str = "cbroker-receipt-to";

/// Delivery timing (`send --when`); without it, the message becomes a turn of its own.
pub(super) const WHEN: &str = "cbroker-when";

const PERSISTENT: u8 = 2;

/// Delivery timing that the sender chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Between two tools of the running turn, where the agent can.
    Next,
    /// Like [`Self::Next`], and also after the person pressed Escape.
    Now,
}

impl When {
    const ALL: [Self; 2] = [Self::Next, Self::Now];

    /// The header's value.
    fn word(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Now => "now",
        }
    }

    /// Reads the header's value; `None` for any other value.
    pub(super) fn parse(word: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|when| when.word().as_bytes() == word)
    }
}

/// An envelope with its AMQP properties.
#[derive(Debug, Clone)]
pub struct Publication<'a> {
    /// What is sent; its `to` is the routing key.
    pub envelope: &'a Envelope,
    /// The broker drops the message if it waits longer than this (`send --ttl`).
    pub expires_ms: Option<u64>,
    /// From inside a session: 0 after a person spoke there, one more than the message that it
    /// answers otherwise. `None` from outside, where a person or a script sends.
    pub hops: Option<u32>,
    /// The queue for the recipient's receipts.
    pub receipt_to: Option<&'a str>,
    /// When it comes in; `None`: as a turn of its own.
    pub when: Option<When>,
}

impl<'a> Publication<'a> {
    /// A message that is not from a session, with only the envelope.
    pub fn plain(envelope: &'a Envelope) -> Self {
        Self {
            envelope,
            expires_ms: None,
            hops: None,
            receipt_to: None,
            when: None,
        }
    }
}

/// What a broker did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The broker confirmed it: it is on disk or already consumed.
    Confirmed,
    /// No queue of that name is bound; the message was not stored.
    Unroutable,
}

impl PublishOutcome {
    /// Why the broker returned the message, so that no queue has it; `None` where it took it.
    pub fn why_returned(self) -> Option<&'static str> {
        match self {
            Self::Confirmed => None,
            Self::Unroutable => Some("no queue accepts it"),
        }
    }
}

impl Publication<'_> {
    pub(super) fn properties(&self) -> BasicProperties {
        let envelope = self.envelope;
        let mut headers = FieldTable::default();
        if let Some(hops) = self.hops {
            headers.insert(
                HOPS.into(),
                AMQPValue::LongInt(i32::try_from(hops).unwrap_or(i32::MAX)),
            );
        }
        if let Some(queue) = self.receipt_to {
            headers.insert(RECEIPT_TO.into(), AMQPValue::LongString(queue.into()));
        }
        if let Some(when) = self.when {
            headers.insert(WHEN.into(), AMQPValue::LongString(when.word().into()));
        }
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(envelope.id.as_str().into());
        if let Some(at) = envelope.sent() {
            properties =
                properties.with_timestamp(u64::try_from(at.timestamp()).unwrap_or_default());
        }
        if let Some(id) = &envelope.correlation_id {
            properties = properties.with_correlation_id(id.as_str().into());
        }
        if let Some(name) = &envelope.reply_to {
            properties = properties.with_reply_to(name.as_str().into());
        }
        if let Some(priority) = envelope.priority {
            properties = properties.with_priority(priority.number());
        }
        if let Some(expires_ms) = self.expires_ms {
            properties = properties.with_expiration(expires_ms.to_string().into());
        }
        if !headers.inner().is_empty() {
            properties = properties.with_headers(headers);
        }
        properties
    }
}

pub(super) async fn confirmed(
    channel: &Channel,
    routing_key: &str,
    body: &[u8],
    properties: BasicProperties,
    within: Duration,
) -> Result<PublishOutcome, PeerError> {
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    let publishing = async {
        let promise = channel
            .basic_publish(
                EXCHANGE.into(),
                routing_key.into(),
                options,
                body,
                properties,
            )
            .await?;
        promise.await
    };
    match tokio::time::timeout(within, publishing).await {
        Ok(Ok(Confirmation::Ack(None) | Confirmation::NotRequested)) => {
            Ok(PublishOutcome::Confirmed)
        }
        Ok(Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))) => {
            Ok(PublishOutcome::Unroutable)
        }
        Ok(Ok(Confirmation::Nack(None))) => Err(PeerError::NotAccepted),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(PeerError::TimedOut(within.as_secs())),
    }
}

/// Publishes straight to one queue without waiting for a confirm: receipts, presence, answers to
/// questions. `user` is the user of the connection: the broker refuses any other, so a reader may
/// rely on it.
pub(super) async fn to_queue(
    channel: &Channel,
    queue: &str,
    body: &[u8],
    user: &str,
) -> Result<(), PeerError> {
    let properties = BasicProperties::default().with_user_id(user.into());
    plain(channel, "", queue, body, properties).await
}

pub(super) async fn plain(
    channel: &Channel,
    exchange: &str,
    routing_key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), PeerError> {
    let properties = properties.with_content_type("application/json".into());
    let options = BasicPublishOptions::default();
    let promise = channel
        .basic_publish(
            exchange.into(),
            routing_key.into(),
            options,
            body,
            properties,
        )
        .await?;
    promise.await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn when_a_message_comes_in_travels_in_a_header_and_is_read_again() {
        let body =
            r#"{"id":"a","from":"a","to":"b","ts":"2026-01-01T00:00:00.000Z","message":"x"}"#;
        let envelope = Envelope::parse(body.as_bytes(), 1 << 20).unwrap();
        for when in [None, Some(When::Next), Some(When::Now)] {
            let publication = Publication {
                when,
                ..Publication::plain(&envelope)
            };
            let properties = publication.properties();
            let headers = properties.headers().clone().unwrap_or_default();
            let read = match headers.inner().get(WHEN) {
                Some(AMQPValue::LongString(word)) => When::parse(word.as_bytes()),
                _ => None,
            };
            assert_eq!(read, when);
        }
        assert_eq!(When::parse(b"later"), None);
    }
}
