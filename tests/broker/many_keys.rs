//! Publishes whose CC header names very many routing keys. What one of them costs does not grow
//! with the product of its keys and what it is routed to.

use std::time::Duration;

use crate::loaded::{CEILING_MIB, Loaded, PLAIN, declare, publishing};
use crate::raw::{Raw, long, short};

/// As many as fit into one frame of 128 KiB.
const KEYS: usize = 18_000;
const LIMIT: Duration = Duration::from_mins(1);

/// Properties with these keys in CC.
fn copied_to(keys: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let keys: Vec<u8> = keys
        .flat_map(|key| [&b"S"[..], &long(&key)].concat())
        .collect();
    let headers = [&short("CC")[..], b"A", &long(&keys)].concat();
    [&b"\x20\0"[..], &long(&headers)].concat()
}

/// All keys differ.
fn distinct_keys() -> Vec<u8> {
    copied_to((0..KEYS).map(|number| u16::try_from(number).unwrap().to_be_bytes().to_vec()))
}

fn declare_exchange(client: &mut Raw, kind: &str) {
    let exchange = [&b"\0\0"[..], &short("x"), &short(kind), b"\0\0\0\0\0"].concat();
    client.method(1, (40, 10), &exchange);
    client.expect(1, (40, 11));
}

fn bind(client: &mut Raw, queue: &str, key: &str, arguments: &[u8]) {
    let names = [short(queue), short("x"), short(key)].concat();
    let bind = [&b"\0\0"[..], &names, b"\0", &long(arguments)].concat();
    client.method(1, (50, 20), &bind);
    client.expect(1, (50, 21));
}

/// Declares this many queues and binds each with the key.
fn bind_queues(client: &mut Raw, count: usize, key: &str) {
    for number in 0..count {
        let queue = format!("q{number}");
        declare(client, &queue);
        bind(client, &queue, key, b"");
    }
}

#[test]
fn a_headers_exchange_looks_once_at_a_message_with_many_keys() {
    let loaded = Loaded::start();
    let mut client = loaded.client();
    client.stream().set_read_timeout(Some(LIMIT)).unwrap();
    declare_exchange(&mut client, "headers");
    declare(&mut client, "q");
    let argument = [&short("n")[..], b"S", &long(b"1")].concat();
    bind(&mut client, "q", "", &argument);
    // Each of them took seconds.
    let publish = publishing(1, ("x", ""), 0, &distinct_keys(), b"x");
    client.bytes(&publish.repeat(20));
    declare(&mut client, "afterwards");
}

#[test]
fn a_fanout_finds_its_queues_once_for_a_message_with_many_keys() {
    let loaded = Loaded::start();
    let mut client = loaded.client();
    client.stream().set_read_timeout(Some(LIMIT)).unwrap();
    declare_exchange(&mut client, "fanout");
    bind_queues(&mut client, 1_000, "");
    client.bytes(&publishing(1, ("x", ""), 0, &distinct_keys(), b"x"));
    declare(&mut client, "afterwards");
    let peak = loaded.peak_mib();
    assert!(peak <= CEILING_MIB, "{peak} of {CEILING_MIB} MiB");
}

#[test]
fn a_message_whose_keys_ask_for_too_much_is_refused() {
    let loaded = Loaded::start();
    let mut client = loaded.client();
    client.stream().set_read_timeout(Some(LIMIT)).unwrap();
    declare_exchange(&mut client, "topic");
    bind_queues(&mut client, 100, "#");
    // The same key again and again is one key.
    let same = copied_to((0..KEYS).map(|_| b"k".to_vec()));
    client.bytes(&publishing(1, ("x", "k"), 0, &same, b"x"));
    declare(&mut client, "afterwards");
    client.bytes(&publishing(1, ("x", "k"), 0, &distinct_keys(), b"x"));
    let (code, text) = client.closed().unwrap();
    assert_eq!(code, 406, "{text}");
    assert!(text.contains("steps"), "{text}");
    client.method(1, (20, 41), b"");
    client.method(1, (20, 10), &short(""));
    client.expect(1, (20, 11));
    client.bytes(&publishing(1, ("x", "k"), 1, PLAIN, b"x"));
    // Nothing came back.
    declare(&mut client, "afterwards");
}
