//! What the store costs, beside the plain append-only file that is its limit.
//!
//! `cargo bench -p cbroker-storage` runs everything on a temporary folder in the working directory's file system and prints a table;
//! `cargo bench -p cbroker-storage -- confirmed` runs the parts whose name contains the word. Not a test: it asserts nothing about time.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the table is what it is for")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "figures for people"
)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use storage::{Opened, Options, Progress, QueueId, Sequence, Store, Ticket, Urgency};

const QUEUE: QueueId = QueueId(1);

type Part = (&'static str, fn(&Path));

const PARTS: &[Part] = &[
    ("confirmed-1", |folder| confirmed(folder, 1, 1024)),
    ("confirmed-100", |folder| confirmed(folder, 100, 1024)),
    ("confirmed-1000", |folder| confirmed(folder, 1000, 1024)),
    ("waiting", |folder| waiting(folder)),
    ("confirmed-1000-16B", |folder| confirmed(folder, 1000, 16)),
    ("confirmed-1000-consumed", confirmed_consumed),
    ("caller-16B", caller),
    ("plain-log", plain_log),
    ("backlog-256B", |folder| backlog(folder, 256)),
    ("backlog-16B", |folder| backlog(folder, 16)),
];

fn main() {
    if let Ok(stage) = std::env::var(STAGE) {
        return run_stage(&stage);
    }
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            let folder = tempfile::tempdir_in(".").unwrap();
            println!("{name}");
            part(folder.path());
        }
    }
}

fn open(folder: &Path) -> (Opened, Receiver<Ticket>) {
    let (sender, receiver) = sync_channel(1 << 16);
    let opened = Store::open(folder, Options::default(), move |progress| {
        if let Progress::Durable(ticket) = progress {
            let _ = sender.try_send(ticket);
        }
    });
    (opened.unwrap(), receiver)
}

/// CPU seconds of this process so far, user and system.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// A line of /proc/self/status in KiB, or one of /proc/self/io in bytes.
fn figure(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

struct Span {
    began: Instant,
    cpu: f64,
    written: u64,
}

impl Span {
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            cpu: cpu_seconds(),
            written: figure("/proc/self/io", "write_bytes"),
        }
    }

    fn end(&self, what: &str, messages: u64, bytes: u64) {
        let seconds = self.began.elapsed().as_secs_f64();
        let written = figure("/proc/self/io", "write_bytes") - self.written;
        println!(
            "  {what}: {:.1} k/s, {:.2} us CPU a message, {:.2} x written, RSS {} MiB, peak {} MiB",
            messages as f64 / seconds / 1e3,
            (cpu_seconds() - self.cpu) * 1e6 / messages as f64,
            written as f64 / bytes as f64,
            figure("/proc/self/status", "VmRSS:") / 1024,
            figure("/proc/self/status", "VmHWM:") / 1024,
        );
    }
}

/// Confirmed publishing with so many messages outstanding, nobody consumes.
fn confirmed(folder: &Path, outstanding: u64, length: usize) {
    let (opened, durable) = open(folder);
    let body = vec![7_u8; length];
    let span = Span::begin();
    let until = Instant::now() + Duration::from_secs(4);
    let (mut sent, mut confirmed) = (0_u64, 0_u64);
    let mut waiting = std::collections::VecDeque::new();
    while Instant::now() < until {
        while sent - confirmed < outstanding {
            waiting.push_back(
                opened
                    .store
                    .append(QUEUE, Sequence(sent), &[&body], Urgency::Confirmed)
                    .unwrap(),
            );
            sent += 1;
        }
        let through = durable.recv().unwrap();
        while waiting.front().is_some_and(|ticket| *ticket <= through) {
            waiting.pop_front();
            confirmed += 1;
        }
    }
    span.end("confirmed", confirmed, confirmed * length as u64);
    opened.store.close().unwrap();
}

/// 100,000 messages of 1 KiB, confirmed 1,000 at a time: the memory is what matters.
fn waiting(folder: &Path) {
    let (opened, durable) = open(folder);
    let body = vec![7_u8; 1024];
    let span = Span::begin();
    for group in 0..100_u64 {
        let mut last = Ticket::NONE;
        for number in group * 1000..(group + 1) * 1000 {
            last = opened
                .store
                .append(QUEUE, Sequence(number), &[&body], Urgency::Confirmed)
                .unwrap();
        }
        while durable.recv().unwrap() < last {}
    }
    span.end("waiting", 100_000, 100_000 * 1024);
    opened.store.close().unwrap();
}

/// The same with a consumer that reads nothing back and settles a little later.
fn confirmed_consumed(folder: &Path) {
    let (opened, durable) = open(folder);
    let body = vec![7_u8; 1024];
    let span = Span::begin();
    let until = Instant::now() + Duration::from_secs(4);
    let (mut sent, mut confirmed, mut settled) = (0_u64, 0_u64, 0_u64);
    let mut waiting = std::collections::VecDeque::new();
    while Instant::now() < until {
        while sent - confirmed < 1000 {
            waiting.push_back(
                opened
                    .store
                    .append(QUEUE, Sequence(sent), &[&body], Urgency::Confirmed)
                    .unwrap(),
            );
            sent += 1;
            if sent > 64 {
                let _ = opened.store.settle(QUEUE, Sequence(settled)).unwrap();
                settled += 1;
            }
        }
        let through = durable.recv().unwrap();
        while waiting.front().is_some_and(|ticket| *ticket <= through) {
            waiting.pop_front();
            confirmed += 1;
        }
    }
    span.end("confirmed and consumed", confirmed, confirmed * 1024);
    opened.store.close().unwrap();
}

/// What append and settle cost the caller when a consumer keeps up.
fn caller(folder: &Path) {
    let (opened, _durable) = open(folder);
    let body = [7_u8; 16];
    for repeat in 0..3 {
        let (mut appending, mut settling) = (Duration::ZERO, Duration::ZERO);
        let rounds = 20_000_u64;
        for round in rounds * repeat..rounds * (repeat + 1) {
            let at = Instant::now();
            for index in 0..64 {
                let sequence = Sequence(round * 64 + index);
                opened
                    .store
                    .append(QUEUE, sequence, &[&body], Urgency::Eventually)
                    .unwrap();
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
            "  caller: append {:.0} ns, settle {:.0} ns a message, pending {} bytes",
            appending.as_nanos() as f64 / messages,
            settling.as_nanos() as f64 / messages,
            opened.store.pending_bytes(),
        );
    }
    opened.store.close().unwrap();
}

/// The limit: groups of 1,000 messages appended to a file and synced.
fn plain_log(folder: &Path) {
    for length in [16_usize, 1024] {
        let mut log = File::create(folder.join("log")).unwrap();
        let body = vec![7_u8; length];
        let span = Span::begin();
        let until = Instant::now() + Duration::from_secs(2);
        let mut messages = 0_u64;
        while Instant::now() < until {
            let mut group = Vec::with_capacity(1000 * (length + 16));
            for number in 0..1000_u64 {
                group.extend_from_slice(&number.to_be_bytes());
                group.extend_from_slice(&(length as u32).to_be_bytes());
                group.extend_from_slice(&[0; 4]);
                group.extend_from_slice(&body);
            }
            log.write_all(&group).unwrap();
            log.sync_data().unwrap();
            messages += 1000;
        }
        span.end(
            &format!("plain log, {length} B, groups of 1000"),
            messages,
            messages * length as u64,
        );
    }
}

/// A million messages: a process fills and is killed, another one opens and drains.
fn backlog(folder: &Path, length: usize) {
    for stage in ["fill", "drain"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .env(STAGE, stage)
            .env(FOLDER, folder)
            .env(LENGTH, length.to_string());
        let status = child.status().unwrap();
        // The filling one ends itself by force.
        assert_eq!(status.success(), stage == "drain");
    }
}

const STAGE: &str = "CBROKER_BENCH_STAGE";
const FOLDER: &str = "CBROKER_BENCH_FOLDER";
const LENGTH: &str = "CBROKER_BENCH_LENGTH";
const MESSAGES: u64 = 1_000_000;

fn run_stage(stage: &str) {
    let folder = std::env::var_os(FOLDER).unwrap();
    let length: usize = std::env::var(LENGTH).unwrap().parse().unwrap();
    match stage {
        "fill" => fill(Path::new(&folder), length),
        _ => drain(Path::new(&folder), length),
    }
}

fn fill(folder: &Path, length: usize) {
    let body = vec![7_u8; length];
    let (opened, _durable) = open(folder);
    let span = Span::begin();
    let mut last = Ticket::NONE;
    for number in 0..MESSAGES {
        last = opened
            .store
            .append(QUEUE, Sequence(number), &[&body], Urgency::Eventually)
            .unwrap();
        while opened.store.pending_bytes() > 16 << 20 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    while opened.store.durable() < last {
        std::thread::sleep(Duration::from_micros(200));
    }
    span.end("fill", MESSAGES, MESSAGES * length as u64);
    println!("  on disk: {} MiB", opened.store.disk_bytes() >> 20);
    let pid = std::process::id().to_string();
    let _ = Command::new("kill").args(["-9", &pid]).status();
}

fn drain(folder: &Path, length: usize) {
    let began = Instant::now();
    let (opened, _durable) = open(folder);
    assert_eq!(opened.queues[0].ready, MESSAGES);
    println!(
        "  open after the kill: {:.3} s, RSS {} MiB, peak {} MiB",
        began.elapsed().as_secs_f64(),
        figure("/proc/self/status", "VmRSS:") / 1024,
        figure("/proc/self/status", "VmHWM:") / 1024,
    );
    let span = Span::begin();
    let (mut from, mut seen) = (Sequence(0), 0);
    loop {
        let slice = opened.store.read(QUEUE, from, 256 << 10).unwrap();
        let Some((last, _)) = slice.last() else { break };
        from = Sequence(last.0 + 1);
        seen += slice.len() as u64;
        for (sequence, _) in &slice {
            let _ = opened.store.settle(QUEUE, *sequence).unwrap();
        }
    }
    assert_eq!(seen, MESSAGES);
    span.end("drain", MESSAGES, MESSAGES * length as u64);
    opened.store.close().unwrap();
}
