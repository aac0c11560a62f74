//! Exchanges, queues and bindings that a user makes without end, against the real `cbroker serve`
//! with a small memory limit: they are refused before they fill the memory, and the messages of
//! others go on.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::loaded::{CEILING_MIB, Loaded, PERSISTENT, declare, declaring, method, publishing};
use crate::raw::{Raw, long, short};
use crate::support::wait_until;

/// More than any limit lets through, and an end where nothing is refused.
const MOST: u32 = 300_000;

/// `exchange.declare`, durable, without an answer.
fn exchange(name: &str, kind: &str, arguments: &[u8]) -> Vec<u8> {
    let terms = [&b"\0\0"[..], &short(name), &short(kind), b"\x12"].concat();
    method(1, (40, 10), &[&terms[..], &long(arguments)].concat())
}

/// `queue.bind` from the exchange `source` to the queue `kept`, without an answer.
fn binding(key: &str, arguments: &[u8]) -> Vec<u8> {
    let ends = [&b"\0\0"[..], &short("kept"), &short("source"), &short(key)].concat();
    method(
        1,
        (50, 20),
        &[&ends[..], b"\x01", &long(arguments)].concat(),
    )
}

/// A table's entry: a long string.
fn entry(name: &str, text: &[u8]) -> Vec<u8> {
    [&short(name)[..], b"S", &long(text)].concat()
}

/// Sends what `make` makes until the broker refuses it, and returns what it says.
fn refusal(client: &mut Raw, make: impl Fn(u32) -> Vec<u8> + Sync) -> (u16, String) {
    let (mut stream, is_over) = (client.stream(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut numbers = 0..MOST;
            while !is_over.load(Ordering::Relaxed)
                && let Some(number) = numbers.next()
                && stream.write_all(&make(number)).is_ok()
            {}
        });
        let closed = client.closed();
        is_over.store(true, Ordering::Relaxed);
        closed.expect("the broker refuses")
    })
}

/// Makes things of a kind without end.
#[track_caller]
fn bears(kind: &str, make: impl Fn(u32) -> Vec<u8> + Sync) {
    let loaded = Loaded::start();
    let mut client = loaded.client();
    client.method(1, (50, 10), &declaring("kept", b"\x02"));
    client.expect(1, (50, 11));
    client.bytes(&exchange("source", kind, b""));
    let (code, text) = refusal(&mut client, make);
    assert_eq!(code, 406, "{text}");
    assert!(text.contains("hold all the memory that they may"), "{text}");
    // The last room, which was too little for that.
    let mut filler = loaded.client();
    let fill = |number: u32| exchange(&format!("small {number}"), "fanout", b"");
    assert_eq!(refusal(&mut filler, fill).0, 406);
    let (status, answer) = loaded.answer("PUT", "/api/exchanges/%2F/more", "{}");
    assert_eq!(status, 400, "{answer}");
    assert!(
        answer.contains("cannot declare exchange 'more'"),
        "{answer}"
    );
    println!("peak {} MiB when it is full", loaded.peak_mib());
    // A client that lists all of it may be refused, and does not make the broker large.
    thread::scope(|scope| {
        for path in ["bindings", "definitions", "exchanges", "queues"] {
            let loaded = &loaded;
            scope.spawn(move || {
                let (status, _) = loaded.answer("GET", &format!("/api/{path}"), "");
                assert!([200, 503].contains(&status), "{path}: {status}");
            });
        }
    });
    // Messages, and what is there already, are served as before.
    let mut other = loaded.client();
    other.method(1, (50, 10), &declaring("kept", b"\x02"));
    other.expect(1, (50, 11));
    other.method(1, (85, 10), b"\0");
    other.expect(1, (85, 11));
    other.bytes(&publishing(
        1,
        ("", "kept"),
        0,
        PERSISTENT,
        &vec![7; 100_000],
    ));
    other.expect(1, (60, 80));
    let peak = loaded.peak_mib();
    println!("peak {peak} MiB, ceiling {CEILING_MIB} MiB");
    assert!(peak <= CEILING_MIB, "{peak} of {CEILING_MIB} MiB");
    // What goes gives its room back.
    let delete = [&b"\0\0"[..], &short("source"), b"\0"].concat();
    other.method(1, (40, 20), &delete);
    other.expect(1, (40, 21));
    let after = [
        &b"\0\0"[..],
        &short("after"),
        &short("fanout"),
        b"\0\0\0\0\0",
    ];
    other.method(1, (40, 10), &after.concat());
    other.expect(1, (40, 11));
}

#[test]
fn exchanges_without_end() {
    bears("fanout", |number| {
        exchange(&number.to_string(), "fanout", b"")
    });
}

#[test]
fn exchanges_with_large_arguments() {
    let arguments = entry("note", &vec![b'x'; 100_000]);
    bears("fanout", |number| {
        exchange(&number.to_string(), "topic", &arguments)
    });
}

#[test]
fn queues_without_end() {
    bears("fanout", |number| {
        // Durable, without an answer.
        method(1, (50, 10), &declaring(&number.to_string(), b"\x12"))
    });
}

#[test]
fn queues_with_very_many_priorities() {
    let arguments = [&short("x-max-priority")[..], b"B\xff"].concat();
    bears("fanout", |number| {
        let terms = [&b"\0\0"[..], &short(&number.to_string()), b"\x12"].concat();
        method(1, (50, 10), &[&terms[..], &long(&arguments)].concat())
    });
}

#[test]
fn bindings_without_end() {
    bears("direct", |number| binding(&number.to_string(), b""));
}

#[test]
fn bindings_with_patterns_of_many_words() {
    let words = ".a".repeat(120);
    bears("topic", |number| binding(&format!("{number}{words}"), b""));
}

#[test]
fn consumers_without_end() {
    let loaded = Loaded::start();
    let mut client = loaded.client();
    declare(&mut client, "kept");
    let note = entry("note", &vec![b'x'; 10_000]);
    let (code, text) = refusal(&mut client, |number| {
        let ends = [&b"\0\0"[..], &short("kept"), &short(&number.to_string())].concat();
        // Some with large arguments, all without an answer.
        let arguments = if number % 100 == 0 { &note[..] } else { b"" };
        method(
            1,
            (60, 20),
            &[&ends[..], b"\x08", &long(arguments)].concat(),
        )
    });
    assert_eq!(code, 406, "{text}");
    assert!(text.contains("consumers hold all the memory"), "{text}");
    let (status, _) = loaded.answer("GET", "/api/consumers", "");
    assert!([200, 503].contains(&status), "{status}");
    // They go with their channel, and others have their room.
    let consume = [&b"\0\0"[..], &short("kept"), &short("t"), b"\0\0\0\0\0"].concat();
    let is_served = || {
        let mut other = loaded.client();
        other.method(1, (60, 20), &consume);
        let (_, _, answer) = other.next().unwrap();
        answer[..4] == [0, 60, 0, 21]
    };
    wait_until(is_served, || "another consumer is served".to_owned());
    let peak = loaded.peak_mib();
    println!("peak {peak} MiB, ceiling {CEILING_MIB} MiB");
    assert!(peak <= CEILING_MIB, "{peak} of {CEILING_MIB} MiB");
}

#[test]
fn channels_without_end() {
    let loaded = Loaded::start();
    let mut clients = Vec::new();
    let refused = (0..100).find_map(|_| {
        let mut client = loaded.client_without_channel();
        let opening: Vec<u8> = (1..2000)
            .flat_map(|number| method(number, (20, 10), b"\0"))
            .collect();
        client.bytes(&opening);
        let refused = (1..2000).find_map(|_| {
            let (_, on, answer) = client.next().unwrap();
            (on == 0).then(|| String::from_utf8_lossy(&answer).into_owned())
        });
        clients.push(client);
        refused
    });
    let refused = refused.expect("the broker refuses");
    assert!(
        refused.contains("channels hold all the memory"),
        "{refused}"
    );
    let peak = loaded.peak_mib();
    println!("peak {peak} MiB, ceiling {CEILING_MIB} MiB");
    assert!(peak <= CEILING_MIB, "{peak} of {CEILING_MIB} MiB");
    drop(clients);
    let is_served = || {
        let mut other = loaded.client_without_channel();
        other.method(1, (20, 10), b"\0");
        other.next().is_some_and(|(_, on, _)| on == 1)
    };
    wait_until(is_served, || "another channel is opened".to_owned());
}

#[test]
fn bindings_with_many_headers() {
    let many = (0..1000).map(|number| [&short(&number.to_string())[..], b"V"].concat());
    let many = many.collect::<Vec<_>>().concat();
    let any = entry("x-match", b"any");
    bears("headers", |number| {
        binding(
            "",
            &[&any[..], &many, &entry("n", number.to_string().as_bytes())].concat(),
        )
    });
}
