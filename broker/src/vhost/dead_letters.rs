//! Routes dead letters. Depends on `routing`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Vhost;
use crate::delivery::cascade::LetterRoute;
use crate::delivery::effects::{DEAD_LETTER_STEPS, DeadLetter, Effects};
use crate::queue::Queue;
use crate::queue::dead_letter::{Death, Reason, Spread, queues_of_cycle};
use crate::queue::message::{Message, MessageFacts};
use crate::time::wall_ms;
use crate::wire::content::{MessageContent, PROPERTIES_BYTES};
use crate::wire::properties::Properties;
use crate::wire::table::{NAME_LIMIT, Table, Value};

/// The header with additional routing keys.
const CC: &str = "CC";
/// The header with the deaths of a message, the newest first.
const X_DEATH: &str = "x-death";
/// The keys that a message had when it died, its own first.
const ROUTING_KEYS: &str = "routing-keys";

/// Bytes of a message that are copied for one step, beyond what a letter costs in any case.
const COPIED_A_STEP: usize = 4096;
/// Bytes of properties that are decoded and encoded for one step, beyond [`FEW_PROPERTIES`].
const RECODED_A_STEP: usize = 16;
/// Properties of so many bytes cost nothing extra.
const FEW_PROPERTIES: usize = 1024;
/// How often it is logged that a message has spread too far.
const TOLD_EVERY_MS: u64 = 10_000;

impl Vhost {
    /// Finds the queues of a dead letter. What its route adds to the store and the settlement of
    /// the original are in one commit, so that after a crash the message is in one place.
    pub(crate) fn dead_letter(&self, letter: DeadLetter, effects: &mut Effects) -> LetterRoute {
        let way = self.letter_way(&letter, effects);
        let way = way.unwrap_or_else(|| (letter.message.clone(), Vec::new()));
        LetterRoute::new(letter, way, &self.definitions)
    }

    /// The message to send and its queues; `None` when it goes nowhere.
    fn letter_way(
        &self,
        letter: &DeadLetter,
        effects: &mut Effects,
    ) -> Option<(Message, Vec<Arc<Queue>>)> {
        let target = letter.queue.identity.arguments.dead_letters.as_ref()?;
        let content = letter.message.content();
        spend_on_copy(&content, effects);
        let properties = Properties::scan(content.properties).ok()?;
        let mut headers = properties
            .headers
            .and_then(|raw| Table::decode(raw).ok())
            .unwrap_or_default();
        let death = Death {
            reason: letter.reason,
            queue: letter.queue.name(),
            exchange: content.exchange,
            routing_key: content.routing_key,
            time_s: wall_ms() / 1000,
            expiration: properties.expiration,
        };
        death.record(&mut headers);
        let keys = match &target.routing_key {
            Some(key) => {
                headers.remove(CC);
                vec![key.as_bytes().to_vec()]
            }
            None => routing_keys(content.routing_key, &headers),
        };
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let route = self.route(&target.exchange, &keys, Some(&headers))?;
        effects.spend(route.steps.saturating_sub(DEAD_LETTER_STEPS));
        if !route.is_whole {
            tracing::warn!(
                queue = %letter.queue.name(),
                "a dead letter matches too many bindings: some of its queues do not get it"
            );
        }
        if !letter.is_counted() {
            effects.count(&route.counters, route.queues.len());
        }
        let mut queues = route.queues;
        let closed = queues_of_cycle(&headers, letter.reason);
        queues.retain(|queue| !closed.contains(queue.name().as_bytes()));
        let facts = letter.message.facts();
        let spread_before = match letter.reason {
            Reason::Rejected => Spread::NONE,
            Reason::Expired | Reason::MaxLength => facts.spread,
        };
        let Some(spread) = spread_before.after_move(queues.len()) else {
            self.warn_of_spread(letter, queues.len(), effects.now_ms);
            return None;
        };
        let facts = MessageFacts {
            published_ms: effects.now_ms,
            ttl_ms: None,
            spread,
            ..facts
        };
        let place = (target.exchange.as_str(), keys[0]);
        let message = restamped(&content, place, (&properties, &headers), facts);
        Some((message, queues))
    }

    fn warn_of_spread(&self, letter: &DeadLetter, queues: usize, now_ms: u64) {
        let warned_ms = self.spread_warned_ms.load(Relaxed);
        if warned_ms == 0 || now_ms >= warned_ms.saturating_add(TOLD_EVERY_MS) {
            self.spread_warned_ms.store(now_ms, Relaxed);
            tracing::warn!(
                queue = %letter.queue.name(), vhost = %self.name, queues,
                "a message was dropped: dead-lettering alone has moved or multiplied it too often"
            );
        }
    }
}

/// A letter that is large, or has large headers, takes longer than others.
fn spend_on_copy(content: &MessageContent<'_>, effects: &mut Effects) {
    let recoded = content.properties.len().saturating_sub(FEW_PROPERTIES) / RECODED_A_STEP;
    let steps = content.body.len() / COPIED_A_STEP + recoded;
    effects.spend(u32::try_from(steps).unwrap_or(u32::MAX));
}

/// A dead message with new headers, on its way to an exchange with a routing key.
fn restamped(
    content: &MessageContent<'_>,
    (exchange, key): (&str, &[u8]),
    (properties, headers): (&Properties<'_>, &Table),
    facts: MessageFacts,
) -> Message {
    let mut raw = encoded(properties, headers);
    if raw.len() > PROPERTIES_BYTES {
        raw = encoded(properties, &of_the_death_alone(headers));
    }
    let content = MessageContent {
        exchange: exchange.as_bytes(),
        routing_key: key,
        properties: &raw,
        body: content.body,
    };
    Message::assemble(content, facts)
}

fn encoded(properties: &Properties<'_>, headers: &Table) -> Vec<u8> {
    let table = headers.to_bytes();
    let mut raw = Vec::new();
    Properties {
        headers: Some(&table),
        expiration: None,
        ..*properties
    }
    .encode(&mut raw);
    raw
}

/// What is left of headers that the record of a death made larger than clients take: the newest
/// death, without the keys that CC added to it.
fn of_the_death_alone(headers: &Table) -> Table {
    let newest = match headers.get(X_DEATH) {
        Some(Value::Array(deaths)) => deaths.first().cloned(),
        _ => None,
    };
    let mut kept = Table::new();
    if let Some(Value::Table(mut death)) = newest {
        if let Some(Value::Array(keys)) = death.get(ROUTING_KEYS) {
            let own = keys.iter().take(1).cloned().collect();
            death.set(ROUTING_KEYS, Value::Array(own));
        }
        kept.set(X_DEATH, Value::Array(vec![Value::Table(death)]));
    }
    for which in ["first", "last"] {
        for what in ["reason", "queue", "exchange"] {
            let name = format!("x-{which}-death-{what}");
            match headers.get(&name) {
                Some(value @ Value::LongString(text)) if text.len() <= NAME_LIMIT => {
                    kept.set(&name, value.clone());
                }
                _ => {}
            }
        }
    }
    kept
}

/// Returns the message's own routing key and those of its CC header.
pub(crate) fn routing_keys(own: &[u8], headers: &Table) -> Vec<Vec<u8>> {
    let mut keys = vec![own.to_vec()];
    if let Some(Value::Array(further)) = headers.get(CC) {
        keys.extend(
            further
                .iter()
                .filter_map(Value::as_bytes)
                .map(<[u8]>::to_vec),
        );
    }
    keys
}
