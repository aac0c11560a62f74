//! What the broker reports is so: confirms, expiry, counts, and the end of a connection that waits.

use std::time::{Duration, Instant};

use crate::blocked::{fill_disk, is_held_after, publish_until_blocked};
use crate::raw::{Raw, short};
use crate::real::Real;
use crate::running::Running;
use crate::support::{PATIENCE, wait_until};

fn declaring(queue: &str, bits: u8, arguments: &[u8]) -> Vec<u8> {
    let size = u32::try_from(arguments.len()).unwrap().to_be_bytes();
    [&b"\0\0"[..], &short(queue), &[bits], &size, arguments].concat()
}

const PASSIVE: u8 = 1;
const DURABLE: u8 = 2;

async fn with_raw(running: &Running, act: impl FnOnce(Raw) + Send + 'static) {
    let port = running.port();
    let acting = tokio::task::spawn_blocking(move || act(Raw::open(port)));
    acting.await.unwrap();
}

/// Bytes of one publish without a body.
fn publish(exchange: &str, key: &str) -> Vec<u8> {
    let mut arguments = [&b"\0\x3c\0\x28\0\0"[..], &short(exchange), &short(key)].concat();
    arguments.push(0);
    let mut all = Vec::new();
    for (kind, payload) in [
        (1, arguments),
        (2, vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        all.extend([kind, 0, 1]);
        all.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        all.extend(payload);
        all.push(0xCE);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_before_the_one_that_closes_the_channel_are_confirmed() {
    let running = Running::new().await;
    with_raw(&running, |mut raw| {
        raw.method(1, (50, 10), &declaring("q", 0, b""));
        raw.expect(1, (50, 11));
        raw.method(1, (85, 10), b"\0");
        raw.expect(1, (85, 11));
        let mut all = publish("", "q").repeat(50);
        all.extend(publish("no such exchange", "q"));
        raw.bytes(&all);
        let mut acked = 0;
        loop {
            let (_, _, payload) = raw.next().unwrap();
            match payload[..4] {
                [0, 60, 0, 80] => acked = u64::from_be_bytes(payload[4..12].try_into().unwrap()),
                [0, 20, 0, 40] => break,
                _ => panic!("{payload:?}"),
            }
        }
        assert_eq!(acked, 50);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unroutable_publish_before_the_one_that_closes_the_channel_is_confirmed_too() {
    let running = Running::new().await;
    with_raw(&running, |mut raw| {
        raw.method(1, (85, 10), b"\0");
        raw.expect(1, (85, 11));
        let mut all = publish("", "no such queue");
        all.extend(publish("no such exchange", "q"));
        raw.bytes(&all);
        let ack = raw.expect(1, (60, 80));
        assert_eq!(ack[..8], 1_u64.to_be_bytes());
        assert_eq!(raw.closed().unwrap().0, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_does_not_renew_x_expires() {
    let running = Running::new().await;
    with_raw(&running, |mut raw| {
        // x-expires of 1,500 ms.
        let lease = [&short("x-expires")[..], b"I", &1_500_u32.to_be_bytes()].concat();
        raw.method(1, (50, 10), &declaring("q", 0, &lease));
        raw.expect(1, (50, 11));
        let started = Instant::now();
        loop {
            raw.method(1, (50, 30), &[&b"\0\0"[..], &short("q"), b"\0"].concat());
            let (_, _, payload) = raw.next().unwrap();
            if payload[..4] == [0, 20, 0, 40] {
                break assert_eq!(u16::from_be_bytes([payload[4], payload[5]]), 404);
            }
            assert!(started.elapsed() < PATIENCE, "it lives for ever");
            std::thread::sleep(Duration::from_millis(100));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_direct_replies_can_be_declared() {
    let running = Running::new().await;
    with_raw(&running, |mut raw| {
        for bits in [PASSIVE, 0] {
            raw.method(1, (50, 10), &declaring("amq.rabbitmq.reply-to", bits, b""));
            let ok = raw.expect(1, (50, 11));
            assert_eq!(
                ok,
                [&short("amq.rabbitmq.reply-to")[..], &[0; 7], &[1]].concat()
            );
        }
        raw.method(
            1,
            (50, 10),
            &declaring("amq.rabbitmq.reply-to.nobody", PASSIVE, b""),
        );
        assert_eq!(raw.closed().unwrap().0, 404);
    })
    .await;
}

#[test]
fn what_channels_did_is_counted_however_short_they_lived() {
    let real = Real::start();
    for _ in 0..5 {
        real.place.ok(["send", "--to", "a", "-m", "x"]);
    }
    let counts = || real.server.api(&real.place, "/api/overview")["message_stats"].clone();
    wait_until(
        || {
            let counts = counts();
            (counts["publish"].as_u64(), counts["confirm"].as_u64()) == (Some(5), Some(5))
        },
        || counts().to_string(),
    );
}

#[test]
fn a_connection_that_waits_for_a_full_disk_is_noticed_gone_and_can_be_closed() {
    let Some(real) = Real::on_small_disk(160) else {
        return;
    };
    let url = real.url();
    let (_, login) = url.split_once("//").unwrap();
    let (user, password) = login.split_once('@').unwrap().0.split_once(':').unwrap();
    let ballast = real.disk().join("ballast");
    let clients: Vec<Raw> = (0..2)
        .map(|_| Raw::open_as(real.server.port, user, password))
        .collect();
    let [mut gone, mut closed] = <[Raw; 2]>::try_from(clients).ok().unwrap();
    gone.method(1, (50, 10), &declaring("waits", DURABLE, b""));
    gone.expect(1, (50, 11));
    gone.method(1, (85, 10), b"\0");
    gone.expect(1, (85, 11));
    fill_disk(&ballast, 8);
    let last = publish_until_blocked(&mut gone, "waits", 0);
    closed.publish_persistent(1, "waits", b"there is no room");
    closed.expect(0, (10, 60));
    for client in [&mut gone, &mut closed] {
        client.method(1, (50, 10), &declaring("waits", PASSIVE, b""));
        assert!(is_held_after(client, last), "it does not wait");
    }
    let open = || {
        real.server
            .api(&real.place, "/api/connections")
            .as_array()
            .unwrap()
            .clone()
    };
    drop(gone);
    wait_until(
        || open().len() <= 1,
        || "a client that is gone is still there".into(),
    );
    let name = open()[0]["name"].as_str().unwrap().to_owned();
    real.server.delete(
        &real.place,
        &format!(
            "/api/connections/{}",
            name.replace(' ', "%20").replace('>', "%3E")
        ),
    );
    assert_eq!(closed.closed().unwrap().0, 320);
}
