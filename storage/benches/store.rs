//! What the store costs, beside a plain append-only file that is synced as often, in the same run.
//!
//! `cargo bench -p cbroker-storage` prints a table; `cargo bench -p cbroker-storage -- confirmed`
//! runs the parts whose name contains the word. `CBROKER_BENCH_DIR` names the folder to work in:
//! bytes are those that reached its block device, so a file system of its own (a loop device)
//! keeps other programs out of them. Not a test: it asserts nothing about time.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the table is what it is for")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "figures for people"
)]

#[path = "store/cost.rs"]
mod cost;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use cost::{Cost, Span, figure};
use storage::{Opened, Options, QueueId, Sequence, Store, StoreEvent, Ticket, Urgency};

const QUEUE: QueueId = QueueId(1);
/// One measured stretch.
const STRETCH: Duration = Duration::from_millis(1_500);
/// Pairs of stretches, in turn.
const PAIRS: u32 = 3;
/// Bytes of one measured stretch at most, so that it fits the segments that are used again.
const STRETCH_BYTES: u64 = 44 << 20;

type Part = (&'static str, fn(&Path));

const PARTS: &[Part] = &[
    ("confirmed-1-16B", |folder| confirmed(folder, 1, 16)),
    ("confirmed-100-16B", |folder| confirmed(folder, 100, 16)),
    ("confirmed-1000-16B", |folder| confirmed(folder, 1000, 16)),
    ("confirmed-1-1KiB", |folder| confirmed(folder, 1, 1024)),
    ("confirmed-100-1KiB", |folder| confirmed(folder, 100, 1024)),
    ("confirmed-1000-1KiB", |folder| {
        confirmed(folder, 1000, 1024);
    }),
    ("acks-1000", acks),
    ("caller-16B", caller),
    ("purge-latency", purge_latency),
    ("drain-one-of-1000", drain_one),
    ("start-clean-256B", |folder| start(folder, ("stop", 256, 1))),
    ("start-killed-256B", |folder| {
        start(folder, ("kill", 256, 1));
    }),
    ("start-killed-1000-queues", |folder| {
        start(folder, ("kill", 256, 1000));
    }),
    ("start-without-index", |folder| {
        start(folder, ("index", 256, 1));
    }),
];

fn main() {
    if std::env::var_os(STAGE).is_some() {
        return run_stage();
    }
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let place = std::env::var_os("CBROKER_BENCH_DIR").map_or_else(|| ".".into(), PathBuf::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    println!("load when it began: {}", load.trim());
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            let folder = tempfile::tempdir_in(&place).unwrap();
            println!("{name}");
            part(folder.path());
        }
    }
}

fn open(folder: &Path) -> (Opened, Receiver<Ticket>) {
    let (sender, receiver) = sync_channel(1 << 16);
    let opened = Store::open(folder, Options::default(), move |progress| {
        if let StoreEvent::Durable(ticket) = progress {
            let _ = sender.try_send(ticket);
        }
    });
    (opened.unwrap(), receiver)
}

fn wait(store: &Store, ticket: Ticket) {
    while store.durable() < ticket {
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A plain file: groups of messages appended and synced.
fn plain(folder: &Path, group: u64, length: usize) -> Cost {
    let path = folder.join("plain");
    let mut log = File::create(&path).unwrap();
    let body = vec![7_u8; length];
    let span = Span::begin(folder);
    let mut messages = 0;
    while span.began.elapsed() < STRETCH && messages * (length as u64) < STRETCH_BYTES {
        let mut bytes = Vec::with_capacity(group as usize * (length + 16));
        for number in 0..group {
            bytes.extend_from_slice(&number.to_be_bytes());
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
            bytes.extend_from_slice(&body);
        }
        log.write_all(&bytes).unwrap();
        log.sync_data().unwrap();
        messages += group;
    }
    let cost = span.end(messages);
    std::fs::remove_file(path).unwrap();
    cost
}

/// Publishes with so many messages outstanding from `sent` on.
fn publish(
    (opened, durable): (&Opened, &Receiver<Ticket>),
    sent: &mut u64,
    (outstanding, length): (u64, usize),
) -> u64 {
    let body = vec![7_u8; length];
    let began = Instant::now();
    let mut waiting = VecDeque::new();
    let mut confirmed = 0;
    let limit = STRETCH_BYTES / length.max(64) as u64;
    loop {
        while began.elapsed() < STRETCH
            && confirmed + (waiting.len() as u64) < limit
            && (waiting.len() as u64) < outstanding
        {
            let ticket = opened
                .store
                .append(QUEUE, Sequence(*sent), &[&body], Urgency::Confirmed);
            waiting.push_back(ticket.unwrap());
            *sent += 1;
        }
        if waiting.is_empty() {
            return confirmed;
        }
        let through = durable.recv().unwrap();
        while waiting.front().is_some_and(|ticket| *ticket <= through) {
            waiting.pop_front();
            confirmed += 1;
        }
    }
}

/// Confirmed publishing, nobody consumes: the plain file, new segments, segments that are used
/// again.
fn confirmed(folder: &Path, outstanding: u64, length: usize) {
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..PAIRS {
        let store = tempfile::tempdir_in(folder).unwrap();
        costs[0].push(plain(folder, outstanding, length));
        let (opened, durable) = open(store.path());
        let mut sent = 0;
        let span = Span::begin(folder);
        let fresh = publish((&opened, &durable), &mut sent, (outstanding, length));
        costs[1].push(span.end(fresh));
        // Four segments are written and become free; the next stretch uses them again.
        fill(&opened.store, (QueueId(2), 1), 72 << 10, 1000);
        wait(&opened.store, opened.store.drop_queue(QueueId(2)).unwrap());
        wait(
            &opened.store,
            opened.store.purge(QUEUE, Sequence(sent)).unwrap(),
        );
        std::thread::sleep(Duration::from_millis(300));
        while durable.try_recv().is_ok() {}
        let span = Span::begin(folder);
        let again = publish((&opened, &durable), &mut sent, (outstanding, length));
        costs[2].push(span.end(again));
        opened.store.close().unwrap();
    }
    let [flat, fresh, again] = costs;
    let plain = Cost::print(&flat, "plain file", 0.0);
    Cost::print(&fresh, "new segments", plain);
    Cost::print(&again, "used again", plain);
}

/// Appends messages to queues in turn and waits until all are durable.
fn fill(store: &Store, (first, queues): (QueueId, u64), messages: u64, length: usize) {
    let body = vec![7_u8; length];
    let mut last = Ticket::NONE;
    for number in 0..messages {
        let queue = QueueId(first.0 + number % queues);
        let ticket = store.append(
            queue,
            Sequence(number / queues),
            &[&body],
            Urgency::Eventually,
        );
        last = ticket.unwrap();
        while store.pending_bytes() > 8 << 20 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    wait(store, last);
}

/// Acks of durable messages, 1,000 at a time, each group waited for.
fn acks(folder: &Path) {
    let store = tempfile::tempdir_in(folder).unwrap();
    let (opened, _durable) = open(store.path());
    fill(&opened.store, (QUEUE, 1), 300_000, 256);
    let span = Span::begin(folder);
    for group in 0..300_u64 {
        let mut last = Ticket::NONE;
        for number in group * 1000..(group + 1) * 1000 {
            let settled = opened.store.settle(QUEUE, Sequence(number)).unwrap();
            if let storage::Settled::Recorded(ticket) = settled {
                last = ticket;
            }
        }
        let confirm =
            opened
                .store
                .append(QueueId(3), Sequence(group), &[b"now"], Urgency::Confirmed);
        wait(&opened.store, last.max(confirm.unwrap()));
    }
    let cost = span.end(300_000);
    Cost::print(&[cost], "acks", 0.0);
}

/// What append and settle cost the caller when a consumer keeps up.
fn caller(folder: &Path) {
    let (opened, _durable) = open(folder);
    let body = [7_u8; 16];
    let (mut appending, mut settling) = (Duration::ZERO, Duration::ZERO);
    let rounds = 40_000_u64;
    for round in 0..rounds {
        let at = Instant::now();
        for index in 0..64 {
            let sequence = Sequence(round * 64 + index);
            let ticket = opened
                .store
                .append(QUEUE, sequence, &[&body], Urgency::Eventually);
            ticket.unwrap();
        }
        let half = Instant::now();
        for index in 0..64 {
            let _ = opened
                .store
                .settle(QUEUE, Sequence(round * 64 + index))
                .unwrap();
        }
        appending += half - at;
        settling += half.elapsed();
    }
    let messages = (rounds * 64) as f64;
    println!(
        "  append {:.0} ns, settle {:.0} ns a message",
        appending.as_nanos() as f64 / messages,
        settling.as_nanos() as f64 / messages,
    );
    opened.store.close().unwrap();
}

/// Lone confirms while thousands of bodies are purged or acked, and while nothing else happens.
/// Those above 1 MiB have a file each.
fn purge_latency(folder: &Path) {
    for (bodies, length) in [(8_000, 20_000), (1_000, 1_100_000)] {
        println!("  {bodies} bodies of {length} bytes");
        let store = tempfile::tempdir_in(folder).unwrap();
        purge_bodies(store.path(), bodies, length);
    }
}

fn purge_bodies(folder: &Path, bodies: u64, length: usize) {
    let (opened, durable) = open(folder);
    let store = &opened.store;
    for queue in 2..4 {
        fill(store, (QueueId(queue), 1), bodies, length);
    }
    let mut sent = 0;
    let mut measure = |what: &str, begin: &dyn Fn()| {
        let mut took = Vec::new();
        begin();
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            while durable.try_recv().is_ok() {}
            let began = Instant::now();
            let ticket = store.append(QUEUE, Sequence(sent), &[b"lone"], Urgency::Confirmed);
            sent += 1;
            let ticket = ticket.unwrap();
            while durable.recv().unwrap() < ticket {}
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        took.sort_by(f64::total_cmp);
        let count = took.len();
        println!(
            "  {what}: median {:.2} ms, p99 {:.2} ms, longest {:.2} ms of {count}",
            took[count / 2],
            took[count * 99 / 100],
            took[count - 1]
        );
    };
    measure("quiet", &|| {});
    measure("purge", &|| drop(store.purge(QueueId(2), Sequence(bodies))));
    measure("acks", &|| {
        for number in 0..bodies {
            let _ = store.settle(QueueId(3), Sequence(number)).unwrap();
        }
    });
}

/// One queue of a thousand that were filled in turn: bytes read for each of its messages.
fn drain_one(folder: &Path) {
    let (opened, _durable) = open(folder);
    fill(&opened.store, (QUEUE, 1000), 500_000, 256);
    let before = figure("/proc/self/io", "rchar:");
    let began = Instant::now();
    let (mut from, mut seen) = (Sequence(0), 0);
    loop {
        let slice = opened.store.read(QUEUE, from, 64 << 10).unwrap();
        let Some((last, _)) = slice.last() else { break };
        from = Sequence(last.0 + 1);
        seen += slice.len() as u64;
    }
    let asked = figure("/proc/self/io", "rchar:") - before;
    println!(
        "  {seen} messages of 256 B, {} bytes asked a message, {:.1} ms in all",
        asked / seen,
        began.elapsed().as_secs_f64() * 1e3
    );
    opened.store.close().unwrap();
}

const STAGE: &str = "CBROKER_BENCH_STAGE";
const FOLDER: &str = "CBROKER_BENCH_FOLDER";
const SHAPE: &str = "CBROKER_BENCH_SHAPE";
const MESSAGES: u64 = 1_000_000;

/// A million messages: one process fills and ends, another one opens and drains.
fn start(folder: &Path, (end, length, queues): (&str, usize, u64)) {
    for stage in ["fill", "drain"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .env(STAGE, stage)
            .env(FOLDER, folder)
            .env(SHAPE, format!("{end} {length} {queues}"));
        child.status().unwrap();
        if stage == "fill" && end == "index" {
            std::fs::remove_dir_all(folder.join("index")).unwrap();
        }
    }
}

fn memory(what: &str) {
    println!(
        "  {what}: RSS {} MiB, peak {} MiB",
        figure("/proc/self/status", "VmRSS:") / 1024,
        figure("/proc/self/status", "VmHWM:") / 1024,
    );
}

fn run_stage() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let shape = std::env::var(SHAPE).unwrap();
    let words: Vec<&str> = shape.split(' ').collect();
    let (length, queues) = (words[1].parse().unwrap(), words[2].parse().unwrap());
    if std::env::var(STAGE).unwrap() == "fill" {
        let (opened, _durable) = open(&folder);
        fill(&opened.store, (QUEUE, queues), MESSAGES, length);
        memory("filled");
        println!("  on disk: {} MiB", opened.store.disk_bytes() >> 20);
        if words[0] == "stop" {
            opened.store.close().unwrap();
        } else {
            let pid = std::process::id().to_string();
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
        return;
    }
    let began = Instant::now();
    let (opened, _durable) = open(&folder);
    println!("  opened in {:.3} s", began.elapsed().as_secs_f64());
    memory("opened");
    let ready: u64 = opened.queues.iter().map(|found| found.ready).sum();
    assert_eq!(ready, MESSAGES);
    let span = Span::begin(&folder);
    for queue in 0..queues {
        let mut from = Sequence(0);
        loop {
            let slice = opened
                .store
                .read(QueueId(QUEUE.0 + queue), from, 256 << 10)
                .unwrap();
            let Some((last, _)) = slice.last() else { break };
            from = Sequence(last.0 + 1);
            for (sequence, _) in &slice {
                let _ = opened
                    .store
                    .settle(QueueId(QUEUE.0 + queue), *sequence)
                    .unwrap();
            }
        }
    }
    let cost = span.end(MESSAGES);
    Cost::print(&[cost], "drained", 0.0);
    memory("drained");
    opened.store.close().unwrap();
}
