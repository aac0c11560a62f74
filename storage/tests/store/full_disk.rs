//! A disk without room: acks are durable all the same, publishes wait, and the caller hears of it
//! before that.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use storage::frame::SegmentHeader;
use storage::{Opened, QueueId, Sequence, Settled, Store, StoreEvent, Urgency};

use crate::damaged_store::{frames, logs};
use crate::simulated_disk::{Fault, Kind, SimulatedDisk};
use crate::support::{LIMIT, body, until, wait};
use crate::workload::{self, Diary};

/// Waits until the space for acks is reserved, then takes the rest of the disk away.
fn fill_disk(disk: &SimulatedDisk) {
    let unused = |path: &Path, bytes: &[u8]| {
        let is_unused = path.starts_with("log") && bytes[..4096].iter().all(|byte| *byte == 0);
        is_unused.then_some(())
    };
    until(|| disk.find(unused).len() > 1, "spare segments are there");
    disk.set_free_bytes(0);
}

/// Publishes until no commit goes through any more. Returns how many messages are durable.
fn fill_up(store: &Store, disk: &SimulatedDisk, diary: &Diary) -> u64 {
    let ticket = store.put(b"definition", b"value".to_vec()).unwrap();
    wait(store, ticket);
    fill_disk(disk);
    let (mut number, late) = (0, Instant::now() + LIMIT);
    loop {
        let text = body(QueueId(1), number, 3_000);
        let ticket = store
            .append(QueueId(1), Sequence(number), &[&text], Urgency::Confirmed)
            .unwrap();
        number += 1;
        let until = Instant::now() + std::time::Duration::from_secs(1);
        while store.durable() < ticket {
            if Instant::now() > until && diary.lock().unwrap().is_short {
                return number - 1;
            }
            assert!(Instant::now() < late, "the disk does not fill up");
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }
}

/// What is in the queue after a `kill -9` at this moment.
fn left_after_kill(disk: &SimulatedDisk, queue: QueueId) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk.after_kill();
    let opened = workload::open(
        folder.path(),
        disk.options(folder.path()),
        &Diary::default(),
    );
    let mut found = opened.queues.iter();
    found
        .find(|found| found.queue == queue)
        .map_or(0, |found| found.ready)
}

/// An empty store on `disk`, the folder that it lives in, and what it tells.
fn open_on(disk: &SimulatedDisk) -> (tempfile::TempDir, Opened, Diary) {
    let (folder, diary) = (tempfile::tempdir().unwrap(), Diary::default());
    let opened = workload::open(folder.path(), disk.options(folder.path()), &diary);
    (folder, opened, diary)
}

fn wait_until_left(disk: &SimulatedDisk, queue: QueueId, wanted: u64) {
    let until = Instant::now() + LIMIT / 3;
    loop {
        let left = left_after_kill(disk, queue);
        if left == wanted {
            return;
        }
        assert!(Instant::now() < until, "{left} of {wanted} are left");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn acks_are_durable_on_a_full_disk_while_publishes_wait_for_room() {
    let disk = SimulatedDisk::new();
    let (_folder, opened, diary) = open_on(&disk);
    crate::support::fill(&opened.store, QueueId(2), 0..200, 300);
    let durable = fill_up(&opened.store, &disk, &diary);
    assert!(durable > 3, "{durable} messages fitted");
    for number in 0..199 {
        opened.store.settle(QueueId(2), Sequence(number)).unwrap();
    }
    wait_until_left(&disk, QueueId(2), 1);
    opened.store.purge(QueueId(2), Sequence(199)).unwrap();
    wait_until_left(&disk, QueueId(2), 0);
    disk.set_free_bytes(u64::MAX);
    opened.store.close().unwrap();
}

#[test]
fn a_queue_is_deleted_on_a_full_disk_together_with_its_definition() {
    let disk = SimulatedDisk::new();
    let (_folder, opened, diary) = open_on(&disk);
    let store = &opened.store;
    crate::support::fill(store, QueueId(2), 0..200, 300);
    fill_up(store, &disk, &diary);
    let together = store.pause_commits();
    store.drop_queue(QueueId(2)).unwrap();
    store.remove(b"definition").unwrap();
    drop(together);
    wait_until_left(&disk, QueueId(2), 0);
    disk.set_free_bytes(u64::MAX);
    opened.store.close().unwrap();
}

/// The header of a segment that could not be begun says that the log went on from there. What the
/// segment before takes all the same must not be lost to it.
#[test]
fn what_is_written_after_a_segment_could_not_be_begun_survives() {
    let disk = SimulatedDisk::new();
    let folder = tempfile::tempdir().unwrap();
    let options = disk.options(folder.path());
    let opened = workload::open(folder.path(), options, &Diary::default());
    let (queue, other) = (QueueId(1), QueueId(2));
    for number in 0..3 {
        crate::support::fill(&opened.store, queue, number..number + 1, 30);
    }
    let segment = logs(&disk).into_iter().find(|path| {
        let header = SegmentHeader::parse(&disk.bytes(path)[..4096]);
        header.is_some_and(|header| header.number == 1)
    });
    let segment = segment.unwrap();
    let before = frames(&disk.bytes(&segment)).len();
    let images: Arc<Mutex<Vec<SimulatedDisk>>> = Arc::default();
    let kept = Arc::clone(&images);
    disk.watch(move |_, kind, moment| {
        // Every write comes after the sync of the one before.
        if kind == Kind::Write {
            kept.lock().unwrap().push(moment.after_kill());
        }
    });
    // There is room for a small frame, and not for one that needs another segment.
    disk.set_longest_write(Some(32 << 10));
    let text = body(other, 0, 48_000);
    let waits = opened
        .store
        .append(other, Sequence(0), &[&text], Urgency::Confirmed)
        .unwrap();
    // One call: two could fall into two commits.
    opened
        .store
        .settle_all(queue, Sequence(0), Sequence(1))
        .unwrap();
    wait_until_left(&disk, queue, 1);
    assert!(opened.store.durable() < waits, "there was no room for it");
    disk.set_longest_write(None);
    wait(&opened.store, waits);
    disk.end_watch();
    let images = images.lock().unwrap();
    let has_more = |disk: &&SimulatedDisk| frames(&disk.bytes(&segment)).len() > before;
    let mut written = images.iter().filter(has_more).peekable();
    assert!(written.peek().is_some(), "the acks were not written");
    for image in written {
        assert_eq!(left_after_kill(image, queue), 1);
    }
    assert_eq!(left_after_kill(&disk, other), 1);
}

#[test]
fn a_full_store_that_is_drained_makes_room_for_what_waits() {
    let disk = SimulatedDisk::new();
    let (_folder, opened, diary) = open_on(&disk);
    let store = &opened.store;
    let durable = fill_up(store, &disk, &diary);
    // More waits than the space that is kept for acks could hold.
    let mut last = storage::Ticket::NONE;
    for number in 0..400 {
        let text = body(QueueId(2), number, 900);
        last = store
            .append(QueueId(2), Sequence(number), &[&text], Urgency::Confirmed)
            .unwrap();
    }
    for number in 0..durable {
        store.settle(QueueId(1), Sequence(number)).unwrap();
        if number % 10 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    // What is durable is taken off at once; all of it must come through in the end.
    let until = Instant::now() + LIMIT;
    let mut next = 0;
    while store.durable() < last {
        for (sequence, _) in store.read(QueueId(2), Sequence(next), 4_000).unwrap() {
            store.settle(QueueId(2), sequence).unwrap();
            next = sequence.0 + 1;
        }
        assert!(Instant::now() < until, "it is stuck: {next} were taken off");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_stop_that_could_not_write_everything_is_an_error() {
    let disk = SimulatedDisk::new();
    let (_folder, opened, diary) = open_on(&disk);
    let durable = fill_up(&opened.store, &disk, &diary);
    opened.store.settle(QueueId(1), Sequence(0)).unwrap();
    opened.store.close().unwrap_err();
    let left = left_after_kill(&disk, QueueId(1));
    assert!(
        [durable, durable - 1].contains(&left),
        "{left} of {durable}"
    );
}

#[test]
fn acks_are_durable_on_a_full_disk_over_restarts() {
    let disk = SimulatedDisk::new();
    let (_folder, opened, diary) = open_on(&disk);
    crate::support::fill(&opened.store, QueueId(2), 0..60, 300);
    fill_up(&opened.store, &disk, &diary);
    drop(opened);
    for restart in 0..6_u64 {
        let folder = tempfile::tempdir().unwrap();
        let opened = workload::open(
            folder.path(),
            disk.options(folder.path()),
            &Diary::default(),
        );
        for number in restart * 10..restart * 10 + 9 {
            opened.store.settle(QueueId(2), Sequence(number)).unwrap();
        }
        wait_until_left(&disk, QueueId(2), 60 - (restart + 1) * 9);
        if restart % 2 == 0 {
            opened.store.close().unwrap();
        }
    }
}

#[test]
fn a_clean_stop_on_a_full_disk_keeps_every_ack() {
    let disk = SimulatedDisk::new();
    let (_folder, opened, _) = open_on(&disk);
    crate::support::fill(&opened.store, QueueId(1), 0..500, 300);
    fill_disk(&disk);
    for number in 0..499 {
        opened.store.settle(QueueId(1), Sequence(number)).unwrap();
    }
    opened.store.close().unwrap();
    assert_eq!(left_after_kill(&disk, QueueId(1)), 1);
}

#[test]
fn a_nearly_full_disk_is_reported_before_commits_wait() {
    let disk = SimulatedDisk::new();
    let folder = tempfile::tempdir().unwrap();
    let (sender, progress) = std::sync::mpsc::sync_channel(1 << 16);
    let options = storage::Options {
        least_free_bytes: 2 << 20,
        segment_bytes: 1 << 20,
        ..disk.options(folder.path())
    };
    let opened = Store::open(folder.path(), options, move |progress| {
        drop(sender.try_send(progress));
    });
    let opened = opened.unwrap();
    let mut number = 0;
    let mut wait_for = |wanted: fn(&StoreEvent) -> bool, name: &str| {
        let until = Instant::now() + LIMIT;
        loop {
            // Each fills its block: compaction would make room of small ones without end.
            let text = body(QueueId(1), number, 3_000);
            let ticket = opened
                .store
                .append(QueueId(1), Sequence(number), &[&text], Urgency::Confirmed)
                .unwrap();
            number += 1;
            wait(&opened.store, ticket);
            if progress.try_iter().any(|event| wanted(&event)) {
                break;
            }
            // Slower than the store looks at the disk: it looks about five times before the space
            // is used up.
            std::thread::sleep(std::time::Duration::from_millis(4));
            assert!(Instant::now() < until, "{name} was not reported");
        }
    };
    // The first segment is begun before the disk is full.
    let definition = opened.store.put(b"definition", b"value".to_vec()).unwrap();
    wait(&opened.store, definition);
    fill_disk(&disk);
    wait_for(|event| matches!(event, StoreEvent::NoRoom), "NoRoom");
    disk.set_free_bytes(u64::MAX);
    wait_for(|event| matches!(event, StoreEvent::Room), "Room");
}

#[test]
fn a_large_body_is_written_once_while_its_record_finds_no_room() {
    let disk = SimulatedDisk::new();
    let (_folder, opened, _) = open_on(&disk);
    let store = &opened.store;
    crate::support::fill(store, QueueId(1), 0..1, 30);
    fill_disk(&disk);
    let (large, small) = (1_200_000, 1_000_000);
    // There is room for the body, and not for the segment that all of it needs.
    disk.set_free_bytes(large as u64 + 100_000);
    let before = disk.written();
    let texts = [(2, large), (3, small), (4, small)].map(|(queue, length)| {
        let queue = QueueId(queue);
        (queue, body(queue, 0, length))
    });
    let together = store.pause_commits();
    let mut last = storage::Ticket::NONE;
    for (queue, text) in &texts {
        let ticket = store.append(*queue, Sequence(0), &[text], Urgency::Confirmed);
        last = ticket.unwrap();
    }
    drop(together);
    let written = || disk.written() - before;
    until(|| written() >= large as u64, "the body is written");
    // It was written again at each attempt.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(store.durable() < last, "there is room for the record");
    disk.set_free_bytes(u64::MAX);
    wait(store, last);
    let written = written();
    assert!(
        written < 2 * (large + small) as u64,
        "{written} bytes were written"
    );
    assert_eq!(left_after_kill(&disk, QueueId(2)), 1);
    opened.store.close().unwrap();
}

/// Nothing is in a file that could not be created, so nothing is lost with it.
#[test]
fn commits_wait_while_no_file_can_be_created_and_acks_do_not() {
    let disk = SimulatedDisk::new();
    let (_folder, opened, _) = open_on(&disk);
    let store = &opened.store;
    crate::support::fill(store, QueueId(2), 0..1, 30);
    disk.fail(Some(Fault {
        at: 0,
        count: u64::MAX,
        error: std::io::ErrorKind::Other,
        hits: |kind| kind == Kind::Create,
    }));
    let append = |queue, length| {
        let text = body(queue, 0, length);
        let ticket = store.append(queue, Sequence(0), &[&text], Urgency::Confirmed);
        ticket.unwrap()
    };
    // It has a file of its own, and the others are more than the segments that are there hold.
    let large = append(QueueId(3), 1_200_000);
    let others = (4..100).map(|queue| append(QueueId(queue), 9_000)).max();
    let others = others.unwrap();
    until(|| disk.hits() > 5, "the store tries again");
    store.settle(QueueId(2), Sequence(0)).unwrap();
    wait_until_left(&disk, QueueId(2), 0);
    assert!(store.durable() < large.min(others));
    disk.fail(None);
    wait(store, large.max(others));
    for queue in 3..100 {
        assert_eq!(left_after_kill(&disk, QueueId(queue)), 1);
    }
    opened.store.close().unwrap();
}

/// What was held together for too long falls into two commits. On a full disk the ack of the
/// second must not go before the message of the first: a crash would find neither.
#[test]
fn the_ack_of_a_move_that_took_too_long_does_not_go_before_its_message() {
    let disk = SimulatedDisk::new();
    let (_folder, opened, diary) = open_on(&disk);
    let store = &opened.store;
    let (from, to, other, empty) = (QueueId(2), QueueId(3), QueueId(4), QueueId(5));
    for queue in [from, other] {
        crate::support::fill(store, queue, 0..1, 30);
    }
    fill_up(store, &disk, &diary);
    let together = store.pause_commits();
    let text = body(to, 0, 3_000);
    let moved = store.append(to, Sequence(0), &[&text], Urgency::Confirmed);
    let moved = moved.unwrap();
    // Changes nothing.
    let now = || store.purge(empty, Sequence(0)).unwrap();
    until(|| now() > moved, "the hold is broken");
    store.settle(from, Sequence(0)).unwrap();
    let settled = now();
    drop(together);
    until(|| now() > settled, "that batch is closed");
    store.settle(other, Sequence(0)).unwrap();
    wait_until_left(&disk, other, 0);
    assert_eq!(left_after_kill(&disk, from), 1);
    disk.set_free_bytes(u64::MAX);
    wait(store, settled.max(moved));
    assert_eq!(left_after_kill(&disk, from), 0);
    assert_eq!(left_after_kill(&disk, to), 1);
}

/// Everybody's acks waited for room where one of them fell into the commit of a transaction.
#[test]
fn acks_and_purges_of_others_pass_a_transaction_that_waits_for_room() {
    let disk = SimulatedDisk::new();
    let (_folder, opened, diary) = open_on(&disk);
    let store = &opened.store;
    let (acked, purged, of_transaction, to) = (QueueId(2), QueueId(3), QueueId(4), QueueId(5));
    let meanwhile = QueueId(6);
    for queue in [acked, purged, of_transaction, meanwhile] {
        crate::support::fill(store, queue, 0..200, 30);
    }
    fill_up(store, &disk, &diary);
    // Repeats until all of it has the same ticket.
    let (number, last) = (0..100)
        .find_map(|number| {
            let sequence = Sequence(number);
            let alone = store.settle(acked, sequence).unwrap();
            let purge = store.purge(purged, sequence).unwrap();
            let together = store.pause_commits();
            let text = body(to, number, 3_000);
            let message = store.append(to, sequence, &[&text], Urgency::Confirmed);
            store.settle(of_transaction, sequence).unwrap();
            store.settle_alone(meanwhile, sequence).unwrap();
            drop(together);
            let message = message.unwrap();
            let is_one = alone == Settled::Recorded(message) && purge == message;
            is_one.then_some((number, message))
        })
        .expect("one commit");
    wait_until_left(&disk, acked, 199 - number);
    wait_until_left(&disk, purged, 199 - number);
    wait_until_left(&disk, meanwhile, 199 - number);
    assert_eq!(left_after_kill(&disk, of_transaction), 200, "it is not cut");
    assert!(store.durable() < last);
    disk.set_free_bytes(u64::MAX);
    wait(store, last);
    assert_eq!(left_after_kill(&disk, of_transaction), 199 - number);
    assert_eq!(left_after_kill(&disk, to), number + 1);
    opened.store.close().unwrap();
}
