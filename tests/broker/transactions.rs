//! What waits for `tx.commit`, and what `tx.rollback` gives back.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

use crate::running::{Running, confirming, declare, get, publish};

async fn ready(channel: &Channel) -> u32 {
    declare(channel, "q", QueueDeclareOptions::default()).await
}

/// An ack gave its credit back at once and for good, so that a rollback left the channel with more
/// than it may have.
#[tokio::test(flavor = "multi_thread")]
async fn an_ack_makes_room_at_the_commit_and_not_before_and_not_through_a_rollback() {
    let running = Running::new().await;
    let connection = running.connect().await;
    let publisher = confirming(&connection).await;
    ready(&publisher).await;
    for number in 0..3 {
        assert!(publish(&publisher, "q", &[number], BasicProperties::default()).await);
    }
    for global in [false, true] {
        let channel = connection.create_channel().await.unwrap();
        channel.tx_select().await.unwrap();
        channel
            .basic_qos(1, BasicQosOptions { global })
            .await
            .unwrap();
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume("q".into(), "".into(), options, FieldTable::default());
        let mut consumer = consumer.await.unwrap();
        let first = consumer.next().await.unwrap().unwrap();
        let left = ready(&channel).await;
        for _ in 0..2 {
            let ack = BasicAckOptions::default();
            channel.basic_ack(first.delivery_tag, ack).await.unwrap();
            assert_eq!(ready(&channel).await, left, "it waits for the commit");
            channel.tx_rollback().await.unwrap();
            assert_eq!(ready(&channel).await, left, "the delivery is open again");
        }
        let ack = BasicAckOptions::default();
        channel.basic_ack(first.delivery_tag, ack).await.unwrap();
        channel.tx_commit().await.unwrap();
        let second = consumer.next().await.unwrap().unwrap();
        assert_eq!(second.data[0], first.data[0] + 1);
        // Left unsettled in a transaction: it returns with the channel's end.
        let ack = BasicAckOptions::default();
        channel.basic_ack(second.delivery_tag, ack).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        assert_eq!(ready(&publisher).await, left);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_lives_from_its_commit_on() {
    let running = Running::new().await;
    let connection = running.connect().await;
    let channel = connection.create_channel().await.unwrap();
    ready(&channel).await;
    channel.tx_select().await.unwrap();
    // On a busy machine a short life may be over before the get.
    for life in [2, 8, 32].map(Duration::from_secs) {
        let milliseconds = life.as_millis().to_string();
        let properties = BasicProperties::default().with_expiration(milliseconds.into());
        channel
            .basic_publish(
                "".into(),
                "q".into(),
                BasicPublishOptions::default(),
                b"it",
                properties,
            )
            .await
            .unwrap();
        tokio::time::sleep(life + Duration::from_millis(100)).await;
        let committing = Instant::now();
        channel.tx_commit().await.unwrap();
        if get(&channel, "q", true).await.is_some() {
            return;
        }
        let elapsed = committing.elapsed();
        assert!(elapsed >= life, "it lived for {elapsed:?} of {life:?}");
    }
    panic!("no get came within the life of a message");
}

/// The rest of the transaction was lost: its acks neither acked nor requeued.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_with_a_refused_publish_does_all_the_rest_and_then_fails() {
    let running = Running::new().await;
    let connection = running.connect().await;
    let publisher = confirming(&connection).await;
    ready(&publisher).await;
    declare(&publisher, "other", QueueDeclareOptions::default()).await;
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongInt(0));
    let refuse = AMQPValue::LongString("reject-publish".into());
    full.insert("x-overflow".into(), refuse);
    let options = QueueDeclareOptions::default();
    let declared = publisher.queue_declare("full".into(), options, full);
    declared.await.unwrap();
    for number in 0..3 {
        assert!(publish(&publisher, "q", &[number], BasicProperties::default()).await);
    }
    let channel = connection.create_channel().await.unwrap();
    let mut tags = Vec::new();
    for _ in 0..3 {
        let (_, _, tag) = get(&channel, "q", false).await.unwrap();
        tags.push(tag);
    }
    channel.tx_select().await.unwrap();
    for queue in ["full", "other"] {
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(
            "".into(),
            queue.into(),
            options,
            b"it",
            BasicProperties::default(),
        );
        sent.await.unwrap();
    }
    let ack = BasicAckOptions::default();
    channel.basic_ack(tags[0], ack).await.unwrap();
    let requeue = BasicNackOptions {
        requeue: true,
        ..BasicNackOptions::default()
    };
    channel.basic_nack(tags[1], requeue).await.unwrap();
    let refused = channel.tx_commit().await.unwrap_err().to_string();
    assert!(refused.contains("partial tx completion"), "{refused}");
    let reading = connection.create_channel().await.unwrap();
    assert!(get(&reading, "other", true).await.is_some());
    // The first is gone; the second and, with the channel's end, the third are back.
    let mut back = Vec::new();
    while let Some((body, _, _)) = get(&reading, "q", true).await {
        back.extend(body);
    }
    assert_eq!(back, [1, 2]);
}
