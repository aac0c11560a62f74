//! Large bodies: each is written to a file of its own before its ticket is reached, and only its
//! own queue waits for it.

use storage::{Opened, QueueId, Sequence, Settled, Store, Ticket, Urgency};

use crate::simulated_disk::SimulatedDisk;
use crate::support::{body, fill, read_all, until, wait};

const QUEUE: QueueId = QueueId(1);
const OTHER: QueueId = QueueId(2);
const LARGE: usize = 3 << 20;

fn open(disk: &SimulatedDisk) -> Opened {
    let folder = tempfile::tempdir().unwrap();
    Store::open(folder.path(), disk.options(folder.path()), |_| {}).unwrap()
}

fn append(store: &Store, queue: QueueId, number: u64, length: usize) -> Ticket {
    append_text(store, queue, number, &body(queue, number, length))
}

fn append_text(store: &Store, queue: QueueId, number: u64, text: &[u8]) -> Ticket {
    let ticket = store.append(queue, Sequence(number), &[text], Urgency::Confirmed);
    ticket.unwrap()
}

/// A store in which a large body takes as long as the test wants.
fn writing() -> (SimulatedDisk, Store, Ticket) {
    let disk = SimulatedDisk::new();
    let store = open(&disk).store;
    fill(&store, QUEUE, 0..1, 30);
    disk.bar(Some("body-"));
    let large = append(&store, QUEUE, 1, LARGE);
    (disk, store, large)
}

fn bodies(disk: &SimulatedDisk) -> usize {
    let files = disk.files().into_iter();
    let is_body = |path: &std::path::PathBuf| path.to_string_lossy().contains("body-");
    files.filter(is_body).count()
}

/// The sequences of a queue, read one by one.
fn found(store: &Store, queue: QueueId) -> Vec<u64> {
    let mut found = Vec::new();
    while let Some((last, text)) = {
        let from = Sequence(found.last().map_or(0, |last| last + 1));
        store.read(queue, from, 1).unwrap().into_iter().next()
    } {
        assert!(text == body(queue, last.0, text.len())[..]);
        found.push(last.0);
    }
    found
}

#[test]
fn a_large_body_delays_its_own_queue_alone() {
    let (disk, store, large) = writing();
    let behind = append(&store, QUEUE, 2, 30);
    let Settled::Recorded(settled) = store.settle(QUEUE, Sequence(0)).unwrap() else {
        panic!("it is on disk");
    };
    let second = append(&store, QueueId(3), 0, LARGE);
    fill(&store, OTHER, 0..50, 30);
    assert!(store.durable() < large.min(behind).min(settled).min(second));
    assert_eq!(found(&store, QUEUE), [1, 2]);
    disk.bar(None);
    wait(&store, large.max(behind).max(settled).max(second));
    fill(&store, OTHER, 50..60, 30);
    assert_eq!(bodies(&disk), 2, "each body is written once");
    let again = open(&disk.after_kill()).store;
    assert_eq!(found(&again, QUEUE), [1, 2]);
    assert_eq!(found(&again, QueueId(3)), [0]);
    assert_eq!(read_all(&again, OTHER, 30), (0..60).collect::<Vec<_>>());
}

/// Their parts must not fall into a batch before the body and one after it.
#[test]
fn what_is_put_together_beside_a_large_body_is_one_commit() {
    let (disk, store, large) = writing();
    // Made before: commits are held back for a second at most.
    let text = body(QueueId(3), 0, LARGE);
    let together = store.pause_commits();
    let first = append(&store, OTHER, 0, 30);
    let second = append(&store, QUEUE, 2, 30);
    // It has no ticket of its own.
    let third = append_text(&store, QueueId(3), 0, &text);
    drop(together);
    assert_eq!((first, second), (second, third));
    assert!(first >= large);
    disk.bar(None);
    wait(&store, third);
    let again = open(&disk.after_kill()).store;
    assert_eq!(found(&again, QUEUE), [0, 1, 2]);
    assert_eq!(
        (found(&again, OTHER), found(&again, QueueId(3))),
        (vec![0], vec![0])
    );
}

#[test]
fn a_large_body_that_is_settled_while_it_is_written_leaves_no_file() {
    let (disk, store, large) = writing();
    assert_eq!(store.settle(QUEUE, Sequence(1)).unwrap(), Settled::Elided);
    disk.bar(None);
    wait(&store, large);
    until(|| bodies(&disk) == 0, "its file is removed");
    fill(&store, QUEUE, 2..3, 30);
    assert_eq!(found(&store, QUEUE), [0, 2]);
}

#[test]
fn a_clean_stop_waits_for_a_large_body() {
    let (disk, store, _) = writing();
    let stop = std::thread::spawn(move || store.close());
    std::thread::sleep(std::time::Duration::from_millis(20));
    disk.bar(None);
    stop.join().unwrap().unwrap();
    let again = open(&disk.after_kill()).store;
    assert_eq!(found(&again, QUEUE), [0, 1]);
    fill(&again, QUEUE, 2..3, 30);
}
