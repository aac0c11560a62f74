//! Very many messages that become dead letters, with a small limit: resident memory stays under the
//! ceiling while they move, the API answers, and each arrives once.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::blocked::fill_disk;
use crate::loaded::{Loaded, PERSISTENT, declaring, method, publishing};
use crate::raw::{Raw, long, short};
use crate::real::Real;

const LIMIT_MIB: u64 = 32;
/// How long all letters may take.
const PATIENCE: Duration = Duration::from_mins(3);
const DURABLE: &[u8] = b"\x02";

fn text_argument(name: &str, value: &str) -> Vec<u8> {
    [&short(name)[..], b"S", &long(value.as_bytes())].concat()
}

fn number_argument(name: &str, value: u32) -> Vec<u8> {
    [&short(name)[..], b"I", &value.to_be_bytes()].concat()
}

/// Declares the queue `dead`, and a queue `q` whose dead letters go there, with a further argument.
fn declare_both(client: &mut Raw, bits: &[u8], further: &[u8]) {
    client.method(1, (50, 10), &declaring("dead", bits));
    client.expect(1, (50, 11));
    declare(client, bits, "dead", further);
}

/// Declares a queue `q` whose dead letters go to the queue `target`, with a further argument.
fn declare(client: &mut Raw, bits: &[u8], target: &str, further: &[u8]) {
    let arguments = [
        &text_argument("x-dead-letter-exchange", "")[..],
        &text_argument("x-dead-letter-routing-key", target),
        further,
    ];
    declare_with(client, bits, &arguments.concat());
}

/// Declares a queue `q` with these arguments.
fn declare_with(client: &mut Raw, bits: &[u8], arguments: &[u8]) {
    let start = [&b"\0\0"[..], &short("q"), bits, &long(arguments)].concat();
    client.method(1, (50, 10), &start);
    client.expect(1, (50, 11));
}

/// Publishes `count` numbered messages of `size` bytes, and waits until all are confirmed.
fn publish(client: &mut Raw, count: u32, size: usize) {
    publish_to(client, &["q"], count, size);
}

/// The same to each of these queues in turn.
fn publish_to(client: &mut Raw, queues: &'static [&str], count: u32, size: usize) {
    client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    client.method(1, (85, 10), b"\0");
    client.expect(1, (85, 11));
    let mut publishing_stream = client.stream();
    let flooding = thread::spawn(move || {
        let mut body = vec![7; size];
        for number in 0..count {
            body[..4].copy_from_slice(&number.to_be_bytes());
            for queue in queues {
                let publish = publishing(1, ("", queue), 0, PERSISTENT, &body);
                publishing_stream.write_all(&publish).unwrap();
            }
        }
    });
    let mut confirmed = 0;
    while confirmed < u64::from(count) * queues.len() as u64 {
        let (_, _, frame) = client.next().expect("publishers wait for ever");
        if frame[..4] == [0, 60, 0, 80] {
            confirmed = u64::from_be_bytes(frame[4..12].try_into().unwrap());
        }
    }
    flooding.join().unwrap();
}

/// How many messages the queue has.
fn ready(client: &mut Raw, queue: &str) -> u32 {
    client.method(1, (50, 10), &declaring(queue, b"\x03"));
    let ok = client.expect(1, (50, 11));
    let at = 1 + usize::from(ok[0]);
    u32::from_be_bytes(ok[at..at + 4].try_into().unwrap())
}

/// Consumes from a queue, and calls `settle` with the number of each message, its tag, and the
/// client, until that returns false.
fn consume(client: &mut Raw, queue: &str, mut settle: impl FnMut(&mut Raw, u32, u64) -> bool) {
    client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    let consume = [&b"\0\0"[..], &short(queue), &short("t"), b"\0\0\0\0\0"].concat();
    client.bytes(&method(1, (60, 20), &consume));
    client.expect(1, (60, 21));
    let mut tag = 0;
    loop {
        let (kind, _, payload) = client.next().expect("a message is missing");
        match kind {
            // It is held now and then, and told so.
            1 if matches!(payload[..4], [0, 10, 0, 60 | 61]) => {}
            1 => {
                assert_eq!(payload[..4], [0, 60, 0, 60], "{payload:?}");
                tag = u64::from_be_bytes(payload[6..14].try_into().unwrap());
            }
            2 => {
                let mut missing = u64::from_be_bytes(payload[4..12].try_into().unwrap());
                let mut number = None;
                while missing > 0 {
                    let (_, _, part) = client.next().expect("a body is cut");
                    number.get_or_insert_with(|| u32::from_be_bytes(part[..4].try_into().unwrap()));
                    missing -= part.len() as u64;
                }
                if !settle(client, number.unwrap(), tag) {
                    return;
                }
            }
            _ => panic!("{kind}: {payload:?}"),
        }
    }
}

/// Acks up to a tag, or rejects.
fn settle_up_to(client: &mut Raw, tag: u64, is_ack: bool) {
    let (id, bits) = if is_ack { (80, 1) } else { (120, 1) };
    client.method(1, (60, id), &[&tag.to_be_bytes()[..], &[bits]].concat());
}

/// Waits until all letters are in the queue `dead`, and takes them out, each once.
fn take_each_once(client: &mut Raw, what: &str, count: u32) {
    let until = Instant::now() + PATIENCE;
    loop {
        let (waiting, dead) = (ready(client, "q"), ready(client, "dead"));
        if dead == count {
            break;
        }
        assert!(
            Instant::now() < until,
            "{what}: {waiting} wait, {dead} of {count} have come"
        );
        thread::sleep(Duration::from_millis(50));
    }
    let mut seen = vec![false; count as usize];
    let mut left = count;
    consume(client, "dead", |client, number, tag| {
        let is_again = std::mem::replace(&mut seen[number as usize], true);
        assert!(!is_again, "{what}: {number} came twice");
        left -= 1;
        if left.is_multiple_of(8) {
            settle_up_to(client, tag, true);
        }
        left > 0
    });
}

/// Takes all letters, and checks that the broker bore it.
fn all_arrive(loaded: Loaded, what: &str, count: u32) {
    let mut client = loaded.client();
    take_each_once(&mut client, what, count);
    loaded.bear(what, vec![client]);
}

fn reject_all((count, size): (u32, usize)) {
    let loaded = Loaded::with_limit(LIMIT_MIB);
    let mut client = loaded.client();
    declare_both(&mut client, DURABLE, b"");
    publish(&mut client, count, size);
    let mut rejecting = loaded.client();
    let mut left = count;
    consume(&mut rejecting, "q", |client, _, tag| {
        left -= 1;
        if left.is_multiple_of(8) {
            settle_up_to(client, tag, false);
        }
        left > 0
    });
    all_arrive(loaded, &format!("{count} rejects"), count);
}

#[test]
fn very_many_messages_that_are_rejected() {
    reject_all((20_000, 10_000));
}

#[test]
fn large_messages_that_are_rejected() {
    reject_all((200, 1_000_000));
}

fn expire_all((count, size): (u32, usize)) {
    let loaded = Loaded::with_limit(LIMIT_MIB);
    let mut client = loaded.client();
    declare_both(
        &mut client,
        DURABLE,
        &number_argument("x-message-ttl", 8_000),
    );
    publish(&mut client, count, size);
    all_arrive(loaded, &format!("{count} that expire"), count);
}

#[test]
fn very_many_messages_that_expire() {
    expire_all((20_000, 10_000));
}

#[test]
fn large_messages_that_expire() {
    expire_all((200, 1_000_000));
}

#[test]
fn very_many_messages_that_are_pushed_out_of_a_full_queue() {
    let loaded = Loaded::with_limit(LIMIT_MIB);
    let mut client = loaded.client();
    declare_both(&mut client, DURABLE, &number_argument("x-max-length", 0));
    publish(&mut client, 20_000, 10_000);
    all_arrive(loaded, "20000 that are pushed out", 20_000);
}

/// The name of a queue of [`declare_into_fanout`].
fn dead(number: u32) -> String {
    format!("dead{number}")
}

/// Declares a queue `q` whose messages expire after `ttl_ms`, and whose dead letters go to `queues`
/// queues.
fn declare_into_fanout(client: &mut Raw, queues: u32, bits: &[u8], ttl_ms: u32) {
    let exchange = [&b"\0\0"[..], &short("all"), &short("fanout"), b"\0\0\0\0\0"].concat();
    client.method(1, (40, 10), &exchange);
    client.expect(1, (40, 11));
    for number in 0..queues {
        client.method(1, (50, 10), &declaring(&dead(number), bits));
        client.expect(1, (50, 11));
        let ends = [&short(&dead(number))[..], &short("all"), &short("")].concat();
        client.method(1, (50, 20), &[&b"\0\0"[..], &ends, b"\0\0\0\0\0"].concat());
        client.expect(1, (50, 21));
    }
    let arguments = [
        text_argument("x-dead-letter-exchange", "all"),
        number_argument("x-message-ttl", ttl_ms),
    ];
    declare_with(client, bits, &arguments.concat());
}

/// The store gets a copy for each queue.
#[test]
fn large_messages_that_expire_into_very_many_queues() {
    const QUEUES: u32 = 150;
    const COUNT: u32 = 3;
    let loaded = Loaded::with_limit(LIMIT_MIB);
    let mut client = loaded.client();
    declare_into_fanout(&mut client, QUEUES, DURABLE, 1);
    publish(&mut client, COUNT, 1_000_000);
    let mut looking = loaded.client();
    let until = Instant::now() + PATIENCE;
    for number in 0..QUEUES {
        while ready(&mut looking, &dead(number)) < COUNT {
            assert!(Instant::now() < until, "{number}");
            thread::sleep(Duration::from_millis(20));
        }
    }
    loaded.bear("letters to very many queues", vec![client, looking]);
}

/// A client rejects more than may wait for the store; then the messages behind are still delivered,
/// because their acks may be what frees the disk.
#[test]
fn messages_are_delivered_on_a_full_disk_while_dead_letters_wait_for_it() {
    const COUNT: u32 = 900;
    const REJECTED: u32 = 300;
    let Some(real) = Real::on_small_disk(420) else {
        return;
    };
    let url = real.url();
    let (_, login) = url.split_once("//").unwrap();
    let (user, password) = login.split_once('@').unwrap().0.split_once(':').unwrap();
    let client = || Raw::open_as(real.server.port, user, password);
    let mut publisher = client();
    declare_both(&mut publisher, DURABLE, b"");
    publisher.method(1, (50, 10), &declaring("stays", DURABLE));
    publisher.expect(1, (50, 11));
    // What dies does not make room for its letter: something that stays lies beside it.
    publish_to(&mut publisher, &["q", "stays"], COUNT, 100_000);
    let ballast = real.disk().join("ballast");
    fill_disk(&ballast, 4);
    let mut consumer = client();
    let mut got = 0;
    consume(&mut consumer, "q", |client, _, tag| {
        got += 1;
        if got <= REJECTED {
            client.method(1, (60, 90), &[&tag.to_be_bytes()[..], &[0]].concat());
        } else {
            client.method(1, (60, 80), &[&tag.to_be_bytes()[..], &[0]].concat());
        }
        got < COUNT
    });
    let mut looking = client();
    std::fs::remove_file(&ballast).unwrap();
    take_each_once(&mut looking, "a full disk", REJECTED);
}
