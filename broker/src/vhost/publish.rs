//! Messages that come with the management API, not by a channel. Depends on `routing`.

use std::sync::Arc;

use super::Vhost;
use crate::delivery::effects::Effects;
use crate::fault::Fault;
use crate::queue::dead_letter::Spread;
use crate::queue::message::{Message, MessageFacts};
use crate::queue::{ConfirmMode, PublishResult, Queue};
use crate::wire::content::MessageContent;
use crate::wire::properties::Properties;
use crate::wire::table::Table;

/// What one of many queues costs, in steps: it wakes a writer of its own.
pub(crate) const ONE_OF_MANY_STEPS: u32 = 4;
/// Bytes of a body that are copied for the store of one of many queues for one step.
const COPIED_A_STEP: usize = 4096;

/// The steps that the copy takes which the store of one of many queues gets.
pub(crate) fn copy_steps(queue: &Queue, message: &Message) -> u32 {
    if queue.store().is_none() || !message.is_persistent() {
        return 0;
    }
    let steps = message.body_len() / COPIED_A_STEP;
    u32::try_from(steps).unwrap_or(u32::MAX)
}

/// A message from outside the AMQP protocol on its way to its queues.
#[derive(Debug)]
pub(crate) struct RoutedPublish {
    message: Message,
    queues: Vec<Arc<Queue>>,
    /// The first queue that has not been offered the message.
    next: usize,
    was_taken: bool,
}

impl RoutedPublish {
    /// Offers the message to its next queues, at least to one, until `must_pause`. True when all
    /// have been offered it.
    pub(crate) fn offer(
        &mut self,
        must_pause: impl Fn(&Effects) -> bool,
        effects: &mut Effects,
    ) -> Result<bool, Fault> {
        let (is_alone, first) = (self.queues.len() == 1, self.next);
        while let Some(queue) = self.queues.get(self.next) {
            if self.next > first && must_pause(effects) {
                return Ok(false);
            }
            self.next += 1;
            let outcome = queue.publish(&self.message, ConfirmMode::Nothing, effects)?;
            if !is_alone {
                effects.spend(copy_steps(queue, &self.message).saturating_add(ONE_OF_MANY_STEPS));
            }
            self.was_taken |= !matches!(outcome, PublishResult::Gone | PublishResult::Refused);
        }
        Ok(true)
    }

    /// Whether a queue accepted it.
    pub(crate) fn was_taken(&self) -> bool {
        self.was_taken
    }
}

impl Vhost {
    /// Finds the queues of a message that did not come by a channel.
    pub(crate) fn route_publish(
        &self,
        content: Published<'_>,
        effects: &mut Effects,
    ) -> Result<RoutedPublish, Fault> {
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
        effects.count(&route.counters, route.queues.len());
        let facts = MessageFacts {
            persistent: properties.delivery_mode == Some(2),
            priority: properties.priority.unwrap_or(0),
            published_ms: effects.now_ms,
            ttl_ms: properties
                .expiration
                .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()),
            spread: Spread::NONE,
        };
        Ok(RoutedPublish {
            message: Message::assemble(content.wire(), facts),
            queues: route.queues,
            next: 0,
            was_taken: false,
        })
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

#[cfg(test)]
impl Vhost {
    /// Publishes a message to all of its queues at once. Returns true if one accepted it.
    pub(crate) fn publish(
        &self,
        content: Published<'_>,
        effects: &mut Effects,
    ) -> Result<bool, Fault> {
        let mut publish = self.route_publish(content, effects)?;
        publish.offer(|_| false, effects)?;
        Ok(publish.was_taken())
    }
}
