//! Very many connections of one user that has logged in, against the real `cbroker serve` with a
//! small memory limit: with large descriptions of themselves, with frames that never become whole,
//! with channels of high numbers, and with an end that is not read.

use std::time::Duration;

use crate::loaded::{CEILING_MIB, Loaded, declaring, frame, method};
use crate::raw::{Raw, long, short};
use crate::support::wait_until;

/// More connections than may be open, and fewer than a process may have files.
const MOST: usize = 950;

/// What the broker may take where 500 clients have each sent nearly all of a frame of 128 KiB: less
/// than those frames together.
const HALVES_MIB: u64 = 60;

/// Code and text of a `connection.close`.
fn close((_, on, payload): (u8, u16, Vec<u8>)) -> Option<(u16, String)> {
    if on != 0 || payload[..4] != [0, 10, 0, 50] {
        return None;
    }
    let code = u16::from_be_bytes([payload[4], payload[5]]);
    Some((code, String::from_utf8_lossy(&payload[7..]).into_owned()))
}

fn assert_under_ceiling(loaded: &Loaded, what: &str) {
    let peak = loaded.peak_mib();
    println!("{what}: peak {peak} MiB, ceiling {CEILING_MIB} MiB");
    assert!(peak <= CEILING_MIB, "{what}: {peak} of {CEILING_MIB} MiB");
}

fn is_served(loaded: &Loaded) -> bool {
    let mut client = loaded.client_before_open(b"");
    let opened = client.next().is_some_and(|answer| close(answer).is_none());
    opened && loaded.answer("GET", "/api/overview", "").0 == 200
}

#[test]
fn connections_with_large_descriptions() {
    let loaded = Loaded::start();
    // Thirty times as large in memory where it is decoded.
    let entries: Vec<u8> = (0..1280_u32)
        .flat_map(|number| {
            [
                &short(&char::from(b'a' + (number % 26) as u8).to_string())[..],
                b"V",
            ]
            .concat()
        })
        .collect();
    let mut clients = Vec::new();
    let refused = (0..MOST).find_map(|_| {
        let mut client = loaded.client_before_open(&entries);
        let refused = close(client.next().unwrap());
        clients.push(client);
        refused
    });
    let (code, text) = refused.expect("the broker refuses");
    assert_eq!(code, 506, "{text}");
    assert!(text.contains("connections hold all the memory"), "{text}");
    assert!(clients.len() > 100, "{} connections", clients.len());
    let (status, _) = loaded.answer("GET", "/api/connections", "");
    assert!([200, 503].contains(&status), "{status}");
    assert_under_ceiling(&loaded, "descriptions");
    clients.truncate(clients.len() / 2);
    wait_until(|| is_served(&loaded), || "others are served".to_owned());
}

/// A client that has sent nearly all of a frame of the largest size.
fn half(loaded: &Loaded) -> Raw {
    let mut client = loaded.client();
    let whole = method(1, (50, 10), &vec![b'x'; 130_000]);
    client.bytes(&whole[..whole.len() - 10]);
    client
}

#[test]
fn frames_that_never_become_whole() {
    let loaded = Loaded::start();
    let mut clients: Vec<_> = (0..100).map(|_| half(&loaded)).collect();
    // One that is whole gets its room: the others lose theirs after a while.
    let mut other = loaded.client();
    let patience = Some(Duration::from_mins(2));
    other.stream().set_read_timeout(patience).unwrap();
    let note = [&short("note")[..], b"S", &long(&vec![b'x'; 100_000])].concat();
    let terms = [&b"\0\0"[..], &short("whole"), b"\0", &long(&note)].concat();
    other.method(1, (50, 10), &terms);
    other.expect(1, (50, 11));
    clients.extend((0..400).map(|_| half(&loaded)));
    let mut last = loaded.client();
    last.method(1, (50, 10), &declaring("after", b"\0"));
    last.expect(1, (50, 11));
    let peak = loaded.peak_mib();
    println!("half frames: peak {peak} MiB of {HALVES_MIB} MiB");
    assert!(peak <= HALVES_MIB, "{peak} of {HALVES_MIB} MiB");
    drop(clients);
}

#[test]
fn channels_of_high_numbers() {
    let loaded = Loaded::start();
    let mut clients = Vec::new();
    let refused = (0..MOST).find_map(|_| {
        let mut client = loaded.client_without_channel();
        client.method(2047, (20, 10), b"\0");
        let refused = close(client.next().unwrap());
        clients.push(client);
        refused
    });
    let (code, text) = refused.expect("the broker refuses");
    assert_eq!(code, 506, "{text}");
    assert!(text.contains("channels hold all the memory"), "{text}");
    assert_under_ceiling(&loaded, "channels of high numbers");
}

#[test]
fn closes_whose_answers_nobody_reads() {
    let mut loaded = Loaded::start();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = loaded.client();
        // No frame, so the server closes the connection and waits for the answer.
        client.bytes(&frame(7, 1, b""));
        let closing = method(0, (10, 50), b"\0\0\0\0\0\0\0");
        loaded.flood(&client, closing.repeat(10_000));
        clients.push(client);
    }
    loaded.bear("closes", clients);
}
