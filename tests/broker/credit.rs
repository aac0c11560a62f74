//! `basic.qos` with `global`: credit that all consumers of a channel share.

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Consumer};

use crate::running::{Running, confirming, declare, publish};

async fn share(channel: &Channel, count: u16) {
    let options = BasicQosOptions { global: true };
    channel.basic_qos(count, options).await.unwrap();
}

async fn consume(channel: &Channel, queue: &str, no_ack: bool) -> Consumer {
    let options = BasicConsumeOptions {
        no_ack,
        ..BasicConsumeOptions::default()
    };
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .unwrap()
}

async fn next(consumer: &mut Consumer) -> Delivery {
    consumer.next().await.unwrap().unwrap()
}

async fn waiting(channel: &Channel, queue: &str) -> u32 {
    declare(channel, queue, QueueDeclareOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_without_acks_waits_for_the_credit_of_its_channel_too() {
    let running = Running::new().await;
    let connection = running.connect().await;
    let (channel, publisher) = (
        connection.create_channel().await.unwrap(),
        confirming(&connection).await,
    );
    for queue in ["held", "free"] {
        declare(&publisher, queue, QueueDeclareOptions::default()).await;
    }
    share(&channel, 1).await;
    let mut held = consume(&channel, "held", false).await;
    let mut free = consume(&channel, "free", true).await;
    assert!(publish(&publisher, "held", b"one", BasicProperties::default()).await);
    let first = next(&mut held).await;
    for _ in 0..2 {
        assert!(publish(&publisher, "free", b"two", BasicProperties::default()).await);
    }
    assert_eq!(waiting(&publisher, "free").await, 2);
    first.ack(BasicAckOptions::default()).await.unwrap();
    // What needs no ack takes no credit: both come.
    for _ in 0..2 {
        assert_eq!(next(&mut free).await.data, b"two");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_credit_goes_round_all_queues_of_a_channel() {
    let running = Running::new().await;
    let connection = running.connect().await;
    let (channel, publisher) = (
        connection.create_channel().await.unwrap(),
        confirming(&connection).await,
    );
    let queues = ["a", "b", "c"];
    for queue in queues {
        declare(&publisher, queue, QueueDeclareOptions::default()).await;
        for _ in 0..30 {
            assert!(publish(&publisher, queue, b"x", BasicProperties::default()).await);
        }
    }
    share(&channel, 1).await;
    let mut consumers = futures_util::stream::SelectAll::new();
    for queue in queues {
        consumers.push(consume(&channel, queue, false).await);
    }
    for _ in 0..30 {
        let delivery = consumers.next().await.unwrap().unwrap();
        delivery.ack(BasicAckOptions::default()).await.unwrap();
    }
    for queue in queues {
        assert!(
            waiting(&publisher, queue).await < 30,
            "{queue} was left behind"
        );
    }
}
