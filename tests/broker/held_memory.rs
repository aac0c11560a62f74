//! Clients that hold memory and free none of it, and a publisher beside them that goes on.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crate::loaded::{Confirmed, Loaded, PERSISTENT, PLAIN, declare, frame, method, publishing};
use crate::memory::{consume_all, filled};
use crate::raw::{Raw, long, short};

/// How long a client writes in vain before the broker is taken not to read from it.
const HELD_FOR: Duration = Duration::from_secs(3);

/// Writes until the broker reads no more. False where it took everything.
fn write_until_held(client: &Raw, bytes: &[u8], times: usize) -> bool {
    let mut stream = client.stream();
    stream.set_write_timeout(Some(HELD_FOR)).unwrap();
    (0..times).any(|_| stream.write_all(bytes).is_err())
}

#[test]
fn a_publisher_goes_on_beside_transient_messages_of_a_client_that_has_left() {
    let loaded = Loaded::start();
    let mut publisher = Confirmed::new(&loaded);
    let mut client = loaded.client();
    declare(&mut client, "transient");
    let publish = publishing(1, ("", "transient"), 0, PLAIN, &vec![7; 1_000_000]);
    assert!(write_until_held(&client, &publish, 100));
    client.stream().shutdown(Shutdown::Both).unwrap();
    publisher.goes_on();
    loaded.bear("transient messages that stay", vec![]);
}

#[test]
fn a_publisher_goes_on_beside_a_consumer_that_settles_nothing() {
    let mut loaded = Loaded::start();
    let mut publisher = Confirmed::new(&loaded);
    let names = filled(&loaded, (1, 100), 1_000_000);
    let mut client = loaded.client();
    consume_all(&mut client, &names[0]);
    loaded.drain(&client);
    // It gets what it is given.
    thread::sleep(HELD_FOR);
    publisher.goes_on();
    loaded.bear("a consumer that settles nothing", vec![client]);
}

/// Each ack made room for the next delivery, and the transaction kept the bodies.
#[test]
fn a_publisher_goes_on_beside_acks_that_are_never_committed() {
    let mut loaded = Loaded::start();
    let mut publisher = Confirmed::new(&loaded);
    let names = filled(&loaded, (1, 150), 1_000_000);
    let mut client = loaded.client();
    client.method(1, (90, 10), b"");
    client.expect(1, (90, 11));
    consume_all(&mut client, &names[0]);
    let read = loaded.drain(&client);
    let ack_all = method(1, (60, 80), &[&0_u64.to_be_bytes()[..], b"\x01"].concat());
    let until = Instant::now() + HELD_FOR;
    while Instant::now() < until {
        client.bytes(&ack_all);
        thread::sleep(Duration::from_millis(5));
    }
    publisher.goes_on();
    let read = read.load(Relaxed);
    loaded.bear("acks that are never committed", vec![client]);
    assert!((1_000_000..100_000_000).contains(&read), "{read} bytes");
}

#[test]
fn a_publisher_goes_on_beside_publishes_that_are_never_finished() {
    const SIZE: usize = 15_900_000;
    let loaded = Loaded::start();
    let mut publisher = Confirmed::new(&loaded);
    let whole = publishing(1, ("", "nowhere"), 0, PLAIN, &vec![7; SIZE]);
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let client = loaded.client();
            write_until_held(&client, &whole[..SIZE - 120_000], 1);
            client
        })
        .collect();
    publisher.goes_on();
    loaded.bear("unfinished publishes", clients);
}

#[test]
fn a_publisher_goes_on_beside_transactions_that_are_never_committed() {
    let loaded = Loaded::start();
    let mut publisher = Confirmed::new(&loaded);
    let publish = publishing(1, ("", "nowhere"), 0, PLAIN, &vec![7; 1_000_000]);
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let mut client = loaded.client();
            client.method(1, (90, 10), b"");
            client.expect(1, (90, 11));
            write_until_held(&client, &publish, 15);
            client
        })
        .collect();
    publisher.goes_on();
    loaded.bear("transactions that stay", clients);
}

#[test]
fn a_publisher_goes_on_beside_many_that_flood_a_slow_consumer() {
    /// Bytes that the consumer takes at a time, five times a second.
    const TAKEN: usize = 40_000;
    let mut loaded = Loaded::start();
    let mut publisher = Confirmed::new(&loaded);
    let mut consumer = loaded.client();
    declare(&mut consumer, "slow");
    let consume = [&b"\0\0"[..], &short("slow"), &short("t"), b"\x02\0\0\0\0"].concat();
    consumer.bytes(&method(1, (60, 20), &consume));
    consumer.expect(1, (60, 21));
    loaded.drain_slowly(&consumer, TAKEN, Duration::from_millis(200));
    let mut clients = vec![consumer];
    for _ in 0..20 {
        let client = loaded.client();
        let publish = publishing(1, ("", "slow"), 0, PLAIN, &[7; 10_000]);
        loaded.flood(&client, publish.repeat(20));
        clients.push(client);
    }
    thread::sleep(HELD_FOR);
    publisher.goes_on();
    loaded.bear("a slow consumer", clients);
}

/// Each kind has a part of its own, and together these reach the limit.
#[test]
fn a_publisher_goes_on_beside_several_kinds_at_once() {
    let loaded = Loaded::start();
    let mut publisher = Confirmed::new(&loaded);
    let mut client = loaded.client();
    declare(&mut client, "not durable");
    let publish = publishing(1, ("", "not durable"), 0, PERSISTENT, &vec![7; 1_000_000]);
    assert!(write_until_held(&client, &publish, 100));
    let mut clients = vec![client];
    let begun = publishing(1, ("", "nowhere"), 0, PLAIN, &vec![7; 14_000_000]);
    for _ in 0..2 {
        let client = loaded.client();
        write_until_held(&client, &begun[..13_000_000], 1);
        clients.push(client);
    }
    publisher.goes_on();
    loaded.bear("several kinds at once", clients);
}

/// Nothing counted them: each channel of a connection could keep 128 KiB.
#[test]
fn a_publisher_goes_on_beside_headers_whose_bodies_never_come() {
    const CHANNELS: u16 = 1200;
    let loaded = Loaded::start();
    let mut publisher = Confirmed::new(&loaded);
    let text = long(&vec![b'x'; 130_000]);
    let table = long(&[&b"\x01hS"[..], &text].concat());
    let properties = [&b"\x20\0"[..], &table].concat();
    let header = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5], &properties[..]].concat();
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let client = loaded.client();
            for channel in 2..CHANNELS {
                let begun = [
                    method(channel, (20, 10), &short("")),
                    method(channel, (60, 40), b"\0\0\0\x07nowhere\0"),
                    frame(2, channel, &header),
                ];
                // The broker closes a connection that holds too much.
                if client.stream().write_all(&begun.concat()).is_err() {
                    break;
                }
            }
            client
        })
        .collect();
    publisher.goes_on();
    loaded.bear("headers without bodies", clients);
}
