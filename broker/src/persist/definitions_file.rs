//! `definitions.json`: all durable definitions in the layout of RabbitMQ's export, for people and
//! as a second copy.
//!
//! The store writes it at checkpoints and reads it when its index cannot be read. Field tables lose
//! types in JSON, so the exact keys and values stand beside the readable lines, as base64, and
//! those are what is read back. Relies on [`definition`](super::definition).

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value as Json, json};
use storage::ParseFailure;

use super::definition::{Definition, DestinationKind, QuotaDefinition};
use crate::quotas::{Quota, QuotaScope};
use crate::wire::table::{Table, Value};

/// Member that holds the exact bytes.
const EXACT: &str = "cbroker_facts";

/// A key and a value of the store.
type StoredRow = (Vec<u8>, Vec<u8>);

/// The lists of the export.
const LISTS: [&str; 10] = [
    "users",
    "vhosts",
    "permissions",
    "queues",
    "exchanges",
    "bindings",
    "topic_permissions",
    "parameters",
    "global_parameters",
    "policies",
];

/// Renders the stored definitions as one JSON object, one on each line: as text at once, because a
/// tree of all would take many times as much.
pub(super) fn render(stored: &[StoredRow]) -> Vec<u8> {
    let mut out = format!(
        "{{\n  \"rabbit_version\": \"3.10.8\",\n  \"rabbitmq_version\": \"3.10.8\",\n  \
         \"product_name\": \"cbroker\",\n  \"product_version\": \"{}\"",
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes();
    let of_users = limits_of_users(stored);
    let mut lists = LISTS.map(|_| Vec::new());
    for (key, value) in stored {
        let line = Definition::decode(key, value)
            .ok()
            .and_then(|definition| line(&definition));
        if let Some((list, mut line)) = line
            && let Some(place) = LISTS.iter().position(|known| *known == list)
        {
            let limits = line["name"].as_str().and_then(|name| of_users.get(name));
            if let ("users", Some(limits)) = (list, limits) {
                line["limits"] = limits.clone();
            }
            add(&mut lists[place], &line);
        }
    }
    for (name, lines) in LISTS.iter().zip(lists) {
        close(&mut out, name, &lines);
    }
    let mut exact = Vec::new();
    for (key, value) in stored {
        add(
            &mut exact,
            &json!([STANDARD.encode(key), STANDARD.encode(value)]),
        );
    }
    close(&mut out, EXACT, &exact);
    out.extend_from_slice(b"\n}\n");
    out
}

/// Adds a line to a list.
fn add(lines: &mut Vec<u8>, line: &Json) {
    lines.extend_from_slice(if lines.is_empty() {
        b"\n    "
    } else {
        b",\n    "
    });
    // Writing JSON with keys that are text to memory cannot fail.
    let _infallible = serde_json::to_writer(lines, line);
}

/// Adds a list to the object.
fn close(out: &mut Vec<u8>, name: &str, lines: &[u8]) {
    out.extend_from_slice(format!(",\n  \"{name}\": [").as_bytes());
    out.extend_from_slice(lines);
    out.extend_from_slice(if lines.is_empty() { b"]" } else { b"\n  ]" });
}

/// The limits of users, which stand in the lines of these.
fn limits_of_users(stored: &[StoredRow]) -> HashMap<String, Json> {
    let definitions =
        stored
            .iter()
            .filter_map(|(key, value)| match Definition::decode(key, value) {
                Ok(Definition::Quota(definition)) if definition.scope == QuotaScope::User => {
                    Some(definition)
                }
                _ => None,
            });
    definitions
        .map(|definition| (definition.name.clone(), limits(&definition.quota)))
        .collect()
}

/// The limits of a vhost, as RabbitMQ exports them.
fn parameter(definition: &QuotaDefinition) -> (&'static str, Json) {
    let line = json!({
        "component": "vhost-limits",
        "name": "limits",
        "vhost": definition.name,
        "value": limits(&definition.quota),
    });
    ("parameters", line)
}

fn limits(quota: &Quota) -> Json {
    let limits = quota.iter();
    limits
        .map(|(kind, limit)| (kind.name().to_owned(), json!(limit)))
        .collect()
}

/// Reads back what [`render`] wrote.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<StoredRow>, ParseFailure> {
    let document: Json = serde_json::from_slice(bytes)?;
    let lines = document[EXACT]
        .as_array()
        .ok_or_else(|| format!("it has no {EXACT}"))?;
    let field = |line: &Json, at: usize| {
        let text = line[at].as_str()?;
        STANDARD.decode(text).ok()
    };
    lines
        .iter()
        .map(|line| Some((field(line, 0)?, field(line, 1)?)))
        .collect::<Option<Vec<StoredRow>>>()
        .ok_or_else(|| format!("{EXACT} is not base64").into())
}

/// The list of the export that a definition belongs to, and its line there.
fn line(definition: &Definition) -> Option<(&'static str, Json)> {
    Some(match definition {
        Definition::Vhost(vhost) => ("vhosts", json!({ "name": vhost.name })),
        Definition::Exchange(exchange) => (
            "exchanges",
            json!({
                "name": exchange.name,
                "vhost": exchange.vhost,
                "type": exchange.kind,
                "durable": true,
                "auto_delete": exchange.auto_delete,
                "internal": exchange.internal,
                "arguments": table(&exchange.arguments),
            }),
        ),
        Definition::Queue(queue) => (
            "queues",
            json!({
                "name": queue.name,
                "vhost": queue.vhost,
                "durable": true,
                "auto_delete": queue.auto_delete,
                "arguments": table(&queue.arguments),
            }),
        ),
        Definition::Binding(binding) => (
            "bindings",
            json!({
                "source": binding.source,
                "vhost": binding.vhost,
                "destination": binding.destination,
                "destination_type": match binding.kind {
                    DestinationKind::Queue => "queue",
                    DestinationKind::Exchange => "exchange",
                },
                "routing_key": String::from_utf8_lossy(&binding.key),
                "arguments": table(&binding.arguments),
            }),
        ),
        Definition::User(user) => (
            "users",
            json!({
                "name": user.name,
                "password_hash": STANDARD.encode(&user.password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": user.tags,
            }),
        ),
        Definition::Permission(permission) => (
            "permissions",
            json!({
                "user": permission.user,
                "vhost": permission.vhost,
                "configure": permission.configure,
                "write": permission.write,
                "read": permission.read,
            }),
        ),
        Definition::Quota(quota) if quota.scope == QuotaScope::Vhost => parameter(quota),
        // RabbitMQ has no list for the others.
        _ => return None,
    })
}

fn table(table: &Table) -> Json {
    let entries = table
        .iter()
        .map(|(name, value)| (name.to_text().into_owned(), argument(value)));
    Json::Object(entries.collect())
}

fn argument(value: &Value) -> Json {
    match value {
        Value::Bool(claim) => json!(claim),
        Value::LongString(bytes) | Value::Binary(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Timestamp(seconds) => json!(seconds),
        Value::Array(values) => values.iter().map(argument).collect(),
        Value::Table(inner) => table(inner),
        other => match (other.as_integer(), other.as_float()) {
            (Some(number), _) => json!(number),
            (None, Some(number)) => Number::from_f64(number).map_or(Json::Null, Json::Number),
            (None, None) => Json::Null,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::{parse, render};
    use crate::persist::definition::{
        Definition, QueueDefinition, QuotaDefinition, UserDefinition,
    };
    use crate::quotas::{Quota, QuotaKind, QuotaScope};
    use crate::wire::table::{Table, Value};

    #[test]
    fn what_is_rendered_reads_as_an_export_and_comes_back_exactly() {
        let mut arguments = Table::new();
        arguments.set("x-max-length", Value::Short(7));
        let queue = Definition::Queue(QueueDefinition {
            vhost: "/".to_owned(),
            name: "jobs".to_owned(),
            id: 12,
            auto_delete: false,
            arguments,
        });
        let user = Definition::User(UserDefinition {
            name: "ann".to_owned(),
            password: vec![1, 2, 3],
            scram: vec![4, 5],
            tags: vec!["administrator".to_owned()],
        });
        let limited = |scope, name: &str, kind| {
            let mut quota = Quota::default();
            quota.set(kind, 9);
            let name = name.to_owned();
            Definition::Quota(QuotaDefinition { scope, name, quota })
        };
        let of_vhost = limited(QuotaScope::Vhost, "/", QuotaKind::Queues);
        let of_user = limited(QuotaScope::User, "ann", QuotaKind::Channels);
        let stored: Vec<_> = [queue, user, of_vhost, of_user]
            .iter()
            .map(|definition| (definition.key(), definition.value()))
            .collect();
        let rendered = render(&stored);
        let document: serde_json::Value = serde_json::from_slice(&rendered).unwrap();
        assert_eq!(document["queues"][0]["name"], "jobs");
        assert_eq!(document["queues"][0]["arguments"]["x-max-length"], 7);
        assert_eq!(document["users"][0]["tags"][0], "administrator");
        assert_eq!(document["users"][0]["limits"]["max-channels"], 9);
        assert_eq!(document["parameters"][0]["vhost"], "/");
        assert_eq!(document["parameters"][0]["value"]["max-queues"], 9);
        assert_eq!(parse(&rendered).unwrap(), stored);
    }
}
