//! lapin, the client library that cbroker itself uses, in the way any application uses it.

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};

use crate::server::Server;

/// A channel with publisher confirms.
async fn channel(server: &Server) -> (Connection, Channel) {
    let connection = Connection::connect_with_runtime(
        &server.url,
        ConnectionProperties::default(),
        cbroker::peer::runtime::current(),
    )
    .await
    .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    (connection, channel)
}

async fn own_queue(channel: &Channel, arguments: FieldTable) -> String {
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare("".into(), options, arguments)
        .await
        .unwrap();
    queue.name().as_str().to_owned()
}

async fn consume(channel: &Channel, queue: &str) -> Consumer {
    let options = BasicConsumeOptions::default();
    let consume = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    consume.await.unwrap()
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8]) -> bool {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("text/plain".into());
    let published = channel.basic_publish(exchange.into(), key.into(), options, body, properties);
    let confirm = published.await.unwrap().await.unwrap();
    confirm.is_ack() && confirm.take_message().is_none()
}

#[tokio::test]
async fn a_thousand_confirmed_messages_come_back_in_order_and_whole() {
    let server = Server::start();
    let (_connection, channel) = channel(&server).await;
    let queue = own_queue(&channel, FieldTable::default()).await;
    channel
        .basic_qos(50, BasicQosOptions::default())
        .await
        .unwrap();
    let mut consumer = consume(&channel, &queue).await;
    let body = |n: usize| format!("{n} {}", "x".repeat(n * 7));
    for n in 0..1000 {
        assert!(
            publish(&channel, "", &queue, body(n).as_bytes()).await,
            "publish {n}"
        );
    }
    for n in 0..1000 {
        let delivery = consumer.next().await.unwrap().unwrap();
        assert_eq!(delivery.data, body(n).into_bytes(), "message {n}");
        delivery.ack(BasicAckOptions::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_topic_exchange_routes_by_pattern_and_returns_what_nobody_wants() {
    let server = Server::start();
    let (_connection, channel) = channel(&server).await;
    let queue = own_queue(&channel, FieldTable::default()).await;
    let options = ExchangeDeclareOptions {
        auto_delete: true,
        ..ExchangeDeclareOptions::default()
    };
    let declare = channel.exchange_declare(
        "interop.topic".into(),
        ExchangeKind::Topic,
        options,
        FieldTable::default(),
    );
    declare.await.unwrap();
    let bind = channel.queue_bind(
        queue.as_str().into(),
        "interop.topic".into(),
        "area.*.event.#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bind.await.unwrap();
    assert!(publish(&channel, "interop.topic", "area.one.event", b"a").await);
    assert!(publish(&channel, "interop.topic", "area.two.event.late", b"b").await);
    assert!(!publish(&channel, "interop.topic", "area.event", b"nobody").await);
    for expected in [b"a", b"b"] {
        let got = channel
            .basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true })
            .await
            .unwrap()
            .unwrap();
        assert_eq!(got.delivery.data, expected);
    }
}

#[tokio::test]
async fn an_expired_message_arrives_at_its_dead_letter_queue_with_its_history() {
    let server = Server::start();
    let (_connection, channel) = channel(&server).await;
    let grave = own_queue(&channel, FieldTable::default()).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(30));
    arguments.insert(
        "x-dead-letter-exchange".into(),
        AMQPValue::LongString("".into()),
    );
    arguments.insert(
        "x-dead-letter-routing-key".into(),
        AMQPValue::LongString(grave.as_str().into()),
    );
    let short = own_queue(&channel, arguments).await;
    let mut consumer = consume(&channel, &grave).await;
    assert!(publish(&channel, "", &short, b"late").await);
    let dead = consumer.next().await.unwrap().unwrap();
    assert_eq!(dead.data, b"late");
    let headers = dead.properties.headers().as_ref().unwrap().inner();
    let Some(AMQPValue::FieldArray(deaths)) = headers.get("x-death") else {
        panic!("no x-death in {headers:?}")
    };
    let AMQPValue::FieldTable(death) = &deaths.as_slice()[0] else {
        panic!("x-death holds {deaths:?}")
    };
    assert_eq!(
        death.inner().get("reason"),
        Some(&AMQPValue::LongString("expired".into()))
    );
    assert_eq!(
        death.inner().get("queue"),
        Some(&AMQPValue::LongString(short.as_str().into()))
    );
}
