//! Where dead letters go. Depends on `routing`.

use super::Vhost;
use crate::delivery::effects::{DeadLetter, Effects};
use crate::persist::Stopped;
use crate::queue::ConfirmMode;
use crate::queue::dead_letter::{Death, is_cycle};
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

impl Vhost {
    /// Publishes a dead letter and settles the original in the store, both in one commit: after a
    /// crash the message is in one place.
    pub(crate) fn dead_letter(&self, letter: &DeadLetter, effects: &mut Effects) {
        let _move = self.definitions.together();
        if let Err(error) = self.route_dead_letter(letter, effects) {
            tracing::debug!(
                queue = %letter.queue.name(), %error,
                "a message could not be dead-lettered and stays in its queue"
            );
            return;
        }
        if let (Some((level, position)), Some(store)) = (letter.stored, letter.queue.store())
            && let Err(error) = store.settle(level, position)
        {
            tracing::debug!(
                queue = %letter.queue.name(), %error,
                "the original of a dead letter could not be settled"
            );
        }
    }

    fn route_dead_letter(&self, letter: &DeadLetter, effects: &mut Effects) -> Result<(), Stopped> {
        let Some(target) = &letter.queue.identity.arguments.dead_letters else {
            return Ok(());
        };
        let content = letter.message.content();
        let Ok(properties) = Properties::scan(content.properties) else {
            return Ok(());
        };
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
        let Some(route) = self.route(&target.exchange, &keys, Some(&headers)) else {
            return Ok(());
        };
        effects.spend(route.steps);
        if !route.is_whole {
            tracing::warn!(
                queue = %letter.queue.name(),
                "finding the queues of a dead letter is too much work, so some do not get it"
            );
        }
        let message = restamped(
            letter,
            &target.exchange,
            keys[0],
            (&properties, &headers),
            effects,
        );
        effects.count(&route.flow, route.queues.len());
        for queue in route.queues {
            if !is_cycle(&headers, queue.name(), letter.reason) {
                queue.publish(&message, ConfirmMode::Nothing, effects)?;
            }
        }
        Ok(())
    }
}

fn restamped(
    letter: &DeadLetter,
    exchange: &str,
    key: &[u8],
    (properties, headers): (&Properties<'_>, &Table),
    effects: &Effects,
) -> Message {
    let mut raw = encoded(properties, headers);
    if raw.len() > PROPERTIES_BYTES {
        raw = encoded(properties, &of_the_death_alone(headers));
    }
    let content = MessageContent {
        exchange: exchange.as_bytes(),
        routing_key: key,
        properties: &raw,
        body: letter.message.content().body,
    };
    Message::assemble(
        content,
        MessageFacts {
            published_ms: effects.now_ms,
            ttl_ms: None,
            ..letter.message.facts()
        },
    )
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
