//! How quickly the management API answers while its broker is loaded: pages of a thousand queues
//! with ten thousand messages.
//!
//! One client with a connection that stays open asks again and again, as a page that is looked at
//! does.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::client::{Life, Settling};
use crate::handoff::{self, Measured, Shape};
use crate::histogram::Histogram;
use crate::load::Pace;
use crate::message::{Layout, Mode, STAMP};
use crate::peer::Peer;
use crate::report::short;
use crate::wire::fault;

const QUEUES: usize = 1000;
const WAITING_IN_EACH: usize = 10;
const SAMPLED: Duration = Duration::from_secs(6);
/// A page that is looked at asks every few seconds; this is a hundred of them.
const BETWEEN: Duration = Duration::from_millis(20);

const REQUESTS: [(&str, &str); 3] = [
    (
        "100 queues, all columns",
        "/api/queues?page=3&page_size=100",
    ),
    (
        "50 queues, most messages first",
        "/api/queues?page=1&page_size=50&sort=messages&sort_reverse=true",
    ),
    ("overview", "/api/overview"),
];

/// Prints the table for `peer`, whose API is at `address` (`host:port`).
pub(crate) fn measure(peer: &Peer, address: &str) -> io::Result<()> {
    peer.start_fresh()?;
    fill(peer)?;
    println!(
        "| {QUEUES} queues, {} messages; load | messages/s | asked for | answers | \
         median ms | p99 ms | slowest ms |\n\
         |---|---|---|---|---|---|---|",
        QUEUES * WAITING_IN_EACH
    );
    let loads = [
        ("none", None),
        (
            "10,000/s persistent, 1 to 1",
            Some(Pace::Steady { per_second: 10_000 }),
        ),
        (
            "full speed persistent, 1 to 1",
            Some(Pace::Flood { limit: u64::MAX }),
        ),
    ];
    for (name, pace) in loads {
        for (what, path) in REQUESTS {
            // A connection for each: some servers end one after so many requests.
            let mut api = Api::connect(peer, address)?;
            let (times, rate) = sample(peer, &mut api, path, pace)?;
            println!(
                "| {name} | {rate} | {what} | {} | {:.2} | {:.2} | {:.2} |",
                times.1,
                times.0.milliseconds_at(0.5),
                times.0.milliseconds_at(0.99),
                times.0.milliseconds_at(1.0),
            );
        }
    }
    Ok(())
}

fn fill(peer: &Peer) -> io::Result<()> {
    let mut client = peer.connect()?;
    for number in 0..QUEUES {
        let name = format!("many{number:04}");
        client.delete(&name)?;
        client.declare(&name, Life::Durable)?;
        let layout = Layout::new("", &name, STAMP, Mode::Persistent, client.frame_max);
        client.write(&layout.repeated(WAITING_IN_EACH))?;
    }
    // Answered when everything before it was taken.
    client.declare("last", Life::Durable)?;
    client.close()
}

type Times = (Histogram, usize);

fn sample(
    peer: &Peer,
    api: &mut Api,
    path: &str,
    pace: Option<Pace>,
) -> io::Result<(Times, String)> {
    let Some(pace) = pace else {
        return Ok((api.ask_for(SAMPLED, path)?, "0".to_owned()));
    };
    let shape = Shape {
        size: STAMP,
        mode: Mode::Persistent,
        life: Life::Durable,
        settling: Settling::Automatic,
        pace,
        queues: 1,
        consumers_per_queue: 1,
        exchange: String::new(),
    };
    thread::scope(|scope| {
        let load = scope.spawn(|| handoff::run(peer, &shape, SAMPLED.as_secs_f64()));
        // The load warms up as long as this.
        thread::sleep(Duration::from_millis(700));
        let times = api.ask_for(SAMPLED, path)?;
        let load: Measured = load
            .join()
            .unwrap_or_else(|_| Err(fault("the load panicked")))?;
        Ok((times, short(load.rate)))
    })
}

/// A connection to the API that stays open.
pub(crate) struct Api {
    stream: BufReader<TcpStream>,
    host: String,
    login: String,
}

impl Api {
    pub(crate) fn connect(peer: &Peer, address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let place = &peer.address;
        Ok(Self {
            stream: BufReader::new(stream),
            host: address.to_owned(),
            login: BASE64_STANDARD.encode(format!("{}:{}", place.user, place.password)),
        })
    }

    fn ask_for(&mut self, time: Duration, path: &str) -> io::Result<Times> {
        let mut times = Histogram::default();
        let mut count = 0;
        let began = Instant::now();
        while began.elapsed() < time {
            let asked = Instant::now();
            self.ask(path)?;
            times.record(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
            count += 1;
            thread::sleep(BETWEEN);
        }
        Ok((times, count))
    }

    /// Reads the whole answer; anything but 200 is a failure.
    pub(crate) fn ask(&mut self, path: &str) -> io::Result<()> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Basic {}\r\n\r\n",
            self.host, self.login
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 200") {
            return Err(fault(format!("{path}: {line}")));
        }
        let mut length = None;
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line)?;
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse::<u64>().ok();
            }
        }
        let length = length.ok_or_else(|| fault("an answer without its length"))?;
        let mut body = Vec::new();
        self.stream.by_ref().take(length).read_to_end(&mut body)?;
        Ok(())
    }
}
