//! What was promised is kept through `kill -9`, whatever went on at that moment.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::task::JoinHandle;

use crate::real::Real;
use crate::running::{confirming, declare, durable, get, persistent, publish};
use crate::support::{PATIENCE, wait_until};

const PUBLISHERS: u32 = 3;
const CONSUMERS: usize = 4;

fn number(body: &[u8]) -> u32 {
    u32::from_be_bytes(body[..4].try_into().unwrap())
}

/// Publishes its own numbers one after the other until the connection breaks; notes those that were
/// confirmed.
async fn publisher(channel: Channel, own: u32, confirmed: Arc<Mutex<BTreeSet<u32>>>) {
    for number in (own..).step_by(PUBLISHERS as usize) {
        let body = number.to_be_bytes();
        let sent = channel.basic_publish(
            "".into(),
            "load".into(),
            BasicPublishOptions::default(),
            &body,
            persistent(),
        );
        let Ok(confirm) = sent.await else { return };
        match confirm.await {
            Ok(confirmation) if confirmation.is_ack() => {
                confirmed.lock().unwrap().insert(number);
            }
            _ => return,
        }
    }
}

/// Acks what it gets until the connection breaks; notes what it was given.
async fn consumer(channel: Channel, given: Arc<Mutex<BTreeSet<u32>>>) {
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume("load".into(), "".into(), options, FieldTable::default());
    let Ok(mut consumer) = consumer.await else {
        return;
    };
    while let Some(Ok(delivery)) = consumer.next().await {
        given.lock().unwrap().insert(number(&delivery.data));
        if delivery.ack(BasicAckOptions::default()).await.is_err() {
            return;
        }
    }
}

/// Several connections that publish and consume at once.
async fn under_load(
    real: &Real,
    confirmed: &Arc<Mutex<BTreeSet<u32>>>,
    given: &Arc<Mutex<BTreeSet<u32>>>,
) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    let next = confirmed
        .lock()
        .unwrap()
        .last()
        .map_or(0, |last| last + 100);
    for own in 0..PUBLISHERS {
        let channel = confirming(&real.connect().await).await;
        tasks.push(tokio::spawn(publisher(
            channel,
            next + own,
            Arc::clone(confirmed),
        )));
    }
    for _ in 0..CONSUMERS {
        let channel = real.connect().await.create_channel().await.unwrap();
        channel
            .basic_qos(20, BasicQosOptions::default())
            .await
            .unwrap();
        tasks.push(tokio::spawn(consumer(channel, Arc::clone(given))));
    }
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_confirmed_is_lost_when_it_is_killed_under_load_again_and_again() {
    let mut real = Real::start();
    let channel = confirming(&real.connect().await).await;
    declare(&channel, "load", durable()).await;
    let confirmed: Arc<Mutex<BTreeSet<u32>>> = Arc::default();
    let given: Arc<Mutex<BTreeSet<u32>>> = Arc::default();
    for round in 1..=4 {
        let tasks = under_load(&real, &confirmed, &given).await;
        let wanted = confirmed.lock().unwrap().len() + 150 * round;
        let until = tokio::time::Instant::now() + PATIENCE;
        while confirmed.lock().unwrap().len() < wanted {
            assert!(
                tokio::time::Instant::now() < until,
                "publishers stand still"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        real.kill_and_restart();
        for mut task in tasks {
            // It ends with its connection, however the library words that. lapin sometimes forgets
            // to tell a consumer; what that was given until then is noted all the same.
            match tokio::time::timeout(Duration::from_secs(5), &mut task).await {
                Ok(ended) => ended.unwrap(),
                Err(_) => task.abort(),
            }
        }
    }
    let channel = confirming(&real.connect().await).await;
    let mut kept = HashSet::new();
    while let Some((body, ..)) = get(&channel, "load", true).await {
        assert!(kept.insert(number(&body)), "one message came twice");
    }
    let given = given.lock().unwrap();
    let lost: Vec<u32> = confirmed
        .lock()
        .unwrap()
        .iter()
        .filter(|number| !given.contains(number) && !kept.contains(number))
        .copied()
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(given.len() > 100, "there was no load");
}

/// Whether a file of this folder, or of one in it, holds these bytes.
fn is_written(folder: &Path, bytes: &[u8]) -> bool {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.flatten().any(|entry| match entry.path() {
        path if path.is_dir() => is_written(&path, bytes),
        path => {
            std::fs::read(path).is_ok_and(|content| memchr::memmem::find(&content, bytes).is_some())
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn persistent_messages_reach_the_disk_though_nobody_waits_for_a_confirm() {
    let mut real = Real::start();
    let channel = real.connect().await.create_channel().await.unwrap();
    declare(&channel, "unconfirmed", durable()).await;
    let body = |number: u32| format!("unconfirmed message {number:04}").into_bytes();
    for number in 0..100 {
        let options = BasicPublishOptions::default();
        let (to, body) = ("unconfirmed".into(), body(number));
        let sent = channel.basic_publish("".into(), to, options, &body, persistent());
        sent.await.unwrap();
    }
    // Nothing else happens that would make the store commit.
    let data = real.place.home().join("data");
    wait_until(
        || (0..100).all(|number| is_written(&data, &body(number))),
        || "all messages in the files of the store".to_owned(),
    );
    real.kill_and_restart();
    let channel = real.connect().await.create_channel().await.unwrap();
    for number in 0..100 {
        let (found, ..) = get(&channel, "unconfirmed", true).await.unwrap();
        assert_eq!(found, body(number));
    }
}

/// Ten messages of each of five priorities, in an order that is not theirs.
async fn fill_by_priority(channel: &Channel) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-priority".into(), 4.into());
    channel
        .queue_declare("urgent".into(), durable(), arguments)
        .await
        .unwrap();
    for number in 0..50u8 {
        let properties = persistent().with_priority(number * 3 % 5);
        assert!(publish(channel, "urgent", &[number], properties).await);
    }
}

fn by_priority() -> Vec<u8> {
    let mut levels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for number in 0..50u8 {
        levels.entry(number * 3 % 5).or_default().push(number);
    }
    levels.into_values().rev().flatten().collect()
}

async fn drain(channel: &Channel) -> Vec<u8> {
    let mut numbers = Vec::new();
    while let Some((body, ..)) = get(channel, "urgent", true).await {
        numbers.push(body[0]);
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn priorities_keep_their_order_through_a_restart() {
    let mut real = Real::start();
    fill_by_priority(&confirming(&real.connect().await).await).await;
    real.restart();
    assert_eq!(
        drain(&confirming(&real.connect().await).await).await,
        by_priority()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn priorities_keep_their_order_through_a_kill_and_newer_ones_join_them() {
    let mut real = Real::start();
    fill_by_priority(&confirming(&real.connect().await).await).await;
    real.kill_and_restart();
    let channel = confirming(&real.connect().await).await;
    assert!(publish(&channel, "urgent", &[100], persistent().with_priority(4)).await);
    let mut expected = by_priority();
    expected.insert(10, 100);
    assert_eq!(drain(&channel).await, expected);
}
