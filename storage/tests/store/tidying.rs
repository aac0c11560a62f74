//! What frees space and what keeps work together: bounded pieces, failures that are tried again,
//! and callers that hold commits back for too long.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storage::{Opened, Options, QueueId, Sequence, Store, StoreEvent, Ticket, Urgency};

use crate::simulated_disk::{Fault, Kind, SimulatedDisk};
use crate::support::{LIMIT, body, fill, read_all, until, wait};

const QUEUE: QueueId = QueueId(1);
const OTHER: QueueId = QueueId(2);

fn open(disk: &SimulatedDisk, change: impl FnOnce(Options) -> Options) -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let options = change(disk.options(folder.path()));
    Store::open(folder.path(), options, |_| {}).unwrap()
}

/// A store with segments of 4 MiB of which a third is alive, and which are being emptied.
struct Compacting {
    opened: Opened,
    /// How many writes there were.
    writes: Arc<AtomicU64>,
    /// The bytes of the longest.
    longest: Arc<AtomicU64>,
    /// Until it is dropped, the first segment stays nearly full.
    held: SyncSender<()>,
}

/// Makes such a store, with so much sleep before each write; `durable` hears of every ticket.
fn compacting(
    disk: &SimulatedDisk,
    slowness: Duration,
    durable: impl Fn(Ticket) + Send + Sync + 'static,
) -> Compacting {
    /// The settled messages take one or two writes.
    const HELD_AT: u64 = 6;
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 4 << 20,
        compact_from_bytes: 4 << 20,
        ..disk.options(folder.path())
    };
    let opened = Store::open(folder.path(), options, move |progress| {
        if let StoreEvent::Durable(ticket) = progress {
            durable(ticket);
        }
    });
    let opened = opened.unwrap();
    let store = &opened.store;
    fill(store, QUEUE, 0..2_700, 3_000);
    let (writes, longest) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let (counted, measured, mut before) = (Arc::clone(&writes), Arc::clone(&longest), None);
    let (held, gate) = sync_channel(1);
    disk.watch(move |_, kind, moment| {
        if kind == Kind::Write {
            if counted.fetch_add(1, Ordering::SeqCst) + 1 == HELD_AT {
                let _ = gate.recv_timeout(LIMIT);
            }
            let written = moment.written();
            let length = before.map_or(0, |before| written - before);
            before = Some(written);
            measured.fetch_max(length, Ordering::SeqCst);
            std::thread::sleep(slowness);
        }
    });
    let together = store.pause_commits();
    for number in (0..2_700).filter(|number| number % 3 > 0) {
        store.settle(QUEUE, Sequence(number)).unwrap();
    }
    drop(together);
    until(
        || writes.load(Ordering::SeqCst) == HELD_AT,
        "a segment is emptied",
    );
    Compacting {
        opened,
        writes,
        longest,
        held,
    }
}

/// Whoever waits for a confirm waits for one write and its sync, whatever else is going on.
#[test]
fn compaction_writes_pieces_that_no_confirm_waits_for_long() {
    let disk = SimulatedDisk::new();
    let Compacting {
        opened,
        writes,
        longest,
        held,
    } = compacting(&disk, Duration::ZERO, |_| {});
    drop(held);
    for number in 0..40 {
        fill(&opened.store, OTHER, number..number + 1, 30);
    }
    until(
        || writes.load(Ordering::SeqCst) > 100,
        "segments are emptied",
    );
    let longest = longest.load(Ordering::SeqCst);
    assert!(
        (4_096..=64 << 10).contains(&longest),
        "{longest} bytes in one write"
    );
    let live: Vec<u64> = (0..2_700).step_by(3).collect();
    assert_eq!(read_all(&opened.store, QUEUE, 3_000), live);
}

#[test]
fn messages_that_nobody_waits_for_are_written_while_a_segment_is_emptied() {
    let disk = SimulatedDisk::new();
    let heard: Arc<Mutex<BTreeMap<Ticket, u64>>> = Arc::default();
    let (note, count) = (
        Arc::clone(&heard),
        Arc::<Mutex<Option<Arc<AtomicU64>>>>::default(),
    );
    let counter = Arc::clone(&count);
    let Compacting {
        opened,
        writes,
        held,
        ..
    } = compacting(&disk, Duration::from_millis(1), move |ticket| {
        let writes = counter.lock().unwrap();
        let writes = writes
            .as_ref()
            .map_or(0, |writes| writes.load(Ordering::SeqCst));
        note.lock().unwrap().insert(ticket, writes);
    });
    *count.lock().unwrap() = Some(Arc::clone(&writes));
    let store = &opened.store;
    let ticket = store.append(OTHER, Sequence(0), &[b"text"], Urgency::Eventually);
    let ticket = ticket.unwrap();
    let begun = writes.load(Ordering::SeqCst);
    drop(held);
    // The event follows the moment at which the store calls the ticket durable.
    let durable = || {
        let heard = heard.lock().unwrap();
        heard.range(ticket..).next().map(|(_, writes)| *writes)
    };
    until(|| durable().is_some(), "the message is durable");
    // Each write takes a millisecond or more, and such a message is due after ten.
    let between = durable().unwrap().saturating_sub(begun);
    assert!(between < 60, "{between} writes came before it");
    until(
        || writes.load(Ordering::SeqCst) > begun + 120,
        "the segments were far from empty",
    );
}

/// Copying small messages wins nothing where each has a group of its own: an idle store would go on
/// for ever.
#[test]
fn small_messages_are_not_copied_again_and_again() {
    let disk = SimulatedDisk::new();
    let opened = open(&disk, |options| Options {
        compact_from_bytes: 128 << 10,
        ..options
    });
    let store = &opened.store;
    for number in 0..100 {
        let mut last = Ticket::NONE;
        for queue in 1..=200 {
            let urgency = Urgency::Eventually;
            let ticket = store.append(QueueId(queue), Sequence(number), &[b"x"], urgency);
            last = ticket.unwrap();
        }
        wait(store, last);
    }
    let (mut before, mut still) = (0, 0);
    until(
        || {
            std::thread::sleep(Duration::from_millis(50));
            let written = disk.written();
            still = if written == before { still + 1 } else { 0 };
            before = written;
            still == 10
        },
        "nothing is written any more",
    );
}

#[test]
fn what_could_not_be_freed_is_tried_again() {
    let disk = SimulatedDisk::new();
    let opened = open(&disk, |options| options);
    let store = &opened.store;
    let bodies = || {
        let files = disk.files().into_iter();
        files
            .filter(|path| path.to_string_lossy().contains("body-"))
            .count()
    };
    fill(store, QUEUE, 0..3, 1_100_000);
    assert_eq!(bodies(), 3);
    disk.fail(Some(Fault {
        at: 0,
        count: 4,
        error: std::io::ErrorKind::Other,
        hits: |kind| kind == Kind::Remove,
    }));
    wait(store, store.purge(QUEUE, Sequence(2)).unwrap());
    until(|| bodies() == 0, "the files are removed in the end");
    assert_eq!(disk.hits(), 4);
    fill(store, OTHER, 0..1, 30);
}

/// A caller that is stuck does not stop the others.
#[test]
fn who_holds_commits_back_for_too_long_holds_them_back_no_longer() {
    let disk = SimulatedDisk::new();
    let opened = open(&disk, |options| options);
    let store = &opened.store;
    let stuck = store.pause_commits();
    let append = |queue, number| {
        let text = body(queue, number, 30);
        let ticket = store.append(queue, Sequence(number), &[&text], Urgency::Confirmed);
        ticket.unwrap()
    };
    wait(store, append(QUEUE, 0));
    // It is over for that caller; the next one holds commits back as ever, also nested.
    let (outer, inner) = (store.pause_commits(), store.pause_commits());
    let first = append(QUEUE, 1);
    drop(inner);
    let second = append(OTHER, 1);
    assert_eq!(first, second, "one commit");
    drop(stuck);
    drop(outer);
    wait(store, second);
    assert_eq!(read_all(store, QUEUE, 30), [0, 1]);
}

/// A caller that appends more than may wait would otherwise wait for itself.
#[test]
fn who_holds_back_more_than_may_wait_holds_commits_back_no_longer() {
    let disk = SimulatedDisk::new();
    let opened = open(&disk, |options| Options {
        pending_limit_bytes: 64 << 10,
        ..options
    });
    let store = &opened.store;
    let together = store.pause_commits();
    let mut last = Ticket::NONE;
    for number in 0..40 {
        let text = body(QUEUE, number, 3_000);
        last = store
            .append(QUEUE, Sequence(number), &[&text], Urgency::Confirmed)
            .unwrap();
    }
    wait(store, last);
    drop(together);
    assert_eq!(read_all(store, QUEUE, 3_000), (0..40).collect::<Vec<_>>());
}

/// The rows of a checkpoint are written over those of the one before, which may have been longer.
#[test]
fn a_checkpoint_that_is_shorter_than_the_one_before_it_counts() {
    let disk = SimulatedDisk::new();
    let small = |options| Options {
        // Each message has a segment of its own, and the checkpoint names every segment.
        segment_bytes: 16 << 10,
        compact_from_bytes: u64::MAX,
        checkpoint_every: Duration::from_hours(1),
        ..options
    };
    let opened = open(&disk, small);
    fill(&opened.store, OTHER, 0..1, 30);
    for number in 0..1_000 {
        fill(&opened.store, QUEUE, number..number + 1, 9_000);
    }
    opened.store.close().unwrap();
    let opened = open(&disk, small);
    wait(
        &opened.store,
        opened.store.purge(QUEUE, Sequence(998)).unwrap(),
    );
    until(|| disk.files().len() < 20, "the segments are free");
    opened.store.close().unwrap();
    let opened = open(&disk, small);
    assert_eq!(opened.report, storage::OpenReport::default());
    assert_eq!(read_all(&opened.store, QUEUE, 9_000), [999]);
    assert_eq!(read_all(&opened.store, OTHER, 30), [0]);
}

/// The sync of a block that was never written waits for the journal of the file system.
#[test]
fn a_lone_commit_in_a_new_slot_writes_zeros_ahead_for_the_next_ones() {
    let disk = SimulatedDisk::new();
    let long = |options| Options {
        segment_bytes: 1 << 20,
        ..options
    };
    let opened = open(&disk, long);
    fill(&opened.store, QUEUE, 0..1, 30);
    let before = disk.written();
    for number in 1..=33 {
        fill(&opened.store, QUEUE, number..number + 1, 30);
    }
    // The first, the seventeenth and the last of them take 64 KiB, the others a block.
    assert_eq!(disk.written() - before, (3 * 16 + 30) * 4_096);
    let again = open(&disk.after_kill(), long);
    assert_eq!(again.report, storage::OpenReport::default());
    let all: Vec<u64> = (0..34).collect();
    assert_eq!(read_all(&again.store, QUEUE, 30), all);
}

/// Each segment begins with what is settled between messages that are not.
#[test]
fn a_settled_message_between_others_takes_two_bytes_in_a_snapshot() {
    const HOLES: u64 = 20_000;
    let disk = SimulatedDisk::new();
    let still = |options| Options {
        compact_from_bytes: u64::MAX,
        ..options
    };
    let opened = open(&disk, still);
    let store = &opened.store;
    fill(store, QUEUE, 0..2 * HOLES, 20);
    for number in (0..2 * HOLES).step_by(2) {
        store.settle(QUEUE, Sequence(number)).unwrap();
    }
    wait(store, store.put(b"key", b"value".to_vec()).unwrap());
    let killed = disk.after_kill();
    let opened = open(&killed, still);
    fill(&opened.store, OTHER, 0..1, 20);
    let written = killed.written();
    // Some blocks more: the header, the message, segments that are marked free.
    assert!(written < 2 * HOLES + 8 * 4_096, "{written} bytes");
    let left: Vec<u64> = (1..2 * HOLES).step_by(2).collect();
    assert_eq!(read_all(&opened.store, QUEUE, 20), left);
    opened.store.close().unwrap();
    let opened = open(&killed.after_kill(), still);
    assert_eq!(read_all(&opened.store, QUEUE, 20), left);
}
