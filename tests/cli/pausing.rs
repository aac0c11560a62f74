//! `pause` is what a person takes to when something goes wrong: nobody may delay it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::background_broker::started;
use crate::client;
use crate::support::{Place, Wrapped};

/// Passes one connection on to a broker, and keeps what the client sent.
fn listening_in(port: u16) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let sent = Arc::<Mutex<Vec<u8>>>::default();
    let heard = Arc::clone(&sent);
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut broker = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut back, mut to_client) = (broker.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || {
            let _ended = std::io::copy(&mut back, &mut to_client);
            let _gone = to_client.shutdown(Shutdown::Both);
        });
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = client.read(&mut bytes) {
            heard.lock().unwrap().extend_from_slice(&bytes[..count]);
            broker.write_all(&bytes[..count]).unwrap();
        }
    });
    (own, sent)
}

fn place_of(needle: &[u8], bytes: &[u8]) -> Option<usize> {
    let mut windows = bytes.windows(needle.len());
    windows.position(|window| window == needle)
}

/// Whoever may bind queues can make any number of them, and each is looked at.
#[test]
fn a_pause_is_sent_before_the_sessions_that_answer_are_counted() {
    let place = Place::new();
    let _broker = started(&place);
    let _session = Wrapped::open(&place, "backend", &[]);
    let address = client::endpoint(&place).address;
    let (port, sent) = listening_in(address.port);
    let url = place.ok(["status", "--show-url"]);
    let url = url
        .trim()
        .replace(&format!(":{}", address.port), &format!(":{port}"));
    let management = &place.json(["status"])[0]["mgmt_url"];
    let ran = place.run([
        "pause",
        "backend",
        "--url",
        &url,
        "--mgmt-url",
        management.as_str().unwrap(),
    ]);
    assert_eq!(ran.out, "backend: paused\n", "{ran:?}");
    let sent = sent.lock().unwrap();
    // `queue.declare`, two reserved bytes, and the name.
    let counted = place_of(b"\0\x32\0\x0a\0\0\x07backend", &sent);
    let asked = place_of(br#""kind":"pause""#, &sent).unwrap();
    assert!(
        counted.is_some_and(|counted| asked < counted),
        "{counted:?} {asked}"
    );
}
