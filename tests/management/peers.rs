//! AMQP clients in addition to the API: a publisher, and sessions that announce themselves as a
//! wrap does.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
    BasicRejectOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::fixture::{PASSWORD, Server, USER};

/// How long the broker may take for anything, on a machine that runs other tests.
const PATIENCE: Duration = Duration::from_mins(3);

pub(crate) struct Peer {
    runtime: Runtime,
    channel: Channel,
    connection: Connection,
    user: String,
}

impl Peer {
    pub(crate) fn connect(server: &Server) -> Self {
        Self::connect_as(server, USER, PASSWORD)
    }

    pub(crate) fn connect_as(server: &Server, user: &str, password: &str) -> Self {
        Self::connect_to(server, (user, password), "%2f")
    }

    /// Runs what ends when the broker answers, and fails where it does not.
    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(PATIENCE, answer).await };
        let answered = self.runtime.block_on(limited);
        answered.expect("the broker does not answer")
    }

    /// Connects to another vhost.
    pub(crate) fn connect_to(server: &Server, (user, password): (&str, &str), vhost: &str) -> Self {
        Self::try_connect(server, (user, password), vhost).unwrap()
    }

    /// The same, or what the broker says against it.
    pub(crate) fn try_connect(
        server: &Server,
        (user, password): (&str, &str),
        vhost: &str,
    ) -> Result<Self, String> {
        let runtime = Runtime::new().unwrap();
        let address = format!("amqp://{user}:{password}@{}/{vhost}", server.amqp);
        let opening = async {
            let properties = ConnectionProperties::default();
            let connection = Connection::connect_with_runtime(
                &address,
                properties,
                cbroker::peer::runtime::current(),
            )
            .await?;
            let channel = connection.create_channel().await?;
            Ok((connection, channel))
        };
        let limited = async { tokio::time::timeout(PATIENCE, opening).await };
        let opened = runtime.block_on(limited);
        let opened = opened.expect("the broker does not answer");
        let (connection, channel) = opened.map_err(|error: lapin::Error| format!("{error:?}"))?;
        Ok(Self {
            runtime,
            channel,
            connection,
            user: user.to_owned(),
        })
    }

    /// Opens a connection, publishes one message as mandatory, waits for its confirm, and leaves.
    pub(crate) fn publish_and_leave(server: &Server, queue: &str) {
        let peer = Self::connect(server);
        peer.wait(async {
            let options = ConfirmSelectOptions::default();
            peer.channel.confirm_select(options).await.unwrap();
            let mandatory = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let properties = BasicProperties::default();
            let published =
                peer.channel
                    .basic_publish("".into(), queue.into(), mandatory, b"x", properties);
            let confirmed = published.await.unwrap().await.unwrap();
            assert!(confirmed.is_ack(), "{confirmed:?}");
            peer.connection.close(200, "".into()).await.unwrap();
        });
    }

    /// Opens another channel, which stays open as long as the connection.
    pub(crate) fn open_channel(&self) -> Result<(), String> {
        let opened = self.wait(self.connection.create_channel());
        opened
            .map(std::mem::forget)
            .map_err(|error| format!("{error:?}"))
    }

    /// Opens a transaction.
    pub(crate) fn begin(&self) {
        self.wait(self.channel.tx_select()).unwrap();
    }

    /// Commits it, and opens the next one.
    pub(crate) fn commit(&self) -> Result<(), String> {
        let committed = self.wait(self.channel.tx_commit());
        committed.map_err(|error| format!("{error:?}"))
    }

    /// Declares a transient queue.
    pub(crate) fn declare(&self, queue: &str) -> Result<(), String> {
        let declared = self.channel.queue_declare(
            queue.into(),
            QueueDeclareOptions::default(),
            FieldTable::default(),
        );
        let declared = self.wait(declared);
        declared.map(drop).map_err(|error| format!("{error:?}"))
    }

    pub(crate) fn publish(&self, exchange: &str, key: &str, body: &str) {
        self.publish_with(exchange, key, body, BasicProperties::default());
    }

    /// Publishes in the name of its user, which the broker checks.
    pub(crate) fn publish_as_user(&self, exchange: &str, key: &str, body: &str) {
        let user = BasicProperties::default().with_user_id(self.user.as_str().into());
        self.publish_with(exchange, key, body, user);
    }

    pub(crate) fn publish_with(
        &self,
        exchange: &str,
        key: &str,
        body: &str,
        properties: BasicProperties,
    ) {
        let published = self.channel.basic_publish(
            exchange.into(),
            key.into(),
            BasicPublishOptions::default(),
            body.as_bytes(),
            properties,
        );
        self.wait(published).unwrap();
    }

    /// How many deliveries each consumer from now on may hold.
    pub(crate) fn prefetch(&self, count: u16) {
        let options = BasicQosOptions::default();
        let limited = self.channel.basic_qos(count, options);
        self.wait(limited).unwrap();
    }

    /// Whether the broker has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        !self.connection.status().connected()
    }

    /// Whether the broker has closed the channel.
    pub(crate) fn has_closed_channel(&self) -> bool {
        !self.channel.status().connected()
    }

    /// Gets one message and acks it.
    pub(crate) fn take(&self, queue: &str) {
        self.wait(async {
            let get = self
                .channel
                .basic_get(queue.into(), BasicGetOptions::default());
            let got = get.await.unwrap().unwrap();
            got.ack(BasicAckOptions::default()).await.unwrap();
        });
    }

    /// Gets one message and rejects it.
    pub(crate) fn reject(&self, queue: &str) {
        self.wait(async {
            let get = self
                .channel
                .basic_get(queue.into(), BasicGetOptions::default());
            let got = get.await.unwrap().unwrap();
            let forever = BasicRejectOptions { requeue: false };
            got.reject(forever).await.unwrap();
        });
    }

    /// Waits until the broker has everything that was published so far.
    pub(crate) fn settle(&self) {
        let queue = format!("of-{}", self.user);
        self.wait(async {
            let declared = self.channel.queue_declare(
                queue.as_str().into(),
                QueueDeclareOptions::default(),
                FieldTable::default(),
            );
            declared.await.unwrap();
        });
    }

    /// Binds a queue of its own so that it gets copies of what goes to a session.
    pub(crate) fn bind_copy(&self, queue: &str, session: &str) {
        self.bind_copy_with(queue, session, FieldTable::default());
    }

    /// The same; what is rejected goes to the session again.
    pub(crate) fn bind_returning_copy(&self, queue: &str, session: &str) {
        let mut arguments = FieldTable::default();
        for (argument, value) in [
            ("x-dead-letter-exchange", "claudeBroker"),
            ("x-dead-letter-routing-key", session),
        ] {
            arguments.insert(argument.into(), LongString::from(value).into());
        }
        self.bind_copy_with(queue, session, arguments);
    }

    fn bind_copy_with(&self, queue: &str, session: &str, arguments: FieldTable) {
        self.wait(async {
            let options = QueueDeclareOptions::default();
            let declared = self.channel.queue_declare(queue.into(), options, arguments);
            declared.await.unwrap();
            let bound = self.channel.queue_bind(
                queue.into(),
                "claudeBroker".into(),
                session.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bound.await.unwrap();
        });
    }

    /// Declares the topology of a session, as the command line does.
    pub(crate) fn declare_session(&self, name: &str) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), 86_400_000_i32.into());
        arguments.insert("x-max-length".into(), 1000_i32.into());
        arguments.insert("x-overflow".into(), LongString::from("drop-head").into());
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let queue = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let name = ShortString::from(name.to_owned());
        self.wait(async {
            let channel = &self.channel;
            for (exchange, kind) in [
                ("claudeBroker", ExchangeKind::Direct),
                ("claudeBroker.presence", ExchangeKind::Fanout),
            ] {
                let declared =
                    channel.exchange_declare(exchange.into(), kind, durable, FieldTable::default());
                declared.await.unwrap();
            }
            channel
                .queue_declare(name.clone(), queue, arguments)
                .await
                .unwrap();
            let bound = channel.queue_bind(
                name.clone(),
                "claudeBroker".into(),
                name,
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bound.await.unwrap();
        });
    }

    /// Consumes a session's queue without acking anything.
    pub(crate) fn attach(&self, name: &str) -> Consumer {
        let consuming = self.channel.basic_consume(
            name.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        self.wait(consuming).unwrap()
    }

    /// Declares a queue that this connection alone may use.
    pub(crate) fn declare_own(&self, name: &str) {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        let declared = self
            .channel
            .queue_declare(name.into(), options, FieldTable::default());
        self.wait(declared).unwrap();
    }

    /// Consumes the questions that come to every session, from a queue that the broker names.
    pub(crate) fn hear_questions(&self) -> Consumer {
        let consuming = async {
            let options = QueueDeclareOptions {
                exclusive: true,
                ..Default::default()
            };
            let declared = self
                .channel
                .queue_declare("".into(), options, FieldTable::default());
            let queue = declared.await?.name().clone();
            let bound = self.channel.queue_bind(
                queue.clone(),
                "claudeBroker.presence".into(),
                "".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bound.await?;
            let options = BasicConsumeOptions {
                no_ack: true,
                ..Default::default()
            };
            let consuming =
                self.channel
                    .basic_consume(queue, "".into(), options, FieldTable::default());
            consuming.await
        };
        self.wait(consuming).unwrap()
    }

    /// Returns the next body that a consumer receives, or `None` if the broker cancelled it.
    pub(crate) fn next(&self, consumer: &mut Consumer) -> Option<String> {
        let delivery = self.wait(consumer.next())?.ok()?;
        Some(String::from_utf8(delivery.data).unwrap())
    }

    /// Acks the next message of a consumer.
    pub(crate) fn ack_next(&self, consumer: &mut Consumer) {
        self.wait(async {
            let delivery = consumer.next().await.unwrap().unwrap();
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        });
    }

    /// Announces a session's state, as a session does.
    pub(crate) fn announce(&self, name: &str, state: &str, reason: Option<&str>) {
        let presence = presence(name, state, reason);
        self.publish_as_user("claudeBroker.presence", "", &presence);
    }

    /// Sends an envelope from one session to another.
    pub(crate) fn say(&self, (from, to): (&str, &str), id: &str, message: &str) {
        self.publish("claudeBroker", to, &envelope((from, to), id, message));
    }
}

/// What a session says of its state.
pub(crate) fn presence(name: &str, state: &str, reason: Option<&str>) -> String {
    presence_holding(name, state, reason, 0)
}

/// The same of a session that holds messages.
pub(crate) fn presence_holding(name: &str, state: &str, reason: Option<&str>, held: u32) -> String {
    let presence = json!({
        "kind": "state", "name": name, "session": format!("01{name}"), "agent": "claude",
        "state": state,
        "reason": reason, "held": held, "since": "2026-01-01T00:00:00Z", "pid": 7, "host": "here",
    });
    presence.to_string()
}

pub(crate) fn envelope((from, to): (&str, &str), id: &str, message: &str) -> String {
    let ts = "2026-01-01T00:00:00.000Z";
    json!({ "id": id, "from": from, "to": to, "ts": ts, "message": message }).to_string()
}
