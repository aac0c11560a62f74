//! A broker of the test's own, in a folder of its own, and clients of it.

use std::path::Path;

use broker::{Broker, BrokerConfig, ClientLimits, FirstUser};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::support::{PATIENCE, start_broker};

pub(crate) const USER: &str = "tester";
pub(crate) const PASSWORD: &str = "sesame";

/// A running broker and its folder, which outlives restarts.
pub(crate) struct Running {
    broker: Option<Broker>,
    folder: tempfile::TempDir,
}

pub(crate) fn config(folder: &Path) -> BrokerConfig {
    BrokerConfig {
        port: 0,
        management_port: None,
        data_dir: folder.join("data"),
        first_user: Some(FirstUser {
            name: USER.into(),
            password: PASSWORD.into(),
        }),
        ..BrokerConfig::default()
    }
}

impl Running {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let broker = Broker::start(config).await.unwrap();
        Self {
            broker: Some(broker),
            folder,
        }
    }

    /// Starts it with the store in the folder's `data`.
    #[cfg(target_os = "linux")]
    pub(crate) async fn on(folder: tempfile::TempDir) -> Self {
        let broker = start_broker(&config(folder.path()), PATIENCE).await;
        Self {
            broker: Some(broker),
            folder,
        }
    }

    pub(crate) async fn with_limits(limits: ClientLimits) -> Self {
        Self::with(|config| config.limits = limits).await
    }

    pub(crate) fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.broker().addresses().amqp.port()
    }

    /// Ends the broker in order and starts it again in the same folder, with the default
    /// configuration.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.broker = Some(start_broker(&config(self.folder.path()), PATIENCE).await);
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.shutdown().await.unwrap();
        }
    }

    pub(crate) async fn connect(&self) -> Connection {
        let url = format!("amqp://{USER}:{PASSWORD}@127.0.0.1:{}/%2f", self.port());
        Connection::connect_with_runtime(
            &url,
            ConnectionProperties::default(),
            cbroker::peer::runtime::current(),
        )
        .await
        .unwrap()
    }
}

/// A channel with confirms on.
pub(crate) async fn confirming(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    channel
}

pub(crate) fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    }
}

pub(crate) fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

pub(crate) async fn declare(channel: &Channel, name: &str, options: QueueDeclareOptions) -> u32 {
    let queue = channel
        .queue_declare(name.into(), options, FieldTable::default())
        .await
        .unwrap();
    queue.message_count()
}

/// Publishes and waits for the confirm; true for an ack.
pub(crate) async fn publish(
    channel: &Channel,
    queue: &str,
    body: &[u8],
    properties: BasicProperties,
) -> bool {
    let sent = channel.basic_publish(
        "".into(),
        queue.into(),
        BasicPublishOptions::default(),
        body,
        properties,
    );
    sent.await.unwrap().await.unwrap().is_ack()
}

/// One message by `basic.get`: body, redelivered flag, tag.
pub(crate) async fn get(
    channel: &Channel,
    queue: &str,
    no_ack: bool,
) -> Option<(Vec<u8>, bool, u64)> {
    let got = channel
        .basic_get(queue.into(), BasicGetOptions { no_ack })
        .await
        .unwrap()?;
    let delivery = got.delivery;
    Some((delivery.data, delivery.redelivered, delivery.delivery_tag))
}
