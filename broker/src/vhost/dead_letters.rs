//! Routes dead letters. Depends on `routing`.

use std::sync::Arc;

use super::Vhost;
use crate::delivery::cascade::LetterRoute;
use crate::delivery::effects::{DEAD_LETTER_STEPS, DeadLetter, Effects};
use crate::log_limit::LogLimit;
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
/// Further deaths that are kept of headers that are too large.
const KEPT_DEATHS: usize = 16;

/// How often what clients can cause with dead letters is logged.
const LOG_EVERY_MS: u64 = 10_000;

/// Bounds what is logged of a vhost's dead letters.
#[derive(Debug)]
pub(super) struct LetterLogs {
    /// Letters that do not reach all their queues.
    cut_routes: LogLimit,
    /// Messages that were moved or multiplied too often.
    spread: LogLimit,
}

impl Default for LetterLogs {
    fn default() -> Self {
        Self {
            cut_routes: LogLimit::new(LOG_EVERY_MS),
            spread: LogLimit::new(LOG_EVERY_MS),
        }
    }
}

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
        if !letter.is_counted() {
            if !route.is_whole {
                self.warn_of_cut_route(letter, effects.now_ms);
            }
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

    fn warn_of_cut_route(&self, letter: &DeadLetter, now_ms: u64) {
        if let Some(others) = self.letter_logs.cut_routes.admit(now_ms) {
            tracing::warn!(
                queue = %letter.queue.name(), vhost = %self.name, others,
                "a dead letter matches too many bindings: some of its queues do not get it"
            );
        }
    }

    fn warn_of_spread(&self, letter: &DeadLetter, queues: usize, now_ms: u64) {
        if let Some(others) = self.letter_logs.spread.admit(now_ms) {
            tracing::warn!(
                queue = %letter.queue.name(), vhost = %self.name, queues, others,
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
        raw = encoded(properties, &of_the_deaths_alone(headers));
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

/// What is left of headers that the record of a death made larger than clients take: what they say
/// of the newest deaths. The last reject is among these, as clients count it to end a loop.
fn of_the_deaths_alone(headers: &Table) -> Table {
    let deaths = match headers.get(X_DEATH) {
        Some(Value::Array(deaths)) => deaths.as_slice(),
        _ => &[],
    };
    let mut kept = Table::new();
    let (newest, older) = deaths.split_at(deaths.len().min(KEPT_DEATHS));
    let is_reject = |death: &&Value| {
        let reason = match death {
            Value::Table(death) => death.get("reason").and_then(Value::as_bytes),
            _ => None,
        };
        reason == Some(Reason::Rejected.as_str().as_bytes())
    };
    let reject = if newest.iter().any(|death| is_reject(&death)) {
        None
    } else {
        older.iter().find(is_reject)
    };
    let deaths = newest.iter().chain(reject).filter_map(essence_of_death);
    kept.set(X_DEATH, Value::Array(deaths.collect()));
    for which in ["first", "last"] {
        for what in ["reason", "queue", "exchange"] {
            let name = format!("x-{which}-death-{what}");
            if let Some(value) = headers.get(&name).filter(|value| is_short(value)) {
                kept.set(&name, value.clone());
            }
        }
    }
    kept
}

/// The fields of a death that the broker writes, without the keys that CC added: a publisher may
/// have written others, of any length.
fn essence_of_death(death: &Value) -> Option<Value> {
    const FIELDS: [&str; 6] = [
        "count",
        "exchange",
        "original-expiration",
        "queue",
        "reason",
        "time",
    ];
    let Value::Table(death) = death else {
        return None;
    };
    let mut kept = Table::new();
    for field in FIELDS {
        if let Some(value) = death.get(field).filter(|value| is_short(value)) {
            kept.set(field, value.clone());
        }
    }
    if let Some(Value::Array(keys)) = death.get(ROUTING_KEYS) {
        let own = keys.first().filter(|key| is_short(key)).cloned();
        kept.set(ROUTING_KEYS, Value::Array(own.into_iter().collect()));
    }
    Some(Value::Table(kept))
}

/// Whether it is a number, a time, or a text no longer than a name.
fn is_short(value: &Value) -> bool {
    match value {
        Value::LongString(text) => text.len() <= NAME_LIMIT,
        Value::Timestamp(_) => true,
        value => value.as_integer().is_some(),
    }
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
