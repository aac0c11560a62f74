//! `basic.get` where the store cannot give the messages, or take any: it comes to an end, and
//! nothing is tried for ever.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::loaded::{PERSISTENT, declaring, publishing};
use crate::raw::{Raw, short};
use crate::real::Real;
use crate::support::{Place, Server};

const DURABLE: &[u8] = b"\x02";
const BODY: usize = 100_000;
const MESSAGES: u64 = 300;

fn client(server: &Server, place: &Place) -> Raw {
    let url = place.ok(["status", "--show-url"]);
    let (_, login) = url.trim().split_once("//").unwrap();
    let (user, password) = login.split_once('@').unwrap().0.split_once(':').unwrap();
    Raw::open_as(server.port, user, password)
}

fn fill(client: &mut Raw, messages: u64) {
    client.method(1, (50, 10), &declaring("q", DURABLE));
    client.expect(1, (50, 11));
    client.method(1, (85, 10), b"\0");
    client.expect(1, (85, 11));
    let (publish, mut confirmed) = (publishing(1, ("", "q"), 0, PERSISTENT, &vec![7; BODY]), 0);
    for _ in 0..messages {
        client.bytes(&publish);
    }
    while confirmed < messages {
        let (_, _, frame) = client.next().unwrap();
        if frame[..4] == [0, 60, 0, 80] {
            confirmed = u64::from_be_bytes(frame[4..12].try_into().unwrap());
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Got {
    Message,
    Nothing,
}

/// `basic.get` with this `no_ack` bit.
fn get(client: &mut Raw, no_ack: &[u8]) -> Got {
    client.method(1, (60, 70), &[&b"\0\0"[..], &short("q"), no_ack].concat());
    let (_, _, answer) = client.next().unwrap();
    if answer[..4] == [0, 60, 0, 72] {
        return Got::Nothing;
    }
    assert_eq!(answer[..4], [0, 60, 0, 71], "{answer:?}");
    let mut missing = BODY;
    client.next().unwrap();
    while missing > 0 {
        missing -= client.next().unwrap().2.len();
    }
    Got::Message
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("log")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

#[test]
fn gets_of_damaged_messages_come_to_an_end_and_each_is_said_once_or_twice() {
    let place = Place::new();
    // Most of the messages are on the disk only.
    let limit = ["--memory-limit", "32", "--background"];
    let server = Server::start_with(&place, 0, 0, &limit);
    fill(&mut client(&server, &place), MESSAGES);
    for segment in segments(&place.home().join("data")) {
        let file = OpenOptions::new().write(true).open(&segment).unwrap();
        let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
        file.write_all_at(&vec![0; length], 0).unwrap();
    }
    // Not the publisher, which is told when memory is low.
    let mut reading = client(&server, &place);
    let mut got = 0;
    while get(&mut reading, b"\x01") == Got::Message {
        got += 1;
    }
    assert!(got < MESSAGES, "nothing was damaged");
    let log = fs::read_to_string(place.home().join("logs/broker.log")).unwrap();
    let lines = log.matches("skipped damaged messages").count() as u64;
    assert!(lines > 0, "it is not said: {log}");
    assert!(lines <= 2 * MESSAGES, "it is said {lines} times");
}

#[test]
fn a_get_works_on_a_full_disk() {
    let Some(real) = Real::on_small_disk(160) else {
        return;
    };
    let mut publisher = client(&real.server, &real.place);
    fill(&mut publisher, 20);
    crate::blocked::fill_disk(&real.disk().join("ballast"), 8);
    crate::blocked::publish_until_blocked(&mut publisher, "q", 20);
    let mut reading = client(&real.server, &real.place);
    for no_ack in [b"\0", b"\x01"] {
        for _ in 0..5 {
            assert_eq!(get(&mut reading, no_ack), Got::Message);
        }
    }
}
