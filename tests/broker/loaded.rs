//! The real `cbroker serve` with a small memory limit, clients that load it, and what it must keep
//! meanwhile: resident memory under the ceiling, short units of work, answers of the management
//! API.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::raw::{Raw, long, short};
use crate::support::process::peak_kib;
use crate::support::{PATIENCE, Place, Request, Server, free_port};

const LIMIT_MIB: u64 = 64;
pub(crate) const CEILING_MIB: u64 = ceiling_mib(LIMIT_MIB);
/// How long a load runs; each brought the broker far beyond the ceiling within this time before it
/// had an account.
const LOAD: Duration = Duration::from_secs(3);
/// How long the API may take at all, on a machine that runs other tests. That it is served often is
/// seen by [`STEPS`], which no load of the machine changes.
const ANSWER: Duration = PATIENCE;
/// How often the API must answer, one after the other, while the load goes on.
const ANSWERS: usize = 20;
/// How long half of its answers may take at most. A broker that is busy with one client for as long
/// as that is given work gives none so soon.
const SOON: Duration = Duration::from_secs(5);
/// How long the slowest may take: an answer of the API, a login, and the confirm of a publisher
/// that behaves.
const SLOWEST: Duration = Duration::from_mins(1);
/// After twice this time without a heartbeat, in seconds, a connection is closed.
const HEARTBEAT_S: u16 = 5;
/// How often one is sent.
const BEAT: Duration = Duration::from_secs(1);
/// How much may be done in one unit of work, whatever the load is: twice its own budget, where a
/// last step of it was long, and what follows from that step.
pub(crate) const STEPS: u64 = 3 * 8192;

/// What the broker promises: a quarter more than the limit, and what the program takes by itself.
const fn ceiling_mib(limit_mib: u64) -> u64 {
    limit_mib / 4 * 5 + 32
}

pub(crate) struct Loaded {
    pub(crate) server: Server,
    ceiling_mib: u64,
    pub(crate) place: Place,
    user: String,
    password: String,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Loaded {
    pub(crate) fn start() -> Self {
        Self::with_limit(LIMIT_MIB)
    }

    pub(crate) fn with_limit(limit_mib: u64) -> Self {
        let place = Place::new();
        let limit = limit_mib.to_string();
        let more = ["--memory-limit", &limit];
        // They stay its own while it is killed and started again.
        let server = Server::start_with(&place, free_port(), free_port(), &more);
        let url = place.ok(["status", "--show-url"]);
        let (_, login) = url.trim().split_once("//").unwrap();
        let (user, password) = login.split_once('@').unwrap().0.split_once(':').unwrap();
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            server,
            ceiling_mib: ceiling_mib(limit_mib),
            place,
            stop: Arc::default(),
            threads: Vec::new(),
        }
    }

    pub(crate) fn client(&self) -> Raw {
        Raw::open_as(self.server.port, &self.user, &self.password)
    }

    /// A client without a channel.
    pub(crate) fn client_without_channel(&self) -> Raw {
        Raw::logged_in_as(self.server.port, &self.user, &self.password, 0)
    }

    /// A client that has sent its login, with these entries in its properties, and has not read the
    /// last answer.
    pub(crate) fn client_before_open(&self, properties: &[u8]) -> Raw {
        let login = (&*self.user, &*self.password);
        Raw::before_open(self.server.port, login, 0, properties)
    }

    /// Writes the same bytes again and again from a thread of its own, until the load ends or the
    /// broker has had enough.
    pub(crate) fn flood(&mut self, client: &Raw, bytes: Vec<u8>) {
        let (mut stream, stop) = (client.stream(), Arc::clone(&self.stop));
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) && stream.write_all(&bytes).is_ok() {}
        }));
    }

    /// Reads and drops what comes, from a thread of its own, and counts it.
    pub(crate) fn drain(&mut self, client: &Raw) -> Arc<AtomicU64> {
        let (mut reading, count) = (client.stream(), Arc::<AtomicU64>::default());
        let counted = Arc::clone(&count);
        reading.set_read_timeout(None).unwrap();
        self.threads.push(thread::spawn(move || {
            let mut sink = vec![0; 1 << 16];
            while let Ok(read) = reading.read(&mut sink)
                && read > 0
            {
                counted.fetch_add(read as u64, Ordering::Relaxed);
            }
        }));
        count
    }

    /// Reads and drops so many bytes at a time from a thread of its own, with such a pause between.
    pub(crate) fn drain_slowly(&mut self, client: &Raw, count: usize, pause: Duration) {
        let (mut reading, stop) = (client.stream(), Arc::clone(&self.stop));
        reading.set_read_timeout(None).unwrap();
        self.threads.push(thread::spawn(move || {
            let mut sink = vec![0; count];
            while !stop.load(Ordering::Relaxed) && reading.read_exact(&mut sink).is_ok() {
                thread::sleep(pause);
            }
        }));
    }

    /// How long a login takes until it is answered: a load may leave no room for it.
    fn login(&self) -> Duration {
        let begun = Instant::now();
        let mut client = self.client_before_open(b"");
        let answer = client.next().expect("a login is not answered");
        assert!(matches!(answer.2[..4], [0, 10, 0, 41 | 50]), "{answer:?}");
        begun.elapsed()
    }

    /// A request to the management API, as `GET /api/overview`, whose answer is not read yet.
    pub(crate) fn ask(&self, line: &str) -> TcpStream {
        let login = format!("{}:{}", self.user, self.password);
        self.ask_as(&login, line, "")
    }

    pub(crate) fn ask_as(&self, login: &str, line: &str, body: &str) -> TcpStream {
        let login = BASE64_STANDARD.encode(login);
        let port = self.server.management_port.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let request = format!(
            "{line} HTTP/1.1\r\nhost: localhost:{port}\r\nauthorization: Basic {login}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// Makes users who may listen to the tap, and returns their logins.
    pub(crate) fn listeners(&self, count: usize) -> Vec<String> {
        let own = format!("{}:{}", self.user, self.password);
        let user = r#"{"password":"pw","tags":"monitoring"}"#;
        let permissions = r#"{"configure":".*","write":".*","read":".*"}"#;
        let names = (0..count).map(|number| format!("listener{number}"));
        let mut logins = Vec::new();
        for name in names {
            for (path, body) in [
                (format!("users/{name}"), user),
                (format!("permissions/%2F/{name}"), permissions),
            ] {
                let mut head = [0; 12];
                let mut stream = self.ask_as(&own, &format!("PUT /api/{path}"), body);
                stream.read_exact(&mut head).unwrap();
                assert_eq!(&head, b"HTTP/1.1 201", "{path}");
            }
            logins.push(format!("{name}:pw"));
        }
        logins
    }

    /// Waits until the load has had its time, with the API asked all the while, logins beside it, a
    /// connection that sends heartbeats and a publisher that waits for each confirm; then the peak
    /// is under the ceiling.
    #[track_caller]
    pub(crate) fn bear(mut self, what: &str, clients: Vec<Raw>) {
        let (started, mut answers) = (Instant::now(), Vec::new());
        let mut slowest_login = Duration::ZERO;
        let ceiling = self.ceiling_mib;
        let beating = Beating::start(&self);
        let mut publisher = Confirmed::new(&self);
        publisher.goes_on();
        while started.elapsed() < LOAD || answers.len() < ANSWERS {
            let mut head = [0; 12];
            let asked = Instant::now();
            let mut stream = self.ask("GET /api/overview");
            let answered = stream.read_exact(&mut head);
            answered.unwrap_or_else(|error| panic!("{what}: the API is silent: {error}"));
            assert_eq!(&head, b"HTTP/1.1 200");
            answers.push(asked.elapsed());
            slowest_login = slowest_login.max(self.login());
        }
        answers.sort_unstable();
        let (usual, slowest) = (answers[answers.len() / 2], answers[answers.len() - 1]);
        assert!(
            started.elapsed() < ANSWER,
            "{what}: the API gave {ANSWERS} answers in {:?}",
            started.elapsed()
        );
        let (peak, steps) = (self.peak_mib(), self.longest_work_unit());
        println!(
            "{what}: peak {peak} MiB, ceiling {ceiling} MiB, answers of the API in {} ms, the \
             slowest in {} ms, the slowest login in {} ms, at most {steps} steps before others \
             were served",
            usual.as_millis(),
            slowest.as_millis(),
            slowest_login.as_millis()
        );
        assert!(
            usual <= SOON,
            "{what}: the API usually answers in {usual:?}"
        );
        assert!(
            slowest.max(slowest_login) <= SLOWEST,
            "{what}: an answer of the API took {slowest:?}, a login {slowest_login:?}"
        );
        assert!(peak <= ceiling, "{what}: {peak} of {ceiling} MiB");
        assert!(steps <= STEPS, "{what}: {steps} steps in one unit of work");
        self.stop.store(true, Ordering::Relaxed);
        for client in clients {
            // It may be closed already.
            let _ = client.stream().shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        // Who behaves is served as before.
        publisher.goes_on();
        let close = [&200_u16.to_be_bytes()[..], &short(""), &[0; 4]].concat();
        let mut beating = beating.stop();
        beating.method(0, (10, 50), &close);
        let mut rest = std::iter::from_fn(|| beating.next());
        let is_alive = rest.any(|(_, _, frame)| frame.starts_with(&[0, 10, 0, 51]));
        assert!(is_alive, "{what}: a connection with heartbeats was closed");
        let mut client = self.client();
        client.method(1, (50, 10), &declaring("after", b"\0"));
        client.expect(1, (50, 11));
        drop(self.place);
    }

    /// The most work that the broker has done in one unit of work, after which it serves others.
    pub(crate) fn longest_work_unit(&self) -> u64 {
        let port = self.server.management_port.unwrap();
        let request = Request::new((Ipv4Addr::LOCALHOST, port).into(), "GET", "/metrics");
        let metrics = request.password(&self.user, &self.password).send("").body;
        let steps = |line: &str| {
            line.strip_prefix("cbroker_longest_work_unit_steps ")?
                .parse()
                .ok()
        };
        metrics.lines().find_map(steps).expect(&metrics)
    }

    /// Status and body of the answer to a request with the broker's own login.
    pub(crate) fn answer(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let port = self.server.management_port.unwrap();
        let request = Request::new((Ipv4Addr::LOCALHOST, port).into(), method, path);
        let answer = request.password(&self.user, &self.password).send(body);
        (answer.status, answer.body)
    }

    pub(crate) fn peak_mib(&self) -> u64 {
        peak_kib(self.server.pid()) / 1024
    }
}

/// A client that sends heartbeats from a thread of its own and reads nothing.
struct Beating {
    stop: mpsc::SyncSender<()>,
    thread: thread::JoinHandle<Raw>,
}

impl Beating {
    fn start(loaded: &Loaded) -> Self {
        let (user, password) = (&loaded.user, &loaded.password);
        let client = Raw::logged_in_as(loaded.server.port, user, password, HEARTBEAT_S);
        let (stop, stopped) = mpsc::sync_channel(0);
        let thread = thread::spawn(move || {
            let beat = frame(8, 0, b"");
            while stopped.recv_timeout(BEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
                // One that was closed is noticed when it is read.
                let _ = client.stream().write_all(&beat);
            }
            client
        });
        Self { stop, thread }
    }

    fn stop(self) -> Raw {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

/// A client that publishes persistent messages one after the other, and waits for each confirm.
pub(crate) struct Confirmed {
    client: Raw,
    published: u64,
}

impl Confirmed {
    pub(crate) fn new(loaded: &Loaded) -> Self {
        let mut client = loaded.client();
        client.method(1, (50, 10), &declaring("confirmed", b"\x02"));
        client.expect(1, (50, 11));
        client.method(1, (85, 10), b"\0");
        client.expect(1, (85, 11));
        client.stream().set_read_timeout(Some(SLOWEST)).unwrap();
        let mut publisher = Self {
            client,
            published: 0,
        };
        publisher.publish(100);
        publisher
    }

    /// Publishes some messages, each of which is confirmed soon.
    #[track_caller]
    pub(crate) fn goes_on(&mut self) {
        for size in [100, 20_000, 100, 20_000, 100] {
            self.publish(size);
        }
    }

    #[track_caller]
    fn publish(&mut self, size: usize) {
        let publish = publishing(1, ("", "confirmed"), 0, PERSISTENT, &vec![7; size]);
        self.client.bytes(&publish);
        self.published += 1;
        let begun = Instant::now();
        let is_ack = |frame: &[u8], tag: u64| {
            frame.starts_with(&[0, 60, 0, 80]) && frame[4..12] == tag.to_be_bytes()
        };
        loop {
            // It is held now and then, and told so.
            let next = self.client.next();
            assert!(
                begun.elapsed() <= SLOWEST,
                "message {} is not confirmed in {SLOWEST:?}",
                self.published
            );
            let (_, _, frame) = next.expect("the publisher is closed");
            if is_ack(&frame, self.published) {
                return;
            }
        }
    }
}

pub(crate) fn declaring(queue: &str, bits: &[u8]) -> Vec<u8> {
    [&b"\0\0"[..], &short(queue), bits, b"\0\0\0\0"].concat()
}

pub(crate) fn declare(client: &mut Raw, queue: &str) {
    client.method(1, (50, 10), &declaring(queue, b"\0"));
    client.expect(1, (50, 11));
}

pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    [&[kind][..], &channel.to_be_bytes(), &long(payload), b"\xCE"].concat()
}

pub(crate) fn method(channel: u16, (class, method): (u16, u16), arguments: &[u8]) -> Vec<u8> {
    let ids = [class.to_be_bytes(), method.to_be_bytes()].concat();
    frame(1, channel, &[&ids[..], arguments].concat())
}

/// A whole publish: exchange, key, bits, properties, body.
pub(crate) fn publishing(
    channel: u16,
    place: (&str, &str),
    bits: u8,
    properties: &[u8],
    body: &[u8],
) -> Vec<u8> {
    let arguments = [&b"\0\0"[..], &short(place.0), &short(place.1), &[bits]].concat();
    let size = (body.len() as u64).to_be_bytes();
    let mut all = method(channel, (60, 40), &arguments);
    all.extend(frame(
        2,
        channel,
        &[&b"\0\x3c\0\0"[..], &size, properties].concat(),
    ));
    for part in body.chunks(100_000) {
        all.extend(frame(3, channel, part));
    }
    all
}

pub(crate) const PLAIN: &[u8] = b"\0\0";
pub(crate) const PERSISTENT: &[u8] = b"\x10\0\x02";
