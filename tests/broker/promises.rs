//! What was confirmed is kept, in order and with its flags, and nothing else comes back.

use lapin::options::{
    BasicAckOptions, BasicNackOptions, BasicPublishOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, ExchangeKind};

use crate::running::{Running, confirming, declare, durable, get, persistent, publish};

#[tokio::test(flavor = "multi_thread")]
async fn confirmed_messages_come_back_after_a_restart_in_order_and_acked_ones_do_not() {
    let mut running = Running::new().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    declare(&channel, "kept", durable()).await;
    for number in 0..20u8 {
        assert!(publish(&channel, "kept", &[number], persistent()).await);
    }
    assert!(publish(&channel, "kept", b"transient", BasicProperties::default()).await);
    let (_, _, first) = get(&channel, "kept", false).await.unwrap();
    let (_, _, second) = get(&channel, "kept", false).await.unwrap();
    channel
        .basic_ack(second, BasicAckOptions::default())
        .await
        .unwrap();
    assert_eq!(first, 1);
    declare(&channel, "kept", durable()).await;
    running.restart().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    assert_eq!(declare(&channel, "kept", durable()).await, 19);
    let (body, redelivered, _) = get(&channel, "kept", true).await.unwrap();
    assert_eq!(
        (body, redelivered),
        (vec![0], true),
        "it was delivered before the restart"
    );
    for number in 2..20u8 {
        let (body, redelivered, _) = get(&channel, "kept", true).await.unwrap();
        assert_eq!((body, redelivered), (vec![number], false));
    }
    assert!(get(&channel, "kept", true).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_topology_comes_back_and_the_rest_does_not() {
    let mut running = Running::new().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(
            "kept".into(),
            ExchangeKind::Topic,
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
    declare(&channel, "kept", durable()).await;
    declare(&channel, "lost", QueueDeclareOptions::default()).await;
    let bind = channel.queue_bind(
        "kept".into(),
        "kept".into(),
        "a.#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bind.await.unwrap();
    running.restart().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    let sent = channel.basic_publish(
        "kept".into(),
        "a.b".into(),
        BasicPublishOptions::default(),
        b"through",
        persistent(),
    );
    assert!(sent.await.unwrap().await.unwrap().is_ack());
    assert_eq!(get(&channel, "kept", true).await.unwrap().0, b"through");
    assert!(
        running
            .broker()
            .state()
            .vhost("/")
            .unwrap()
            .queue("lost")
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_survives_a_restart_in_its_new_place_alone() {
    let mut running = Running::new().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    declare(&channel, "dead", durable()).await;
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-dead-letter-exchange".into(),
        lapin::types::AMQPValue::LongString("".into()),
    );
    arguments.insert(
        "x-dead-letter-routing-key".into(),
        lapin::types::AMQPValue::LongString("dead".into()),
    );
    channel
        .queue_declare("living".into(), durable(), arguments)
        .await
        .unwrap();
    assert!(publish(&channel, "living", b"it", persistent()).await);
    let (_, _, tag) = get(&channel, "living", false).await.unwrap();
    let nack = BasicNackOptions {
        requeue: false,
        multiple: false,
    };
    channel.basic_nack(tag, nack).await.unwrap();
    assert_eq!(declare(&channel, "dead", durable()).await, 1);
    running.restart().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    assert_eq!(get(&channel, "dead", true).await.unwrap().0, b"it");
    assert!(get(&channel, "living", true).await.is_none());
}
