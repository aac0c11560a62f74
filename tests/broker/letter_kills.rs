//! Messages that move through a chain of queues as dead letters survive `kill -9` at any moment.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicConsumeOptions, BasicRejectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::real::Real;
use crate::running::{confirming, durable, persistent, publish};
use crate::support::PATIENCE;

const MESSAGES: u32 = 600;
const CHAIN: [&str; 3] = ["first", "second", "third"];

/// What dies in a queue goes to the next one. In the second one a message lives for 4 ms, about as
/// long as the store gathers what nobody waits for.
async fn declare_chain(channel: &Channel) {
    for (place, name) in CHAIN.into_iter().enumerate() {
        let mut arguments = FieldTable::default();
        if let Some(next) = CHAIN.get(place + 1) {
            let text = |text: &str| AMQPValue::LongString(text.into());
            arguments.insert("x-dead-letter-exchange".into(), text(""));
            arguments.insert("x-dead-letter-routing-key".into(), text(next));
        }
        if place == 1 {
            arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(4));
        }
        let declared = channel.queue_declare(name.into(), durable(), arguments);
        declared.await.unwrap();
    }
}

/// Rejects what comes, about one message a millisecond, until the connection ends.
async fn reject_all(channel: Channel) {
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume("first".into(), "".into(), options, FieldTable::default());
    let Ok(mut consumer) = consumer.await else {
        return;
    };
    while let Some(Ok(delivery)) = consumer.next().await {
        let options = BasicRejectOptions { requeue: false };
        if delivery.reject(options).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn counts(channel: &Channel) -> [u32; 3] {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let mut counts = [0; 3];
    for (count, name) in counts.iter_mut().zip(CHAIN) {
        let declared = channel.queue_declare(name.into(), options, FieldTable::default());
        *count = declared.await.unwrap().message_count();
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn no_dead_letter_of_a_chain_is_lost_when_the_broker_is_killed() {
    let mut real = Real::start();
    declare_chain(&confirming(&real.connect().await).await).await;
    for round in 1..=3 {
        let channel = confirming(&real.connect().await).await;
        for number in 0..MESSAGES {
            assert!(publish(&channel, "first", &number.to_be_bytes(), persistent()).await);
        }
        let rejecting = real.connect().await.create_channel().await.unwrap();
        let rejecting = tokio::spawn(reject_all(rejecting));
        while counts(&channel).await[2] < (round - 1) * MESSAGES + MESSAGES / 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        real.kill_and_restart();
        rejecting.abort();
        let channel = confirming(&real.connect().await).await;
        let rest = real.connect().await.create_channel().await.unwrap();
        let rest = tokio::spawn(reject_all(rest));
        let limit = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = counts(&channel).await;
            if found == [0, 0, round * MESSAGES] {
                break;
            }
            let is_over = tokio::time::Instant::now() >= limit;
            assert!(!is_over, "round {round}: {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rest.abort();
    }
}
