//! Work that one frame or one moment asks for, and that is far more than a unit of work may do: it
//! goes on in later units of work, so that handshakes, heartbeats and the management API are served
//! in between.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::loaded::{Loaded, PLAIN, STEPS, declare, declaring, method, publishing};
use crate::raw::{Raw, long, short};

/// Several times what one unit of work may do.
const MANY: u32 = 40_000;
const LIMIT: Duration = Duration::from_mins(2);

fn arguments(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let entry = |(name, value): &(&str, &[u8])| [&short(name), *value].concat();
    long(&entries.iter().flat_map(entry).collect::<Vec<u8>>())
}

fn text(value: &str) -> Vec<u8> {
    [&b"S"[..], &long(value.as_bytes())].concat()
}

/// A queue whose dead letters go to an exchange, with a routing key.
fn declare_with_dead_letters(
    client: &mut Raw,
    queue: &str,
    (exchange, key): (&str, &str),
    more: &[(&str, &[u8])],
) {
    let (exchange, key) = (text(exchange), text(key));
    let mut entries: Vec<(&str, &[u8])> = vec![
        ("x-dead-letter-exchange", &exchange),
        ("x-dead-letter-routing-key", &key),
    ];
    entries.extend_from_slice(more);
    let declare = [&b"\0\0"[..], &short(queue), b"\0", &arguments(&entries)].concat();
    client.method(1, (50, 10), &declare);
    client.expect(1, (50, 11));
}

fn declare_fanout(client: &mut Raw, exchange: &str) {
    let names = [short(exchange), short("fanout")].concat();
    client.method(1, (40, 10), &[&b"\0\0"[..], &names, b"\0\0\0\0\0"].concat());
    client.expect(1, (40, 11));
}

fn bind(client: &mut Raw, queue: &str, exchange: &str) {
    let names = [short(queue), short(exchange), short("")].concat();
    client.method(1, (50, 20), &[&b"\0\0"[..], &names, b"\0\0\0\0\0"].concat());
    client.expect(1, (50, 21));
}

/// Ready messages of a queue.
fn ready(client: &mut Raw, queue: &str) -> u32 {
    client.method(1, (50, 10), &declaring(queue, b"\x01"));
    let ok = client.expect(1, (50, 11));
    let at = 1 + usize::from(ok[0]);
    u32::from_be_bytes(ok[at..at + 4].try_into().unwrap())
}

fn wait_for_ready(client: &mut Raw, queue: &str, count: u32) {
    let until = Instant::now() + LIMIT;
    loop {
        let now = ready(client, queue);
        if now == count {
            return;
        }
        assert!(Instant::now() < until, "{now} of {count} in {queue}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn publish_many(client: &mut Raw, queue: &str) {
    const AT_ONCE: u32 = 1000;
    let block = publishing(1, ("", queue), 0, PLAIN, b"x").repeat(AT_ONCE as usize);
    for _ in 0..MANY / AT_ONCE {
        client.bytes(&block);
    }
}

/// A client that waits for long work on a slow machine.
fn patient(loaded: &Loaded) -> Raw {
    let client = loaded.client();
    client.stream().set_read_timeout(Some(LIMIT)).unwrap();
    client
}

/// A client that holds [`MANY`] deliveries of the queue `q` and has read them all, and another.
fn holding(loaded: &Loaded) -> (Raw, Raw) {
    let (mut holder, mut other) = (patient(loaded), patient(loaded));
    declare(&mut other, "dead");
    declare_with_dead_letters(&mut other, "q", ("", "dead"), &[]);
    let consume = [&b"\0\0"[..], &short("q"), &short("t"), b"\0\0\0\0\0"].concat();
    holder.method(1, (60, 20), &consume);
    holder.expect(1, (60, 21));
    publish_many(&mut other, "q");
    // Method, header and body of each.
    for _ in 0..3 * MANY {
        holder.next().unwrap();
    }
    let cancel = [&short("t")[..], b"\0"].concat();
    holder.method(1, (60, 30), &cancel);
    holder.expect(1, (60, 31));
    (holder, other)
}

#[track_caller]
fn assert_short_turns(loaded: &Loaded, what: &str) {
    let steps = loaded.longest_work_unit();
    assert!(steps <= STEPS, "{what}: {steps} steps in one unit of work");
}

#[test]
fn very_many_deliveries_are_settled_by_one_frame_in_many_turns() {
    let all = 0_u64.to_be_bytes();
    let cases: [(&str, Vec<u8>, (u32, u32)); 4] = [
        (
            "ack",
            method(1, (60, 80), &[&all[..], b"\x01"].concat()),
            (0, 0),
        ),
        (
            "reject",
            method(1, (60, 120), &[&all[..], b"\x01"].concat()),
            (0, MANY),
        ),
        (
            "requeue",
            method(1, (60, 120), &[&all[..], b"\x03"].concat()),
            (MANY, 0),
        ),
        ("recover", method(1, (60, 110), b"\x01"), (MANY, 0)),
    ];
    for (what, settle, (in_queue, dead)) in cases {
        let loaded = Loaded::start();
        let (mut holder, mut other) = holding(&loaded);
        holder.bytes(&settle);
        if what == "recover" {
            holder.expect(1, (60, 111));
        }
        // What the client asks behind the settle sees all of it.
        assert_eq!(ready(&mut holder, "q"), in_queue, "{what}");
        wait_for_ready(&mut other, "dead", dead);
        assert_short_turns(&loaded, what);
    }
}

#[test]
fn a_transaction_with_very_many_settles_is_committed_in_many_turns() {
    let loaded = Loaded::start();
    let (mut holder, _other) = holding(&loaded);
    holder.method(1, (90, 10), b"");
    holder.expect(1, (90, 11));
    let all = 0_u64.to_be_bytes();
    // Rolled back, then committed.
    for (end, answer) in [((90, 30), (90, 31)), ((90, 20), (90, 21))] {
        holder.method(1, (60, 120), &[&all[..], b"\x03"].concat());
        holder.method(1, end, b"");
        holder.expect(1, answer);
    }
    assert_eq!(ready(&mut holder, "q"), MANY);
    assert_short_turns(&loaded, "a commit");
}

#[test]
fn a_channel_with_very_many_unsettled_deliveries_ends_in_many_turns() {
    for what in [
        "channel.close",
        "a fault",
        "connection.close",
        "a lost connection",
    ] {
        let loaded = Loaded::start();
        let (mut holder, mut other) = holding(&loaded);
        let mut by_client = 0_u16.to_be_bytes().to_vec();
        by_client.extend(short(""));
        by_client.extend([0; 4]);
        match what {
            "channel.close" => {
                holder.method(1, (20, 40), &by_client);
                holder.expect(1, (20, 41));
                // The answer says that everything is back.
                assert_eq!(ready(&mut other, "q"), MANY);
            }
            "a fault" => {
                holder.method(1, (50, 10), &declaring("no such queue", b"\x01"));
                assert_eq!(holder.closed().unwrap().0, 404);
                assert_eq!(ready(&mut other, "q"), MANY);
            }
            "connection.close" => {
                holder.method(0, (10, 50), &by_client);
                holder.expect(0, (10, 51));
                assert_eq!(ready(&mut other, "q"), MANY);
            }
            _ => {
                holder.stream().shutdown(Shutdown::Both).unwrap();
                wait_for_ready(&mut other, "q", MANY);
            }
        }
        assert_short_turns(&loaded, what);
    }
}

#[test]
fn very_many_messages_that_expire_at_once_do_so_in_many_turns() {
    let loaded = Loaded::start();
    let mut client = patient(&loaded);
    declare(&mut client, "dead");
    let ttl = [&b"I"[..], &3_000_u32.to_be_bytes()].concat();
    declare_with_dead_letters(&mut client, "q", ("", "dead"), &[("x-message-ttl", &ttl)]);
    publish_many(&mut client, "q");
    wait_for_ready(&mut client, "dead", MANY);
    assert_eq!(ready(&mut client, "q"), 0);
    assert_short_turns(&loaded, "messages that expire");
}

/// One publish may drop as many messages as it has bytes.
#[test]
fn very_many_messages_that_a_large_one_pushes_out_go_in_many_turns() {
    let loaded = Loaded::start();
    let mut client = patient(&loaded);
    declare(&mut client, "dead");
    let most = [&b"I"[..], &MANY.to_be_bytes()].concat();
    declare_with_dead_letters(
        &mut client,
        "q",
        ("", "dead"),
        &[("x-max-length-bytes", &most)],
    );
    publish_many(&mut client, "q");
    assert_eq!(ready(&mut client, "q"), MANY);
    client.bytes(&publishing(1, ("", "q"), 0, PLAIN, &vec![7; MANY as usize]));
    wait_for_ready(&mut client, "dead", MANY);
    assert_eq!(ready(&mut client, "q"), 1);
    assert_short_turns(&loaded, "messages that are pushed out");
}

#[test]
fn a_message_that_dies_in_queues_that_multiply_it_does_so_in_many_turns() {
    const WIDTH: u32 = 20;
    let loaded = Loaded::start();
    let mut client = patient(&loaded);
    let full = [&b"I"[..], &0_u32.to_be_bytes()].concat();
    for level in 0..4 {
        declare_fanout(&mut client, &format!("f{level}"));
    }
    for (level, number) in (0..3).flat_map(|level| (0..WIDTH).map(move |number| (level, number))) {
        let (queue, next) = (format!("{level}-{number}"), format!("f{}", level + 1));
        declare_with_dead_letters(&mut client, &queue, (&next, ""), &[("x-max-length", &full)]);
        bind(&mut client, &queue, &format!("f{level}"));
    }
    declare(&mut client, "end");
    bind(&mut client, "end", "f3");
    client.bytes(&publishing(1, ("f0", ""), 0, PLAIN, b"x"));
    wait_for_ready(&mut client, "end", WIDTH.pow(3));
    assert_short_turns(&loaded, "a cascade of dead letters");
}

#[test]
fn a_connection_with_many_exclusive_queues_ends_in_many_turns() {
    const QUEUES: u32 = 1_500;
    let loaded = Loaded::start();
    let mut owner = patient(&loaded);
    for number in 0..QUEUES {
        let name = short(&format!("own{number}"));
        owner.method(
            1,
            (50, 10),
            &[&b"\0\0"[..], &name, b"\x04", &[0; 4]].concat(),
        );
        owner.expect(1, (50, 11));
        let consume = [&b"\0\0"[..], &name, &name, b"\0\0\0\0\0"].concat();
        owner.method(1, (60, 20), &consume);
        owner.expect(1, (60, 21));
    }
    owner.stream().shutdown(Shutdown::Both).unwrap();
    let until = Instant::now() + LIMIT;
    loop {
        let overview = loaded.server.api(&loaded.place, "/api/overview");
        let left = overview["object_totals"]["queues"].as_u64();
        if left == Some(0) {
            break;
        }
        assert!(Instant::now() < until, "{left:?} queues are left");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_short_turns(&loaded, "exclusive queues");
}
