//! Memory is short, and those who would free it are not held up by dead letters.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::letter_memory::{
    TRANSIENT, declare_both, declare_into_memory, number_argument, publish, ready,
};
use crate::loaded::{Loaded, PLAIN, declare, method, publishing};
use crate::raw::{Raw, long, short};

const LIMIT_MIB: u64 = 64;
const BODY: usize = 8_000;
/// Publishers that send until they are blocked.
const PUBLISHERS: usize = 20;
const PATIENCE: Duration = Duration::from_mins(1);

/// Fills a queue until no publisher is given any more.
fn fill_until_blocked(loaded: &mut Loaded, looking: &mut Raw, queue: &str) {
    let message = publishing(1, ("", queue), 0, PLAIN, &[7; BODY]);
    for _ in 0..PUBLISHERS {
        let publisher = loaded.client();
        loaded.flood(&publisher, message.clone());
    }
    let until = Instant::now() + PATIENCE;
    let mut before = 0;
    loop {
        assert!(Instant::now() < until, "the publishers are never blocked");
        thread::sleep(Duration::from_secs(2));
        let waiting = ready(looking, queue);
        if waiting == before && waiting > 1_000 {
            return;
        }
        before = waiting;
    }
}

fn consume(client: &mut Raw, queue: &str, is_acking: bool) {
    // One at a time.
    client.method(1, (60, 10), b"\0\0\0\0\0\x01\0");
    client.expect(1, (60, 11));
    let bits = if is_acking { b"\0" } else { b"\x02" };
    let consume = [&b"\0\0"[..], &short(queue), &short("t"), bits, &long(b"")].concat();
    client.bytes(&method(1, (60, 20), &consume));
    client.expect(1, (60, 21));
}

/// A client that settles nothing holds nearly half of the limit.
fn hold_unsettled(loaded: &mut Loaded, looking: &mut Raw) {
    const HELD: usize = 480;
    declare(looking, "held");
    let mut holder = loaded.client();
    let consume = [&b"\0\0"[..], &short("held"), &short("t"), b"\0", &long(b"")].concat();
    holder.bytes(&method(1, (60, 20), &consume));
    holder.expect(1, (60, 21));
    let received = loaded.drain(&holder);
    let mut publisher = loaded.client();
    for _ in 0..HELD {
        publisher.publish(1, "held", &vec![7; 64_000]);
    }
    let until = Instant::now() + PATIENCE;
    while received.load(Ordering::Relaxed) < HELD as u64 * 64_000 {
        assert!(Instant::now() < until, "the holder does not get all");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The tag of the next message, which is read to its end.
fn next(client: &mut Raw) -> u64 {
    let mut tag = None;
    let mut missing = None;
    while missing != Some(0) {
        let (kind, _, payload) = client.next().expect("nothing is delivered any more");
        match (kind, missing) {
            (1, _) if payload[..4] == [0, 60, 0, 60] => {
                tag = Some(u64::from_be_bytes(payload[6..14].try_into().unwrap()));
            }
            // It is held now and then, and told so.
            (1, _) => {}
            (2, _) => missing = Some(u64::from_be_bytes(payload[4..12].try_into().unwrap())),
            (_, left) => missing = left.map(|left| left - payload.len() as u64),
        }
    }
    tag.unwrap()
}

/// It counted as a publisher, and was not read: its acks, which free memory, never came.
#[test]
fn a_consumer_that_has_rejected_one_message_is_read_when_publishers_are_blocked() {
    let mut loaded = Loaded::with_limit(LIMIT_MIB);
    let mut looking = loaded.client();
    declare_both(&mut looking, TRANSIENT, b"");
    // What looks does not publish, so that it is never told that it is blocked.
    let mut publisher = loaded.client();
    for _ in 0..2 {
        publisher.publish(1, "q", b"small");
    }
    let mut consumer = loaded.client();
    consumer.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    consume(&mut consumer, "q", true);
    let first = next(&mut consumer);
    let reject = [&first.to_be_bytes()[..], b"\0"].concat();
    consumer.method(1, (60, 90), &reject);
    let mut tag = next(&mut consumer);
    fill_until_blocked(&mut loaded, &mut looking, "q");
    for _ in 0..6 {
        consumer.method(1, (60, 80), &[&tag.to_be_bytes()[..], b"\0"].concat());
        tag = next(&mut consumer);
    }
}

/// One message moved, and then none while memory was short, although the move frees it.
#[test]
fn messages_that_expire_while_memory_is_short_reach_the_consumer_of_their_dead_letters() {
    let mut loaded = Loaded::with_limit(LIMIT_MIB);
    let mut looking = loaded.client();
    declare_both(
        &mut looking,
        TRANSIENT,
        &number_argument("x-message-ttl", 15_000),
    );
    hold_unsettled(&mut loaded, &mut looking);
    fill_until_blocked(&mut loaded, &mut looking, "q");
    let mut consumer = loaded.client();
    consumer.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    consume(&mut consumer, "dead", false);
    for _ in 0..100 {
        next(&mut consumer);
    }
}

/// The last letter stayed in memory, so none of the store followed while memory was short.
#[test]
fn stored_messages_that_expire_while_memory_is_short_reach_the_consumer_of_their_dead_letters() {
    const COUNT: u32 = 100;
    /// Persistent, and of a life of 1 ms.
    const SHORT_LIVED: &[u8] = b"\x11\0\x02\x011";
    let mut loaded = Loaded::with_limit(LIMIT_MIB);
    let mut looking = loaded.client();
    let mut publisher = loaded.client();
    declare_into_memory(&mut publisher, &number_argument("x-message-ttl", 20_000));
    publisher.bytes(&publishing(1, ("", "q"), 0, SHORT_LIVED, &[7; BODY]));
    let until = Instant::now() + PATIENCE;
    while ready(&mut looking, "dead") == 0 {
        assert!(Instant::now() < until, "the first does not expire");
        thread::sleep(Duration::from_millis(20));
    }
    hold_unsettled(&mut loaded, &mut looking);
    publish(&mut publisher, COUNT, BODY);
    declare(&mut looking, "full");
    fill_until_blocked(&mut loaded, &mut looking, "full");
    let mut consumer = loaded.client();
    consumer.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    consume(&mut consumer, "dead", false);
    for _ in 0..=COUNT {
        next(&mut consumer);
    }
}
