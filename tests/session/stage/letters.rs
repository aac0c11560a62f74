//! Messages: how a test sends them, and what became of them.
//!
//! Relies on lapin, and on the sink that writes down what it is given.

use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

use super::{GUEST, Stage, Terminal, wait_for};

const HOPS: &str = "cbroker-hops";

fn with_hops(hops: i32) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(HOPS.into(), AMQPValue::LongInt(hops));
    BasicProperties::default().with_headers(headers)
}

/// Publishes these bodies on one channel, each confirmed.
async fn publish(
    channel: Channel,
    queue: &str,
    bodies: impl Iterator<Item = Vec<u8>>,
    properties: BasicProperties,
) {
    let confirms = lapin::options::ConfirmSelectOptions::default();
    channel.confirm_select(confirms).await.unwrap();
    let properties = properties.with_delivery_mode(2);
    for body in bodies {
        let options = lapin::options::BasicPublishOptions::default();
        let (exchange, key) = ("claudeBroker".into(), queue.into());
        let sent = channel.basic_publish(exchange, key, options, &body, properties.clone());
        sent.await.unwrap().await.unwrap();
    }
}

/// A message's body.
pub(crate) fn body(id: &str, text: &str) -> Vec<u8> {
    let envelope = serde_json::json!({
        "id": id, "from": "tester", "to": "peer", "ts": "2026-01-01T00:00:00.000Z",
        "message": text,
    });
    envelope.to_string().into_bytes()
}

impl Stage {
    /// A sink under a wrap that may type into it, ready.
    pub(crate) fn sink(&self, options: &[&str]) -> Terminal {
        let file = self.path("sink.txt");
        let options = [&["--delivery", "pty"], options].concat();
        let terminal = self.wrap(&options, &["sink", file.to_str().unwrap()]);
        terminal.wait_for("sink is ready");
        terminal
    }

    /// Messages that the sink was given, in order; one submission may hold several.
    pub(crate) fn arrived(&self) -> Vec<String> {
        self.text("sink.txt")
            .lines()
            .flat_map(|line| line.split("\\n").map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// The same once there are so many.
    pub(crate) fn wait_for_messages(&self, count: usize) -> Vec<String> {
        wait_for(&format!("{count} messages"), || {
            self.arrived().len() >= count
        });
        self.arrived()
    }

    /// Publishes any bytes to a session's queue.
    pub(crate) fn publish(&self, queue: &str, body: &[u8]) {
        self.flood_as_stranger(queue, std::iter::once(body.to_vec()));
    }

    /// The same as a session does it.
    pub(crate) fn publish_with_hops(&self, queue: &str, body: &[u8], hops: i32) {
        self.flood_as_session(queue, hops, std::iter::once(body.to_vec()));
    }

    /// The same without the broker's word for who it is.
    pub(crate) fn publish_as_stranger(&self, queue: &str, body: &[u8], hops: i32) {
        self.flood_as_stranger_with_hops(queue, hops, std::iter::once(body.to_vec()));
    }

    /// Publishes much without the broker's word for who it is.
    pub(crate) fn flood_as_stranger_with_hops(
        &self,
        queue: &str,
        hops: i32,
        bodies: impl Iterator<Item = Vec<u8>>,
    ) {
        let properties = with_hops(hops);
        self.with_channel(|channel| publish(channel, queue, bodies, properties));
    }

    /// The same as another user, whom the broker names.
    pub(crate) fn publish_as_guest(&self, queue: &str, body: &[u8]) {
        let properties = BasicProperties::default().with_user_id(GUEST.into());
        let bodies = std::iter::once(body.to_vec());
        self.with_channel_of_guest(|channel| publish(channel, queue, bodies, properties));
    }

    /// Publishes much as a session does it.
    pub(crate) fn flood_as_session(
        &self,
        queue: &str,
        hops: i32,
        bodies: impl Iterator<Item = Vec<u8>>,
    ) {
        let properties = with_hops(hops).with_user_id(super::USER.into());
        self.with_channel(|channel| publish(channel, queue, bodies, properties));
    }

    /// Publishes much without the broker's word for who it is, and without hops.
    pub(crate) fn flood_as_stranger(&self, queue: &str, bodies: impl Iterator<Item = Vec<u8>>) {
        let properties = BasicProperties::default();
        self.with_channel(|channel| publish(channel, queue, bodies, properties));
    }

    /// Publishes one message with these properties, without the broker's word for who it is.
    pub(crate) fn publish_with(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        let bodies = std::iter::once(body.to_vec());
        self.with_channel(|channel| publish(channel, queue, bodies, properties));
    }

    /// How many messages wait in a queue, unacked ones not among them.
    pub(crate) fn waiting(&self, queue: &str) -> u32 {
        self.look(queue).message_count()
    }

    /// How many consume a queue.
    pub(crate) fn consumers(&self, queue: &str) -> u32 {
        self.look(queue).consumer_count()
    }

    fn look(&self, queue: &str) -> lapin::Queue {
        let options = lapin::options::QueueDeclareOptions {
            passive: true,
            ..lapin::options::QueueDeclareOptions::default()
        };
        self.with_channel(|channel| async move {
            let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
            declared.await.unwrap()
        })
    }

    /// The next thing that a session says of itself for which `is_wanted` holds.
    pub(crate) fn wait_for_presence(
        &self,
        act: impl FnOnce(),
        is_wanted: impl Fn(&serde_json::Value) -> bool,
    ) {
        use futures_util::StreamExt;
        self.with_channel(|channel| async move {
            let none = FieldTable::default;
            let own = lapin::options::QueueDeclareOptions {
                exclusive: true,
                ..lapin::options::QueueDeclareOptions::default()
            };
            channel
                .queue_declare("spy".into(), own, none())
                .await
                .unwrap();
            let bind = lapin::options::QueueBindOptions::default();
            let exchange = "claudeBroker.presence".into();
            channel
                .queue_bind("spy".into(), exchange, "".into(), bind, none())
                .await
                .unwrap();
            let consume = lapin::options::BasicConsumeOptions::default();
            let consumer = channel.basic_consume("spy".into(), "spy".into(), consume, none());
            let mut consumer = consumer.await.unwrap();
            act();
            let heard = async {
                while let Some(Ok(delivery)) = consumer.next().await {
                    if serde_json::from_slice(&delivery.data).is_ok_and(|said| is_wanted(&said)) {
                        // Without it nobody can believe the state.
                        let user = delivery.properties.user_id().as_ref();
                        assert_eq!(
                            user.map(lapin::types::ShortString::as_str),
                            Some(super::USER)
                        );
                        return;
                    }
                }
            };
            tokio::time::timeout(super::LIMIT, heard).await.unwrap();
        });
    }

    /// Takes the next message of a queue, once there is one: what it says of its hops.
    pub(crate) fn hops_of_next(&self, queue: &str) -> Option<i32> {
        let mut message = None;
        wait_for(&format!("a message in {queue}"), || {
            let options = lapin::options::BasicGetOptions { no_ack: true };
            message = self.with_channel(|channel| async move {
                channel.basic_get(queue.into(), options).await.ok()?
            });
            message.is_some()
        });
        match message?.properties.headers().as_ref()?.inner().get(HOPS)? {
            AMQPValue::LongInt(hops) => Some(*hops),
            other => panic!("{other:?} is no number of hops"),
        }
    }
}
