//! Long backlogs, many queues and large bodies: what they cost in memory.
//!
//! Each in a process of its own, whose memory is that of the store alone. `CBROKER_SOAK_WAITING`
//! says how many messages wait, `CBROKER_SOAK_QUEUES` in how many queues (3,000,000 and 20,000 in
//! the long form).

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use storage::{QueueId, Sequence, Settled, Store, Ticket, Urgency};

use crate::support::{open, wait};

const FOLDER: &str = "CBROKER_STORE_SCALE";

fn asked(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |number| number.parse().unwrap())
}

/// Runs a test of this binary as a child with a folder, and with the heap of the program that the
/// store is part of: one for all threads, and long blocks mapped on their own.
fn in_a_process(test: &str, folder: &Path) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]);
    child.env("MALLOC_ARENA_MAX", "1");
    child.env("MALLOC_MMAP_THRESHOLD_", (128 << 10).to_string());
    assert!(child.env(FOLDER, folder).status().unwrap().success());
}

fn folder() -> Option<std::path::PathBuf> {
    std::env::var_os(FOLDER).map(std::path::PathBuf::from)
}

/// KiB of memory of this process, without the pages of its program.
fn memory_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    kib(name) - kib("RssFile:")
}

fn publish(store: &Store, queues: u64, messages: u64) {
    let mut last = Ticket::NONE;
    for number in 0..messages {
        let (queue, sequence) = (QueueId(1 + number % queues), Sequence(number / queues));
        last = store
            .append(
                queue,
                sequence,
                &[&number.to_le_bytes()],
                Urgency::Eventually,
            )
            .unwrap();
        while store.pending_bytes() > 2 << 20 {
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    }
    wait(store, last);
}

#[test]
fn waiting_messages_cost_a_few_bytes_each_also_in_many_queues_and_after_a_start() {
    for test in ["scale::fills_one_queue", "scale::fills_many_queues"] {
        let folder = tempfile::tempdir().unwrap();
        in_a_process(test, folder.path());
        in_a_process("scale::opens_and_drains", folder.path());
    }
}

#[test]
fn fills_one_queue() {
    // Only as the child of the test above.
    let Some(folder) = folder() else { return };
    filled(&folder, 1);
}

#[test]
fn fills_many_queues() {
    // Only as the child of the test above.
    let Some(folder) = folder() else { return };
    filled(&folder, asked("CBROKER_SOAK_QUEUES", 1_000));
}

fn filled(folder: &Path, queues: u64) {
    let messages = asked("CBROKER_SOAK_WAITING", 400_000);
    let opened = open(folder);
    let before = memory_kib("VmRSS:");
    publish(&opened.store, queues, messages);
    let after = memory_kib("VmRSS:");
    println!("{messages} messages in {queues} queues: {before} KiB, then {after} KiB");
    // Blocks that wait, and the index itself: a queue has a run in each segment.
    let allowed = 4 * 1024 + messages * 10 / 1024 + 2 * queues;
    assert!(after - before < allowed, "{} KiB", after - before);
    opened.store.close().unwrap();
}

#[test]
fn opens_and_drains() {
    // Only as the child of the test above.
    let Some(folder) = folder() else { return };
    // sled takes 20 MiB of its own in a debug build, however little is in it.
    let empty = tempfile::tempdir().unwrap();
    drop(open(empty.path()));
    let before = memory_kib("VmRSS:");
    let began = Instant::now();
    let opened = open(&folder);
    let took = began.elapsed();
    let messages: u64 = opened.queues.iter().map(|found| found.ready).sum();
    let queues = opened.queues.len() as u64;
    assert_eq!(messages, asked("CBROKER_SOAK_WAITING", 400_000));
    println!(
        "opened in {took:?}: peak {} KiB over {before} KiB",
        memory_kib("VmHWM:")
    );
    // One segment at a time is replayed.
    let allowed = 20 * 1024 + messages * 10 / 1024 + 2 * queues;
    assert!(memory_kib("VmHWM:") - before < allowed);
    let mut last = Ticket::NONE;
    let mut seen = 0;
    for queue in &opened.queues {
        let mut from = Sequence(0);
        loop {
            let slice = opened.store.read(queue.queue, from, 64 << 10).unwrap();
            let Some((end, _)) = slice.last() else { break };
            from = Sequence(end.0 + 1);
            for (sequence, found) in &slice {
                let number = sequence.0 * queues + queue.queue.0 - 1;
                assert_eq!(found[..], number.to_le_bytes());
                seen += 1;
                if let Settled::Recorded(ticket) =
                    opened.store.settle(queue.queue, *sequence).unwrap()
                {
                    last = ticket;
                }
            }
        }
    }
    assert_eq!(seen, messages);
    wait(&opened.store, last);
    let peak = memory_kib("VmHWM:");
    println!("drained: peak {peak} KiB over {before} KiB");
    assert!(peak - before < allowed, "{} KiB", peak - before);
    opened.store.close().unwrap();
    let opened = open(&folder);
    assert!(opened.queues.iter().all(|found| found.ready == 0));
}

#[test]
fn a_body_of_32_mib_is_not_held_more_than_twice() {
    let folder = tempfile::tempdir().unwrap();
    in_a_process("scale::stores_a_large_body", folder.path());
}

#[test]
fn stores_a_large_body() {
    // Only as the child of the test above.
    let Some(folder) = folder() else { return };
    let length = asked("CBROKER_SOAK_BODY", 32 << 20);
    let opened = open(&folder);
    let before = memory_kib("VmRSS:");
    let text = vec![7_u8; length as usize];
    let queue = QueueId(1);
    let ticket = opened
        .store
        .append(queue, Sequence(1), &[&text], Urgency::Confirmed)
        .unwrap();
    wait(&opened.store, ticket);
    // The caller's, the store's.
    let peak = memory_kib("VmHWM:") - before;
    assert!(peak < 2 * length / 1024 + 8_192, "{peak} KiB");
    until_given_back(before + length / 1024);
    let found = opened.store.read(queue, Sequence(1), 1).unwrap();
    assert!(found[0].1 == text[..]);
    drop(found);
    opened.store.close().unwrap();
    let began = Instant::now();
    let opened = open(&folder);
    println!(
        "{length} bytes: peak {peak} KiB more, opened in {:?}",
        began.elapsed()
    );
    assert!(opened.store.read(queue, Sequence(1), 1).unwrap()[0].1 == text[..]);
}

fn until_given_back(level: u64) {
    crate::support::until(
        || memory_kib("VmRSS:") < level + 8_192,
        "the memory of a committed body is given back",
    );
}
