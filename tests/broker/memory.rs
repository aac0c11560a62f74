//! Every way in which clients can make the broker hold memory, each against the real `cbroker
//! serve` with a small limit: resident memory stays under the ceiling, and the management API
//! answers.

use std::cell::Cell;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::loaded::{Loaded, PERSISTENT, PLAIN, declare, declaring, frame, method, publishing};
use crate::raw::{Raw, long, short};
use crate::support::wait_until;

#[test]
fn gets_and_nacks_whose_answers_nobody_reads() {
    let mut loaded = Loaded::start();
    let mut client = loaded.client();
    declare(&mut client, "q");
    client.bytes(&publishing(1, ("", "q"), 0, PLAIN, &vec![7; 1_000_000]));
    let get = method(1, (60, 70), &[&b"\0\0"[..], &short("q"), b"\0"].concat());
    let nack = method(1, (60, 120), &[&0_u64.to_be_bytes()[..], b"\x03"].concat());
    loaded.flood(&client, [get, nack].concat().repeat(100));
    loaded.bear("gets and nacks", vec![client]);
}

#[test]
fn mandatory_returns_that_nobody_reads() {
    let mut loaded = Loaded::start();
    let client = loaded.client();
    let publish = publishing(1, ("", "no such queue"), 1, PLAIN, &vec![7; 20_000]);
    loaded.flood(&client, publish.repeat(10));
    loaded.bear("returns", vec![client]);
}

#[test]
fn direct_replies_that_nobody_reads() {
    let mut loaded = Loaded::start();
    let (mut asking, mut answering) = (loaded.client(), loaded.client());
    let consume = [
        &b"\0\0"[..],
        &short("amq.rabbitmq.reply-to"),
        &short("t"),
        b"\x02\0\0\0\0",
    ];
    asking.method(1, (60, 20), &consume.concat());
    asking.expect(1, (60, 21));
    declare(&mut answering, "requests");
    let reply_to = [&b"\x02\0"[..], &short("amq.rabbitmq.reply-to")].concat();
    asking.bytes(&publishing(1, ("", "requests"), 0, &reply_to, b"?"));
    let address = loop {
        answering.method(
            1,
            (60, 70),
            &[&b"\0\0"[..], &short("requests"), b"\x01"].concat(),
        );
        let (_, _, got) = answering.next().unwrap();
        if got[..4] == [0, 60, 0, 72] {
            continue;
        }
        let (_, _, header) = answering.next().unwrap();
        answering.next().unwrap();
        break String::from_utf8(header[15..].to_vec()).unwrap();
    };
    let reply = publishing(1, ("", &address), 0, PLAIN, &vec![7; 20_000]);
    loaded.flood(&answering, reply.repeat(10));
    loaded.bear("direct replies", vec![asking, answering]);
}

#[test]
fn a_transaction_that_is_never_committed() {
    let mut loaded = Loaded::start();
    let mut client = loaded.client();
    declare(&mut client, "q");
    client.method(1, (90, 10), b"");
    client.expect(1, (90, 11));
    let publish = publishing(1, ("", "q"), 0, PLAIN, &[7; 5_000]);
    loaded.flood(&client, publish.repeat(50));
    let (code, text) = client.closed().unwrap();
    assert_eq!(code, 406, "{text}");
    assert!(text.contains("a transaction may hold"), "{text}");
    loaded.bear("a transaction", vec![client]);
}

#[test]
fn transient_messages_that_nobody_takes() {
    for size in [16, 1_000, 50_000, 1_000_000] {
        let mut loaded = Loaded::start();
        let mut clients = Vec::new();
        for number in 0..8 {
            let mut client = loaded.client();
            declare(&mut client, &format!("q{number}"));
            let publish = publishing(1, ("", &format!("q{number}")), 0, PLAIN, &vec![7; size]);
            loaded.flood(&client, publish.repeat((200_000 / size).max(1)));
            clients.push(client);
        }
        loaded.bear(&format!("transient messages of {size} bytes"), clients);
    }
}

#[test]
fn persistent_messages_that_nobody_takes() {
    let mut loaded = Loaded::start();
    let mut clients = Vec::new();
    for number in 0..8 {
        let (mut client, queue) = (loaded.client(), format!("q{number}"));
        client.method(1, (50, 10), &declaring(&queue, b"\x02"));
        client.expect(1, (50, 11));
        let publish = publishing(1, ("", &queue), 0, PERSISTENT, &[7; 5_000]);
        loaded.flood(&client, publish.repeat(50));
        clients.push(client);
    }
    loaded.bear("persistent messages", clients);
}

#[test]
fn bodies_that_are_announced_or_begun_and_do_not_come() {
    let loaded = Loaded::start();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = loaded.client();
        for channel in 2..200_u16 {
            client.method(channel, (20, 10), &short(""));
            client.expect(channel, (20, 11));
        }
        let mut begun = Vec::new();
        for channel in 1..200_u16 {
            let whole = publishing(channel, ("", "q"), 0, PLAIN, b"");
            // The last is larger than any body may be.
            let size = if channel == 199 { 128_u64 } else { 16 } << 20;
            let announced = frame(
                2,
                channel,
                &[&b"\0\x3c\0\0"[..], &size.to_be_bytes(), PLAIN].concat(),
            );
            begun.extend(&whole[..whole.len() - 22]);
            begun.extend(announced);
            begun.extend(frame(3, channel, &vec![7; 20_000]));
        }
        // The broker may close it at any time.
        let _ = client.stream().write_all(&begun);
        clients.push(client);
    }
    loaded.bear("announced bodies", clients);
}

#[test]
fn taps_that_nobody_reads() {
    let mut loaded = Loaded::start();
    // One user has few places at the tap.
    let logins = loaded.listeners(5);
    let tap = |loaded: &Loaded, number: usize| {
        loaded.ask_as(&logins[number % logins.len()], "GET /api/tap", "")
    };
    let mut taps: Vec<TcpStream> = (0..20).map(|number| tap(&loaded, number)).collect();
    let mut client = loaded.client();
    declare(&mut client, "q");
    let consume = [&b"\0\0"[..], &short("q"), &short("t"), b"\x02\0\0\0\0"].concat();
    client.method(1, (60, 20), &consume);
    client.expect(1, (60, 21));
    loaded.drain(&client);
    let body = [b'x'; 4096];
    loaded.flood(
        &client,
        publishing(1, ("", "q"), 0, PLAIN, &body).repeat(50),
    );
    // Others come while lines go by.
    for number in 20..40 {
        thread::sleep(Duration::from_millis(20));
        taps.push(tap(&loaded, number));
    }
    loaded.bear("taps", vec![client]);
    drop(taps);
}

/// Declares a fanout exchange to many queues. Consumers of `consuming` read them where it is so.
fn fanout(client: &mut Raw, with_consumers: bool) {
    const QUEUES: u16 = 1_500;
    let exchange = [&b"\0\0"[..], &short("all"), &short("fanout"), b"\0\0\0\0\0"].concat();
    client.method(1, (40, 10), &exchange);
    client.expect(1, (40, 11));
    for number in 0..QUEUES {
        let name = short(&format!("q{number}"));
        declare(client, &format!("q{number}"));
        let bind = [
            &b"\0\0"[..],
            &name,
            &short("all"),
            &short(""),
            b"\0\0\0\0\0",
        ]
        .concat();
        client.method(1, (50, 20), &bind);
        client.expect(1, (50, 21));
        if with_consumers {
            let consume = [&b"\0\0"[..], &name, &name, b"\x02\0\0\0\0"].concat();
            client.method(1, (60, 20), &consume);
            client.expect(1, (60, 21));
        }
    }
}

/// Clients that publish small messages to the fanout exchange at full speed.
fn fanning_out(loaded: &mut Loaded, count: usize) -> Vec<Raw> {
    let flooding = |_| {
        let client = loaded.client();
        loaded.flood(
            &client,
            publishing(1, ("all", ""), 0, PLAIN, &[7; 16]).repeat(500),
        );
        client
    };
    (0..count).map(flooding).collect()
}

#[test]
fn a_fanout_to_many_queues_whose_consumers_are_slow() {
    let mut loaded = Loaded::start();
    let mut consuming = loaded.client();
    fanout(&mut consuming, true);
    loaded.drain(&consuming);
    let mut clients = fanning_out(&mut loaded, 100);
    clients.push(consuming);
    loaded.bear("a fanout", clients);
}

/// A publisher that gets a turn although memory is short could fill it with a few bytes: 64 KiB of
/// small messages to 1,500 queues are 140 MB.
#[test]
fn a_fanout_to_many_queues_that_nobody_reads() {
    let mut loaded = Loaded::start();
    let mut declaring = loaded.client();
    fanout(&mut declaring, false);
    let clients = fanning_out(&mut loaded, 10);
    loaded.bear("a fanout that nobody reads", clients);
}

/// Queues whose messages expire had to keep the next one in memory, to know when. A message of
/// 1 MB in each of many queues then held all memory for ever, and with it every publisher.
#[test]
fn messages_that_may_expire_in_many_queues_that_nobody_takes_from() {
    const QUEUES: usize = 200;
    const SIZE: usize = 1_000_000;
    let loaded = Loaded::start();
    let mut client = loaded.client();
    client.method(1, (85, 10), b"\0");
    client.expect(1, (85, 11));
    let ttl = |ms: u32| [&short("x-message-ttl")[..], b"I", &ms.to_be_bytes()].concat();
    let declare = |client: &mut Raw, name: &str, ms: u32| {
        let start = [&b"\0\0"[..], &short(name), b"\x02", &long(&ttl(ms))].concat();
        client.method(1, (50, 10), &start);
        client.expect(1, (50, 11));
    };
    for number in 0..QUEUES {
        // Two of them expire while the others fill the memory.
        let ms = if number < 2 { 2_000 } else { 3_600_000 };
        let name = format!("ttl{number}");
        declare(&mut client, &name, ms);
        client.bytes(&publishing(1, ("", &name), 0, PERSISTENT, &vec![7; SIZE]));
        loop {
            let (_, _, frame) = client.next().expect("publishers wait for ever");
            // It is held now and then, and told so.
            if frame[..4] == [0, 60, 0, 80] {
                break;
            }
        }
    }
    let mut reading = loaded.client();
    for number in [2, QUEUES / 2, QUEUES - 1] {
        let get = [&b"\0\0"[..], &short(&format!("ttl{number}")), b"\x01"].concat();
        reading.method(1, (60, 70), &get);
        reading.expect(1, (60, 71));
        let mut missing = SIZE;
        reading.next().unwrap();
        while missing > 0 {
            missing -= reading.next().unwrap().2.len();
        }
    }
    for number in 0..2 {
        let passive = declaring(&format!("ttl{number}"), b"\x03");
        let is_empty = || {
            reading.method(1, (50, 10), &passive);
            let ok = reading.expect(1, (50, 11));
            ok[1 + usize::from(ok[0])..].starts_with(&[0; 4])
        };
        wait_until(is_empty, || "a message does not expire".into());
    }
    loaded.bear("messages that may expire", vec![client, reading]);
}

/// Durable queues whose messages lie on the disk, all of them together beyond what the broker may
/// hold.
pub(crate) fn filled(loaded: &Loaded, (queues, each): (usize, usize), size: usize) -> Vec<String> {
    let mut client = loaded.client();
    let names: Vec<_> = (0..queues)
        .map(|number| format!("filled{number}"))
        .collect();
    for name in &names {
        client.method(1, (50, 10), &declaring(name, b"\x02"));
        client.expect(1, (50, 11));
    }
    client.method(1, (85, 10), b"\0");
    client.expect(1, (85, 11));
    for name in &names {
        let publish = publishing(1, ("", name), 0, PERSISTENT, &vec![7; size]);
        for _ in 0..each {
            client.bytes(&publish);
        }
    }
    let (all, mut confirmed) = ((queues * each) as u64, 0);
    while confirmed < all {
        let (_, _, ack) = client.next().unwrap();
        // It is held now and then, and told so.
        if matches!(ack[..4], [0, 10, 0, 60 | 61]) {
            continue;
        }
        assert_eq!(ack[..4], [0, 60, 0, 80], "{ack:?}");
        confirmed = u64::from_be_bytes(ack[4..12].try_into().unwrap());
    }
    names
}

#[test]
fn messages_that_a_client_gets_and_does_not_settle() {
    const SIZE: usize = 1_000_000;
    let loaded = Loaded::start();
    let names = filled(&loaded, (1, 150), SIZE);
    let mut client = loaded.client();
    let get = [&b"\0\0"[..], &short(&names[0]), b"\0"].concat();
    let mut got = 0;
    let refused = loop {
        client.method(1, (60, 70), &get);
        let (_, _, answer) = client.next().unwrap();
        if answer[..4] != [0, 60, 0, 71] {
            break answer;
        }
        let mut missing = SIZE;
        client.next().unwrap();
        while missing > 0 {
            missing -= client.next().unwrap().2.len();
        }
        got += 1;
    };
    assert_eq!(
        refused[..6],
        [0, 20, 0, 40, 1, 0x96],
        "406, on the channel alone"
    );
    let text = String::from_utf8_lossy(&refused[7..]);
    assert!(
        text.contains("no memory for more unsettled messages"),
        "{text}"
    );
    assert!(got > 1, "it was served before");
    client.method(1, (20, 41), b"");
    client.method(1, (20, 10), &short(""));
    client.expect(1, (20, 11));
    loaded.bear("gets that nobody settles", vec![client]);
}

/// Asks for everything of a queue, and never settles any of it.
pub(crate) fn consume_all(client: &mut Raw, queue: &str) {
    let consume = [&b"\0\0"[..], &short(queue), &short(queue), b"\0\0\0\0\0"].concat();
    client.method(1, (60, 20), &consume);
}

#[test]
fn deliveries_from_many_queues_that_nobody_settles() {
    for (queues, each, size) in [(40, 20, 200_000), (400, 2, 200_000), (40, 2_000, 2_000)] {
        let mut loaded = Loaded::start();
        let mut names = filled(&loaded, (queues + 1, each), size);
        let small = names.pop().unwrap();
        let mut client = loaded.client();
        for name in &names {
            consume_all(&mut client, name);
        }
        let read = loaded.drain(&client);
        // A second client is served although the first holds what there is.
        let mut other = loaded.client();
        consume_all(&mut other, &small);
        other.expect(1, (60, 21));
        other.expect(1, (60, 60));
        loaded.bear(
            &format!("{queues} queues, {each} of {size} bytes unsettled each"),
            vec![client, other],
        );
        assert!(
            read.load(Ordering::Relaxed) > 1_000_000,
            "nothing was delivered"
        );
    }
}

#[test]
fn a_peek_at_a_queue_of_large_messages() {
    const COUNT: usize = 12;
    const LARGE: usize = 14 << 20;
    let loaded = Loaded::start();
    let names = filled(&loaded, (1, COUNT), LARGE);
    let (mut after, mut seen) = (String::new(), 0);
    loop {
        let path = format!(
            "/api/queues/%2F/{}/peek?count=50&truncate=10{after}",
            names[0]
        );
        let (status, body) = loaded.answer("GET", &path, "");
        assert_eq!(status, 200, "{body}");
        let page: serde_json::Value = serde_json::from_str(&body).unwrap();
        let page = page.as_array().unwrap();
        let Some(last) = page.last() else { break };
        seen += page.len();
        after = format!("&after={}", last["cursor"].as_str().unwrap());
    }
    assert_eq!(seen, COUNT);
    loaded.bear("a peek at large messages", Vec::new());
}

#[test]
fn what_an_unsettling_client_held_goes_back_to_the_store_when_it_leaves() {
    let mut loaded = Loaded::start();
    let names = filled(&loaded, (40, 20), 200_000);
    let mut client = loaded.client();
    for name in &names {
        consume_all(&mut client, name);
    }
    let read = loaded.drain(&client);
    // It has all that it is given.
    let mut before = 0;
    while before == 0 || before < read.load(Ordering::Relaxed) {
        before = read.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(500));
    }
    client.stream().shutdown(Shutdown::Both).unwrap();
    // Publishers may go on.
    let mut publisher = loaded.client();
    publisher.method(1, (85, 10), b"\0");
    publisher.expect(1, (85, 11));
    for _ in 0..100 {
        publisher.bytes(&publishing(
            1,
            ("", &names[0]),
            0,
            PERSISTENT,
            &vec![7; 200_000],
        ));
    }
    let mut confirmed = 0;
    while confirmed < 100 {
        let (_, _, frame) = publisher.next().expect("publishers wait for ever");
        if frame[..4] == [0, 60, 0, 80] {
            confirmed = u64::from_be_bytes(frame[4..12].try_into().unwrap());
        }
    }
    // Everything is there again; it comes back in many units of work.
    let mut reading = loaded.client();
    for name in &names {
        let wanted = if name == &names[0] { 120 } else { 20 };
        let waiting = Cell::new(0);
        let is_there = || {
            let passive = declaring(name, b"\x03");
            reading.method(1, (50, 10), &passive);
            let ok = reading.expect(1, (50, 11));
            let at = 1 + usize::from(ok[0]);
            waiting.set(u32::from_be_bytes(ok[at..at + 4].try_into().unwrap()));
            waiting.get() == wanted
        };
        wait_until(is_there, || {
            format!("{} of {wanted} in {name}", waiting.get())
        });
    }
    loaded.bear("a client that left", vec![publisher, reading]);
}
