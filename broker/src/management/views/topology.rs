//! Queues, exchanges, bindings, consumers, vhosts, users and permissions as JSON.

use std::fmt::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{message_stats, rated};
use crate::inspect::{self, Binding, ConnectionHandle, ConsumerView, ExchangeView, QueueView};
use crate::lock::read;
use crate::management::Api;
use crate::management::amqp_json::table_to_json;
use crate::management::rates::{self, EXCHANGE_FIELDS, QUEUE_FIELDS};
use crate::quotas::{Quota, QuotaScope};
use crate::users::{Operation, Permissions, User};
use crate::vhost::{Destination, Vhost};
use crate::wire::table::{Table, Value as Field};

/// A queue as it stands in listings.
pub(in crate::management) fn queue(api: &Api, queue: &QueueView) -> Value {
    let snapshot = queue.snapshot();
    let (mut track, utilisation) = api.rates.queue(queue.vhost(), queue.name());
    let (single, exclusive) = queue.special_consumers();
    let utilisation = if snapshot.consumers == 0 {
        0.0
    } else {
        utilisation
    };
    track.counts = rates::queue_counts(&snapshot);
    let mut stats = rated(QUEUE_FIELDS, &track);
    let mut shown = json!({
        "name": &**queue.name(),
        "vhost": &**queue.vhost(),
        "node": api.node,
        "state": "running",
        "type": kind(queue.arguments()),
        "durable": queue.is_durable(),
        "auto_delete": queue.is_auto_delete(),
        "exclusive": queue.owner().is_some(),
        "arguments": table_to_json(queue.arguments()),
        "policy": null,
        "operator_policy": null,
        "effective_policy_definition": {},
        "consumers": snapshot.consumers,
        "consumer_utilisation": utilisation,
        "consumer_capacity": utilisation,
        "single_active_consumer_tag": single.as_deref(),
        "exclusive_consumer_tag": exclusive.as_deref(),
        "messages_persistent": snapshot.persistent,
        "message_bytes_persistent": snapshot.persistent_bytes,
        "message_bytes": snapshot.ready_bytes + snapshot.unsettled_bytes,
        "message_bytes_ready": snapshot.ready_bytes,
        "message_bytes_unacknowledged": snapshot.unsettled_bytes,
        "expired": snapshot.counters.expired,
        "dropped": snapshot.counters.dropped,
    });
    for field in &QUEUE_FIELDS[6..] {
        for name in [(*field).to_owned(), format!("{field}_details")] {
            shown[&name] = stats.remove(&name).unwrap_or_default();
        }
    }
    shown["message_stats"] = Value::Object(stats);
    if let Some(owner) = queue.owner().and_then(|id| find_connection(api, id)) {
        shown["owner_pid_details"] = peer(&owner);
    }
    shown
}

/// One field of a queue, those that pages ask for without the rest.
pub(in crate::management) fn queue_field(api: &Api, of: &QueueView, path: &str) -> Option<Value> {
    let snapshot = || of.snapshot();
    Some(match path {
        "name" => json!(&**of.name()),
        "vhost" => json!(&**of.vhost()),
        "durable" => json!(of.is_durable()),
        "auto_delete" => json!(of.is_auto_delete()),
        "arguments" => table_to_json(of.arguments()),
        "consumers" => json!(snapshot().consumers),
        "messages_ready" => json!(snapshot().ready),
        "messages_unacknowledged" => json!(snapshot().unsettled),
        "messages" => {
            let snapshot = snapshot();
            json!(snapshot.ready + snapshot.unsettled)
        }
        "message_stats.publish_details.rate" => {
            json!(api.rates.queue(of.vhost(), of.name()).0.rates[0])
        }
        other => {
            return other
                .split('.')
                .try_fold(&queue(api, of), |value, name| value.get(name))
                .cloned();
        }
    })
}

/// A queue without a type is a classic one.
fn kind(arguments: &Table) -> &str {
    arguments
        .get("x-queue-type")
        .and_then(Field::as_text)
        .unwrap_or("classic")
}

fn find_connection(api: &Api, id: u64) -> Option<Arc<ConnectionHandle>> {
    inspect::connection(&api.broker, id)
}

fn peer(connection: &ConnectionHandle) -> Value {
    let peer = &connection.peer;
    json!({ "name": connection.name, "peer_host": peer.host, "peer_port": peer.port })
}

/// A consumer of a queue.
pub(in crate::management) fn consumer(
    api: &Api,
    queue: &QueueView,
    consumer: &ConsumerView,
) -> Value {
    let (vhost, name) = (queue.vhost(), queue.name());
    let (connection, number) = consumer.channel();
    let channel = match find_connection(api, connection) {
        None => json!({}),
        Some(connection) => json!({
            "connection_name": connection.name,
            "name": super::channel_name(&connection, number),
            "node": api.node,
            "number": number,
            "peer_host": connection.peer.host,
            "peer_port": connection.peer.port,
            "user": connection.opened.get().map(|opened| &*opened.user),
        }),
    };
    json!({
        "consumer_tag": consumer.tag(),
        "queue": { "name": &**name, "vhost": &**vhost },
        "channel_details": channel,
        "ack_required": consumer.is_acking(),
        "exclusive": consumer.is_exclusive(),
        "prefetch_count": consumer.prefetch(),
        "arguments": table_to_json(consumer.arguments()),
        "active": consumer.is_active(),
        "activity_status": if consumer.is_active() { "up" } else { "waiting" },
    })
}

/// An exchange as it stands in listings.
pub(in crate::management) fn exchange(api: &Api, exchange: ExchangeView<'_>) -> Value {
    let declaration = exchange.declaration();
    let vhost: &str = exchange.vhost();
    let mut track = api.rates.exchange(vhost, exchange.name());
    track.counts = exchange.counts();
    json!({
        "message_stats": rated(EXCHANGE_FIELDS, &track),
        "name": exchange.name(),
        "vhost": vhost,
        "type": declaration.kind.as_str(),
        "durable": declaration.durable,
        "auto_delete": declaration.auto_delete,
        "internal": declaration.internal,
        "arguments": table_to_json(&declaration.arguments),
        "policy": null,
        "user_who_performed_action": "",
    })
}

/// A binding away from its exchange.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::management) struct BindingView {
    pub(in crate::management) source: String,
    pub(in crate::management) destination: Destination,
    pub(in crate::management) key: Vec<u8>,
    pub(in crate::management) arguments: Table,
}

impl BindingView {
    pub(in crate::management) fn of(source: &str, binding: &Binding<'_, Destination>) -> Self {
        Self {
            source: source.to_owned(),
            destination: binding.destination.clone(),
            key: binding.key.to_vec(),
            arguments: binding.arguments.clone(),
        }
    }

    /// What distinguishes bindings of the same two ends: the key in a form for paths, and a hash of
    /// the arguments.
    fn properties_key(&self) -> String {
        match (&*self.key, self.arguments.is_empty()) {
            (b"", true) => "~".to_owned(),
            (key, true) => quoted(key),
            (key, false) => format!("{}~{}", quoted(key), hash(&self.arguments)),
        }
    }

    /// Where it is, relative to its source: both parts may hold anything, so they are quoted, the
    /// key once more.
    pub(in crate::management) fn location(&self) -> String {
        let (_, destination) = self.destination_name();
        let key = self.properties_key();
        let parts = key.split('~').map(|part| quoted(part.as_bytes()));
        let parts: Vec<_> = parts.collect();
        format!("{}/{}", quoted(destination.as_bytes()), parts.join("~"))
    }

    /// The name at its far end.
    pub(in crate::management) fn destination_name(&self) -> (&'static str, &Arc<str>) {
        match &self.destination {
            Destination::Queue(name) => ("queue", name),
            Destination::Exchange(name) => ("exchange", name),
        }
    }
}

/// A properties key from a path, percent-encoded once or not at all.
#[derive(Debug)]
pub(in crate::management) struct WantedKey {
    encoded: String,
    decoded: String,
}

impl WantedKey {
    pub(in crate::management) fn new(sent: &str) -> Self {
        Self {
            encoded: sent.to_owned(),
            decoded: quoted_but_tilde(sent),
        }
    }

    /// Whether it may mean this binding, by the routing key alone. Arguments may be as long as a
    /// frame, and are not hashed while the vhost's tables are locked.
    pub(in crate::management) fn may_be_of(&self, binding: &Binding<'_, Destination>) -> bool {
        let own = quoted(binding.key);
        let fits = |wanted: &str| {
            let (key, hash) = wanted.split_once('~').unwrap_or((wanted, ""));
            key == own && hash.is_empty() == binding.arguments.is_empty()
        };
        fits(&self.encoded) || fits(&self.decoded)
    }

    /// Whether it means this binding.
    pub(in crate::management) fn is_of(&self, binding: &BindingView) -> bool {
        let own = binding.properties_key();
        own == self.encoded || own == self.decoded
    }
}

fn hash(arguments: &Table) -> String {
    let mut short = URL_SAFE_NO_PAD.encode(Sha256::digest(arguments.to_bytes()));
    short.truncate(10);
    short
}

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &octet in bytes {
        if is_plain(octet) {
            text.push(char::from(octet));
        } else {
            // A text takes everything.
            let _ = write!(text, "%{octet:02X}");
        }
    }
    text
}

/// Like [`quoted`], for a key that came decoded: the `~` before its hash stays.
fn quoted_but_tilde(key: &str) -> String {
    match key.rsplit_once('~') {
        Some((key, hash)) if !hash.is_empty() => format!("{}~{hash}", quoted(key.as_bytes())),
        _ => quoted(key.as_bytes()),
    }
}

fn is_plain(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-_.".contains(&octet)
}

/// A binding.
pub(in crate::management) fn binding(vhost: &str, binding: &BindingView) -> Value {
    let (kind, destination) = binding.destination_name();
    json!({
        "source": binding.source,
        "vhost": vhost,
        "destination": &**destination,
        "destination_type": kind,
        "routing_key": String::from_utf8_lossy(&binding.key),
        "arguments": table_to_json(&binding.arguments),
        "properties_key": binding.properties_key(),
    })
}

/// A vhost with the messages that wait in it.
pub(in crate::management) fn vhost(api: &Api, vhost: &Vhost) -> Value {
    let (mut ready, mut unsettled) = (0, 0);
    for queue in inspect::queues(vhost) {
        let snapshot = queue.snapshot();
        ready += snapshot.ready;
        unsettled += snapshot.unsettled;
    }
    let labels = vhost.labels();
    json!({
        "name": &**vhost.name(),
        "description": labels.description,
        "tags": labels.tags,
        "default_queue_type": "undefined",
        "metadata": { "description": labels.description, "tags": labels.tags },
        "message_stats": message_stats(&api.rates.vhost(vhost.name())),
        "tracing": false,
        "cluster_state": { api.node.as_str(): "running" },
        "messages": ready + unsettled,
        "messages_ready": ready,
        "messages_unacknowledged": unsettled,
    })
}

/// A user, password hash included: this is for administrators.
pub(in crate::management) fn user(api: &Api, name: &str, user: &User) -> Value {
    let tags: Vec<_> = user.tags.iter().map(|tag| &tag.0).collect();
    let password = user.password.as_ref();
    let hash = password.map(|password| password.hash.to_base64());
    let quotas = read(&api.broker.quotas);
    let limits = quotas.get(QuotaScope::User, name).map(limits);
    json!({
        "name": name,
        "password_hash": hash.unwrap_or_default(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": tags,
        "limits": limits.unwrap_or_else(|| json!({})),
    })
}

/// The limits of a vhost or a user.
pub(in crate::management) fn limits(quota: &Quota) -> Value {
    let limits = quota.iter();
    limits
        .map(|(kind, limit)| (kind.name().to_owned(), json!(limit)))
        .collect()
}

/// The permissions of a user in a vhost.
pub(in crate::management) fn permission(
    user: &str,
    vhost: &str,
    permissions: &Permissions,
) -> Value {
    json!({
        "user": user,
        "vhost": vhost,
        "configure": permissions.source(Operation::Configure),
        "write": permissions.source(Operation::Write),
        "read": permissions.source(Operation::Read),
    })
}

#[cfg(test)]
mod tests {
    use super::{BindingView, WantedKey};
    use crate::exchange::Binding;
    use crate::vhost::Destination;
    use crate::wire::table::{Table, Value};

    fn may_be_meant(view: &BindingView, sent: &str) -> bool {
        WantedKey::new(sent).may_be_of(&Binding {
            destination: &view.destination,
            key: &view.key,
            arguments: &view.arguments,
        })
    }

    fn is_meant(view: &BindingView, sent: &str) -> bool {
        may_be_meant(view, sent) && WantedKey::new(sent).is_of(view)
    }

    fn view(key: &str, arguments: Table) -> BindingView {
        let destination = Destination::Queue("q".into());
        BindingView {
            source: "x".into(),
            destination,
            key: key.as_bytes().to_vec(),
            arguments,
        }
    }

    #[test]
    fn a_properties_key_is_rabbitmqs_for_plain_bindings() {
        assert_eq!(view("", Table::new()).properties_key(), "~");
        assert_eq!(view("a.#", Table::new()).properties_key(), "a.%23");
        assert_eq!(view("a~b", Table::new()).properties_key(), "a%7Eb");
    }

    #[test]
    fn it_is_understood_encoded_or_not() {
        let mut arguments = Table::new();
        arguments.set("m", Value::Int(1));
        for (binding, other) in [
            (view("a.#", Table::new()), view("a.#", arguments.clone())),
            (view("", arguments.clone()), view("", Table::new())),
            (view("a b/", arguments), view("a b/", Table::new())),
        ] {
            let key = binding.properties_key();
            assert!(is_meant(&binding, &key));
            assert!(!is_meant(&other, &key));
        }
        assert!(is_meant(&view("a.#", Table::new()), "a.#"));
    }

    #[test]
    fn only_bindings_with_the_key_that_is_looked_for_have_to_be_hashed() {
        let mut arguments = Table::new();
        arguments.set("m", Value::Int(1));
        let wanted = view("a.#", arguments.clone()).properties_key();
        for sent in [wanted.replace("%23", "#"), wanted] {
            let may_be = |binding| may_be_meant(&binding, &sent);
            assert!(may_be(view("a.#", arguments.clone())), "{sent}");
            for other in [
                view("a.#", Table::new()),
                view("b", arguments.clone()),
                view("", arguments.clone()),
            ] {
                assert!(!may_be(other), "{sent}");
            }
        }
        assert!(may_be_meant(&view("", Table::new()), "~"));
        assert!(!may_be_meant(&view("", arguments), "~"));
    }
}
