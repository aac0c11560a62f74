//! Queues longer than the window that is kept in memory.

use std::collections::HashSet;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};

use crate::real::Real;
use crate::running::{Running, confirming, declare, durable, get, persistent, publish};

const COUNT: u32 = 1200;

/// 64 KiB each, so that most of [`COUNT`] are beyond the window.
fn body(number: u32) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(64 * 1024, b'.');
    body
}

fn number(body: &[u8]) -> u32 {
    u32::from_be_bytes(body[..4].try_into().unwrap())
}

async fn fill(channel: &Channel, queue: &str) {
    let mut confirms = Vec::new();
    for number in 0..COUNT {
        // Every tenth is transient and must keep its place among the others.
        let properties = if number % 10 == 9 {
            BasicProperties::default()
        } else {
            persistent()
        };
        let body = body(number);
        let sent = channel.basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            &body,
            properties,
        );
        confirms.push(sent.await.unwrap());
    }
    for confirm in confirms {
        assert!(confirm.await.unwrap().is_ack());
    }
}

async fn consume(channel: &Channel, queue: &str, count: usize) -> Vec<u32> {
    channel
        .basic_qos(50, BasicQosOptions::default())
        .await
        .unwrap();
    let consumer = channel.basic_consume(
        queue.into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consumer.await.unwrap();
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let delivery = consumer.next().await.unwrap().unwrap();
        numbers.push(number(&delivery.data));
        delivery.ack(BasicAckOptions::default()).await.unwrap();
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_comes_out_in_order_through_memory_and_disk() {
    let running = Running::new().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    declare(&channel, "long", durable()).await;
    fill(&channel, "long").await;
    assert_eq!(declare(&channel, "long", durable()).await, COUNT);
    assert_eq!(
        consume(&channel, "long", COUNT as usize).await,
        (0..COUNT).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_is_whole_after_a_restart_without_its_transient_messages() {
    let mut running = Running::new().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    declare(&channel, "long", durable()).await;
    fill(&channel, "long").await;
    running.restart().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    let kept: Vec<u32> = (0..COUNT).filter(|number| number % 10 != 9).collect();
    assert_eq!(
        declare(&channel, "long", durable()).await as usize,
        kept.len()
    );
    // A message published now stands behind those that are still on disk.
    assert!(publish(&channel, "long", &body(COUNT), persistent()).await);
    let numbers = consume(&channel, "long", kept.len() + 1).await;
    assert_eq!(numbers[..kept.len()], kept);
    assert_eq!(numbers[kept.len()], COUNT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_empties_a_long_queue_but_keeps_what_is_unsettled() {
    let mut running = Running::new().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    declare(&channel, "long", durable()).await;
    fill(&channel, "long").await;
    let (held, ..) = get(&channel, "long", false).await.unwrap();
    assert_eq!(number(&held), 0);
    let purged = channel
        .queue_purge("long".into(), QueuePurgeOptions::default())
        .await
        .unwrap();
    assert_eq!(purged, COUNT - 1);
    assert!(publish(&channel, "long", &body(7000), persistent()).await);
    running.restart().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    let mut left = HashSet::new();
    while let Some((body, ..)) = get(&channel, "long", true).await {
        left.insert(number(&body));
    }
    assert_eq!(left, HashSet::from([0, 7000]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_stays_away_after_a_kill_and_what_is_unsettled_comes_back() {
    let mut real = Real::start();
    let connection = real.connect().await;
    let channel = confirming(&connection).await;
    declare(&channel, "long", durable()).await;
    fill(&channel, "long").await;
    let mut held = HashSet::new();
    for _ in 0..3 {
        let (body, ..) = get(&channel, "long", false).await.unwrap();
        held.insert(number(&body));
    }
    let purged = channel
        .queue_purge("long".into(), QueuePurgeOptions::default())
        .await
        .unwrap();
    assert_eq!(purged, COUNT - 3);
    real.kill_and_restart();
    let connection = real.connect().await;
    let channel = confirming(&connection).await;
    let mut left = HashSet::new();
    while let Some((body, ..)) = get(&channel, "long", true).await {
        left.insert(number(&body));
    }
    assert_eq!(left, held);
}

/// A purge that looked at the highest priority only left the others' messages in the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_empties_every_priority_of_a_long_queue() {
    let mut running = Running::new().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-priority".into(), 1.into());
    channel
        .queue_declare("long".into(), durable(), arguments)
        .await
        .unwrap();
    assert!(publish(&channel, "long", &body(5000), persistent()).await);
    let mut confirms = Vec::new();
    for number in 0..COUNT / 2 {
        let (body, urgent) = (body(number), persistent().with_priority(1));
        let sent = channel.basic_publish(
            "".into(),
            "long".into(),
            BasicPublishOptions::default(),
            &body,
            urgent,
        );
        confirms.push(sent.await.unwrap());
    }
    for confirm in confirms {
        assert!(confirm.await.unwrap().is_ack());
    }
    let purged = channel
        .queue_purge("long".into(), QueuePurgeOptions::default())
        .await
        .unwrap();
    assert_eq!(purged, COUNT / 2 + 1);
    running.restart().await;
    let connection = running.connect().await;
    let channel = confirming(&connection).await;
    assert!(get(&channel, "long", true).await.is_none());
}
