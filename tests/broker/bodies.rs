//! Bodies of many sizes: copied, lent to the writer, put together in the memory of one that is
//! gone.

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Consumer};

use crate::running::{Running, confirming, declare, publish};

/// Bytes that no two bodies have in common.
fn body(seed: usize, size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| (at.wrapping_mul(167) >> 3).wrapping_add(seed).to_le_bytes()[0])
        .collect()
}

async fn consume(channel: &Channel, queue: &str) -> Consumer {
    let options = BasicConsumeOptions::default();
    let table = FieldTable::default();
    let consumer = channel.basic_consume(queue.into(), "".into(), options, table);
    consumer.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_comes_back_as_it_was_also_where_many_of_one_size_follow_each_other() {
    let running = Running::new().await;
    let connection = running.connect().await;
    let publisher = confirming(&connection).await;
    declare(&publisher, "large", QueueDeclareOptions::default()).await;
    let sizes = [
        1, 32_767, 32_768, 131_064, 131_065, 131_072, 300_000, 300_000, 300_000, 5, 3_000_000,
        300_000, 3_000_000, 300_000, 17_000_000, 300_000,
    ];
    // All of a round wait together, so the memory of one must not serve another meanwhile.
    for round in 0..2 {
        for (seed, &size) in sizes.iter().enumerate() {
            let bytes = body(seed + 100 * round, size);
            assert!(publish(&publisher, "large", &bytes, BasicProperties::default()).await);
        }
        let channel = connection.create_channel().await.unwrap();
        let mut consumer = consume(&channel, "large").await;
        for (seed, &size) in sizes.iter().enumerate() {
            let delivery = consumer.next().await.unwrap().unwrap();
            assert!(
                delivery.data == body(seed + 100 * round, size),
                "{size} octets, round {round}"
            );
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        }
        channel.close(200, "done".into()).await.unwrap();
    }
}
