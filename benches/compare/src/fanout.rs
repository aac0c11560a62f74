//! One exchange to many queues, each with a consumer, under full load: how many deliveries a
//! second, and how long others wait.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Life};
use crate::management::Api;
use crate::peer::Peer;
use crate::process;
use crate::report::short;
use crate::wire::{self, Frame, Payload, method};

const EXCHANGE: &str = "fanout-load";
const CONSUMING: usize = 10;
const QUEUES_EACH: usize = 150;
const PUBLISHERS: usize = 20;
const BODY: &[u8] = b"sixteen bytes...";
/// Between two clients that ask for a login.
const BETWEEN: Duration = Duration::from_millis(50);

/// Prints a row for each broker.
pub(crate) fn measure(peers: &[Peer], seconds: f64) -> io::Result<()> {
    println!(
        "| 1 exchange to {} queues, {PUBLISHERS} publishers | deliveries/s | publishes/s | \
         logins | slowest login ms | answers of the API | slowest ms | peak MiB |\n\
         |---|---|---|---|---|---|---|---|",
        CONSUMING * QUEUES_EACH
    );
    for peer in peers {
        let measured = run(peer, seconds)?;
        println!(
            "| {} | {} | {} | {} | {:.0} | {} | {:.0} |",
            peer.label,
            short(measured.delivered as f64 / seconds),
            short(measured.delivered as f64 / seconds / (CONSUMING * QUEUES_EACH) as f64),
            measured.logins,
            measured.slowest.as_secs_f64() * 1000.0,
            measured.api,
            measured.peak_mib
        );
    }
    Ok(())
}

struct Measured {
    delivered: u64,
    logins: usize,
    slowest: Duration,
    /// Answers of the management API and the slowest of them, as two cells.
    api: String,
    peak_mib: f64,
}

fn run(peer: &Peer, seconds: f64) -> io::Result<Measured> {
    peer.start_fresh()?;
    let mut owner = peer.connect()?;
    owner.declare_exchange(EXCHANGE, "fanout")?;
    let (delivered, done) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (mut sockets, mut threads) = (Vec::new(), Vec::new());
    for connection in 0..CONSUMING {
        let client = consumers(peer, connection)?;
        let (mut stream, read) = client.into_parts();
        sockets.push(stream.try_clone()?);
        let delivered = Arc::clone(&delivered);
        threads.push(thread::spawn(move || count(&mut stream, read, &delivered)));
    }
    process::reset_peak(peer.pid());
    for _ in 0..PUBLISHERS {
        let (mut stream, _) = peer.connect()?.into_parts();
        sockets.push(stream.try_clone()?);
        let done = Arc::clone(&done);
        let block = publishes();
        threads.push(thread::spawn(move || {
            while !done.load(Relaxed) {
                stream.write_all(&block)?;
            }
            Ok(())
        }));
    }
    let asking = ask(peer, &done)?;
    let (before, began) = (delivered.load(Relaxed), Instant::now());
    let (mut logins, mut slowest) = (0, Duration::ZERO);
    while began.elapsed().as_secs_f64() < seconds {
        let asked = Instant::now();
        drop(peer.connect()?);
        (logins, slowest) = (logins + 1, slowest.max(asked.elapsed()));
        thread::sleep(BETWEEN);
    }
    let delivered = delivered.load(Relaxed) - before;
    let peak_mib = peer.usage().peak_mib;
    done.store(true, Relaxed);
    let api = cells(asking);
    let measured = Measured {
        delivered,
        logins,
        slowest,
        api,
        peak_mib,
    };
    for socket in sockets {
        let _may_be_closed = socket.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ended_by_us = thread.join();
    }
    Ok(measured)
}

type Answers = io::Result<(usize, Duration)>;

/// What [`ask`] found, as the two cells of a row.
fn cells(asking: Option<thread::JoinHandle<Answers>>) -> String {
    match asking.map(thread::JoinHandle::join) {
        Some(Ok(Ok((answers, slowest)))) => {
            format!("{answers} | {:.0}", slowest.as_secs_f64() * 1000.0)
        }
        Some(Ok(Err(error))) => format!("none | {error}"),
        Some(Err(_)) | None => " | ".to_owned(),
    }
}

/// Asks the management API for the overview again and again, where there is one.
fn ask(peer: &Peer, done: &Arc<AtomicBool>) -> io::Result<Option<thread::JoinHandle<Answers>>> {
    let Some(address) = peer.api() else {
        return Ok(None);
    };
    let (mut api, done) = (Api::connect(peer, &address)?, Arc::clone(done));
    Ok(Some(thread::spawn(move || {
        let (mut answers, mut slowest) = (0, Duration::ZERO);
        while !done.load(Relaxed) {
            let asked = Instant::now();
            api.ask("/api/overview")?;
            (answers, slowest) = (answers + 1, slowest.max(asked.elapsed()));
            thread::sleep(BETWEEN);
        }
        Ok((answers, slowest))
    })))
}

/// A connection with its queues, bound, and a consumer of each.
fn consumers(peer: &Peer, connection: usize) -> io::Result<Client> {
    let mut client = peer.connect()?;
    for number in 0..QUEUES_EACH {
        let queue = format!("fanout-{connection}-{number}");
        client.declare(&queue, Life::Transient)?;
        client.bind(&queue, EXCHANGE, "")?;
        let consume = Payload::method(method::BASIC_CONSUME)
            .short(0)
            .name(&queue)
            .name(&queue)
            .byte(2)
            .blob(b"");
        let mut bytes = Vec::new();
        consume.frame(wire::METHOD, 1, &mut bytes);
        client.write(&bytes)?;
        client.wait(method::BASIC_CONSUME_OK)?;
    }
    Ok(client)
}

fn publishes() -> Vec<u8> {
    let publish = Payload::method(method::BASIC_PUBLISH)
        .short(0)
        .name(EXCHANGE)
        .name("")
        .byte(0);
    let header = Payload::default()
        .short(60)
        .short(0)
        .long_long(BODY.len() as u64)
        .short(0);
    let mut one = Vec::new();
    publish.frame(wire::METHOD, 1, &mut one);
    header.frame(wire::HEADER, 1, &mut one);
    wire::frame(wire::BODY, 1, BODY, &mut one);
    one.repeat(100)
}

/// Counts deliveries until the socket ends; every body is checked.
fn count(stream: &mut impl Read, mut read: Vec<u8>, delivered: &AtomicU64) -> io::Result<()> {
    let mut chunk = vec![0; 256 * 1024];
    loop {
        let (mut used, mut bodies) = (0, 0);
        while let Some(frame) = Frame::split(&read[used..])? {
            if frame.kind == wire::BODY {
                if frame.payload != BODY {
                    return Err(wire::fault("a body that nobody has sent"));
                }
                bodies += 1;
            }
            used += frame.length;
        }
        read.drain(..used);
        delivered.fetch_add(bodies, Relaxed);
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            count => read.extend(&chunk[..count]),
        }
    }
}
