//! Messages that come with the management API, not by a channel. Depends on `routing`.

use super::{QueueRoute, Vhost};
use crate::delivery::effects::Effects;
use crate::fault::Fault;
use crate::queue::dead_letter::Spread;
use crate::queue::message::{Message, MessageFacts};
use crate::queue::{ConfirmMode, PublishResult};
use crate::wire::content::MessageContent;
use crate::wire::properties::Properties;
use crate::wire::table::Table;

impl Vhost {
    /// Publishes a message that did not come by a channel. Returns true if a queue accepted it.
    pub(crate) fn publish(
        &self,
        content: Published<'_>,
        effects: &mut Effects,
    ) -> Result<bool, Fault> {
        let properties = Properties::scan(content.properties)
            .map_err(|error| Fault::precondition(error.to_string()))?;
        let headers = properties.headers.and_then(|raw| Table::decode(raw).ok());
        let route = self
            .route(
                content.exchange,
                &[content.routing_key.as_bytes()],
                headers.as_ref(),
            )
            .ok_or_else(|| Fault::no_exchange(content.exchange, self.name()))?;
        effects.spend(route.steps);
        route.check_whole()?;
        let facts = MessageFacts {
            persistent: properties.delivery_mode == Some(2),
            priority: properties.priority.unwrap_or(0),
            published_ms: effects.now_ms,
            ttl_ms: properties
                .expiration
                .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()),
            spread: Spread::NONE,
        };
        let message = Message::assemble(content.wire(), facts);
        deliver_to(&route, &message, effects)
    }
}

/// A message from outside the AMQP protocol.
#[derive(Debug, Clone, Copy)]
pub struct Published<'a> {
    /// The exchange.
    pub exchange: &'a str,
    /// The routing key.
    pub routing_key: &'a str,
    /// Encoded property flags and values.
    pub properties: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

impl<'a> Published<'a> {
    /// The message as it goes on the wire.
    pub(crate) fn wire(&self) -> MessageContent<'a> {
        MessageContent {
            exchange: self.exchange.as_bytes(),
            routing_key: self.routing_key.as_bytes(),
            properties: self.properties,
            body: self.body,
        }
    }
}

fn deliver_to(route: &QueueRoute, message: &Message, effects: &mut Effects) -> Result<bool, Fault> {
    let mut was_taken = false;
    effects.count(&route.counters, route.queues.len());
    for queue in &route.queues {
        was_taken |= !matches!(
            queue.publish(message, ConfirmMode::Nothing, effects)?,
            PublishResult::Gone | PublishResult::Refused
        );
    }
    Ok(was_taken)
}
