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
    declare_dying(client, "q", bits, target, further);
}

/// The same for a queue of any name.
fn declare_dying(client: &mut Raw, queue: &str, bits: &[u8], target: &str, further: &[u8]) {
    let arguments = [
        &text_argument("x-dead-letter-exchange", "")[..],
        &text_argument("x-dead-letter-routing-key", target),
        further,
    ];
    declare_with(client, queue, bits, &arguments.concat());
}

/// Declares a queue with these arguments.
fn declare_with(client: &mut Raw, queue: &str, bits: &[u8], arguments: &[u8]) {
    let start = [&b"\0\0"[..], &short(queue), bits, &long(arguments)].concat();
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
    declare_with(client, "q", bits, &arguments.concat());
}

/// Messages expire into many queues at once. The store gets a copy for each.
fn expire_into_queues(queues: u32, (count, size): (u32, usize)) {
    let loaded = Loaded::with_limit(LIMIT_MIB);
    let mut client = loaded.client();
    declare_into_fanout(&mut client, queues, DURABLE, 1);
    publish(&mut client, count, size);
    let mut looking = loaded.client();
    let until = Instant::now() + PATIENCE;
    for number in 0..queues {
        while ready(&mut looking, &dead(number)) < count {
            assert!(Instant::now() < until, "{number}");
            thread::sleep(Duration::from_millis(20));
        }
    }
    let what = format!("{count} letters to {queues} queues");
    loaded.bear(&what, vec![client, looking]);
}

/// The copies of one are more than the store takes into a commit.
#[test]
fn large_messages_that_expire_into_very_many_queues() {
    expire_into_queues(150, (3, 1_000_000));
}

#[test]
fn many_messages_that_expire_into_many_queues() {
    expire_into_queues(250, (120, 10_000));
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

/// Declares the queue `dead`, which no store keeps, and a durable queue `q` whose dead letters go
/// there, with a further argument.
fn declare_into_memory(client: &mut Raw, further: &[u8]) {
    client.method(1, (50, 10), &declaring("dead", b"\0"));
    client.expect(1, (50, 11));
    declare(client, DURABLE, "dead", further);
}

/// How many go into memory: more than fit under the ceiling.
const INTO_MEMORY: u32 = 8_000;

/// Takes all letters out of the queue `dead` as they come, each once, after the broker has borne
/// that nobody takes them for a while.
fn each_arrives_once_when_it_is_consumed(loaded: Loaded, what: &str, count: u32) {
    let mut client = loaded.client();
    let until = Instant::now() + PATIENCE;
    while ready(&mut client, "dead") == 0 {
        assert!(Instant::now() < until, "{what}: none has come");
        thread::sleep(Duration::from_millis(20));
    }
    // Until hardly any more come: a publisher that waits for memory sends a little now and then.
    let mut before = 0;
    loop {
        thread::sleep(Duration::from_secs(1));
        let now = ready(&mut client, "dead");
        if now < before + count / 100 {
            break;
        }
        before = now;
    }
    assert!(before < count / 2, "{what}: {before} are in memory");
    let mut seen = vec![false; count as usize];
    let mut left = count;
    consume(&mut client, "dead", |client, number, tag| {
        let is_again = std::mem::replace(&mut seen[number as usize], true);
        assert!(!is_again, "{what}: {number} came twice");
        left -= 1;
        if left.is_multiple_of(8) {
            settle_up_to(client, tag, true);
        }
        left > 0
    });
    let mut looking = loaded.client();
    assert_eq!(ready(&mut looking, "q"), 0, "{what}");
    loaded.bear(what, vec![client, looking]);
}

#[test]
fn very_many_messages_that_expire_into_memory() {
    let loaded = Loaded::with_limit(LIMIT_MIB);
    let mut client = loaded.client();
    declare_into_memory(&mut client, &number_argument("x-message-ttl", 8_000));
    publish(&mut client, INTO_MEMORY, 10_000);
    each_arrives_once_when_it_is_consumed(loaded, "letters into memory", INTO_MEMORY);
}

/// Consumes from the queue `q` and rejects everything, from a thread of its own, which ends with
/// the connection.
fn reject_in_background(mut client: Raw) {
    let consume = [&b"\0\0"[..], &short("q"), &short("t"), b"\0\0\0\0\0"].concat();
    client.bytes(&method(1, (60, 20), &consume));
    client.expect(1, (60, 21));
    client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    thread::spawn(move || {
        let mut rejecting = client.stream();
        while let Some((kind, _, payload)) = client.next() {
            if kind == 1 && payload[..4] == [0, 60, 0, 60] {
                let tag = &payload[6..14];
                let reject = method(1, (60, 90), &[tag, &[0]].concat());
                if rejecting.write_all(&reject).is_err() {
                    return;
                }
            }
        }
    });
}

#[test]
fn very_many_messages_that_are_rejected_into_memory() {
    let loaded = Loaded::with_limit(LIMIT_MIB);
    let mut client = loaded.client();
    declare_into_memory(&mut client, b"");
    publish(&mut client, INTO_MEMORY, 10_000);
    reject_in_background(loaded.client());
    each_arrives_once_when_it_is_consumed(loaded, "rejects into memory", INTO_MEMORY);
}

#[test]
fn very_many_messages_that_are_pushed_out_into_memory() {
    let loaded = Loaded::with_limit(LIMIT_MIB);
    let mut client = loaded.client();
    declare_into_memory(&mut client, &number_argument("x-max-length", 0));
    let mut publisher = loaded.client();
    let publishing = thread::spawn(move || publish(&mut publisher, INTO_MEMORY, 10_000));
    each_arrives_once_when_it_is_consumed(loaded, "pushed out into memory", INTO_MEMORY);
    publishing.join().unwrap();
}

/// More queues than may be read at once.
const HELD_BACK: [&str; 12] = [
    "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11",
];

/// Nothing but the consumers of their letters may ever free the memory that they wait for.
#[test]
fn queues_whose_letters_find_no_memory_hold_up_no_other() {
    const EACH: u32 = 400;
    const OTHERS: u32 = 200;
    let loaded = Loaded::with_limit(LIMIT_MIB);
    let mut client = loaded.client();
    client.method(1, (50, 10), &declaring("memory", b"\0"));
    client.expect(1, (50, 11));
    let time = number_argument("x-message-ttl", 8_000);
    for queue in HELD_BACK {
        declare_dying(&mut client, queue, DURABLE, "memory", &time);
    }
    publish_to(&mut client, &HELD_BACK, EACH, 10_000);
    // Those who have published are told that memory is short, among other answers.
    let mut looking = loaded.client();
    let waiting = |looking: &mut Raw| HELD_BACK.map(|queue| ready(looking, queue));
    // No more of them die.
    let mut before = EACH;
    loop {
        thread::sleep(Duration::from_secs(3));
        let left = waiting(&mut looking).iter().sum();
        if left < EACH * 12 && left == before {
            break;
        }
        before = left;
    }
    let left = waiting(&mut looking);
    let stuck = left.iter().filter(|left| **left > 0).count();
    assert!(stuck > 8, "{left:?}");
    // A client that could be the one to consume the letters is not stopped.
    let at = left.iter().position(|left| *left > 0).unwrap();
    let mut getting = loaded.client();
    let get = [&b"\0\0"[..], &short(HELD_BACK[at]), b"\0"].concat();
    getting.method(1, (60, 70), &get);
    let (code, text) = getting.closed().unwrap();
    assert_eq!(code, 406, "{text}");
    assert!(text.contains("no memory for more dead letters"), "{text}");
    // The letters of another queue.
    let mut other = loaded.client();
    let short_time = number_argument("x-message-ttl", 1_000);
    declare_both(&mut other, DURABLE, &short_time);
    publish(&mut other, OTHERS, 10_000);
    take_each_once(&mut loaded.client(), "others", OTHERS);
    // And theirs once there is memory.
    let (mut seen, mut missing) = (vec![0; EACH as usize], EACH * 12);
    let mut consumer = loaded.client();
    consume(&mut consumer, "memory", |client, number, tag| {
        seen[number as usize] += 1;
        missing -= 1;
        if missing.is_multiple_of(8) {
            settle_up_to(client, tag, true);
        }
        missing > 0
    });
    assert!(seen.iter().all(|count| *count == 12), "{seen:?}");
    assert_eq!(waiting(&mut looking), [0; 12]);
    loaded.bear("letters without memory", vec![client, other, consumer]);
}
